package controlplane_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/controlplane/envoy"
	"weir.dev/policy"
)

const scaleGateway = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 8080}]}
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: keys}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  authentication: [{name: key, apiKey: {}}]
---
apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: limits}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  limits: [{name: all, requests: 1000, window: 1m}]
---
`

func scaleBackend(i int) string {
	return fmt.Sprintf(`apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: b%03d}
spec: {endpoints: [{address: 127.0.0.1, port: %d}]}
---
`, i, 9000+i)
}

func scaleRoute(i, version int) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r%05d}
spec:
  parentRefs: [{name: edge}]
  rules:
  - name: all
    matches: [{path: {type: PathPrefix, value: /r/%05d}}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-version, value: "%d"}]}}]
    backendRefs: [{group: weir.dev, kind: Backend, name: b%03d}]
`, i, i, version, i%50)
}

// scaleObjects are a Gateway with policies, 50 Backends and n routes.
func scaleObjects(t testing.TB, n int) (*policy.Parser, []*policy.Object) {
	t.Helper()
	parser, err := policy.NewParser()
	require.NoError(t, err)
	var base strings.Builder
	base.WriteString(scaleGateway)
	for i := range 50 {
		base.WriteString(scaleBackend(i))
	}
	objects := parsed(t, parser, "base.yaml", base.String())
	for i := range n {
		objects = append(objects, parsed(t, parser, fmt.Sprintf("r%05d.yaml", i), scaleRoute(i, 0))...)
	}
	return parser, objects
}

func parsed(t testing.TB, parser *policy.Parser, file, text string) []*policy.Object {
	t.Helper()
	var objects []*policy.Object
	for _, document := range parser.Parse(file, []byte(text)) {
		require.Empty(t, document.Problems)
		objects = append(objects, document.Object)
	}
	return objects
}

func BenchmarkResolve5000(b *testing.B) {
	_, objects := scaleObjects(b, 5000)
	b.ReportAllocs()
	for b.Loop() {
		policy.Resolve(policy.Input{Objects: objects})
	}
}

func BenchmarkCompile5000(b *testing.B) {
	_, objects := scaleObjects(b, 5000)
	plan, _ := policy.Resolve(policy.Input{Objects: objects})
	b.ReportAllocs()
	for b.Loop() {
		_, err := envoy.Compile(plan, envoy.Options{ListenAddress: "127.0.0.1", ExtAuthzAddress: "127.0.0.1:1", RateLimitAddress: "127.0.0.1:2"})
		require.NoError(b, err)
	}
}

// BenchmarkIncremental5000 is from an update in which one route of 5,000 changed
// to the set for Envoy and the rules.
func BenchmarkIncremental5000(b *testing.B) {
	parser, objects := scaleObjects(b, 5000)
	options := envoy.Options{ListenAddress: "127.0.0.1", ExtAuthzAddress: "127.0.0.1:1", RateLimitAddress: "127.0.0.1:2"}
	var resolver policy.Resolver
	var fleet, rules envoy.Cache
	compile := func(objects []*policy.Object) {
		plan, _ := resolver.Resolve(policy.Input{Objects: objects})
		_, err := fleet.CompileFleet(plan, options)
		require.NoError(b, err)
		_, err = rules.CompileRules(plan)
		require.NoError(b, err)
	}
	compile(objects)
	b.ReportAllocs()
	for n := 1; b.Loop(); n++ {
		b.StopTimer()
		next := slices.Clone(objects)
		i := len(objects) - 1 - n%1000
		next[i] = parsed(b, parser, next[i].File, scaleRoute(4999-n%1000, n))[0]
		objects = next
		b.StartTimer()
		compile(objects)
	}
	require.Equal(b, 1, resolver.Full)
}

func scalePolicies(i int) string {
	return fmt.Sprintf(`apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: r%05[1]d}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r%05[1]d}]
  authentication: [{name: key, apiKey: {}}]
---
apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: r%05[1]d}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r%05[1]d}]
  limits: [{name: all, requests: 1000, window: 1m}]
`, i)
}

// BenchmarkIncrementalPolicies5000 is BenchmarkIncremental5000 with two policies
// for each route.
func BenchmarkIncrementalPolicies5000(b *testing.B) {
	parser, objects := scaleObjects(b, 5000)
	for i := range 5000 {
		objects = append(objects, parsed(b, parser, fmt.Sprintf("p%05d.yaml", i), scalePolicies(i))...)
	}
	options := envoy.Options{ListenAddress: "127.0.0.1", ExtAuthzAddress: "127.0.0.1:1", RateLimitAddress: "127.0.0.1:2"}
	var resolver policy.Resolver
	var fleet, rules envoy.Cache
	compile := func(objects []*policy.Object) {
		plan, _ := resolver.Resolve(policy.Input{Objects: objects})
		_, err := fleet.CompileFleet(plan, options)
		require.NoError(b, err)
		_, err = rules.CompileRules(plan)
		require.NoError(b, err)
	}
	compile(objects)
	b.ReportAllocs()
	for n := 1; b.Loop(); n++ {
		b.StopTimer()
		next := slices.Clone(objects)
		i := slices.IndexFunc(next, func(o *policy.Object) bool { return o.File == fmt.Sprintf("r%05d.yaml", 4999-n%1000) })
		next[i] = parsed(b, parser, next[i].File, scaleRoute(4999-n%1000, n))[0]
		objects = next
		b.StartTimer()
		compile(objects)
	}
	require.Equal(b, 1, resolver.Full)
}

// What is compiled with a cache is what is compiled without.
func TestCacheIsFull(t *testing.T) {
	parser, objects := scaleObjects(t, 200)
	options := envoy.Options{ListenAddress: "127.0.0.1", ExtAuthzAddress: "127.0.0.1:1", RateLimitAddress: "127.0.0.1:2"}
	var resolver policy.Resolver
	var fleet, rules envoy.Cache
	for n := range 20 {
		if n > 0 {
			objects = slices.Clone(objects)
			i := len(objects) - 1 - n
			objects[i] = parsed(t, parser, objects[i].File, scaleRoute(199-n, n))[0]
		}
		plan, _ := resolver.Resolve(policy.Input{Objects: objects})
		set, err := fleet.CompileFleet(plan, options)
		require.NoError(t, err)
		ruleSet, err := rules.CompileRules(plan)
		require.NoError(t, err)
		maps.Copy(set, ruleSet)
		fresh, _ := policy.Resolve(policy.Input{Objects: objects})
		want, err := envoy.Compile(fresh, options)
		require.NoError(t, err)
		require.Equal(t, want, set)
	}
	require.Equal(t, 1, resolver.Full)
}
