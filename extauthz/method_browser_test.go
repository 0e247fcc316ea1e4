package extauthz_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
)

// door is a method of browsers: it finds nothing, and invites.
type door struct{ offer *extauthz.Refusal }

func (d *door) Presence(*extauthz.Request) extauthz.Presence { return extauthz.Absent }
func (d *door) Prove(context.Context, *extauthz.Call) (*extauthz.Proof, error) {
	return nil, extauthz.Refuse(extauthz.ReasonInternal, nil)
}
func (d *door) Challenge(string) string                                  { return "Door" }
func (d *door) CredentialHeaders() []string                              { return nil }
func (d *door) Invite(context.Context, *extauthz.Call) *extauthz.Refusal { return d.offer }
func (d *door) HoldsCookie(name string) bool                             { return name == "door" }
func (d *door) Build(s *rulesv1.Authenticator, _ extauthz.Place) (extauthz.Method, error) {
	if s.GetJwt() == nil {
		return nil, nil
	}
	return d, nil
}

func TestInvitation(t *testing.T) {
	redirect := &extauthz.Refusal{Reason: extauthz.ReasonCredentialsMissing, Answer: &extauthz.Answer{Status: 302}}
	decide := func(d *door, authenticators ...*rulesv1.Authenticator) extauthz.Decision {
		compiler, err := extauthz.NewCompiler(d)
		require.NoError(t, err)
		routes, err := compiler.Routes(nil, map[string]*rulesv1.AuthRoute{"r": authtest.Route("r", authenticators...)})
		require.NoError(t, err)
		consumers, err := compiler.Consumers(nil)
		require.NoError(t, err)
		return extauthz.Decide(t.Context(), authtest.Now(), extauthz.NewRules(routes, consumers),
			&extauthz.Request{Route: "r", Method: "GET", Target: "/", Authority: "h"})
	}
	way := authtest.JWT("browser", &rulesv1.JwtAuthenticator{})

	decision := decide(&door{offer: redirect}, authtest.APIKey(), way)
	require.False(t, decision.Allowed)
	require.Equal(t, 302, decision.Answer.Status)
	require.Equal(t, "browser", decision.Authenticator)
	require.True(t, decision.CredentialCookie("door"))
	require.False(t, decision.CredentialCookie("other"))

	decision = decide(&door{}, authtest.APIKey(), way)
	require.Nil(t, decision.Answer, "it invites nobody")
	require.Equal(t, extauthz.ReasonCredentialsMissing, decision.Reason)
	require.Contains(t, decision.Challenge, "ApiKey")
	require.Contains(t, decision.Challenge, "Door")

	decision = decide(&door{offer: redirect}, way, authtest.Anonymous())
	require.True(t, decision.Allowed, "who may come without credentials is not sent to log in")

	decision = decide(&door{offer: redirect}, authtest.APIKey())
	require.Nil(t, decision.Answer)
	require.Nil(t, decision.CredentialCookie)
}
