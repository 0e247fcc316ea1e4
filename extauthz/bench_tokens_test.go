package extauthz_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/bearer"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/introspect"
	"weir.dev/extauthz/kubeauth"
	"weir.dev/extauthz/token"
)

// severalWays is a route with three JWT issuers, introspection, ServiceAccounts
// and keys; the tokens of authtest are the third issuer's.
func severalWays(t testing.TB, ring authtest.Ring) *extauthz.Rules {
	chooser := bearer.NewChooser()
	verifiers, err := token.NewVerifiers(token.Options{Chooser: chooser})
	require.NoError(t, err)
	opaque, err := introspect.New(introspect.Options{Chooser: chooser})
	require.NoError(t, err)
	pods, err := kubeauth.New(kubeauth.Options{Chooser: chooser})
	require.NoError(t, err)
	c, err := extauthz.NewCompiler(verifiers, opaque, pods)
	require.NoError(t, err)
	of := func(name, issuer string) *rulesv1.Authenticator {
		provider := authtest.Provider(authtest.KeySet(t, ring.All()...))
		provider.Issuer = issuer
		return authtest.JWT(name, provider)
	}
	route := authtest.Route("several", of("a", "https://a.example"), of("b", "https://b.example"),
		&rulesv1.Authenticator{Name: "opaque", Method: &rulesv1.Authenticator_Introspection{Introspection: &rulesv1.IntrospectionAuthenticator{
			Uri: "https://o.example", Issuer: "https://o.example", ClientId: "c", ClientSecret: "s",
		}}},
		&rulesv1.Authenticator{Name: "pods", Method: &rulesv1.Authenticator_Kubernetes{Kubernetes: &rulesv1.KubernetesAuthenticator{Audiences: []string{"weir"}}}},
		of("c", authtest.Issuer), authtest.APIKey())
	routes, err := c.Routes(nil, map[string]*rulesv1.AuthRoute{"several": route})
	require.NoError(t, err)
	consumers, err := c.Consumers(authtest.Consumers())
	require.NoError(t, err)
	return extauthz.NewRules(routes, consumers)
}

// ended is over already, so that nobody is asked.
func ended(ctx context.Context) context.Context {
	over, cancel := context.WithCancel(ctx)
	cancel()
	return over
}

func TestTheLookOfATokenChooses(t *testing.T) {
	ring := authtest.NewRing(t)
	rules := severalWays(t, ring)
	by := func(issuer any) string {
		return "authorization: Bearer " + ring.EC.Token(t, nil, authtest.Claims(map[string]any{"iss": issuer}))
	}
	for name, test := range map[string]struct {
		header, way string
		reason      extauthz.Reason
	}{
		"third issuer":     {by(authtest.Issuer), "c", extauthz.ReasonAllowed},
		"first issuer":     {by("https://a.example"), "a", extauthz.ReasonAllowed},
		"nobody's":         {by("https://z.example"), "a", extauthz.ReasonTokenIssuer},
		"without issuer":   {by(nil), "a", extauthz.ReasonTokenIssuer},
		"issuer of opaque": {by("https://o.example"), "opaque", extauthz.ReasonProviderUnavailable},
		"another scheme":   {"authorization: Basic YTpi", "a", extauthz.ReasonTokenInvalid},
		"nothing":          {"x-other: 1", "", extauthz.ReasonCredentialsMissing},
		"a key":            {"x-api-key: " + authtest.GoodKey, "key", extauthz.ReasonAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(append(usualHeaders(), test.header)...)
			r.Route = "several"
			ctx := t.Context()
			if test.reason == extauthz.ReasonProviderUnavailable {
				ctx = ended(ctx)
			}
			for range 2 {
				d := extauthz.Decide(ctx, authtest.Now(), rules, r)
				require.Equal(t, test.reason, d.Reason, "%v", d.Cause)
				require.Equal(t, test.way, d.Authenticator)
			}
		})
	}
}

// The choice between six ways neither parses nor allocates for a token that was
// seen.
func BenchmarkSeveralWays(b *testing.B) {
	ring := authtest.NewRing(b)
	rules := severalWays(b, ring)
	r := request(append(usualHeaders(), "authorization: Bearer "+ring.RSA.Token(b, nil, authtest.Claims(nil)))...)
	r.Route = "several"
	now := authtest.Now()
	b.ReportAllocs()
	for b.Loop() {
		if d := extauthz.Decide(b.Context(), now, rules, r); !d.Allowed {
			b.Fatal(d.Reason, d.Cause)
		}
	}
}
