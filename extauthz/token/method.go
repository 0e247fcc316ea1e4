package token

import (
	"context"
	"fmt"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/bearer"
)

// Build implements extauthz.Builder for the jwt method.
func (v *Verifiers) Build(source *rulesv1.Authenticator, place extauthz.Place) (extauthz.Method, error) {
	provider := source.GetJwt()
	if provider == nil {
		return nil, nil //nolint:nilnil // as the interface asks
	}
	verifier, err := v.Verifier(provider)
	if err != nil {
		return nil, fmt.Errorf("jwt.%w", err)
	}
	made := &method{verifier: verifier, chooser: v.chooser}
	if bearer.Shared(place.Siblings) {
		made.mine = func(look bearer.Look) bool { return look.JWT && look.Issuer == verifier.issuer }
	}
	return made, nil
}

// method is the method of one JWT authenticator.
type method struct {
	verifier *Verifier
	chooser  *bearer.Chooser
	// mine is nil when no other method takes tokens.
	mine func(bearer.Look) bool
}

// Presence implements extauthz.Method.
func (m *method) Presence(request *extauthz.Request) extauthz.Presence {
	return m.chooser.Presence(request, m.mine)
}

// Prove implements extauthz.Method.
func (m *method) Prove(ctx context.Context, call *extauthz.Call) (*extauthz.Proof, error) {
	value, _ := call.Request.Credential(bearer.Header)
	token, err := bearer.Token(value)
	if err == nil {
		var proof *extauthz.Proof
		if proof, err = m.verifier.Verify(ctx, call.Now, token); err == nil {
			return proof, nil
		}
	}
	return nil, bearer.Refusal(call.Realm, err)
}

// Challenge implements extauthz.Method.
func (m *method) Challenge(realm string) string { return bearer.Challenge(realm) }

// CredentialHeaders implements extauthz.Method.
func (m *method) CredentialHeaders() []string { return []string{bearer.Header} }
