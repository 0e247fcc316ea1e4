package proof

import (
	"errors"
	"strings"

	"weir.dev/extauthz"
)

// challenge is WWW-Authenticate for DPoP (RFC 9449 section 7.1).
func (t *terms) challenge(realm, code, description string) string {
	text := `DPoP realm="` + realm + `"`
	if code != "" {
		text += `, error="` + code + `", error_description="` + description + `"`
	}
	return text + `, algs="` + strings.Join(t.algorithms, " ") + `"`
}

// refuse answers in the scheme that the token came by.
func (t *terms) refuse(call *extauthz.Call, scheme string, reason extauthz.Reason, cause error) *extauthz.Refusal {
	refusal := extauthz.Refuse(reason, cause)
	if strings.EqualFold(scheme, "dpop") {
		refusal.Challenge = t.challenge(call.Realm, "invalid_token", reason.Fault().Message)
	} else {
		refusal.Challenge = extauthz.BearerChallenge(call.Realm, "invalid_token", reason.Fault().Message)
	}
	return refusal
}

// refuseProof is for what is wrong with a proof rather than with the token. A
// client that lacks a nonce is given one.
func (t *terms) refuseProof(call *extauthz.Call, reason extauthz.Reason, cause error) *extauthz.Refusal {
	refusal := extauthz.Refuse(reason, cause)
	code := "invalid_dpop_proof"
	switch reason {
	case extauthz.ReasonDPoPNonce:
		code = "use_dpop_nonce"
		refusal.ResponseHeaders = t.nonce(call.Now)
	case extauthz.ReasonTokenBinding:
		code = "invalid_token"
	}
	refusal.Challenge = t.challenge(call.Realm, code, reason.Fault().Message)
	return refusal
}

// inScheme puts the challenge to a token that was refused for itself into the
// scheme that it came by.
func (t *terms) inScheme(call *extauthz.Call, err error) error {
	var known *extauthz.Refusal
	scheme, _ := authorization(call.Request)
	if !errors.As(err, &known) || known.Challenge == "" || !strings.EqualFold(scheme, "dpop") {
		return err
	}
	told := *known
	told.Challenge = t.challenge(call.Realm, "invalid_token", known.Reason.Fault().Message)
	return &told
}
