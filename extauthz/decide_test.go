package extauthz_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/token"
	"weir.dev/kit/identity"
)

func compiler(t testing.TB) *extauthz.Compiler {
	t.Helper()
	verifiers, err := token.NewVerifiers(token.Options{})
	require.NoError(t, err)
	made, err := extauthz.NewCompiler(verifiers)
	require.NoError(t, err)
	return made
}

func rulesOf(t testing.TB, routes ...*rulesv1.AuthRoute) *extauthz.Rules {
	t.Helper()
	c := compiler(t)
	sources := map[string]*rulesv1.AuthRoute{}
	for _, route := range routes {
		sources[route.RouteId] = route
	}
	set, err := c.Routes(nil, sources)
	require.NoError(t, err)
	consumers, err := c.Consumers(authtest.Consumers())
	require.NoError(t, err)
	return extauthz.NewRules(set, consumers)
}

// request is a GET of /v1/users on route "r"; headers are "name: value".
func request(headers ...string) *extauthz.Request {
	r := &extauthz.Request{
		Route: "r", Method: "GET", Target: "/v1/users?limit=5", Authority: "API.example:8443", Protocol: "HTTP/2", Source: "10.1.2.3",
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Headers = append(r.Headers, extauthz.Header{Name: name, Value: value})
	}
	return r
}

func decide(t testing.TB, rules *extauthz.Rules, r *extauthz.Request) extauthz.Decision {
	return extauthz.Decide(t.Context(), authtest.Now(), rules, r)
}

func TestAuthentication(t *testing.T) {
	ring := authtest.NewRing(t)
	provider := authtest.Provider(authtest.KeySet(t, ring.All()...))
	second := authtest.Provider(authtest.KeySet(t, ring.All()...))
	second.Issuer = "https://second.example"
	key, jwt, anyone := authtest.APIKey(), authtest.JWT("jwt", provider), authtest.Anonymous()
	both := []*rulesv1.Authenticator{key, jwt}
	all := []*rulesv1.Authenticator{key, jwt, anyone}
	firstAnyone := []*rulesv1.Authenticator{anyone, key, jwt}
	twoIssuers := []*rulesv1.Authenticator{jwt, authtest.JWT("jwt2", second)}

	bearer := func(claims map[string]any) string {
		return "authorization: Bearer " + ring.EC.Token(t, nil, authtest.Claims(claims))
	}
	goodKey, alice := "x-api-key: "+authtest.GoodKey, bearer(nil)
	shop := identity.Identity{Consumer: "default/shop", Subject: "main", Tenant: "acme", Tier: "gold", Authenticator: "key", Scopes: []string{"read"}}
	aliceID := identity.Identity{Subject: "alice", Tenant: "acme", Authenticator: "jwt", Scopes: []string{"read", "write"}}
	bot := aliceID
	bot.Consumer, bot.Subject, bot.Tier = "default/shop", "shop-bot", "gold"
	anyoneID := identity.Identity{Authenticator: "anyone"}
	aliceAtSecond := aliceID
	aliceAtSecond.Authenticator = "jwt2"

	for name, test := range map[string]struct {
		authenticators []*rulesv1.Authenticator
		headers        []string
		want           extauthz.Reason
		identity       identity.Identity
	}{
		"good key":                      {both, []string{goodKey}, extauthz.ReasonAllowed, shop},
		"good token":                    {both, []string{alice}, extauthz.ReasonAllowed, aliceID},
		"scheme in other case":          {both, []string{strings.Replace(alice, "Bearer", "bEARER", 1)}, extauthz.ReasonAllowed, aliceID},
		"first in the list decides":     {both, []string{alice, goodKey}, extauthz.ReasonAllowed, shop},
		"first decides though wrong":    {both, []string{alice, "x-api-key: wrong"}, extauthz.ReasonAPIKeyInvalid, identity.Identity{}},
		"nothing":                       {both, nil, extauthz.ReasonCredentialsMissing, identity.Identity{}},
		"unrelated headers":             {both, []string{"x_api_key: " + authtest.GoodKey, "x-weir-consumer: default/shop", "cookie: a=b"}, extauthz.ReasonCredentialsMissing, identity.Identity{}},
		"wrong key":                     {both, []string{"x-api-key: wrong"}, extauthz.ReasonAPIKeyInvalid, identity.Identity{}},
		"empty key":                     {both, []string{"x-api-key: "}, extauthz.ReasonAPIKeyInvalid, identity.Identity{}},
		"expired key":                   {both, []string{"x-api-key: " + authtest.ExpiredKey}, extauthz.ReasonAPIKeyExpired, identity.Identity{}},
		"key as token":                  {both, []string{"authorization: Bearer " + authtest.GoodKey}, extauthz.ReasonTokenInvalid, identity.Identity{}},
		"basic":                         {both, []string{"authorization: Basic YTpi"}, extauthz.ReasonTokenInvalid, identity.Identity{}},
		"bearer of nothing":             {both, []string{"authorization: Bearer "}, extauthz.ReasonTokenInvalid, identity.Identity{}},
		"two tokens in one value":       {both, []string{alice + "," + alice}, extauthz.ReasonTokenInvalid, identity.Identity{}},
		"two keys":                      {both, []string{goodKey, goodKey}, extauthz.ReasonCredentialAmbiguous, identity.Identity{}},
		"two authorizations":            {both, []string{alice, alice}, extauthz.ReasonCredentialAmbiguous, identity.Identity{}},
		"two authorizations beside key": {both, []string{goodKey, alice, alice}, extauthz.ReasonCredentialAmbiguous, identity.Identity{}},
		"anonymous":                     {all, nil, extauthz.ReasonAllowed, anyoneID},
		"wrong key is not anonymous":    {all, []string{"x-api-key: wrong"}, extauthz.ReasonAPIKeyInvalid, identity.Identity{}},
		"wrong token is not anonymous":  {all, []string{"authorization: Bearer x"}, extauthz.ReasonTokenInvalid, identity.Identity{}},
		"basic is not anonymous":        {all, []string{"authorization: Basic YTpi"}, extauthz.ReasonTokenInvalid, identity.Identity{}},
		"wrong, anonymous listed first": {firstAnyone, []string{"x-api-key: wrong"}, extauthz.ReasonAPIKeyInvalid, identity.Identity{}},
		"good, anonymous listed first":  {firstAnyone, []string{goodKey}, extauthz.ReasonAllowed, shop},
		"nobody listed":                 {nil, []string{goodKey, alice}, extauthz.ReasonNoAuthenticator, identity.Identity{}},
		"only keys, token ignored":      {[]*rulesv1.Authenticator{key}, []string{alice}, extauthz.ReasonCredentialsMissing, identity.Identity{}},
		"consumer by token":             {both, []string{bearer(map[string]any{"sub": "shop-bot"})}, extauthz.ReasonAllowed, bot},
		"consumer, no tenant in token":  {both, []string{bearer(map[string]any{"sub": "shop-bot", "tenant": nil})}, extauthz.ReasonAllowed, bot},
		"consumer, another tenant":      {both, []string{bearer(map[string]any{"sub": "shop-bot", "tenant": "evil"})}, extauthz.ReasonTenantMismatch, identity.Identity{}},
		"second issuer":                 {twoIssuers, []string{bearer(map[string]any{"iss": second.Issuer})}, extauthz.ReasonAllowed, aliceAtSecond},
		"first of two issuers":          {twoIssuers, []string{alice}, extauthz.ReasonAllowed, aliceID},
		"neither issuer":                {twoIssuers, []string{bearer(map[string]any{"iss": "https://third.example"})}, extauthz.ReasonTokenIssuer, identity.Identity{}},
		"subject with a line break":     {both, []string{bearer(map[string]any{"sub": "a\r\nx-weir-tenant: evil"})}, extauthz.ReasonIdentityInvalid, identity.Identity{}},
		"subject with NUL":              {both, []string{bearer(map[string]any{"sub": "a\x00"})}, extauthz.ReasonIdentityInvalid, identity.Identity{}},
		"subject not ASCII":             {both, []string{bearer(map[string]any{"sub": "älice"})}, extauthz.ReasonIdentityInvalid, identity.Identity{}},
		"subject with an outer space":   {both, []string{bearer(map[string]any{"sub": "alice "})}, extauthz.ReasonIdentityInvalid, identity.Identity{}},
		"subject too long":              {both, []string{bearer(map[string]any{"sub": strings.Repeat("a", 3000)})}, extauthz.ReasonIdentityInvalid, identity.Identity{}},
		"tenant with a line break":      {both, []string{bearer(map[string]any{"tenant": "a\nb"})}, extauthz.ReasonIdentityInvalid, identity.Identity{}},
		"scope that is two":             {both, []string{bearer(map[string]any{"scope": []any{"read admin"}})}, extauthz.ReasonIdentityInvalid, identity.Identity{}},
		"expired token":                 {both, []string{bearer(map[string]any{"exp": 1})}, extauthz.ReasonTokenExpired, identity.Identity{}},
	} {
		t.Run(name, func(t *testing.T) {
			got := decide(t, rulesOf(t, authtest.Route("r", test.authenticators...)), request(test.headers...))
			require.Equal(t, test.want, got.Reason, "%v", got.Cause)
			require.Equal(t, test.want == extauthz.ReasonAllowed, got.Allowed)
			require.Equal(t, test.identity, got.Identity.Identity)
			require.Equal(t, "default/policy", got.Policy)
			require.Contains(t, got.CredentialHeaders, "authorization")
			if kind := got.Reason.Fault().Kind; !got.Allowed && kind == codes.Unauthenticated {
				require.NotEmpty(t, got.Challenge, "RFC 9110 section 15.5.2")
			}
			if got.Cause != nil {
				require.NotContains(t, got.Cause.Error(), authtest.GoodKey)
			}
		})
	}
}

func TestChallenges(t *testing.T) {
	ring := authtest.NewRing(t)
	jwt := authtest.JWT("jwt", authtest.Provider(authtest.KeySet(t, ring.EC)))
	rules := rulesOf(t, authtest.WithRules(authtest.Route("r", authtest.APIKey(), jwt), authtest.Allow("admins", `"admin" in identity.scopes`)))
	token := "authorization: Bearer " + ring.EC.Token(t, nil, authtest.Claims(nil))
	for name, test := range map[string]struct{ header, want string }{
		"none":    {"accept: */*", `ApiKey realm="edge", header="x-api-key", Bearer realm="edge"`},
		"key":     {"x-api-key: wrong", `ApiKey realm="edge", header="x-api-key"`},
		"expired": {"x-api-key: " + authtest.ExpiredKey, `ApiKey realm="edge", header="x-api-key"`},
		"token":   {"authorization: Bearer x", `Bearer realm="edge", error="invalid_token", error_description="the token is not valid"`},
		"scope":   {token, `Bearer realm="edge", error="insufficient_scope", error_description="the request needs a scope that the caller does not have"`},
		"by key":  {"x-api-key: " + authtest.GoodKey, ""},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, decide(t, rules, request(test.header)).Challenge)
		})
	}
}

func TestExpiredKeyLooksLikeAWrongOne(t *testing.T) {
	expired, wrong := extauthz.ReasonAPIKeyExpired.Fault(), extauthz.ReasonAPIKeyInvalid.Fault()
	require.Equal(t, wrong.Problem("1"), expired.Problem("1"))
}

func TestAuthorization(t *testing.T) {
	allow, deny := authtest.Allow, authtest.Deny
	for name, test := range map[string]struct {
		rules []*rulesv1.AuthorizationRule
		want  extauthz.Reason
		rule  string
	}{
		"no rules":                     {nil, extauthz.ReasonAllowed, ""},
		"allow matches":                {[]*rulesv1.AuthorizationRule{allow("a", `true`)}, extauthz.ReasonAllowed, "a"},
		"allow does not":               {[]*rulesv1.AuthorizationRule{allow("a", `false`)}, extauthz.ReasonPermissionDenied, ""},
		"deny matches":                 {[]*rulesv1.AuthorizationRule{deny("d", `true`)}, extauthz.ReasonPermissionDenied, "d"},
		"deny does not":                {[]*rulesv1.AuthorizationRule{deny("d", `false`)}, extauthz.ReasonAllowed, ""},
		"deny before allow":            {[]*rulesv1.AuthorizationRule{deny("d", `true`), allow("a", `true`)}, extauthz.ReasonPermissionDenied, "d"},
		"allow before deny":            {[]*rulesv1.AuthorizationRule{allow("a", `true`), deny("d", `true`)}, extauthz.ReasonAllowed, "a"},
		"neither":                      {[]*rulesv1.AuthorizationRule{deny("d", `false`), allow("a", `false`)}, extauthz.ReasonPermissionDenied, ""},
		"error in deny denies":         {[]*rulesv1.AuthorizationRule{deny("d", `request.headers["absent"][0] == "x"`), allow("a", `true`)}, extauthz.ReasonRuleError, "d"},
		"error in allow denies":        {[]*rulesv1.AuthorizationRule{allow("e", `identity.claims.x == "y"`), allow("a", `true`)}, extauthz.ReasonRuleError, "e"},
		"error after the decision":     {[]*rulesv1.AuthorizationRule{allow("a", `true`), deny("d", `1 / 0 == 1`)}, extauthz.ReasonAllowed, "a"},
		"path without query":           {[]*rulesv1.AuthorizationRule{allow("a", `request.path == "/v1/users" && request.raw_query == "limit=5"`)}, extauthz.ReasonAllowed, "a"},
		"host, method, protocol, peer": {[]*rulesv1.AuthorizationRule{allow("a", `request.host == "api.example" && request.method == "GET" && request.protocol == "HTTP/2" && source.address == ip("10.1.2.3")`)}, extauthz.ReasonAllowed, "a"},
		"identity and route":           {[]*rulesv1.AuthorizationRule{allow("a", `identity.consumer == "default/shop" && identity.tier == "gold" && identity.authenticator == "key" && route.id == "r"`)}, extauthz.ReasonAllowed, "a"},
		"first value of a header":      {[]*rulesv1.AuthorizationRule{allow("a", `request.headers["x-team"][0] == "red"`)}, extauthz.ReasonAllowed, "a"},
		"headers show no credentials":  {[]*rulesv1.AuthorizationRule{deny("d", `request.headers.exists(h, h in ["x-api-key", "authorization", "cookie", "proxy-authorization", ":path"] || h.startsWith("x-weir-"))`)}, extauthz.ReasonAllowed, ""},
		"whole request":                {[]*rulesv1.AuthorizationRule{allow("a", `[request].exists(r, "x-team" in r.headers)`)}, extauthz.ReasonAllowed, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			rules := rulesOf(t, authtest.WithRules(authtest.Route("r", authtest.APIKey()), test.rules...))
			got := decide(t, rules, request("x-api-key: "+authtest.GoodKey, "x-team: red", "x-team: blue", "cookie: a=b",
				"proxy-authorization: x", ":path: /", "x-weir-tenant: evil", "authorization: Basic x"))
			require.Equal(t, test.want, got.Reason, "%v", got.Cause)
			require.Equal(t, test.want == extauthz.ReasonAllowed, got.Allowed)
			require.Equal(t, test.rule, got.Rule)
		})
	}
}

func TestTargets(t *testing.T) {
	rules := rulesOf(t, authtest.Route("r", authtest.Anonymous()))
	for target, want := range map[string]bool{
		"/": true, "/v1/users": true, "/v1/users/": true, "/a.b/..c/d..": true, "/...": true, "/a?x=/../%2f//": true, "*": true,
		"/caf%C3%A9": true, "/a%20b": true, "/v1/x:import": true, "/a;b=c": true, "/weir.v1.Users/Get": true, "/?": true, "/%3F": true,
		"": false, "?x": false, "a": false, "http://a/b": false, "//": false, "//admin": false, "/a//b": false, "/a//": false, "/.": false, "/a/.": false,
		"/./a": false, "/..": false, "/a/../b": false, "/a/..": false, "/a/..?x": false, "/a%2Fb": false, "/a%2fb": false, "/a%5Cb": false, "/a%5cb": false,
		`/a\b`: false, "/a#b": false, "/a?b#c": false, "/%2e%2e/a": false, "/%2E": false, "/%61dmin": false, "/a%00": false, "/a%0a": false, "/a%": false,
		"/a%2": false, "/a%zz": false, "/a b": false, "/a\x00": false, "/caf\xc3\xa9": false, "/a\tb": false, "/%7e": false,
	} {
		r := request()
		r.Target = target
		got := decide(t, rules, r)
		require.Equal(t, want, got.Allowed, "%q", target)
		if !want {
			require.Equal(t, extauthz.ReasonPathNotCanonical, got.Reason, "%q", target)
		}
	}
}

func TestHosts(t *testing.T) {
	for authority, want := range map[string]string{
		"a.example": "a.example", "A.Example:80": "a.example", "a.example.": "a.example", "10.0.0.1:8080": "10.0.0.1",
		"[::1]:8080": "::1", "[FE80::1]": "fe80::1", "[::ffff:10.0.0.1]": "::ffff:10.0.0.1", "localhost": "localhost", "under_score": "under_score",
		"": "", ":80": "", "a:b": "", "a:": "", "a:80:90": "", "::1": "", "[::1": "", "[]": "", "[::1]x": "", "[evil]:80": "", "a@b": "", "a/b": "", "a b": "",
		"a.example:999999": "", ".": "", "a%2eb": "", "a\x00": "", "a,b": "",
	} {
		rules := rulesOf(t, authtest.WithRules(authtest.Route("r", authtest.Anonymous()), authtest.Allow("host", fmt.Sprintf("request.host == %q", want))))
		r := request()
		r.Authority = authority
		got := decide(t, rules, r)
		require.Equal(t, want != "", got.Allowed, "%q", authority)
		if want == "" {
			require.Equal(t, extauthz.ReasonRequestInvalid, got.Reason, "%q", authority)
		}
	}
}

// The route's id alone chooses the rules: neither host nor path does.
func TestChosenByRouteID(t *testing.T) {
	rules := rulesOf(t, authtest.Route("r", authtest.Anonymous()), authtest.Route("closed"))
	require.True(t, decide(t, rules, request()).Allowed)
	for id, want := range map[string]extauthz.Reason{
		"closed": extauthz.ReasonNoAuthenticator, "": extauthz.ReasonRouteUnknown, "R": extauthz.ReasonRouteUnknown, "r ": extauthz.ReasonRouteUnknown, "/v1/users": extauthz.ReasonRouteUnknown,
	} {
		r := request()
		r.Route = id
		got := decide(t, rules, r)
		require.False(t, got.Allowed)
		require.Equal(t, want, got.Reason)
	}
	require.Equal(t, extauthz.ReasonRulesNotLoaded, decide(t, nil, request()).Reason)
	require.False(t, extauthz.Decision{}.Allowed)
}

func TestPrincipal(t *testing.T) {
	for want, id := range map[string]extauthz.Identity{
		"anonymous":     {},
		"default/shop":  {Identity: identity.Identity{Consumer: "default/shop", Subject: "main"}},
		"https://i|bob": {Issuer: "https://i", Identity: identity.Identity{Subject: "bob"}},
	} {
		require.Equal(t, want, id.Principal())
	}
}

// An unknown reason must not turn into an answer that lets anything through.
func TestEveryReasonIsARefusal(t *testing.T) {
	for _, reason := range []extauthz.Reason{"", "NO_SUCH", extauthz.ReasonInternal, extauthz.ReasonAllowed} {
		require.Equal(t, codes.Unavailable, reason.Fault().Kind)
		require.Equal(t, "INTERNAL", reason.Fault().Reason)
	}
}

// Paths that servers read in a second way are refused, their harmless neighbours
// are not.
func TestPathsWithASecondReading(t *testing.T) {
	for _, path := range []string{
		"/a/..;/b", "/a/..;x=1/b", "/a/.;/b", "/;/b", "/a/;x", "/a/..;", "/%252e%252e/b", "/a%252fb", "/%2561", "/%25252e", "/a/%255c", "/a%2500",
		"/a/..%c0%afb", "/%C1%9c", "/%e0%80%af", "/%F0%80%80%AF", "/a/%25%32%65",
	} {
		require.Equal(t, extauthz.ReasonPathNotCanonical, extauthz.Readable("h", "GET", path), path)
	}
	for _, path := range []string{"/a;v=1/b", "/a/b;x", "/...", "/..a", "/a..;x", "/100%25", "/100%25/b", "/a%25zz", "/%253a", "/%25253a", "/%C3%A9", "/%e0%a0%80", "/%f0%90%80%80", "/%E2%82%AC", "/%e0", "/%f0"} {
		require.Empty(t, extauthz.Readable("h", "GET", path), path)
	}
}
