package policy_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"weir.dev/policy"
)

// asYAML shows a value for review, without what says nothing.
func asYAML(t testing.TB, value any) []byte {
	t.Helper()
	raw, err := json.Marshal(value)
	require.NoError(t, err)
	var tree any
	require.NoError(t, json.Unmarshal(raw, &tree))
	out, err := yaml.Marshal(withoutZeros(tree))
	require.NoError(t, err)
	return out
}

func explainPlan(t testing.TB) *policy.Plan {
	t.Helper()
	content, err := os.ReadFile("testdata/explain/policy.yaml")
	require.NoError(t, err)
	plan, _ := resolveFile(t, "policy.yaml", content)
	return plan
}

func TestExplain(t *testing.T) {
	plan := explainPlan(t)
	const host = "api.example.com"
	for name, question := range map[string]policy.Question{
		"prefix": {Method: "GET", Host: "API.example.com:8080", Path: "/v1//users/42?x=1", Scheme: "http"},
		"specific": {Method: "POST", Host: host, Path: "/v1/users?dry=1", Headers: []policy.Header{
			{Name: "X-Version", Value: "2"}, {Name: "X-Weir-Consumer", Value: "me"},
		}},
		"redirect":      {Host: host, Path: "/old/a?b=c"},
		"no-backend":    {Host: host, Path: "/nowhere"},
		"no-route":      {Host: host, Path: "/v1/userscripts"},
		"no-host":       {Host: "other.example.com"},
		"no-port":       {Host: host + ":9"},
		"tls":           {Scheme: "https", Host: host},
		"escaped-slash": {Host: host, Path: "/v1%2fusers"},
		"underscore":    {Host: host, Path: "/v1/users", Headers: []policy.Header{{Name: "X_Version", Value: "2"}}},
		"other-fleet":   {Host: host, Fleet: "blue"},
	} {
		t.Run(name, func(t *testing.T) {
			compare(t, filepath.Join("testdata/explain", name+".out.yaml"), asYAML(t, policy.Explain(plan, question)))
		})
	}
}

// Of many routes, those whose path is the request's are the ones to see.
func TestExplainBoundsCandidates(t *testing.T) {
	var text strings.Builder
	text.WriteString("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  gatewayClassName: weir\n  listeners: [{name: http, port: 80, protocol: HTTP}]\n")
	for i := range 300 {
		fmt.Fprintf(&text, "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r%d}\nspec:\n  parentRefs: [{name: edge}]\n  rules: [{matches: [{path: {value: /p%03d}}, {path: {value: /same}, headers: [{name: n, value: \"%d\"}]}]}]\n", i, i, i)
	}
	plan, _ := resolveFile(t, "many.yaml", []byte(text.String()))
	e := policy.Explain(plan, policy.Question{Host: "x", Path: "/same", Headers: []policy.Header{{Name: "N", Value: "299"}}})
	require.Equal(t, "httproute/default/r299/#0@default/edge/http", e.Route)
	require.Len(t, e.Candidates, 64)
	require.Positive(t, e.MoreCandidates)
	for _, candidate := range e.Candidates {
		require.NotEqual(t, "path", candidate.Part)
	}
}

func TestCanonicalPath(t *testing.T) {
	for path, want := range map[string]string{
		"/":               "/",
		"/a/./b/../c":     "/a/c",
		"/a//b":           "/a/b",
		"/%61%2E%2e":      "/a..",
		"/%2e%2e/x":       "/x",
		"/a\\b":           "/a/b",
		"/a/..;/b":        "/b",
		"/a/.;x/b":        "/a/b",
		"/a%20b":          "/a%20b",
		"/%zz":            "/%zz",
		"/a?b=/../%2f":    "/a",
		"/a%3bb?c;d":      "/a%3bb",
		"/a/..":           "/",
		"/a/.":            "/a/",
		"/%2525":          "/%2525",
		"/a//../b":        "/a/b",
		"/x/../../../etc": "/etc",
	} {
		canonical, _, refusal := policy.CanonicalPath(path)
		require.Empty(t, refusal, path)
		require.Equal(t, want, canonical, path)
	}
	for _, path := range []string{"", "a", "*", "/a#b", "/a%2Fb", "/a;x", "/a/%2e%2e;/b", "/a%5cb", "/a%00", "/a b", "/é"} {
		_, _, refusal := policy.CanonicalPath(path)
		require.NotEmpty(t, refusal, path)
	}
}

// A canonical path stays as it is, or else two servers in a row would disagree.
func FuzzCanonicalPath(f *testing.F) {
	for _, seed := range []string{"/a/../b", "/%2e%2e/", "/a//b;c/..;/", "/%25%32%65", "/a\\..\\b", "/.;/..;x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		once, _, refusal := policy.CanonicalPath(path)
		if refusal != "" {
			return
		}
		require.True(t, strings.HasPrefix(once, "/"), once)
		require.NotContains(t, once, "//")
		for _, segment := range strings.Split(once, "/") {
			require.NotContains(t, []string{".", ".."}, segment)
		}
	})
}

func TestDiff(t *testing.T) {
	files, err := filepath.Glob("testdata/diff/*.old.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".old.yaml")
		t.Run(name, func(t *testing.T) {
			oldObjects, old := resolveObjects(t, file)
			newObjects, next := resolveObjects(t, strings.Replace(file, ".old.", ".new.", 1))
			got := asYAML(t, map[string]any{"objects": policy.DiffObjects(oldObjects, newObjects), "served": policy.Diff(old, next)})
			compare(t, strings.Replace(file, ".old.", ".out.", 1), got)
			require.Empty(t, policy.Diff(old, old))
			require.Empty(t, policy.DiffObjects(oldObjects, oldObjects))
			require.Equal(t, len(policy.Diff(old, next)), len(policy.Diff(next, old)))
			for _, secret := range []string{"c2VjcmV0", "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8", "0000"} {
				require.NotContains(t, string(got), secret, "a secret is shown")
			}
		})
	}
}

// Every golden, compared with an empty policy and with each other: what differs
// by digest is found, and nothing else.
func TestDiffFindsWhatDigestsTell(t *testing.T) {
	files, err := filepath.Glob("testdata/plan/*.in.yaml")
	require.NoError(t, err)
	for _, a := range files {
		for _, b := range files {
			_, x := resolveObjects(t, a)
			_, y := resolveObjects(t, b)
			require.Equal(t, x.Digest == y.Digest, len(policy.Diff(x, y)) == 0, "%s and %s", a, b)
		}
	}
}

func resolveObjects(t testing.TB, path string) ([]*policy.Object, *policy.Plan) {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	var objects []*policy.Object
	for _, document := range parser(t).Parse(filepath.Base(path), content) {
		if document.Object != nil {
			objects = append(objects, document.Object)
		}
	}
	plan, _ := policy.Resolve(policy.Input{Objects: objects})
	return objects, plan
}
