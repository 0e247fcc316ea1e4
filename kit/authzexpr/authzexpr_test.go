package authzexpr_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/structpb"

	"weir.dev/kit/authzexpr"
)

func newEnvironment(t testing.TB) *authzexpr.Environment {
	t.Helper()
	env, err := authzexpr.NewEnvironment()
	require.NoError(t, err)
	return env
}

func input(t testing.TB) *authzexpr.Input {
	t.Helper()
	claims, err := structpb.NewStruct(map[string]any{"groups": []any{"ops"}, "level": 3, "org": map[string]any{"id": "o1"}})
	require.NoError(t, err)
	return &authzexpr.Input{
		Request: authzexpr.Request{
			Method: "GET", Path: "/v1/users", RawQuery: "page=2&tag=a&tag=b", Size: 12,
			Headers: authzexpr.MapValues{"x-a": {"1"}, "x-two": {"1", "2"}},
		},
		Identity: authzexpr.Identity{Tenant: "acme", Scopes: []string{"read", "write"}, Roles: []string{"ops"}, Claims: claims},
		Consumer: authzexpr.Consumer{Name: "default/shop", Tier: "gold"},
		Route:    authzexpr.Route{ID: "r", Kind: "httproute", Namespace: "default", Name: "shop", Hostnames: []string{"shop.example"}},
		Source:   authzexpr.Source{Address: "10.0.0.1", Port: 4711},
		Time:     time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC),
	}
}

func TestEval(t *testing.T) {
	for expression, want := range map[string]bool{
		`true`:                    true,
		`request.method == "GET"`: true,
		`request.path.startsWith("/v1/") && identity.tenant == "acme"`:             true,
		`"write" in identity.scopes`:                                               true,
		`identity.hasScope("write") && !identity.hasScope("admin")`:                true,
		`identity.hasRole("ops") && !identity.hasRole("admin")`:                    true,
		`sets.contains(identity.scopes, ["admin"])`:                                false,
		`has(identity.claims.groups) && "ops" in identity.claims.groups`:           true,
		`has(identity.claims.absent)`:                                              false,
		`identity.claims.level >= 3.0`:                                             true,
		`identity.claims.level == 3 && identity.claims["org"].id == "o1"`:          true,
		`"x-a" in request.headers && request.headers["x-a"][0] == "1"`:             true,
		`request.header("X-A") == "1" && request.header("absent") == ""`:           true,
		`request.headers["x-two"] == ["1", "2"]`:                                   true,
		`request.query["tag"].size() == 2 && request.param("page") == "2"`:         true,
		`request.raw_query.contains("page=") && request.size == 12`:                true,
		`route.id == "r" && source.address == ip("10.0.0.1")`:                      true,
		`route.namespace + "/" + route.name == "default/shop"`:                     true,
		`route.hostnames.exists(h, h.endsWith(".example"))`:                        true,
		`cidr("10.0.0.0/8").containsIP(source.address) && source.port == 4711`:     true,
		`cidr("192.0.2.0/24").containsIP(source.address)`:                          false,
		`source.address.family() == 4 && string(source.address) == "10.0.0.1"`:     true,
		`time.getHours("Europe/Berlin") == 13 && time.getDayOfWeek() == 0`:         true,
		`time < timestamp("2027-01-01T00:00:00Z")`:                                 true,
		`consumer.name == "default/shop" && consumer.tier == "gold"`:               true,
		`identity.tenant.lowerAscii() == "acme" && identity.tier == ""`:            true,
		`[1, 2, 3].exists(n, n == 2) && identity.scopes.all(s, s.matches("^r|w"))`: true,
		`request.path.split("/")[1] == "v1"`:                                       true,
		`request.body == null && metadata == {}`:                                   true,
		`has(request.method) && !has(identity.issuer)`:                             true,
		`request == request && identity.tenant.replace("a", "b") == "bcme"`:        true,
	} {
		t.Run(expression, func(t *testing.T) {
			program, err := newEnvironment(t).Compile(expression)
			require.NoError(t, err)
			got, err := program.Eval(t.Context(), input(t))
			require.NoError(t, err)
			require.Equal(t, want, got)
			got, err = program.Slow(t.Context(), input(t))
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
}

func TestEvalOfNothingIsEmptyNotAPanic(t *testing.T) {
	program, err := newEnvironment(t).Compile(`identity.tenant == "" && request.path == "" && request.header("x") == "" && !has(identity.claims.x) && metadata.size() == 0`)
	require.NoError(t, err)
	got, err := program.Eval(t.Context(), nil)
	require.NoError(t, err)
	require.True(t, got)
}

func TestCompileRefuses(t *testing.T) {
	for name, test := range map[string]struct{ expression, says string }{
		"syntax":           {`request.method ==`, "1:18"},
		"unknown variable": {`user.name == ""`, "undeclared reference"},
		"near variable":    {`reqest.method == ""`, "did you mean request?"},
		"unknown field":    {`request.methd == ""`, "undefined field 'methd' (did you mean request.method?)"},
		"wrong type":       {`request.method == 1`, "no matching overload"},
		"a list of values": {`request.headers["x-a"] == "1"`, `request.header("name")`},
		"an address":       {`source.address == "10.0.0.1"`, `ip("192.0.2.1")`},
		"a bad address":    {`source.address == ip("10.0.0.256")`, "1:"},
		"a bad network":    {`cidr("10.0.0.0").containsIP(source.address)`, "1:"},
		"a bad pattern":    {`request.path.matches("(")`, "1:"},
		"a bad time":       {`time < timestamp("tomorrow")`, "1:"},
		"not bool":         {`request.method`, "must be bool"},
		"dynamic":          {`identity.claims.admin`, "must be bool: compare it"},
		"empty":            {``, "at 1:1"},
		"optional syntax":  {`request.headers[?"x-b"].orValue("") == ""`, "unsupported syntax"},
		"too long":         {`"` + strings.Repeat("a", authzexpr.MaxExpressionBytes) + `" == ""`, "the most is"},
		"too deep":         {strings.Repeat("(", 1000) + "true" + strings.Repeat(")", 1000), ""},
		"made objects":     {`weir.rules.v1.RouteAttributes{id: "a"} == route`, "cannot be made"},
		"growth":           {`request.path.replace("a", request.host) == ""`, "1:21: replace and join"},
		"nested growth":    {`request.path.replace("a", "aaaaaaaaaa").replace("a", "aaaaaaaaaa") == ""`, "do not nest"},
		"format":           {`"%s".format([request.path]) == ""`, "not available"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newEnvironment(t).Compile(test.expression)
			require.ErrorContains(t, err, test.says)
		})
	}
}

func TestSeveralMistakesAreOneLine(t *testing.T) {
	_, err := newEnvironment(t).Compile("a == b &&\n c")
	require.ErrorContains(t, err, "at 1:1: ")
	require.ErrorContains(t, err, "; at 2:2: ")
	require.NotContains(t, err.Error(), "\n")
}

func TestEvalErrsAndNeverDecides(t *testing.T) {
	for name, expression := range map[string]string{
		"missing key":   `request.headers["absent"][0] == "x"`,
		"missing claim": `identity.claims.absent == "x"`,
		"header twice":  `request.header("x-two") == "1"`,
		"param twice":   `request.param("tag") == "a"`,
		"division":      `1 / (size(identity.scopes) - 2) == 1`,
		"cost": `[1,2,3,4,5,6,7,8,9,0].all(a, [1,2,3,4,5,6,7,8,9,0].all(b, [1,2,3,4,5,6,7,8,9,0].all(c,
			[1,2,3,4,5,6,7,8,9,0].all(d, [1,2,3,4,5,6,7,8,9,0].all(e, request.method == "GET")))))`,
	} {
		t.Run(name, func(t *testing.T) {
			program, err := newEnvironment(t).Compile(expression)
			require.NoError(t, err)
			got, err := program.Eval(t.Context(), input(t))
			require.Error(t, err)
			require.False(t, got)
		})
	}
}

func TestEvalStopsWithItsContext(t *testing.T) {
	program, err := newEnvironment(t).Compile(`identity.scopes.all(a, identity.scopes.all(b, a == b))`)
	require.NoError(t, err)
	in := input(t)
	in.Identity.Scopes = make([]string, 5000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = program.Eval(ctx, in)
	require.Error(t, err)
}

func TestReferences(t *testing.T) {
	for expression, want := range map[string][]string{
		`true`:                                           nil,
		`"a" in identity.scopes`:                         {"identity.scopes"},
		`has(identity.claims.a.b)`:                       {"identity.claims"},
		`request.headers["a"] == []`:                     {"request.headers"},
		`request.header("a") == ""`:                      {"request.headers"},
		`request.param("a") == ""`:                       {"request.query"},
		`identity.hasRole("a")`:                          {"identity.roles"},
		`identity.hasScope("a")`:                         {"identity.scopes"},
		`metadata.a == "" || time < time`:                {"metadata.a", "time"},
		`route == route && true`:                         {"route"},
		`identity.scopes.exists(s, s == request.method)`: {"identity.scopes", "request.method"},
	} {
		program, err := newEnvironment(t).Compile(expression)
		require.NoError(t, err, expression)
		require.Equal(t, want, program.References(), expression)
	}
}

func FuzzCompile(f *testing.F) {
	for _, seed := range []string{`true`, `request.path == "/"`, `"a" in identity.scopes`, `identity.claims.a.b`, `((`, "\x00", `a.b.c[`} {
		f.Add(seed)
	}
	env := newEnvironment(f)
	f.Fuzz(func(t *testing.T, expression string) {
		program, err := env.Compile(expression)
		if err != nil {
			require.Nil(t, program)
			return
		}
		_, _ = program.Eval(t.Context(), &authzexpr.Input{})
	})
}

func BenchmarkEval(b *testing.B) {
	program, err := newEnvironment(b).Compile(`request.path.startsWith("/v1/") && "write" in identity.scopes`)
	require.NoError(b, err)
	in := input(b)
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := program.Eval(b.Context(), in); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
