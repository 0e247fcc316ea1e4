// Package exchange gets tokens for services in the place of callers' tokens
// (RFC 8693), with a deadline and a bounded cache.
package exchange
