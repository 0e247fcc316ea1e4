package extauthz_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
)

func need(name, when string, requirements *rulesv1.Requirements) *rulesv1.AuthorizationRule {
	return &rulesv1.AuthorizationRule{Name: name, Effect: rulesv1.AuthorizationRule_EFFECT_REQUIRE, Expression: when, Requirements: requirements}
}

func scopes(all ...string) *rulesv1.Requirements {
	return &rulesv1.Requirements{Scopes: &rulesv1.TextRequirement{AllOf: all}}
}

// jwtRoute is a route by the ring's tokens, with rules.
func jwtRoute(t *testing.T, ring authtest.Ring, rules ...*rulesv1.AuthorizationRule) *rulesv1.AuthRoute {
	return authtest.WithRules(authtest.Route("r", authtest.JWT("jwt", authtest.Provider(authtest.KeySet(t, ring.All()...))), authtest.APIKey(), authtest.Anonymous()), rules...)
}

func TestRequirements(t *testing.T) {
	ring := authtest.NewRing(t)
	bearer := func(changes map[string]any) string {
		return "authorization: Bearer " + ring.EC.Token(t, nil, authtest.Claims(changes))
	}
	fresh := authtest.Now().Add(-time.Minute).Unix()
	roles := func(any ...string) *rulesv1.Requirements {
		return &rulesv1.Requirements{Roles: &rulesv1.TextRequirement{AnyOf: any}}
	}
	login := &rulesv1.Requirements{Authentication: &rulesv1.AuthenticationRequirement{
		AcrValues: []string{"mfa", "hwk"}, MaxAge: durationpb.New(10 * time.Minute),
	}}
	narrowed := authtest.Allow("writers", "")
	narrowed.Requirements = scopes("admin")
	const insufficient = `Bearer realm="edge", error="insufficient_scope", error_description="the request needs a scope that the caller does not have", scope="admin read"`
	const stepUp = `Bearer realm="edge", error="insufficient_user_authentication", error_description="the request needs a more recent or a stronger login", acr_values="mfa hwk", max_age="600"`
	for name, test := range map[string]struct {
		credential string
		rules      []*rulesv1.AuthorizationRule
		want       extauthz.Reason
		challenge  string
	}{
		"scope there":               {bearer(nil), []*rulesv1.AuthorizationRule{need("n", "", scopes("read"))}, extauthz.ReasonAllowed, ""},
		"scope lacking":             {bearer(nil), []*rulesv1.AuthorizationRule{need("n", "", scopes("admin", "read"))}, extauthz.ReasonInsufficientScope, insufficient},
		"lacking where it is asked": {bearer(nil), []*rulesv1.AuthorizationRule{need("n", `request.method == "GET"`, scopes("admin", "read"))}, extauthz.ReasonInsufficientScope, insufficient},
		"lacking where it is not":   {bearer(nil), []*rulesv1.AuthorizationRule{need("n", `request.method == "PUT"`, scopes("admin"))}, extauthz.ReasonAllowed, ""},
		"of a key, no challenge":    {"x-api-key: " + authtest.GoodKey, []*rulesv1.AuthorizationRule{need("n", "", scopes("admin"))}, extauthz.ReasonInsufficientScope, ""},
		"then the next rule":        {bearer(nil), []*rulesv1.AuthorizationRule{need("n", "", scopes("read")), authtest.Deny("d", "true")}, extauthz.ReasonPermissionDenied, ""},
		"any scope of several": {bearer(nil), []*rulesv1.AuthorizationRule{need("n", "", &rulesv1.Requirements{
			Scopes: &rulesv1.TextRequirement{AnyOf: []string{"admin", "write"}},
		})}, extauthz.ReasonAllowed, ""},
		"an allow rule that lacks": {
			bearer(nil),
			[]*rulesv1.AuthorizationRule{narrowed},
			extauthz.ReasonInsufficientScope,
			`Bearer realm="edge", error="insufficient_scope", error_description="the request needs a scope that the caller does not have", scope="admin"`,
		},
		"an allow rule after it":  {bearer(nil), []*rulesv1.AuthorizationRule{narrowed, authtest.Allow("a", "true")}, extauthz.ReasonAllowed, ""},
		"role in a list":          {bearer(map[string]any{"roles": []any{"dev", "ops"}}), []*rulesv1.AuthorizationRule{need("n", "", roles("ops"))}, extauthz.ReasonAllowed, ""},
		"role as a text":          {bearer(map[string]any{"roles": "ops"}), []*rulesv1.AuthorizationRule{need("n", "", roles("ops"))}, extauthz.ReasonAllowed, ""},
		"a text is one role":      {bearer(map[string]any{"roles": "dev ops"}), []*rulesv1.AuthorizationRule{need("n", "", roles("ops"))}, extauthz.ReasonPermissionDenied, ""},
		"role lacking":            {bearer(nil), []*rulesv1.AuthorizationRule{need("n", "", roles("ops"))}, extauthz.ReasonPermissionDenied, ""},
		"roles in expressions":    {bearer(map[string]any{"roles": "ops"}), []*rulesv1.AuthorizationRule{authtest.Allow("a", `identity.hasRole("ops")`)}, extauthz.ReasonAllowed, ""},
		"login fresh and strong":  {bearer(map[string]any{"acr": "mfa", "auth_time": fresh}), []*rulesv1.AuthorizationRule{need("n", "", login)}, extauthz.ReasonAllowed, ""},
		"login weak":              {bearer(map[string]any{"acr": "pwd", "auth_time": fresh}), []*rulesv1.AuthorizationRule{need("n", "", login)}, extauthz.ReasonInsufficientAuthentication, stepUp},
		"login old":               {bearer(map[string]any{"acr": "mfa", "auth_time": fresh - 3600}), []*rulesv1.AuthorizationRule{need("n", "", login)}, extauthz.ReasonInsufficientAuthentication, stepUp},
		"login of the far future": {bearer(map[string]any{"acr": "mfa", "auth_time": fresh + 3600}), []*rulesv1.AuthorizationRule{need("n", "", login)}, extauthz.ReasonInsufficientAuthentication, stepUp},
		"login not stated":        {bearer(nil), []*rulesv1.AuthorizationRule{need("n", "", login)}, extauthz.ReasonInsufficientAuthentication, stepUp},
		"nobody is asked to be":   {"accept: */*", []*rulesv1.AuthorizationRule{need("n", "", scopes("read"))}, extauthz.ReasonCredentialsMissing, `Bearer realm="edge", ApiKey realm="edge", header="x-api-key"`},
		"an error in the when":    {bearer(nil), []*rulesv1.AuthorizationRule{need("n", `identity.claims.none == "x"`, scopes("read"))}, extauthz.ReasonRuleError, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := decide(t, rulesOf(t, jwtRoute(t, ring, test.rules...)), request(test.credential))
			require.Equal(t, test.want, got.Reason, "%v", got.Cause)
			require.Equal(t, test.want == extauthz.ReasonAllowed, got.Allowed)
			require.Equal(t, test.challenge, got.Challenge)
		})
	}
}

func TestRoleClaims(t *testing.T) {
	ring := authtest.NewRing(t)
	route := jwtRoute(t, ring, need("n", "", &rulesv1.Requirements{Roles: &rulesv1.TextRequirement{AllOf: []string{"a", "b", "c"}}}))
	route.Settings = &rulesv1.AuthorizationSettings{RoleClaims: []string{"realm_access.roles", "https://example.com/roles", "extra"}}
	token := ring.EC.Token(t, nil, authtest.Claims(map[string]any{
		"realm_access": map[string]any{"roles": []any{"a", 1}}, "https://example.com/roles": []any{"b"}, "extra": "c", "roles": "d",
	}))
	require.True(t, decide(t, rulesOf(t, route), request("authorization: Bearer "+token)).Allowed)
}

// Limits are told the claims that they read and no others, as texts.
func TestLimitClaims(t *testing.T) {
	ring := authtest.NewRing(t)
	route := jwtRoute(t, ring)
	route.LimitClaims = []string{"plan.name", "rpm", "batch", "absent", "list", "object", "long"}
	token := ring.EC.Token(t, nil, authtest.Claims(map[string]any{
		"plan": map[string]any{"name": "big", "secret": "x"}, "rpm": 1000000, "batch": true, "list": []any{"a"}, "object": map[string]any{"a": 1},
		"long": strings.Repeat("x", 257), "other": "y",
	}))
	got := decide(t, rulesOf(t, route), request("authorization: Bearer "+token))
	require.True(t, got.Allowed)
	require.Equal(t, map[string]string{"plan.name": "big", "rpm": "1000000", "batch": "true"}, got.LimitClaims)
}

func TestRequirementsThatDoNotCompile(t *testing.T) {
	c := compiler(t)
	for says, rule := range map[string]*rulesv1.AuthorizationRule{
		"rules[0].requirements: are required":      need("n", "", nil),
		"requirements: go with allow and require":  {Name: "n", Effect: rulesv1.AuthorizationRule_EFFECT_DENY, Requirements: scopes("a")},
		"rules[0].expression: is required":         {Name: "n", Effect: rulesv1.AuthorizationRule_EFFECT_ALLOW},
		`requirements.scopes: "a b" is not a word`: need("n", "", scopes("a b")),
		"requirements.authentication.max_age":      need("n", "", &rulesv1.Requirements{Authentication: &rulesv1.AuthenticationRequirement{MaxAge: durationpb.New(-1)}}),
		"the route has no relationship store":      need("n", "", &rulesv1.Requirements{Relationship: &rulesv1.RelationshipRequirement{}}),
		"metadata.plan: the route has no source":   authtest.Allow("a", `metadata.plan == "x"`),
		`scopes: "a\"" is not a word`:              need("n", "", scopes(`a"`)),
		"rules[0].effect: EFFECT_UNSPECIFIED":      {Name: "n", Expression: "true"},
	} {
		_, err := c.Routes(nil, map[string]*rulesv1.AuthRoute{"r": authtest.WithRules(authtest.Route("r", authtest.APIKey()), rule)})
		require.ErrorContains(t, err, says)
	}
}

// Where the edge says who the client is, that is what rules read, and without it
// they cannot be answered.
func TestClientAddress(t *testing.T) {
	office := authtest.Allow("office", `cidr("203.0.113.0/24").containsIP(source.address) && source.port == 0`)
	direct := authtest.WithRules(authtest.Route("r", authtest.Anonymous()), office)
	behind := authtest.WithRules(authtest.Route("r", authtest.Anonymous()), office)
	behind.Settings = &rulesv1.AuthorizationSettings{ClientAddress: true}
	for name, test := range map[string]struct {
		route   *rulesv1.AuthRoute
		headers []string
		want    extauthz.Reason
	}{
		"said":                    {behind, []string{"x-weir-client-address: 203.0.113.9"}, extauthz.ReasonAllowed},
		"another":                 {behind, []string{"x-weir-client-address: 198.51.100.9"}, extauthz.ReasonPermissionDenied},
		"not said":                {behind, nil, extauthz.ReasonRuleError},
		"said twice":              {behind, []string{"x-weir-client-address: 203.0.113.9", "x-weir-client-address: 203.0.113.9"}, extauthz.ReasonRuleError},
		"no address":              {behind, []string{"x-weir-client-address: office"}, extauthz.ReasonRuleError},
		"not to be believed here": {direct, []string{"x-weir-client-address: 203.0.113.9"}, extauthz.ReasonPermissionDenied},
	} {
		r := request(test.headers...)
		r.Source = "192.0.2.1"
		got := decide(t, rulesOf(t, test.route), r)
		require.Equal(t, test.want, got.Reason, "%s: %v", name, got.Cause)
	}
}
