package token

import (
	"context"
	"errors"
	"fmt"
	"strings"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
)

const headerAuthorization = "authorization"

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
	tokens := 0
	for _, sibling := range place.Siblings {
		if sibling.GetJwt() != nil {
			tokens++
		}
	}
	return &bearer{verifier: verifier, chooses: tokens > 1}, nil
}

// bearer is the method of one JWT authenticator.
type bearer struct {
	verifier *Verifier
	// chooses says that others take tokens too, so the issuer is looked at.
	chooses bool
}

// Presence implements extauthz.Method.
func (b *bearer) Presence(request *extauthz.Request) extauthz.Presence {
	value, presence := request.Credential(headerAuthorization)
	if presence != extauthz.Present || !b.chooses {
		return presence
	}
	text, err := bearerToken(value)
	if err != nil {
		return extauthz.Foreign
	}
	// The issuer is not verified yet: it says who has to verify the token.
	parsed, err := parse(text)
	if err != nil {
		return extauthz.Foreign
	}
	if issuer, _ := parsed.claims["iss"].(string); issuer != b.verifier.issuer {
		return extauthz.Foreign
	}
	return extauthz.Present
}

// Prove implements extauthz.Method.
func (b *bearer) Prove(ctx context.Context, call *extauthz.Call) (*extauthz.Proof, error) {
	value, _ := call.Request.Credential(headerAuthorization)
	text, err := bearerToken(value)
	if err == nil {
		var proof *extauthz.Proof
		if proof, err = b.verifier.Verify(ctx, call.Now, text); err == nil {
			return proof, nil
		}
	}
	refusal := &extauthz.Refusal{Reason: extauthz.ReasonTokenInvalid, Cause: err}
	var known *extauthz.Refusal
	if errors.As(err, &known) {
		refusal.Reason, refusal.Cause = known.Reason, known.Cause
	}
	if refusal.Reason != extauthz.ReasonProviderUnavailable {
		refusal.Challenge = extauthz.BearerChallenge(call.Realm, "invalid_token", refusal.Reason.Fault().Message)
	}
	return nil, refusal
}

func bearerToken(value string) (string, error) {
	scheme, text, _ := strings.Cut(value, " ")
	text = strings.TrimLeft(text, " ")
	if !strings.EqualFold(scheme, "bearer") || text == "" {
		return "", errors.New("the authorization header is not of the form Bearer TOKEN")
	}
	return text, nil
}

// Challenge implements extauthz.Method.
func (b *bearer) Challenge(realm string) string { return `Bearer realm="` + realm + `"` }

// CredentialHeaders implements extauthz.Method.
func (b *bearer) CredentialHeaders() []string { return []string{headerAuthorization} }
