// Package kubernetes holds the suites of Weir against a real Kubernetes API: the
// definitions, the source, and the status that is written. They belong to the
// slower suites (build tag slow, scripts/e2e.sh).
package kubernetes
