// Package certauth identifies callers by X.509 client certificates: it reads
// what Envoy or a trusted hop tells about them, verifies chains, validity and
// revocation, and picks the one name that becomes the subject. It does no I/O.
package certauth
