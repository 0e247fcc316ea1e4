package extauthz_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
)

// bugs are the mistakes of this field's servers that this module is held against,
// and the tests that would go red were it to make them.
func bugs() map[string][]string {
	return map[string][]string{
		"1 a path seen differently by the proxy":   {"TestPathsWithASecondReading", "TestPasses", "TestFails", "TestPaths"},
		"2 the policy chosen by another key":       {"TestHosts", "TestBug2TheRouteIsChosenByItsID"},
		"3 forwarded headers believed":             {"TestBug3ForwardedHeadersDecideNothing"},
		"4 matching on query or fragment":          {"TestBug4QueryAndFragmentMatchNoPath"},
		"5 underscores in header names":            {"TestBug5UnderscoresAreAnotherHeader"},
		"6 duplicate headers joined":               {"TestBug6JoinedHeadersAreNoCredential", "TestHeadersOfAnEnvoyWithoutRawHeaders"},
		"7 fail-open":                              {"TestAuthorization", "TestBug7ErrorsDeny", "TestEndpointThatHangs"},
		"8 outage and rotation of keys":            {"TestStaleKeysServeUntilTheBoundAndNotAfter", "TestRotation"},
		"9 floods of unknown key ids":              {"TestUnknownKeyIDFlood", "TestFloodOfUnknownKeyIDsAtOnce"},
		"10 issuer and audience confused":          {"TestAttacks", "TestVerificationForOneProviderIsNotForAnother", "TestTypesThatThePolicyNames"},
		"11 cache keys":                            {"TestBug11AuthorizationIsNotCached", "TestVerificationForOneProviderIsNotForAnother", "TestCacheEndsWithTheTokenAndItsCap", "TestGarbageDoesNotPushGoodTokensOut"},
		"12 bodies":                                {"TestJSONBodies", "TestMessageBodies", "FuzzBody"},
		"13 certificates forwarded by the client":  {"FuzzXFCC", "TestBug13IdentitiesAreNoPatterns"},
		"14 refresh races and lost sessions":       {"TestRefreshRace", "TestRefreshOverReplicas"},
		"15 API keys in plain text, found by scan": {"TestBug15KeysAreNotKept", "TestNewIndexRefusesOneKeyTwice"},
	}
}

func TestEachBugHasItsTests(t *testing.T) {
	defined := map[string]bool{}
	declaration := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	require.NoError(t, fs.WalkDir(os.DirFS("."), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		raw, err := os.ReadFile(path)
		for _, found := range declaration.FindAllSubmatch(raw, -1) {
			defined[string(found[1])] = true
		}
		return err
	}))
	require.Len(t, bugs(), 15)
	for bug, tests := range bugs() {
		for _, name := range tests {
			require.True(t, defined[name], "%s: there is no %s", bug, name)
		}
	}
}

// keyed is a route with an API key and rules.
func keyed(rules ...*rulesv1.AuthorizationRule) *rulesv1.AuthRoute {
	return authtest.WithRules(authtest.Route("r", authtest.APIKey()), rules...)
}

func TestBug2TheRouteIsChosenByItsID(t *testing.T) {
	open := authtest.Route("open", authtest.Anonymous())
	rules := rulesOf(t, keyed(), open)
	for _, authority := range []string{"api.example", "API.EXAMPLE", "[2001:db8::1]:8443", "open", "open.example:1"} {
		r := request()
		r.Authority = authority
		require.Equal(t, extauthz.ReasonCredentialsMissing, decide(t, rules, r).Reason, authority)
	}
	for _, id := range []string{"", "R", "r ", "r/", "op"} {
		r := request("x-api-key: " + authtest.GoodKey)
		r.Route = id
		require.Equal(t, extauthz.ReasonRouteUnknown, decide(t, rules, r).Reason, "%q", id)
	}
}

func TestBug3ForwardedHeadersDecideNothing(t *testing.T) {
	rules := rulesOf(t, keyed(
		authtest.Deny("admin", `request.path.startsWith("/admin")`), authtest.Deny("elsewhere", `request.host != "api.example"`),
		authtest.Deny("others", `source.address != ip("10.1.2.3")`), authtest.Deny("writes", `request.method != "GET"`),
	))
	forged := []string{
		"x-forwarded-for: 127.0.0.1", "x-real-ip: 127.0.0.1", "forwarded: for=127.0.0.1;host=other.example", "x-forwarded-host: other.example",
		"x-forwarded-uri: /v1/users", "x-original-url: /v1/users", "x-rewrite-url: /v1/users", "x-envoy-original-path: /v1/users",
		"x-forwarded-method: GET", "x-http-method-override: GET", "x-envoy-external-address: 127.0.0.1",
	}
	headers := append([]string{"x-api-key: " + authtest.GoodKey}, forged...)
	require.True(t, decide(t, rules, request(headers...)).Allowed)
	for rule, change := range map[string]func(*extauthz.Request){
		"admin":     func(r *extauthz.Request) { r.Target = "/admin" },
		"elsewhere": func(r *extauthz.Request) { r.Authority = "evil.example" },
		"others":    func(r *extauthz.Request) { r.Source = "192.0.2.1" },
		"writes":    func(r *extauthz.Request) { r.Method = "POST" },
	} {
		r := request(headers...)
		change(r)
		require.Equal(t, rule, decide(t, rules, r).Rule)
	}
}

func TestBug4QueryAndFragmentMatchNoPath(t *testing.T) {
	rules := rulesOf(t, keyed(authtest.Allow("public", `request.path.startsWith("/public") || request.path.endsWith("/public")`)))
	for target, allowed := range map[string]bool{
		"/public": true, "/public?a=/admin": true, "/admin?x=/public": false, "/admin?/public": false, "/admin?": false,
		"/admin#/public": false, "/public#/admin": false, "/admin?a#/public": false,
	} {
		r := request("x-api-key: " + authtest.GoodKey)
		r.Target = target
		require.Equal(t, allowed, decide(t, rules, r).Allowed, target)
	}
}

func TestBug5UnderscoresAreAnotherHeader(t *testing.T) {
	rules := rulesOf(t, keyed(authtest.Deny("red", `"x-team" in request.headers && request.headers["x-team"][0] == "red"`)))
	require.Equal(t, extauthz.ReasonCredentialsMissing, decide(t, rules, request("x_api_key: "+authtest.GoodKey)).Reason)
	require.True(t, decide(t, rules, request("x-api-key: "+authtest.GoodKey, "x_team: red")).Allowed)
	require.False(t, decide(t, rules, request("x-api-key: "+authtest.GoodKey, "x-team: red", "x_team: blue")).Allowed)
}

func TestBug6JoinedHeadersAreNoCredential(t *testing.T) {
	ring := authtest.NewRing(t)
	rules := rulesOf(t, authtest.Route("r", authtest.APIKey(), authtest.JWT("jwt", authtest.Provider(authtest.KeySet(t, ring.All()...)))))
	good := ring.EC.Token(t, nil, authtest.Claims(nil))
	for _, headers := range [][]string{
		{"x-api-key: " + authtest.GoodKey + "," + authtest.GoodKey},
		{"x-api-key: " + authtest.GoodKey + ", other"},
		{"x-api-key: ," + authtest.GoodKey},
		{"x-api-key: " + authtest.GoodKey, "x-api-key: other"},
		{"authorization: Bearer " + good + ", Bearer " + good},
		{"authorization: Bearer " + good, "authorization: Bearer " + good},
		{"authorization: Bearer " + good + ",x"},
	} {
		require.False(t, decide(t, rules, request(headers...)).Allowed, "%s", headers[0][:30])
	}
}

func TestBug7ErrorsDeny(t *testing.T) {
	for _, broken := range []string{`request.headers["absent"][0] == "x"`, `1 / 0 == 1`, `int(request.path) > 1`, `identity.claims.none.deeper == "x"`} {
		for _, rule := range []*rulesv1.AuthorizationRule{authtest.Deny("broken", broken), authtest.Allow("broken", broken)} {
			rules := rulesOf(t, keyed(rule, authtest.Allow("all", `true`)))
			got := decide(t, rules, request("x-api-key: "+authtest.GoodKey))
			require.False(t, got.Allowed, broken)
			require.Equal(t, extauthz.ReasonRuleError, got.Reason, broken)
		}
	}
}

// A verified token says who calls, never what they may: that is decided anew for
// each route, request and set of rules.
func TestBug11AuthorizationIsNotCached(t *testing.T) {
	ring := authtest.NewRing(t)
	jwt := authtest.JWT("jwt", authtest.Provider(authtest.KeySet(t, ring.All()...)))
	route := func(id, expression string) *rulesv1.AuthRoute {
		return authtest.WithRules(authtest.Route(id, jwt), authtest.Allow("a", expression))
	}
	c := compiler(t) // one cache of tokens for all of it
	build := func(expression string) *extauthz.Rules {
		set, err := c.Routes(nil, map[string]*rulesv1.AuthRoute{"r": route("r", expression), "closed": route("closed", "false")})
		require.NoError(t, err)
		consumers, err := c.Consumers(authtest.Consumers())
		require.NoError(t, err)
		return extauthz.NewRules(set, consumers)
	}
	open, closed := build(`request.method == "GET"`), build(`identity.subject == "bob"`)
	header := "authorization: Bearer " + ring.EC.Token(t, nil, authtest.Claims(nil))
	for range 3 {
		require.True(t, decide(t, open, request(header)).Allowed)
		require.False(t, decide(t, closed, request(header)).Allowed, "other rules")
		elsewhere, writes := request(header), request(header)
		elsewhere.Route, writes.Method = "closed", "POST"
		require.False(t, decide(t, open, elsewhere).Allowed, "another route")
		require.False(t, decide(t, open, writes).Allowed, "another request")
	}
}

// An identity is compared as text wherever it comes to stand: what is a pattern
// elsewhere means itself.
func TestBug13IdentitiesAreNoPatterns(t *testing.T) {
	ring := authtest.NewRing(t)
	rules := rulesOf(t, authtest.WithRules(authtest.Route("r", authtest.JWT("jwt", authtest.Provider(authtest.KeySet(t, ring.All()...)))),
		authtest.Allow("own", `request.path == "/users/" + identity.subject || request.path.startsWith("/users/" + identity.subject + "/")`)))
	for _, subject := range []string{"*", ".*", "alic?", "alice|bob", "[a-z]+", "%", "alice/..", "", "^alice$", "(?i)ALICE"} {
		r := request("authorization: Bearer " + ring.EC.Token(t, nil, authtest.Claims(map[string]any{"sub": subject})))
		r.Target = "/users/alice"
		require.False(t, decide(t, rules, r).Allowed, "%q", subject)
	}
	r := request("authorization: Bearer " + ring.EC.Token(t, nil, authtest.Claims(nil)))
	r.Target = "/users/alice"
	require.True(t, decide(t, rules, r).Allowed)
}

// Keys are known by digests alone: neither the rules nor a decision hold a key.
func TestBug15KeysAreNotKept(t *testing.T) {
	consumers, err := json.Marshal(authtest.Consumers())
	require.NoError(t, err)
	require.NotContains(t, string(consumers), authtest.GoodKey)
	rules := rulesOf(t, keyed())
	got := decide(t, rules, request("x-api-key: "+authtest.GoodKey))
	require.True(t, got.Allowed)
	require.NotContains(t, fmt.Sprintf("%+v", got), authtest.GoodKey)
	for _, wrong := range []string{authtest.GoodKey[:len(authtest.GoodKey)-1], authtest.GoodKey + "0", strings.ToUpper(authtest.GoodKey), " " + authtest.GoodKey} {
		require.False(t, decide(t, rules, request("x-api-key: "+wrong)).Allowed, "%q", wrong)
	}
}
