package policy_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/policy"
)

// edits makes random changes to a policy of a few routes.
type edits struct {
	t      *testing.T
	random *rand.Rand
	parser *policy.Parser
	texts  []string
	parsed map[string]*policy.Object
	// gone are routes that are not there at the moment.
	gone map[int]string
}

const editsBase = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: weir
  listeners:
  - {name: http, protocol: HTTP, port: 8080}
  - {name: named, protocol: HTTP, port: 8081, hostname: "*.example.com"}
`

func (e *edits) route(i int) string {
	pick := func(choices ...string) string { return choices[e.random.IntN(len(choices))] }
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r%d, creationTimestamp: "2026-01-0%dT00:00:00Z"}
spec:
  parentRefs: [{name: edge%s}]
  %s
  rules:
  - %s
    matches: [{path: {type: %s, value: /%s}%s}]
    %s
    backendRefs: [{group: weir.dev, kind: Backend, name: %s%s}]
`, i, 1+i%5, pick("", "", "", ", sectionName: http", ", sectionName: nosuch"), pick("", "", "", "hostnames: [a.example.com]", "hostnames: [a.example.com, \"*.example.com\"]"),
		pick("name: all", "name: all", "name: other"), pick("PathPrefix", "Exact"), pick("x", "y", fmt.Sprint("own", i), fmt.Sprint("own", i), fmt.Sprint("own", i)),
		pick("", "", ", method: GET", ", headers: [{name: a, value: b}]"),
		pick("", fmt.Sprintf("filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x, value: \"%d\"}]}}]", e.random.IntN(100))),
		pick("b0", "b0", "b1", "nosuch"), pick("", ", weight: 3"))
}

// nudged is a route with another path, which mostly no other has, or a timeout.
func (e *edits) nudged(i int, text string) string {
	if e.random.IntN(2) == 0 {
		return ownPath.ReplaceAllString(text, fmt.Sprintf("value: /own%d/%d}", e.random.IntN(5)*10+i, e.random.IntN(3)))
	}
	return backendRefs.ReplaceAllString(text, fmt.Sprintf("    timeouts: {request: %ds}\n    backendRefs:", 1+e.random.IntN(5)))
}

var (
	ownPath     = regexp.MustCompile(`value: /[a-z0-9/]+}`)
	backendRefs = regexp.MustCompile(`(    timeouts: .*\n)?    backendRefs:`)
)

func (e *edits) policyText(i int) string {
	target := fmt.Sprintf("{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r%d}", e.random.IntN(8))
	switch e.random.IntN(4) {
	case 0:
		target = "{group: gateway.networking.k8s.io, kind: Gateway, name: edge}"
	case 1:
		target += fmt.Sprintf(", {group: gateway.networking.k8s.io, kind: HTTPRoute, name: r%d, sectionName: all}", e.random.IntN(8))
	}
	if i%2 == 0 {
		return fmt.Sprintf("apiVersion: weir.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {name: p%d}\nspec: {targetRefs: [%s], authentication: [{name: k%d, apiKey: {}}]}\n", i, target, e.random.IntN(3))
	}
	return fmt.Sprintf("apiVersion: weir.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {name: p%d}\nspec: {targetRefs: [%s], limits: [{name: l, requests: %d, window: 1m}]}\n", i, target, 1+e.random.IntN(3))
}

// input parses each text once, so that what is unchanged is the same object.
func (e *edits) input() policy.Input {
	var input policy.Input
	for i, text := range e.texts {
		if text == "" {
			continue
		}
		key := fmt.Sprint(i, text)
		if e.parsed[key] == nil {
			documents := e.parser.Parse(fmt.Sprintf("%02d.yaml", i), []byte(text))
			require.Empty(e.t, documents[0].Problems, text)
			e.parsed[key] = documents[0].Object
		}
		input.Objects = append(input.Objects, e.parsed[key])
	}
	return input
}

// Whatever is edited, in whatever order, the Plan, its digest and the problems
// are those of resolving everything anew.
func TestIncrementalIsFull(t *testing.T) {
	parser, err := policy.NewParser()
	require.NoError(t, err)
	patched := 0
	for seed := range uint64(20) {
		e := &edits{t: t, random: rand.New(rand.NewPCG(seed, 1)), parser: parser, parsed: map[string]*policy.Object{}, gone: map[int]string{}}
		e.texts = append(e.texts, editsBase)
		for i := range 2 {
			e.texts = append(e.texts, fmt.Sprintf("apiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: b%d}\nspec: {endpoints: [{address: 127.0.0.1, port: 9000}]}\n", i))
		}
		routes := len(e.texts)
		for i := range 8 {
			e.texts = append(e.texts, e.route(i))
		}
		policies := len(e.texts)
		for i := range int(seed % 4) {
			e.texts = append(e.texts, e.policyText(i))
		}
		var resolver policy.Resolver
		const rounds = 40
		for range rounds {
			plan, problems := resolver.Resolve(e.input())
			wantPlan, wantProblems := policy.Resolve(e.input())
			require.Equal(t, wantPlan, plan, "seed %d", seed)
			require.Equal(t, wantProblems, problems, "seed %d", seed)
			for range 1 + e.random.IntN(2) {
				i := e.random.IntN(8)
				switch {
				case e.random.IntN(4) == 0:
					e.texts[routes+i] = e.route(i)
				case e.random.IntN(4) == 0:
					e.gone[i], e.texts[routes+i] = e.texts[routes+i], e.gone[i] // or there again
				case e.random.IntN(6) == 0 && e.texts[routes+i] != "":
					e.texts[routes+i] = "# another line\n" + e.texts[routes+i]
				default:
					e.texts[routes+i] = e.nudged(i, e.texts[routes+i])
				}
			}
			if len(e.texts) > policies && e.random.IntN(6) == 0 {
				i := e.random.IntN(len(e.texts) - policies)
				e.texts[policies+i] = e.policyText(i)
			}
		}
		patched += rounds - resolver.Full
	}
	require.Greater(t, patched, 50, "some of it is incremental")
	t.Logf("%d of %d rounds were incremental", patched, 20*40)
}

// Routes that come and go, like those that change, are put in place one by one
// where another one shows what they bring along.
func TestRoutesComeAndGoIncrementally(t *testing.T) {
	parser, err := policy.NewParser()
	require.NoError(t, err)
	route := func(i int) string {
		return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r%d}
spec:
  parentRefs: [{name: edge}]
  rules:
  - {name: all, matches: [{path: {value: /r/%d}}], backendRefs: [{group: weir.dev, kind: Backend, name: b0}]}
`, i, i)
	}
	gatewayPolicies := `apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: keys}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}], authentication: [{name: k, apiKey: {}}]}
---
apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: limits}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}], limits: [{name: l, requests: 5, window: 1m}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: b0}
spec: {endpoints: [{address: 127.0.0.1, port: 9000}]}
`
	var resolver policy.Resolver
	objects := map[string][]*policy.Object{}
	text := func(file, content string) {
		objects[file] = nil
		for _, document := range parser.Parse(file, []byte(content)) {
			require.Empty(t, document.Problems)
			objects[file] = append(objects[file], document.Object)
		}
	}
	check := func(full int) {
		t.Helper()
		var input policy.Input
		for _, file := range slices.Sorted(maps.Keys(objects)) {
			input.Objects = append(input.Objects, objects[file]...)
		}
		plan, problems := resolver.Resolve(input)
		wantPlan, wantProblems := policy.Resolve(input)
		require.Equal(t, wantPlan, plan)
		require.Equal(t, wantProblems, problems)
		require.Equal(t, full, resolver.Full)
	}
	text("a", editsBase)
	text("b", gatewayPolicies)
	text("r1", route(1))
	text("r2", route(2))
	text("r4", route(4))
	check(1)
	text("r3", route(3))
	check(1)
	text("r5", route(5)+"---\n"+route(6))
	delete(objects, "r1")
	check(1)
	text("r5", "# the same, a line further down\n"+route(5)+"---\n"+route(6))
	check(1)
	delete(objects, "r5")
	delete(objects, "r2")
	check(1)
	text("r4", route(7))
	check(1)
	delete(objects, "r4")
	check(1)
	delete(objects, "r3") // The last one: nothing leads to the Backend any more.
	check(2)
}

// What an AuthPolicy with a target that is not there closes stays closed when it
// changes.
func TestAMissingTargetClosesWhatChanges(t *testing.T) {
	parser, err := policy.NewParser()
	require.NoError(t, err)
	e := &edits{t: t, random: rand.New(rand.NewPCG(1, 1)), parser: parser, parsed: map[string]*policy.Object{}}
	route := func(path string) string {
		return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: edge}]
  rules: [{name: all, matches: [{path: {value: %s}}], backendRefs: [{group: weir.dev, kind: Backend, name: b}]}]
`, path)
	}
	e.texts = []string{
		editsBase, "apiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: b}\nspec: {endpoints: [{address: 127.0.0.1, port: 9000}]}\n", route("/a"),
		"apiVersion: weir.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {name: p}\nspec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: mistyped}], authentication: [{name: k, apiKey: {}}]}\n",
	}
	var resolver policy.Resolver
	for _, path := range []string{"/a", "/b", "/c"} {
		e.texts[2] = route(path)
		plan, _ := resolver.Resolve(e.input())
		want, _ := policy.Resolve(e.input())
		require.Equal(t, want, plan)
		closed := plan.Ports[0].Chains[0].Hosts[0].Routes[0]
		require.NotNil(t, closed.Auth)
		require.True(t, closed.Auth.Refuse)
	}
	require.Equal(t, 1, resolver.Full)
}
