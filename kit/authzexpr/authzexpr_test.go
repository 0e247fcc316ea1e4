package authzexpr_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/authzexpr"
)

func environment(t testing.TB) *authzexpr.Environment {
	t.Helper()
	env, err := authzexpr.NewEnvironment()
	require.NoError(t, err)
	return env
}

func input(t testing.TB) *rulesv1.AuthzInput {
	t.Helper()
	claims, err := structpb.NewStruct(map[string]any{"groups": []any{"ops"}, "level": 3})
	require.NoError(t, err)
	return &rulesv1.AuthzInput{
		Request:  &rulesv1.RequestAttributes{Method: "GET", Path: "/v1/users", Headers: map[string]string{"x-a": "1"}},
		Identity: &rulesv1.IdentityAttributes{Tenant: "acme", Scopes: []string{"read", "write"}, Claims: claims},
		Route:    &rulesv1.RouteAttributes{Id: "r"},
		Source:   &rulesv1.SourceAttributes{Address: "10.0.0.1"},
	}
}

func TestEval(t *testing.T) {
	for expression, want := range map[string]bool{
		`true`:                    true,
		`request.method == "GET"`: true,
		`request.path.startsWith("/v1/") && identity.tenant == "acme"`:             true,
		`"write" in identity.scopes`:                                               true,
		`sets.contains(identity.scopes, ["admin"])`:                                false,
		`has(identity.claims.groups) && "ops" in identity.claims.groups`:           true,
		`has(identity.claims.absent)`:                                              false,
		`identity.claims.level >= 3.0`:                                             true,
		`"x-a" in request.headers && request.headers["x-a"] == "1"`:                true,
		`route.id == "r" && source.address == "10.0.0.1"`:                          true,
		`identity.tenant.lowerAscii() == "acme" && identity.tier == ""`:            true,
		`[1, 2, 3].exists(n, n == 2) && identity.scopes.all(s, s.matches("^r|w"))`: true,
	} {
		t.Run(expression, func(t *testing.T) {
			program, err := environment(t).Compile(expression)
			require.NoError(t, err)
			got, err := program.Eval(t.Context(), input(t))
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
}

func TestEvalOfNothingIsEmptyNotAPanic(t *testing.T) {
	program, err := environment(t).Compile(`identity.tenant == "" && request.path == ""`)
	require.NoError(t, err)
	got, err := program.Eval(t.Context(), nil)
	require.NoError(t, err)
	require.True(t, got)
}

func TestCompileRefuses(t *testing.T) {
	for name, test := range map[string]struct{ expression, says string }{
		"syntax":           {`request.method ==`, "1:18"},
		"unknown variable": {`user.name == ""`, "undeclared reference"},
		"unknown field":    {`request.methd == ""`, "undefined field 'methd'"},
		"wrong type":       {`request.method == 1`, "no matching overload"},
		"not bool":         {`request.method`, "must be bool"},
		"dynamic":          {`identity.claims.admin`, "must be bool"},
		"empty":            {``, "at 1:1"},
		"optional syntax":  {`request.headers[?"x-b"].orValue("") == ""`, "unsupported syntax"},
		"too long":         {`"` + strings.Repeat("a", authzexpr.MaxExpressionBytes) + `" == ""`, "the most is"},
		"too deep":         {strings.Repeat("(", 1000) + "true" + strings.Repeat(")", 1000), ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := environment(t).Compile(test.expression)
			require.ErrorContains(t, err, test.says)
		})
	}
}

func TestSeveralMistakesAreOneLine(t *testing.T) {
	_, err := environment(t).Compile("a == b &&\n c")
	require.ErrorContains(t, err, "at 1:1: ")
	require.ErrorContains(t, err, "; at 2:2: ")
	require.NotContains(t, err.Error(), "\n")
}

func TestEvalErrsAndNeverDecides(t *testing.T) {
	for name, expression := range map[string]string{
		"missing key":   `request.headers["absent"] == "x"`,
		"missing claim": `identity.claims.absent == "x"`,
		"division":      `1 / (size(identity.scopes) - 2) == 1`,
		"cost": `[1,2,3,4,5,6,7,8,9,0].all(a, [1,2,3,4,5,6,7,8,9,0].all(b, [1,2,3,4,5,6,7,8,9,0].all(c,
			[1,2,3,4,5,6,7,8,9,0].all(d, [1,2,3,4,5,6,7,8,9,0].all(e, request.method == "GET")))))`,
	} {
		t.Run(name, func(t *testing.T) {
			program, err := environment(t).Compile(expression)
			require.NoError(t, err)
			got, err := program.Eval(t.Context(), input(t))
			require.Error(t, err)
			require.False(t, got)
		})
	}
}

func TestEvalStopsWithItsContext(t *testing.T) {
	program, err := environment(t).Compile(`identity.scopes.all(s, s != "x")`)
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
		`true`:                        nil,
		`"a" in identity.scopes`:      {"identity.scopes"},
		`has(identity.claims.a.b)`:    {"identity.claims"},
		`request.headers["a"] == "b"`: {"request.headers"},
		`route == route && true`:      {"route"},
		`identity.scopes.exists(s, s == request.method)`: {"identity.scopes", "request.method"},
	} {
		program, err := environment(t).Compile(expression)
		require.NoError(t, err, expression)
		require.Equal(t, want, program.References(), expression)
	}
}

func FuzzCompile(f *testing.F) {
	for _, seed := range []string{`true`, `request.path == "/"`, `"a" in identity.scopes`, `identity.claims.a.b`, `((`, "\x00", `a.b.c[`} {
		f.Add(seed)
	}
	env := environment(f)
	f.Fuzz(func(t *testing.T, expression string) {
		program, err := env.Compile(expression)
		if err != nil {
			require.Nil(t, program)
			return
		}
		_, _ = program.Eval(t.Context(), &rulesv1.AuthzInput{})
	})
}

func BenchmarkEval(b *testing.B) {
	program, err := environment(b).Compile(`request.path.startsWith("/v1/") && "write" in identity.scopes`)
	require.NoError(b, err)
	in := input(b)
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := program.Eval(b.Context(), in); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
