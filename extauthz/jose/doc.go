// Package jose reads what tokens are made of: JSON in which nothing is said
// twice, signatures in compact form (RFC 7515), and the public keys that verify
// them (RFC 7517). It knows no claims, fetches nothing, remembers nothing and
// decides about no caller.
//
// Where the RFCs leave a choice it takes the strict one: two parsers must not
// come to two readings of one token. Algorithms are asymmetric, from a closed
// list; what a library registers is not what is accepted.
package jose
