// Package token verifies signed JWTs (RFC 7519, RFC 7515, with the advice of
// RFC 8725) against key sets that are given inline or fetched, and remembers
// what it verified. It implements extauthz.Builder.
//
// It accepts asymmetric algorithms only. Keys come from the configured set and
// from nowhere else: jwk, jku and x5u in a token's header are never looked at.
package token
