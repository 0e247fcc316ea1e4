// Package extauthz decides who is calling and whether they may. It owns the
// words of that decision (Request, Identity, Rules, Decision), the compiled form
// of the rules that the control plane sends, and Decide, which is a function of
// the clock, the rules and the request.
//
// It knows nothing of Envoy's wire types (package envoyauth translates), of
// where rules come from (package rules), or of how a token's signature is
// checked (package token and its siblings, behind Method). Everything refuses unless a
// rule says otherwise: a missing route, an empty list, an evaluation error and
// an identity provider out of reach are all denials.
package extauthz
