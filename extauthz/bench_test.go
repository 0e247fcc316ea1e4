package extauthz_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
)

// productionRules is 10,000 routes and 100,000 API keys; route "r5000" is by
// key or token, "rules" has five expressions.
func productionRules(b *testing.B, ring authtest.Ring) *extauthz.Rules {
	c := compiler(b)
	jwt := authtest.JWT("jwt", authtest.Provider(authtest.KeySet(b, ring.All()...)))
	sources := map[string]*rulesv1.AuthRoute{}
	for i := range 10_000 {
		id := fmt.Sprint("r", i)
		sources[id] = authtest.Route(id, authtest.APIKey(), jwt)
	}
	sources["rules"] = authtest.WithRules(authtest.Route("rules", authtest.APIKey(), jwt),
		authtest.Deny("internal", `request.path.startsWith("/internal/")`),
		authtest.Deny("suspended", `identity.tier == "suspended"`),
		authtest.Deny("network", `source.address == ip("192.0.2.1")`),
		authtest.Deny("writes", `request.method != "GET" && !("write" in identity.scopes)`),
		authtest.Allow("tenant", `identity.tenant == "acme"`))
	routes, err := c.Routes(nil, sources)
	require.NoError(b, err)
	consumers, err := c.Consumers(manyKeys(100_000))
	require.NoError(b, err)
	return extauthz.NewRules(routes, consumers)
}

// usualHeaders are what a browser-like client sends beside its credential.
func usualHeaders() []string {
	headers := []string{":method: GET", ":path: /v1/users", ":authority: api.example", "user-agent: bench", "accept: */*", "x-request-id: 1"}
	for i := range 8 {
		headers = append(headers, fmt.Sprintf("x-header-%d: value", i))
	}
	return headers
}

func BenchmarkDecide(b *testing.B) {
	ring := authtest.NewRing(b)
	rules := productionRules(b, ring)
	signed := "authorization: Bearer " + ring.RSA.Token(b, nil, authtest.Claims(nil))
	key := "x-api-key: " + authtest.GoodKey
	for _, test := range []struct{ name, route, credential string }{
		{"api-key", "r5000", key},
		{"cached-token", "r5000", signed},
		{"api-key-5-rules", "rules", key},
		{"cached-token-5-rules", "rules", signed},
	} {
		b.Run(test.name, func(b *testing.B) {
			r := request(append(usualHeaders(), test.credential)...)
			r.Route = test.route
			now := authtest.Now()
			b.ReportAllocs()
			for b.Loop() {
				if d := extauthz.Decide(b.Context(), now, rules, r); !d.Allowed {
					b.Fatal(d.Reason, d.Cause)
				}
			}
		})
	}
}

func BenchmarkCompile10kRoutes(b *testing.B) {
	ring := authtest.NewRing(b)
	jwt := authtest.JWT("jwt", authtest.Provider(authtest.KeySet(b, ring.EC)))
	sources := map[string]*rulesv1.AuthRoute{}
	for i := range 10_000 {
		id := fmt.Sprint("r", i)
		sources[id] = authtest.WithRules(authtest.Route(id, authtest.APIKey(), jwt), authtest.Allow("a", fmt.Sprintf(`identity.tenant == "t%d"`, i%100)))
	}
	c := compiler(b)
	first, err := c.Routes(nil, sources)
	require.NoError(b, err)
	b.Run("anew", func(b *testing.B) {
		for b.Loop() {
			_, err := c.Routes(nil, sources)
			require.NoError(b, err)
		}
	})
	b.Run("unchanged", func(b *testing.B) {
		for b.Loop() {
			_, err := c.Routes(first, sources)
			require.NoError(b, err)
		}
	})
}
