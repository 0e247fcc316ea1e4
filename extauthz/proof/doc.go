// Package proof holds the bearer of a bound access token to the key that the
// token is bound to (its claim "cnf"): a client certificate (RFC 8705) or a
// DPoP proof (RFC 9449). It verifies no token itself; Guard puts it around
// what does.
package proof
