//go:build slow

package e2e

import (
	"encoding/json"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"weir.dev/e2e/internal/harness"
	"weir.dev/policy"
	"weir.dev/policy/policytest"
)

// randomPlans makes policies that parse out of those that the tests have:
// documents put together anew, parts of them exchanged for parts of the same name
// elsewhere, and single values changed. The same seed makes the same policies.
type randomPlans struct {
	random *rand.Rand
	parser *policy.Parser
	// files are documents that belong together.
	files [][]map[string]any
	// parts are the values that fields of a name have anywhere, as JSON.
	parts map[string][]string
}

func newRandomPlans(t *testing.T, seed int64) *randomPlans {
	t.Helper()
	parser, err := policy.NewParser()
	require.NoError(t, err)
	r := &randomPlans{random: rand.New(rand.NewSource(seed)), parser: parser, parts: map[string][]string{}}
	root := harness.Root(t)
	for _, pattern := range []string{"controlplane/envoy/testdata/*.in.yaml", "policy/testdata/plan/*.in.yaml", "policy/testdata/explain/policy.yaml", "e2e/testdata/explain.yaml"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		require.NotEmpty(t, paths, pattern)
		for _, path := range paths {
			raw, err := os.ReadFile(path)
			require.NoError(t, err)
			r.add(parser.Parse(path, raw))
		}
	}
	raw, err := os.ReadFile(filepath.Join(root, "policy", "testdata", "faults.yaml"))
	require.NoError(t, err)
	cases, err := policytest.Cases(raw)
	require.NoError(t, err)
	for _, tc := range cases {
		if !tc.Refused {
			r.add(parser.Parse("faults.yaml", tc.Object))
		}
	}
	return r
}

func (r *randomPlans) add(documents []policy.Document) {
	var file []map[string]any
	for _, document := range documents {
		if document.Object == nil {
			continue
		}
		var tree map[string]any
		if json.Unmarshal(document.Object.JSON(), &tree) != nil {
			continue
		}
		file = append(file, tree)
		r.collect(tree)
	}
	if len(file) > 0 {
		r.files = append(r.files, file)
	}
}

// collect takes note of the parts of a document.
func (r *randomPlans) collect(tree any) {
	switch tree := tree.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(tree)) {
			raw, err := json.Marshal(tree[key])
			if err == nil && len(raw) < 4096 && !slices.Contains(r.parts[key], string(raw)) {
				r.parts[key] = append(r.parts[key], string(raw))
			}
			r.collect(tree[key])
		}
	case []any:
		for _, item := range tree {
			r.collect(item)
		}
	}
}

func chosen[T any](r *rand.Rand, from []T) T { return from[r.Intn(len(from))] }

// next is a policy; every document of it parses.
func (r *randomPlans) next() (policy.Input, string) {
	var trees []map[string]any
	base := chosen(r.random, r.files)
	for len(base) < 3 {
		base = chosen(r.random, r.files)
	}
	trees = append(trees, base...)
	for range r.random.Intn(8) {
		trees = append(trees, chosen(r.random, chosen(r.random, r.files)))
	}
	here := refsOf(trees)
	var input policy.Input
	var text strings.Builder
	seen := map[policy.ObjectRef]bool{}
	for _, tree := range trees {
		object, raw := r.changed(tree, here)
		if object == nil || seen[object.Ref] {
			continue
		}
		seen[object.Ref] = true
		input.Objects = append(input.Objects, object)
		text.WriteString("---\n" + raw)
	}
	return input, text.String()
}

// refs are references to what there is, by the name of the field that holds such.
type refs map[string][]any

func refsOf(trees []map[string]any) refs {
	out := refs{}
	for _, tree := range trees {
		kind, _ := tree["kind"].(string)
		metadata, _ := tree["metadata"].(map[string]any)
		namespace, _ := metadata["namespace"].(string)
		if namespace != "" && namespace != policy.DefaultNamespace {
			continue
		}
		ref := map[string]any{"group": "gateway.networking.k8s.io", "kind": kind, "name": metadata["name"]}
		switch kind {
		case "Gateway":
			out["parentRefs"] = append(out["parentRefs"], ref)
			out["targetRefs"] = append(out["targetRefs"], ref)
		case "HTTPRoute", "GRPCRoute":
			out["targetRefs"] = append(out["targetRefs"], ref)
		case "Backend":
			out["backendRefs"] = append(out["backendRefs"], map[string]any{"group": "weir.dev", "kind": kind, "name": metadata["name"]})
		case "Service":
			spec, _ := tree["spec"].(map[string]any)
			ports, _ := spec["ports"].([]any)
			for _, port := range ports {
				number, _ := port.(map[string]any)
				out["backendRefs"] = append(out["backendRefs"], map[string]any{"name": metadata["name"], "port": number["port"]})
			}
		}
	}
	return out
}

// point makes some references lead to what there is.
func (r *randomPlans) point(tree map[string]any, here refs) {
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		if list, ok := tree[key].([]any); ok && len(list) > 0 && len(here[key]) > 0 && r.random.Intn(3) > 0 {
			list[r.random.Intn(len(list))] = chosen(r.random, here[key])
			continue
		}
		switch value := tree[key].(type) {
		case map[string]any:
			r.point(value, here)
		case []any:
			for _, item := range value {
				if item, ok := item.(map[string]any); ok {
					r.point(item, here)
				}
			}
		}
	}
}

// changed is a document with some of its parts changed, if it parses then, or as
// it was.
func (r *randomPlans) changed(tree map[string]any, here refs) (*policy.Object, string) {
	const tries = 12
	for try := range tries {
		raw, err := json.Marshal(tree)
		if err != nil {
			return nil, ""
		}
		var copied map[string]any
		if json.Unmarshal(raw, &copied) != nil {
			return nil, ""
		}
		if spec, ok := copied["spec"].(map[string]any); ok && try < tries-1 {
			r.point(spec, here)
			for range r.random.Intn(6) {
				r.change(spec)
			}
		}
		page, err := yaml.Marshal(copied)
		if err != nil {
			continue
		}
		documents := r.parser.Parse("random.yaml", page)
		if len(documents) == 1 && documents[0].Object != nil {
			return documents[0].Object, string(page)
		}
	}
	return nil, ""
}

// change changes one thing in a mapping or below.
func (r *randomPlans) change(tree map[string]any) {
	if len(tree) == 0 {
		return
	}
	key := chosen(r.random, slices.Sorted(maps.Keys(tree)))
	if key == "targetRefs" || key == "parentRefs" {
		return
	}
	if r.random.Intn(3) > 0 { // deeper
		switch value := tree[key].(type) {
		case map[string]any:
			r.change(value)
			return
		case []any:
			if len(value) > 0 {
				if item, ok := chosen(r.random, value).(map[string]any); ok {
					r.change(item)
					return
				}
			}
		}
	}
	switch value := tree[key].(type) {
	case string:
		if r.random.Intn(2) == 0 {
			tree[key] = r.text(value)
			return
		}
	case float64:
		if r.random.Intn(2) == 0 {
			tree[key] = chosen(r.random, []float64{0, 1, 2, 99, 100, 101, 1000, 8080, 65535, 1 << 20, 1<<31 - 1, 1<<32 - 1, 1 << 40})
			return
		}
	case bool:
		tree[key] = !value
		return
	}
	if parts := r.parts[key]; len(parts) > 0 {
		var part any
		if json.Unmarshal([]byte(chosen(r.random, parts)), &part) == nil {
			tree[key] = part
		}
	}
}

// text is another text, with what is special somewhere.
func (r *randomPlans) text(value string) string {
	odd := []string{
		"%", "%%", "%REQ(x)%", "\"", "'", "\\", "\\1", "$", "{}", "*", "*.", ".", "..", "/", "//", "?", "#", "\t", "é", "\u2028", "a b", "(", "[", "+", "(?i)x", ".*", "x{1,3}",
		"0s", "1ms", "999h", "-1s", "1h", "0", "10.0.0.1", "::1", "localhost", "example.com", "*.example.com", "EXAMPLE.com", "http", "https", "GET", "X-A", "x_a", ":path", "cookie",
	}
	word := chosen(r.random, odd)
	switch r.random.Intn(4) {
	case 0:
		return word
	case 1:
		return value + word
	case 2:
		return word + value
	default:
		return strings.Repeat(cmpOr(value, "x"), 1+r.random.Intn(40))
	}
}

func cmpOr(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}
