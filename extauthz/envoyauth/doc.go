// Package envoyauth translates Envoy's ext_authz protocol (version 3, gRPC) to
// extauthz's words and back. It decides nothing: every answer is one of
// extauthz.Decide, in the form that Envoy and the client expect. An answer is
// never a gRPC error, because Envoy lets its failure mode decide about those.
package envoyauth
