// Package ermetrics counts what envoyproxy/ratelimit counts, for Prometheus,
// under the names that its default mapping gives them, so that dashboards and
// alerts go on. The number of limits with series of their own is bounded.
package ermetrics
