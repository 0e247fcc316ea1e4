// Package clientauth proves extauthz, as an OAuth client, to the endpoints that it
// asks: of tokens, revocations and introspections. It sends nothing itself.
package clientauth
