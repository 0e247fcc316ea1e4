package authzexpr_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/structpb"

	"weir.dev/kit/authzexpr"
)

// generator makes expressions of the shapes that are compiled to closures, and
// inputs that make both outcomes and errors likely.
type generator struct{ *rand.Rand }

func (g generator) of(choices ...string) string { return choices[g.IntN(len(choices))] }

func (g generator) literal() string {
	return g.of(`""`, `"a"`, `"b"`, `"GET"`, `"/v1"`, `"/v1/users"`, `"acme"`, `"Ab"`, `"é"`, `"1"`)
}

func (g generator) word() string {
	switch g.IntN(8) {
	case 0, 1:
		return g.literal()
	case 2:
		return fmt.Sprintf(`request.header(%s)`, g.of(`"x-a"`, `"X-Two"`, `"none"`))
	case 3:
		return fmt.Sprintf(`request.param(%s)`, g.of(`"a"`, `"b"`, `"c"`))
	case 4:
		return g.of("identity.tenant", "request.path") + ".lowerAscii()"
	default:
		return g.of("request.method", "request.path", "request.host", "request.raw_query", "identity.tenant", "identity.subject", "consumer.name", "route.name", "source.principal")
	}
}

func (g generator) json() string {
	base := g.of("identity.claims", "metadata", "request.body", `identity.claims["o"]`, "metadata.o")
	for range g.IntN(3) {
		base += g.of(".a", ".o", ".list", `["text"]`, ".n", ".flag", ".null")
	}
	return base
}

func (g generator) count() string {
	switch g.IntN(4) {
	case 0:
		return g.of("0", "1", "3", "-1", "4711")
	case 1:
		return "size(" + g.of(g.word(), "identity.scopes") + ")"
	case 2:
		return g.of("identity.roles", "request.path", "request.header('x-two')") + ".size()"
	default:
		return g.of("request.size", "source.port")
	}
}

func (g generator) truth(depth int) string {
	if depth > 0 {
		switch g.IntN(7) {
		case 0:
			return "(" + g.truth(depth-1) + " && " + g.truth(depth-1) + ")"
		case 1:
			return "(" + g.truth(depth-1) + " || " + g.truth(depth-1) + ")"
		case 2:
			return "!(" + g.truth(depth-1) + ")"
		case 3:
			return "((" + g.truth(depth-1) + ")" + g.of(" == ", " != ") + "(" + g.truth(depth-1) + "))"
		}
	}
	switch g.IntN(11) {
	case 0:
		return g.word() + g.of(" == ", " != ") + g.word()
	case 1:
		return g.count() + g.of(" == ", " != ", " < ", " <= ", " > ", " >= ") + g.count()
	case 2:
		return g.json() + g.of(" == ", " != ") + g.of(g.literal(), "true", "false", "3", "2.5", "null", "3u", `b"a"`)
	case 3:
		return g.word() + " in " + g.of("identity.scopes", "identity.roles", "request.headers", "request.query", `["a", "GET", "acme"]`)
	case 4:
		return g.word() + " in " + g.json()
	case 5:
		return g.word() + g.of(".startsWith(", ".endsWith(", ".contains(") + g.word() + ")"
	case 6:
		return "has(" + g.of("identity.claims.", "metadata.") + g.of("a", "o", "o.a", "text.a", "none.a", "list.a", "null", "none") + ")"
	case 7:
		return g.word() + `.matches("` + g.of("^/v1", "a|b", "^$", "[é]") + `")`
	case 8:
		return "identity." + g.of("hasScope(", "hasRole(") + g.word() + ")"
	case 9:
		if g.IntN(2) == 0 {
			return "source.address" + g.of(" == ", " != ") + `ip("` + g.of("10.0.0.1", "2001:db8::1") + `")`
		}
		return `cidr("` + g.of("10.0.0.0/8", "10.0.0.1/32", "2001:db8::/32") + `").containsIP(source.address)`
	default:
		return g.of("true", "false")
	}
}

func (g generator) input(t testing.TB) *authzexpr.Input {
	values := map[string]any{
		"a": g.of("a", "acme", "GET"), "text": "x", "n": []float64{3, 2.5, 0}[g.IntN(3)], "flag": g.IntN(2) == 0, "null": nil,
		"list": []any{"a", "b", 3.0}, "o": map[string]any{"a": "a", "o": map[string]any{"flag": true}},
	}
	for name := range values {
		if g.IntN(4) == 0 {
			delete(values, name)
		}
	}
	object, err := structpb.NewStruct(values)
	require.NoError(t, err)
	in := &authzexpr.Input{
		Request: authzexpr.Request{
			Method: g.of("GET", "POST"), Path: g.of("/v1/users", "/V1", "/"), Host: g.of("a", "api.example"), Size: int64(g.IntN(5) - 1),
			RawQuery: g.of("", "a=a", "a=1&b=b&b=c", "a=%zz", "a;b"),
		},
		Identity: authzexpr.Identity{Tenant: g.of("acme", "", "AcMe"), Subject: g.of("a", "b")},
		Source:   authzexpr.Source{Address: g.of("10.0.0.1", "10.0.0.2", "2001:db8::1", "", "x"), Port: 4711},
	}
	if g.IntN(3) > 0 {
		in.Request.Headers = authzexpr.MapValues{"x-a": {g.of("a", "1", "Ab")}, "x-two": {"1", "2"}, "a": {""}}
		in.Identity.Scopes, in.Identity.Roles = []string{"a", g.of("GET", "acme")}, []string{"b"}
	}
	if g.IntN(3) > 0 {
		in.Identity.Claims, in.Metadata, in.Request.Body = object, object, structpb.NewStructValue(object)
	}
	return in
}

// The closures mean what CEL means: the same truth, and an error wherever CEL
// has one.
func TestClosuresMeanWhatCELMeans(t *testing.T) {
	env := newEnvironment(t)
	rounds := 1500
	fast, failed := 0, 0
	for seed := range rounds {
		g := generator{rand.New(rand.NewPCG(uint64(seed), 7))}
		expression := g.truth(3)
		program, err := env.Compile(expression)
		if err != nil {
			continue // types that do not fit, such as a text in a number
		}
		if program.Fast() {
			fast++
		}
		for range 8 {
			in := g.input(t)
			got, gotErr := program.Eval(t.Context(), in)
			want, wantErr := program.Slow(t.Context(), in)
			require.Equal(t, wantErr != nil, gotErr != nil, "seed %d: %s\nover %+v\nCEL: %v, %v; closure: %v, %v", seed, expression, in, want, wantErr, got, gotErr)
			require.Equal(t, want, got, "seed %d: %s", seed, expression)
			if wantErr != nil {
				failed++
			}
		}
	}
	require.Greater(t, fast, rounds*8/10, "too few expressions were compiled to closures for this to say anything")
	require.Greater(t, failed, rounds/4)
}
