// Package certname picks names out of X.509 certificates and matches them with
// patterns. It verifies nothing.
package certname
