package policy_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"weir.dev/policy"
)

const edgeYAML = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 80, allowedRoutes: {namespaces: {from: All}}}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: api}
spec: {protocol: GRPC, endpoints: [{address: 10.0.0.1, port: 80}]}
---
`

func objectsOf(t require.TestingT, p *policy.Parser, text string) []*policy.Object {
	var objects []*policy.Object
	for i, part := range strings.Split(text, "\n---\n") {
		for _, document := range p.Parse(fmt.Sprintf("f%03d.yaml", i), []byte(part)) {
			require.Empty(t, document.Problems.Errors(), part)
			objects = append(objects, document.Object)
		}
	}
	return objects
}

// Of two routes the more specific match answers, however old; of equal ones the
// older, and only then the first by namespace and name (istio#58453).
func TestBug08RoutePrecedence(t *testing.T) {
	p := parser(t)
	route := func(namespace, name, created, match string) string {
		return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: %s, name: %s, creationTimestamp: %q}
spec: {parentRefs: [{name: edge, namespace: default}], rules: [{matches: [%s]}]}
`, namespace, name, created, match)
	}
	const early, late = "2020-01-01T00:00:00Z", "2024-01-01T00:00:00Z"
	for name, tc := range map[string]struct {
		first, second string
		hidden        bool
	}{
		"the longer prefix, though younger": {first: route("b", "z", late, "{path: {value: /a/b}}"), second: route("a", "a", early, "{path: {value: /a}}")},
		"exact before a longer prefix":      {first: route("b", "z", late, "{path: {type: Exact, value: /a}}"), second: route("a", "a", early, "{path: {value: /a/b/c}}")},
		"a method":                          {first: route("b", "z", late, "{path: {value: /a}, method: GET}"), second: route("a", "a", early, "{path: {value: /a}, headers: [{name: x, value: y}, {name: z, value: y}]}")},
		"more headers":                      {first: route("b", "z", late, "{headers: [{name: x, value: y}, {name: z, value: y}]}"), second: route("a", "a", early, "{headers: [{name: x, value: y}], queryParams: [{name: q, value: v}]}")},
		"more query parameters":             {first: route("b", "z", late, "{queryParams: [{name: q, value: v}]}"), second: route("a", "a", early, "{path: {value: /}}")},
		"the older":                         {first: route("b", "z", early, "{path: {value: /a}}"), second: route("a", "a", late, "{path: {value: /a}}"), hidden: true},
		"the older of different headers":    {first: route("b", "z", early, "{headers: [{name: x, value: y}]}"), second: route("a", "a", late, "{headers: [{name: a, value: y}]}")},
		"the namespace":                     {first: route("a", "z", early, "{path: {value: /a}}"), second: route("b", "a", early, "{path: {value: /a}}"), hidden: true},
		"the name":                          {first: route("a", "a", early, "{path: {value: /a}}"), second: route("a", "b", early, "{path: {value: /a}}"), hidden: true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, text := range []string{edgeYAML + tc.first + "\n---\n" + tc.second, edgeYAML + tc.second + "\n---\n" + tc.first} {
				objects := objectsOf(t, p, text)
				first := objectsOf(t, p, tc.first)[0].Ref
				plan, problems := policy.Resolve(policy.Input{Objects: objects})
				routes := plan.Ports[0].Chains[0].Hosts[0].Routes
				require.Equal(t, first, routes[0].Origin.Object)
				require.Equal(t, tc.hidden, len(routes) == 1)
				told := slices.ContainsFunc(problems, func(p policy.Problem) bool { return p.Code == policy.CodeRouteConflict && p.Object != first })
				require.Equal(t, tc.hidden, told, "who never answers is told")
			}
		})
	}
}

// policyTexts are policies of each kind, by what stands for their settings.
func policyTexts() map[string]string {
	return map[string]string{
		"AuthPolicy":      "authentication: [{name: %[1]s, apiKey: {header: x-%[1]s}}]",
		"RateLimitPolicy": "limits: [{name: %s, requests: 1, window: 1s}]",
		"ExtensionPolicy": "extensions: [{name: %s, backendRef: {name: api}}]",
		"TrafficPolicy":   "defaults: {strategy: atomic, requestBody: {maxBytes: 1%[2]s}}",
	}
}

// Two policies on one target: the older is in effect, then the first by name; the
// other is not "Accepted", and is told who won.
func TestBug09PolicyTies(t *testing.T) {
	p := parser(t)
	for kind, settings := range policyTexts() {
		for name, tc := range map[string]struct{ winner, loser, winnerCreated, loserCreated string }{
			"by age":  {"z", "a", "2020-01-01T00:00:00Z", "2024-01-01T00:00:00Z"},
			"by name": {"a", "z", "2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"},
		} {
			t.Run(kind+" "+name, func(t *testing.T) {
				one := func(name, created, digit string) string {
					return fmt.Sprintf(`apiVersion: weir.dev/v1alpha1
kind: %s
metadata: {name: %s, creationTimestamp: %q}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}], %s}
`, kind, name, created, fmt.Sprintf(settings+"%.0[1]s%.0[2]s", name, digit))
				}
				text := edgeYAML + one(tc.loser, tc.loserCreated, "1") + "\n---\n" + one(tc.winner, tc.winnerCreated, "2") + `
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: api}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{group: weir.dev, kind: Backend, name: api}]}]}
`
				plan, problems := policy.Resolve(policy.Input{Objects: objectsOf(t, p, text)})
				winner := policy.ObjectRef{Kind: kind, Namespace: "default", Name: tc.winner}
				loser := policy.ObjectRef{Kind: kind, Namespace: "default", Name: tc.loser}
				told := slices.IndexFunc(problems, func(p policy.Problem) bool { return p.Code == policy.CodeOverridden })
				require.GreaterOrEqual(t, told, 0)
				require.Equal(t, loser, problems[told].Object)
				require.Contains(t, problems[told].Message, winner.String())
				require.Equal(t, policy.SeverityError, problems[told].Severity)

				require.Equal(t, map[string]string{"Accepted": "True"}, conditionsOf(plan, winner))
				require.Equal(t, map[string]string{"Accepted": "False", "Overridden": "True"}, conditionsOf(plan, loser))

				var uses []policy.PolicyUse
				for _, use := range plan.Ports[0].Chains[0].Hosts[0].Routes[0].Policies {
					if use.Policy.Object.Kind == kind {
						uses = append(uses, use)
					}
				}
				require.Len(t, uses, 2)
				require.Equal(t, winner, uses[0].Policy.Object)
				require.Equal(t, policy.PolicyApplied, uses[0].Effect)
				require.Equal(t, loser, uses[1].Policy.Object)
				require.Equal(t, policy.PolicyOverridden, uses[1].Effect)
				require.Equal(t, winner, uses[1].By[0].Object)
				require.Contains(t, uses[1].Reason, winner.String())
			})
		}
	}
}

func conditionsOf(plan *policy.Plan, ref policy.ObjectRef) map[string]string {
	found := map[string]string{}
	for _, status := range plan.Statuses {
		if status.Object != ref {
			continue
		}
		for _, parent := range status.Parents {
			for _, condition := range parent.Conditions {
				found[condition.Type] = string(condition.Status)
			}
		}
	}
	return found
}

// randomPolicies is a policy that tries the combinations.
func randomPolicies(t *rapid.T) string {
	targets := []string{
		"kind: Gateway, name: edge", "kind: Gateway, name: edge, sectionName: http", "kind: HTTPRoute, name: api",
		"kind: HTTPRoute, name: api, sectionName: one", "kind: HTTPRoute, name: api, sectionName: gone", "kind: HTTPRoute, name: gone",
		"kind: HTTPRoute, name: alone",
	}
	kinds := []string{"AuthPolicy", "ExtensionPolicy", "RateLimitPolicy", "TrafficPolicy"}
	var text strings.Builder
	text.WriteString(edgeYAML)
	for _, route := range []string{"api}\nspec: {parentRefs: [{name: edge}]", "alone}\nspec: {parentRefs: [{name: other}]"} {
		fmt.Fprintf(&text, "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: %s, rules: [{name: one, matches: [{path: {value: /one}}]}, {matches: [{path: {value: /two}}]}]}\n---\n", route)
	}
	for i := range rapid.IntRange(1, 8).Draw(t, "policies") {
		kind := rapid.SampledFrom(kinds).Draw(t, "kind")
		name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key")
		settings := map[string]string{
			"AuthPolicy":      "authentication: [{name: %s, apiKey: {header: x-%d}}]",
			"RateLimitPolicy": "limits: [{name: %s, requests: %d, window: 1s}]",
			"ExtensionPolicy": "extensions: [{name: %s, backendRef: {name: api}, messageTimeout: %d0ms}]",
			"TrafficPolicy":   "requestBody: {maxBytes: 1%[2]d}%.0[1]s",
		}[kind]
		settings = fmt.Sprintf(settings, name, i+1)
		block := rapid.SampledFrom([]string{"", "defaults", "overrides"}).Draw(t, "block")
		if block != "" {
			settings = fmt.Sprintf("%s: {strategy: %s, %s}", block, rapid.SampledFrom([]string{"atomic", "merge"}).Draw(t, "strategy"), settings)
		}
		fmt.Fprintf(&text, "apiVersion: weir.dev/v1alpha1\nkind: %s\nmetadata: {name: p%d, creationTimestamp: \"202%d-01-01T00:00:00Z\"}\nspec: {targetRefs: [{group: gateway.networking.k8s.io, %s}], %s}\n---\n",
			kind, i, rapid.IntRange(0, 2).Draw(t, "age"), rapid.SampledFrom(targets).Draw(t, "target"), settings)
	}
	return strings.TrimSuffix(text.String(), "\n---\n")
}

// No policy is without effect in silence: each is in effect somewhere, or names
// who is in its place, or is a problem. And the order of objects never matters.
func TestNoPolicyIsSilentlyWithoutEffect(t *testing.T) {
	p := parser(t)
	rapid.Check(t, func(t *rapid.T) {
		objects := objectsOf(t, p, randomPolicies(t))
		plan, problems := policy.Resolve(policy.Input{Objects: objects})
		effective := map[policy.ObjectRef]bool{}
		for _, host := range plan.Ports[0].Chains[0].Hosts {
			for _, route := range host.Routes {
				for _, use := range route.Policies {
					if use.Effect != policy.PolicyOverridden {
						effective[use.Policy.Object] = true
					} else {
						require.NotEmpty(t, use.By)
					}
				}
			}
		}
		for _, object := range objects {
			if !strings.HasSuffix(object.Ref.Kind, "Policy") {
				continue
			}
			conditions := conditionsOf(plan, object.Ref)
			require.Contains(t, conditions, "Accepted", object.Ref.String())
			told := slices.ContainsFunc(problems, func(p policy.Problem) bool { return p.Object == object.Ref })
			if !effective[object.Ref] {
				require.True(t, told, "nothing is said of %s", object.Ref)
			}
		}
		shuffled := slices.Clone(objects)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		again, same := policy.Resolve(policy.Input{Objects: shuffled})
		require.Equal(t, plan.Digest, again.Digest)
		require.Equal(t, problems, same)
		require.Equal(t, plan.Statuses, again.Statuses)
	})
}

// FuzzResolve: whatever parses resolves without a panic, and alike in any order.
func FuzzResolve(f *testing.F) {
	files, err := filepath.Glob("testdata/plan/*.in.yaml")
	require.NoError(f, err)
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(content)
	}
	p := parser(f)
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > 1<<16 {
			return
		}
		var input policy.Input
		for _, document := range p.Parse("fuzz.yaml", content) {
			if document.Object != nil {
				input.Objects = append(input.Objects, document.Object)
			}
			if document.Closing != nil {
				input.Closings = append(input.Closings, *document.Closing)
			}
		}
		plan, problems := policy.Resolve(input)
		slices.Reverse(input.Objects)
		slices.Reverse(input.Closings)
		again, same := policy.Resolve(input)
		require.Equal(t, plan.Digest, again.Digest)
		require.Equal(t, problems, same)
		require.Equal(t, plan.Statuses, again.Statuses)
	})
}
