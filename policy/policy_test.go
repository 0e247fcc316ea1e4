package policy_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/policy"
)

// The same objects in any order and spread over any files give the same Plan.
func TestResolveDoesNotDependOnOrder(t *testing.T) {
	content, err := os.ReadFile("testdata/plan/policies.in.yaml")
	require.NoError(t, err)
	var objects []*policy.Object
	for _, document := range parser(t).Parse("p.yaml", content) {
		require.NotNil(t, document.Object)
		objects = append(objects, document.Object)
	}
	first, _ := policy.Resolve(policy.Input{Objects: objects})
	for range 50 {
		rand.Shuffle(len(objects), func(i, j int) { objects[i], objects[j] = objects[j], objects[i] })
		again, _ := policy.Resolve(policy.Input{Objects: objects})
		require.Equal(t, first.Digest, again.Digest)
		require.Equal(t, render(t, first, nil), render(t, again, nil))
	}
}

// Moving a document changes lines, not what is served; changing a value does.
func TestDigestIsOfContent(t *testing.T) {
	content, err := os.ReadFile("testdata/plan/policies.in.yaml")
	require.NoError(t, err)
	first, _ := resolveFile(t, "p.yaml", content)
	moved, _ := resolveFile(t, "q.yaml", append([]byte("# one\n# two\n"), content...))
	require.Equal(t, first.Digest, moved.Digest)
	changed, _ := resolveFile(t, "p.yaml", bytes.Replace(content, []byte("requests: 5\n"), []byte("requests: 6\n"), 1))
	require.NotEqual(t, first.Digest, changed.Digest)
}

// A broken document between good ones costs the good ones nothing.
func TestDocumentsAreIndependent(t *testing.T) {
	good := func(name string) string {
		return fmt.Sprintf("apiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: %s}\nspec: {endpoints: [{address: 10.0.0.1, port: 80}]}\n", name)
	}
	documents := parser(t).Parse("f.yaml", []byte(good("a")+"---\nkind: [\n--- # comment\n"+good("b")+"---\n---\n"+good("c")))
	var names []string
	for _, document := range documents {
		if document.Object != nil {
			names = append(names, document.Object.Ref.Name)
			require.Equal(t, "f.yaml", document.Object.Origin("").File)
			continue
		}
		require.Equal(t, policy.CodeYAML, document.Problems[0].Code)
	}
	require.Equal(t, []string{"a", "b", "c"}, names)
	require.Equal(t, 10, documents[2].Object.Origin("metadata.name").Line)
	require.Equal(t, 11, documents[2].Object.Origin("spec.endpoints[0].port").Line)
}

func TestBombsAreRefused(t *testing.T) {
	p := parser(t)
	var aliases strings.Builder
	aliases.WriteString("a0: &a0 [x, x]\n")
	for i := 1; i < 40; i++ {
		fmt.Fprintf(&aliases, "a%d: &a%d [*a%d, *a%d]\n", i, i, i-1, i-1)
	}
	for name, content := range map[string]string{
		"aliases": aliases.String(),
		"depth":   strings.Repeat("[", 10_000),
		"nesting": "a: " + strings.Repeat("{a: ", 200) + "1" + strings.Repeat("}", 200),
		"size":    strings.Repeat("#", policy.MaxFileBytes+1),
	} {
		documents := p.Parse(name, []byte(content))
		require.Len(t, documents, 1, name)
		require.NotEmpty(t, documents[0].Problems.Errors(), name)
	}
}

// Every code that is reported is explained, and the other way round.
func TestCodesAreExplained(t *testing.T) {
	explained := policy.Explanations()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	declared := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		declared += strings.Count(string(raw), `Code = "WEIR`)
	}
	require.Len(t, explained, declared)
	for code, text := range explained {
		require.NotEmpty(t, text, code)
	}
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/plan/*.yaml", "testdata/broken/*.yaml", "../examples/*/*.yaml"} {
		files, err := filepath.Glob(pattern)
		require.NoError(f, err)
		for _, file := range files {
			content, err := os.ReadFile(file)
			require.NoError(f, err)
			f.Add(content)
		}
	}
	p := parser(f)
	f.Fuzz(func(t *testing.T, content []byte) {
		var input policy.Input
		for _, document := range p.Parse("fuzz.yaml", content) {
			if document.Object == nil {
				require.NotEmpty(t, document.Problems.Errors())
				continue
			}
			input.Objects = append(input.Objects, document.Object)
		}
		one, _ := policy.Resolve(input)
		two, _ := policy.Resolve(input)
		require.Equal(t, one.Digest, two.Digest)
	})
}

// benchmarkYAML is a gateway with count routes, each with a policy of its own.
func benchmarkYAML(count int) []byte {
	var b bytes.Buffer
	b.WriteString("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 80}]}\n")
	b.WriteString("---\napiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: b}\nspec: {endpoints: [{address: 10.0.0.1, port: 80}]}\n")
	b.WriteString("---\napiVersion: weir.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {name: p}\nspec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}], authentication: [{name: k, apiKey: {}}]}\n")
	for i := range count {
		fmt.Fprintf(&b, "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r%d}\nspec: {parentRefs: [{name: g}], hostnames: [h%d.example], rules: [{matches: [{path: {value: /r%d}}], backendRefs: [{group: weir.dev, kind: Backend, name: b}]}]}\n", i, i%100, i)
	}
	return b.Bytes()
}

func BenchmarkParse1000Routes(b *testing.B) {
	content, p := benchmarkYAML(1000), parser(b)
	b.ReportAllocs()
	for b.Loop() {
		p.Parse("bench.yaml", content)
	}
}

func BenchmarkResolve5000Routes(b *testing.B) {
	var input policy.Input
	for _, document := range parser(b).Parse("bench.yaml", benchmarkYAML(5000)) {
		input.Objects = append(input.Objects, document.Object)
	}
	b.ReportAllocs()
	for b.Loop() {
		policy.Resolve(input)
	}
}

// BenchmarkResolvePolicies has policies on every level: Gateway, listener, every
// tenth route and every hundredth rule, of all that merge.
func BenchmarkResolvePolicies5000Routes(b *testing.B) {
	var text bytes.Buffer
	text.Write(benchmarkYAML(5000))
	add := func(kind, name, target, settings string) {
		fmt.Fprintf(&text, "---\napiVersion: weir.dev/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec: {targetRefs: [{group: gateway.networking.k8s.io, %s}], %s}\n", kind, name, target, settings)
	}
	const gateway, listener = "kind: Gateway, name: g", "kind: Gateway, name: g, sectionName: http"
	add("AuthPolicy", "guard", listener, `overrides: {strategy: merge, authorization: {rules: [{name: d, effect: Deny, when: "request.method == 'TRACE'"}]}}`)
	add("RateLimitPolicy", "all", gateway, "defaults: {strategy: merge, limits: [{name: a, requests: 5, window: 1s, by: [{type: ClientIP}]}, {name: b, requests: 9, window: 1m}]}")
	add("TrafficPolicy", "carry", gateway, "timeouts: {request: 5s}, retryBudget: {percent: 10}")
	for i := 0; i < 5000; i += 10 {
		route := fmt.Sprintf("kind: HTTPRoute, name: r%d", i)
		add("RateLimitPolicy", fmt.Sprintf("l%d", i), route, "limits: [{name: a, requests: 7, window: 1s}]")
		if i%100 == 0 {
			add("AuthPolicy", fmt.Sprintf("p%d", i), route, "authentication: [{name: o, apiKey: {header: x-other}}]")
		}
	}
	var input policy.Input
	for _, document := range parser(b).Parse("bench.yaml", text.Bytes()) {
		require.Empty(b, document.Problems.Errors())
		input.Objects = append(input.Objects, document.Object)
	}
	b.ReportAllocs()
	for b.Loop() {
		policy.Resolve(input)
	}
}

// The rules of a route are named by what the route takes and does, so that those
// of the version before stand until proxies have switched; a change of the policy
// alone keeps the name.
func TestRulesOfTwoVersionsOfARouteStandSideBySide(t *testing.T) {
	content, err := os.ReadFile("testdata/plan/policies.in.yaml")
	require.NoError(t, err)
	names := func(content []byte) (names []string) {
		plan, _ := resolveFile(t, "p.yaml", content)
		for _, rules := range plan.AuthRoutes {
			names = append(names, rules.GetRouteId())
		}
		return names
	}
	before := names(content)
	require.Contains(t, string(content), "value: /closed")
	path := names(bytes.Replace(content, []byte("value: /closed"), []byte("value: /shut"), 1))
	require.NotEqual(t, before, path)
	withoutVersions := func(names []string) (ids []string) {
		for _, name := range names {
			id, _, _ := strings.Cut(name, "~")
			ids = append(ids, id)
		}
		return ids
	}
	require.Equal(t, withoutVersions(before), withoutVersions(path))
	require.Contains(t, string(content), "header: X-Key")
	require.Equal(t, before, names(bytes.ReplaceAll(content, []byte("header: X-Key"), []byte("header: X-Other"))))
}
