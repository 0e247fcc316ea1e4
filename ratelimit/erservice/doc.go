// Package erservice answers Envoy's rate limit service as envoyproxy/ratelimit
// does, by the configuration that package erconfig reads and with the counters
// of any ratelimit.Store. What it answers differently, on purpose:
// a refused request is charged nothing, a check of no hits says whether one
// more would pass, an override without a unit is refused instead of ending the
// process.
package erservice
