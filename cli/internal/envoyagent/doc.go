// Package envoyagent stands beside an Envoy that runs in a pod: it tells whoever
// may not reach Envoy's admin interface, which stays on loopback, whether Envoy is
// ready and what it counts, and when the pod is to end it has Envoy finish what it
// has begun. It starts and stops nothing.
package envoyagent
