package istio

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	security "istio.io/api/security/v1beta1"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy"
)

func TestCanonical(t *testing.T) {
	for path, want := range map[string]bool{
		"/": true, "/a": true, "/a/": true, "/a/b.c": true, "/a/.well-known/x": true, "/a/...": true, "/a/..b": true, "/a/%20b": true,
		"/caf%C3%A9": true, "/a:b@c,d=e(f)'g'*!$&+~_-": true, "/%E2%82%AC": true, "/%F0%9F%98%80": true, "/a|b[0]{c}": true,
		"": false, "a": false, "//": false, "/a//b": false, "/./a": false, "/a/.": false, "/a/..": false, "/a/../b": false, "/a;x=1": false, "/..;x/b": false,
		"/%61": false, "/a%2fb": false, "/a%2Fb": false, "/a%5cb": false, `/a\b`: false, "/%2e%2e/b": false, "/a%00": false, "/a%7f": false, "/a%": false, "/a%2": false,
		"/a%zz": false, "/%252e": false, "/a b": false, "/a\x00": false, "/é": false, "/%c0%af": false, "/%e0%80%af": false, "/%f0%80%80%af": false, "/a#b": false, "/a?b": false, "/%2d": false, "/%5f": false, "/%7e": false,
	} {
		require.Equal(t, want, canonical(path), path)
		for _, prefix := range []string{"/", "/in", "/in/"} {
			if !strings.HasPrefix(path, "/") {
				continue
			}
			expression := regexp.MustCompile("^(?:" + within(policy.PathMatch{Kind: policy.PathPrefix, Value: prefix}) + ")$")
			require.Equal(t, want, expression.MatchString(strings.TrimSuffix(prefix, "/")+path), "%s%s", prefix, path)
			require.False(t, expression.MatchString(strings.TrimSuffix(prefix, "/")+"x//"))
		}
	}
	require.True(t, regexp.MustCompile("^(?:"+within(policy.PathMatch{Kind: policy.PathPrefix, Value: "/in"})+")$").MatchString("/in"))
	require.Less(t, len(within(policy.PathMatch{Kind: policy.PathPrefix, Value: "/" + strings.Repeat("x", 700)})), maxExpression)
}

// What AuthorizationPolicies refuse is what the rules refuse, whoever calls: by all
// combinations of rules and of what a token has.
func TestRefusalsAreTheRules(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same each time
	text := func() string { return string(rune('a' + random.IntN(4))) }
	list := func(most int) (made []string) {
		for range random.IntN(most + 1) {
			made = append(made, text())
		}
		return made
	}
	var refusals, passes int
	for range 3000 {
		var rules []*rulesv1.AuthorizationRule
		for range 1 + random.IntN(3) {
			rule := &rulesv1.AuthorizationRule{Effect: rulesv1.AuthorizationRule_Effect(1 + random.IntN(3)), Name: "r"} //nolint:gosec // small
			if rule.GetEffect() != rulesv1.AuthorizationRule_EFFECT_DENY {
				rule.Requirements = &rulesv1.Requirements{
					Scopes: &rulesv1.TextRequirement{AllOf: list(2), AnyOf: list(2)}, Roles: &rulesv1.TextRequirement{AllOf: list(1), AnyOf: list(2)},
				}
			}
			var parts []string
			for range random.IntN(3) {
				parts = append(parts, strings.Repeat("!", random.IntN(2))+"identity.has"+[]string{"Scope", "Role"}[random.IntN(2)]+"('"+text()+"')")
			}
			rule.Expression = strings.Join(parts, " && ")
			rules = append(rules, rule)
		}
		c := &compiler{natives: natives{told: map[string]bool{}}}
		made := &nativeRoute{}
		c.nativeRefusals(made, &rulesv1.JwtAuthenticator{}, &rulesv1.AuthRoute{Rules: rules, Settings: &rulesv1.AuthorizationSettings{RoleClaims: []string{"roles", "in.side"}}}, nil)
		if len(c.problems) > 0 {
			require.Contains(t, c.problems[0].Message, "more than 64 alternatives")
			continue
		}
		for range 8 {
			scopes, top, inner := list(3), list(2), list(1)
			claims := map[string][]string{"request.auth.claims[scope]": scopes, "request.auth.claims[roles]": top, "request.auth.claims[in][side]": inner}
			want := refuses(rules, scopes, slices.Concat(top, inner))
			require.Equal(t, want, holds(made.refused, claims), "%v\n%v\n%v", rules, claims, made.refused)
			if want {
				refusals++
			} else {
				passes++
			}
		}
	}
	require.Positive(t, refusals)
	require.Positive(t, passes)
}

// holds is what Istio makes of conditions: a claim is a text or a list of texts.
func holds(f formula, claims map[string][]string) bool {
	has := func(key string, values []string) bool {
		return slices.ContainsFunc(values, func(v string) bool { return slices.Contains(claims[key], v) })
	}
	return slices.ContainsFunc(f, func(all []*security.Condition) bool {
		return !slices.ContainsFunc(all, func(c *security.Condition) bool {
			return len(c.GetValues()) > 0 && !has(c.GetKey(), c.GetValues()) || len(c.GetNotValues()) > 0 && has(c.GetKey(), c.GetNotValues())
		})
	})
}

// refuses is what extauthz does (extauthz/authorize.go), written anew.
func refuses(rules []*rulesv1.AuthorizationRule, scopes, roles []string) bool {
	met := func(r *rulesv1.TextRequirement, have []string) bool {
		lacks := func(v string) bool { return !slices.Contains(have, v) }
		return !slices.ContainsFunc(r.GetAllOf(), lacks) && (len(r.GetAnyOf()) == 0 || slices.ContainsFunc(r.GetAnyOf(), func(v string) bool { return !lacks(v) }))
	}
	allows := false
	for _, rule := range rules {
		applies := true
		for part := range strings.SplitSeq(rule.GetExpression(), " && ") {
			if part == "" {
				continue
			}
			have := scopes
			if strings.Contains(part, "Role") {
				have = roles
			}
			value := strings.TrimSuffix(part[strings.Index(part, "'")+1:], "')")
			applies = applies && slices.Contains(have, value) != strings.HasPrefix(part, "!")
		}
		allows = allows || rule.GetEffect() == rulesv1.AuthorizationRule_EFFECT_ALLOW
		if !applies {
			continue
		}
		ok := met(rule.GetRequirements().GetScopes(), scopes) && met(rule.GetRequirements().GetRoles(), roles)
		switch rule.GetEffect() {
		case rulesv1.AuthorizationRule_EFFECT_DENY:
			return true
		case rulesv1.AuthorizationRule_EFFECT_REQUIRE:
			if !ok {
				return true
			}
		case rulesv1.AuthorizationRule_EFFECT_ALLOW:
			if ok {
				return false
			}
		}
	}
	return allows
}

// Whatever the routes are: a request that extauthz is not asked about is one whose
// route Istio decides about, and has the refusals of that route.
func TestEveryRequestIsGuarded(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // the same each time
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	paths := []string{"/", "/a", "/a/b", "/a/b/c", "/ab", "/d"}
	decidedAlone, asked := 0, 0
	for round := range 8000 {
		var hosts []policy.Host
		inOrder := round%2 == 0
		for _, name := range [][]string{{"*"}, {"x.example", "y.example"}, {"x.example"}}[random.IntN(3)] {
			host := policy.Host{Name: name}
			for i := range 1 + random.IntN(4) {
				route := policy.Route{ID: fmt.Sprint(name, i), Auth: &policy.Auth{}, Match: policy.Match{Path: policy.PathMatch{Kind: policy.PathPrefix, Value: pick(paths...)}, Method: pick("", "", "GET", "POST")}}
				if random.IntN(3) == 0 {
					route.Match.Path.Kind = policy.PathExact
				}
				if random.IntN(6) == 0 {
					route.Match.Headers = []policy.ValueMatch{{Name: "v", Value: "1"}}
				}
				host.Routes = append(host.Routes, route)
			}
			if inOrder {
				slices.SortStableFunc(host.Routes, func(a, b policy.Route) int { return strings.Compare(specificity(a), specificity(b)) })
			}
			hosts = append(hosts, host)
		}
		// The other port has a wildcard that the hosts of this one are of, too.
		wild := policy.Host{Name: "*", Routes: []policy.Route{{ID: "wild", Auth: &policy.Auth{}, Match: policy.Match{Path: policy.PathMatch{Kind: policy.PathPrefix, Value: "/"}}}}}
		ports := []policy.Port{{Number: 80, Chains: []policy.Chain{{Hosts: hosts}}}}
		if hosts[0].Name != "*" {
			ports = append(ports, policy.Port{Number: 81, Chains: []policy.Chain{{Hosts: []policy.Host{wild}}}})
		}
		c := &compiler{in: Input{Plan: &policy.Plan{Ports: ports}}}
		c.natives.told = map[string]bool{}
		c.natives.routes = map[string]*nativeRoute{}
		all := c.guardedHosts()
		for i := range hosts {
			for j := range hosts[i].Routes {
				c.natives.reasons = 0
				if c.nativePlace(all, &hosts[i], j); c.natives.reasons == 0 && random.IntN(3) > 0 {
					c.natives.routes[hosts[i].Routes[j].ID] = &nativeRoute{issuer: hosts[i].Routes[j].ID}
				}
			}
		}
		c.settleMethods(all)
		decided, others := c.nativeOperations()
		for range 20 {
			port, host, path, method := pick("80", "80", "81"), pick("x.example", "x.example:81", "y.example", "z.example"), pick("/", "/a", "/a/", "/a/b", "/a/b/c/d", "/ab", "/d/e"), pick("GET", "POST", "PUT")
			if len(others) == 0 || slices.ContainsFunc(others, func(o *operation) bool { return matched(o, port, host, path, method) }) {
				asked++
				if !inOrder {
					continue
				}
				for _, d := range decided {
					require.False(t, matched(d.operation, port, host, path, method), "%s %s%s is decided twice: by %v and %v", method, host, path, d.operation, others)
				}
				continue
			}
			decidedAlone++
			require.Equal(t, "80", port, "the other port has other routes")
			for _, headers := range []bool{false, true} {
				route := chosen(hosts, host, path, method, headers)
				require.NotNil(t, route)
				require.True(t, slices.ContainsFunc(decided, func(d nativeAt) bool { return d.issuer == route.ID && matched(d.operation, port, host, path, method) }),
					"%s %s%s is of route %+v: %v", method, host, path, route.Match, decided)
			}
		}
	}
	require.Positive(t, asked)
	require.Positive(t, decidedAlone)
}

// specificity sorts routes as the Gateway API does (HTTPRouteRule, matches).
func specificity(r policy.Route) string {
	kind, method := 1, 1
	if r.Match.Path.Kind == policy.PathExact {
		kind = 0
	}
	if r.Match.Method != "" {
		method = 0
	}
	return fmt.Sprintf("%d %03d %d %d", kind, 100-len(strings.TrimSuffix(r.Match.Path.Value, "/")), method, 9-len(r.Match.Headers))
}

// matched is what Istio makes of an operation (pilot/pkg/security/authz).
func matched(o *operation, port, host, path, method string) bool {
	in := func(list []string, value string) bool {
		return slices.ContainsFunc(list, func(want string) bool {
			prefix, open := strings.CutSuffix(want, "*")
			return want == value || open && strings.HasPrefix(value, prefix)
		})
	}
	for _, pair := range []struct {
		is, not []string
		value   string
	}{{o.GetPorts(), o.GetNotPorts(), port}, {o.GetHosts(), o.GetNotHosts(), host}, {o.GetPaths(), o.GetNotPaths(), path}, {o.GetMethods(), o.GetNotMethods(), method}} {
		if len(pair.is) > 0 && !in(pair.is, pair.value) || in(pair.not, pair.value) {
			return false
		}
	}
	return true
}

// chosen is the route that is served.
func chosen(hosts []policy.Host, host, path, method string, headers bool) *policy.Route {
	name, _, _ := strings.Cut(host, ":")
	for i := range hosts {
		if hosts[i].Name != "*" && hosts[i].Name != name {
			continue
		}
		for j := range hosts[i].Routes {
			match := &hosts[i].Routes[j].Match
			if slices.ContainsFunc(operationPaths(match.Path), func(p string) bool {
				prefix, open := strings.CutSuffix(p, "*")
				return p == path || open && strings.HasPrefix(path, prefix)
			}) && (match.Method == "" || match.Method == method) && (len(match.Headers) == 0 || headers) {
				return &hosts[i].Routes[j]
			}
		}
	}
	return nil
}

func TestNarrowedKeys(t *testing.T) {
	const set = `{"keys": [
		{"kty": "RSA", "kid": "r", "n": "AQAB", "e": "AQAB", "d": "secret"},
		{"kty": "EC", "kid": "e", "crv": "P-256", "x": "AA", "y": "AA", "use": "sig"},
		{"kty": "RSA", "kid": "named", "n": "AQAB", "e": "AQAB", "alg": "RS384"},
		{"kty": "RSA", "kid": "enc", "n": "AQAB", "e": "AQAB", "use": "enc"},
		{"kty": "oct", "kid": "shared", "k": "AAAA", "alg": "HS256"}]}`
	for want, algorithms := range map[string][]string{
		`{"keys":[{"alg":"RS256","e":"AQAB","kid":"r","kty":"RSA","n":"AQAB"}]}`:                                                                 {"RS256"},
		`{"keys":[{"alg":"ES256","crv":"P-256","kid":"e","kty":"EC","x":"AA","y":"AA"}]}`:                                                        {"ES256", "ES384"},
		`{"keys":[{"alg":"RS384","e":"AQAB","kid":"r","kty":"RSA","n":"AQAB"},{"alg":"RS384","e":"AQAB","kid":"named","kty":"RSA","n":"AQAB"}]}`: {"RS384"},
	} {
		made, err := narrowed(set, algorithms)
		require.NoError(t, err)
		require.Equal(t, want, made)
	}
	for _, algorithms := range [][]string{{"HS256"}, {"EdDSA"}, nil} {
		_, err := narrowed(set, algorithms)
		require.ErrorContains(t, err, "no key is of an algorithm")
	}
	_, err := narrowed("{", []string{"RS256"})
	require.ErrorContains(t, err, "cannot be read")
}

// A request that is translated to gRPC has the path of the RPC when Istio decides.
func TestHostsOfTranscodingAreKept(t *testing.T) {
	host := policy.Host{Name: "a.example", Routes: []policy.Route{
		{ID: "rpc", Match: policy.Match{Path: policy.PathMatch{Kind: policy.PathPrefix, Value: "/shop.v1.Shop"}}, Backends: []policy.WeightedBackend{{Backend: "plain"}}},
		{ID: "rest", Match: policy.Match{Path: policy.PathMatch{Kind: policy.PathPrefix, Value: "/v1"}}, Backends: []policy.WeightedBackend{{Backend: "shop"}}},
	}}
	for _, transcoding := range []*policy.Transcoding{nil, {}} {
		c := &compiler{natives: natives{told: map[string]bool{}}, backends: map[string]*policy.Backend{"plain": {}, "shop": {Transcoding: transcoding}}}
		c.nativePlace([]*policy.Host{&host}, &host, 0)
		require.Equal(t, transcoding != nil, c.natives.reasons > 0)
	}
}
