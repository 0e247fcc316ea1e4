//go:build slow

package kubernetes_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"weir.dev/mesh/istio"
)

// judgedOf is policyOf with tokens that Istio judges at paths, about which extauthz is
// not asked.
func judgedOf(t *testing.T, rules string, paths ...string) []istio.Object {
	t.Helper()
	objects := policyOf(rules, "a", "b")
	if len(paths) == 0 {
		return objects
	}
	var refused []string
	for _, path := range paths {
		refused = append(refused, "{to: [{operation: {paths: ["+path+"]}}], from: [{source: {notRequestPrincipals: ['*']}}]}")
	}
	parse := func(text string) map[string]any {
		var body map[string]any
		require.NoError(t, yaml.Unmarshal([]byte("spec: "+text), &body))
		return body
	}
	const security = "security.istio.io/v1"
	objects[3].Body = parse("{action: CUSTOM, provider: {name: weir-extauthz}, rules: [{to: [{operation: {notPaths: [" + strings.Join(paths, ", ") + "]}}]}]}")
	return append(objects,
		istio.Object{APIVersion: security, Kind: "RequestAuthentication", Namespace: "gw", Name: "by-token", Body: parse("{jwtRules: [{issuer: 'https://id.example', jwks: '{}'}]}")},
		istio.Object{APIVersion: security, Kind: "AuthorizationPolicy", Namespace: "gw", Name: "by-token", Body: parse("{action: DENY, rules: [" + strings.Join(refused, ", ") + "]}")},
	)
}

// Who judges tokens changes under gateways that are asked, and under connections that
// are waited for where Istio is to judge less.
func TestSlowApplyJudges(t *testing.T) {
	w := newIstioAPI(t)
	require.Empty(t, w.apply(w.request(judgedOf(t, "one")), &pretended{}).Failed)
	for _, c := range []struct {
		name, rules string
		paths       []string
		asked       []string
	}{
		{"Istio begins", "two", []string{"/a"}, []string{"Judges [80] 3"}},
		{"Istio judges more", "three", []string{"/a", "/b"}, []string{"Judges [80] 2"}},
		{"Istio judges as before", "four", []string{"/a", "/b"}, nil},
		{"Istio judges less", "five", []string{"/b"}, []string{"Judges [80] 2", "Draining"}},
		{"Istio ends", "six", nil, []string{"Judges [80] 1", "Draining"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			mesh := &pretended{}
			require.Empty(t, w.apply(w.request(judgedOf(t, c.rules, c.paths...)), mesh).Failed)
			var asked []string
			for i, method := range mesh.asked {
				if method == "Draining" || strings.HasPrefix(method, "Judges") {
					asked = append(asked, method)
					require.Less(t, i, len(mesh.asked)-1, "the gateways are asked for routes afterwards")
				}
			}
			require.Equal(t, c.asked, asked, "%v", mesh.asked)
		})
	}
	t.Run("connections that do not drain put everything back", func(t *testing.T) {
		w.t = t
		require.Empty(t, w.apply(w.request(judgedOf(t, "seven", "/a")), &pretended{}).Failed)
		before := w.all()
		result := w.apply(w.request(judgedOf(t, "eight")), &pretended{says: map[string][]string{"Draining": {"gateway gw/one serves connections"}}})
		require.Contains(t, result.Failed[0], "gateway gw/one serves connections")
		require.True(t, result.RolledBack)
		require.Equal(t, before, w.all())
	})
}
