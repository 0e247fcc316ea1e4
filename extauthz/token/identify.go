package token

import (
	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
)

// Identify maps claims that were verified elsewhere, as a verified token's are.
// Issuer is left to the caller. A claim of another shape than its part of the
// identity needs is an error. The claims are not kept.
func Identify(claims map[string]any, names *rulesv1.ClaimMapping) (*extauthz.Proof, error) {
	return newMapping(names).token(claims)
}
