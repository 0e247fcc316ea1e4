package limitexpr_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/kit/limitexpr"
)

func compile(t testing.TB, expression string) (*limitexpr.Program, error) {
	t.Helper()
	environment, err := limitexpr.NewEnvironment()
	require.NoError(t, err)
	return environment.Compile(expression)
}

func TestEval(t *testing.T) {
	for expression, test := range map[string]struct {
		inputs map[string]string
		reads  string
		want   any // uint64, or what the error contains
	}{
		`3`:                            {want: uint64(3)},
		`-3`:                           {want: uint64(0)},
		`2.1`:                          {want: uint64(3)},
		`7u`:                           {want: uint64(7)},
		`1.0/0.0`:                      {want: uint64(math.MaxUint32)},
		`0.0/0.0`:                      {want: "not a number"},
		`request.size / 1024 + 1`:      {map[string]string{"size": "4096"}, "size", uint64(5)},
		`request.size < 0 ? 9 : 1`:     {nil, "size", uint64(9)},
		`request.size < 1 ? 8 : 1`:     {map[string]string{"size": "-7"}, "size", uint64(8)},
		`int(request.param("n")) * 10`: {map[string]string{"param.n": "4"}, "param.n", uint64(40)},
		`int(request.param("m"))`:      {nil, "param.m", "int"},
		`int(request.header("x-n"))`:   {map[string]string{"header.x-n": "1e3"}, "header.x-n", "int"},
		`identity.claim("plan.name") == "big" ? 10 : consumer.attribute("weight") != "" ? int(consumer.attribute("weight")) : 1`: {
			map[string]string{"attribute.weight": "6"}, "attribute.weight claim.plan.name", uint64(6),
		},
		`identity.claim("plan") == "big" ? 10 : 1`:                                                 {map[string]string{"claim.plan": "big"}, "claim.plan", uint64(10)},
		`request.method == "POST" && request.path.startsWith("/v1/") && request.host == "h" ? 5:1`: {map[string]string{"method": "POST", "path": "/v1/x", "host": "h"}, "host method path", uint64(5)},
		`identity.tier == "gold" ? 1 : identity.tenant == "t" ? 2 : 3`:                             {map[string]string{"tenant": "t"}, "tenant tier", uint64(2)},
		`math.greatest(int(request.header("a")), 5)`:                                               {map[string]string{"header.a": "3"}, "header.a", uint64(5)},
	} {
		t.Run(expression, func(t *testing.T) {
			program, err := compile(t, expression)
			require.NoError(t, err)
			var reads []string
			for _, input := range program.Inputs() {
				reads = append(reads, input.String())
			}
			require.Equal(t, test.reads, strings.Join(reads, " "))
			cost, err := program.Eval(t.Context(), test.inputs)
			if text, ok := test.want.(string); ok {
				require.ErrorContains(t, err, text)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, cost)
		})
	}
}

func TestMistakes(t *testing.T) {
	var many strings.Builder
	for i := range limitexpr.MaxInputs + 1 {
		fmt.Fprintf(&many, `size(request.param("p%d")) + `, i)
	}
	for expression, want := range map[string]string{
		`"3"`:                                    "is of type string; a cost is a number",
		`request.methd == "GET" ? 1 : 2`:         "at 1:8: ",
		`nothing`:                                "undeclared reference to 'nothing'",
		`int(request.header(request.path))`:      "takes a name that is written out",
		`int(request.header("X-Tokens"))`:        "write header names in lower case",
		`int(request.header("x-weir-tier"))`:     "is the edge's own",
		`int(request.header(""))`:                "names have 1 to 128",
		`request == request ? 1 : 2`:             "request is no value by itself",
		many.String() + "1":                      "reads 9 things",
		strings.Repeat(" ", 1<<10) + "1":         "the most is 1024",
		`int(request.claim("x"))`:                "found no matching overload",
		`[request].map(r, r.header("x")).size()`: "request is no value by itself",
	} {
		_, err := compile(t, expression)
		require.ErrorContains(t, err, want, expression)
	}
}

// A loop over what a client sends costs a bounded amount of work.
func TestWorkIsBounded(t *testing.T) {
	program, err := compile(t, `request.header("a").split(",").map(x, request.header("a").split(",").map(y, int(x) + int(y)).size()).size()`)
	require.NoError(t, err)
	_, err = program.Eval(t.Context(), map[string]string{"header.a": strings.Repeat("1,", 4000) + "1"})
	require.ErrorContains(t, err, "cost limit")
	cost, err := program.Eval(t.Context(), map[string]string{"header.a": "1,2"})
	require.NoError(t, err)
	require.EqualValues(t, 2, cost)
}

func BenchmarkEval(b *testing.B) {
	program, err := compile(b, `int(request.header("x-n")) * (identity.claim("plan") == "big" ? 10 : 1)`)
	require.NoError(b, err)
	inputs := map[string]string{"header.x-n": "3", "claim.plan": "big"}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = program.Eval(b.Context(), inputs)
	}
}
