package assert_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"weir.dev/mesh/assert"
	"weir.dev/mesh/istio"
)

// What istiod makes of an entry of a VirtualService is what Forms says of both.
func TestForms(t *testing.T) {
	raw, err := yaml.YAMLToJSON([]byte(`
configs:
  - dynamic_route_configs:
      - route_config:
          name: http.8080
          virtual_hosts:
            - routes:
                - {name: a, match: {path: /a, case_sensitive: true}, route: {cluster: "outbound|80|s|x", regex_rewrite: {pattern: {regex: ^/a}, substitution: /b}, host_rewrite_literal: h}}
                - {name: a, match: {prefix: /a/}, route: {cluster: "outbound|80|s|x", regex_rewrite: {pattern: {regex: ^/a}, substitution: /b}, host_rewrite_literal: h}}
                - {name: b, match: {safe_regex: {regex: /b.*}}, route: {weighted_clusters: {clusters: [{name: "outbound|80||x", weight: 1}, {name: "outbound|80||w", weight: 3}]}}}
                - {name: b, match: {prefix: /}, direct_response: {status: 400}}
`))
	require.NoError(t, err)
	proxy, err := assert.Read(raw)
	require.NoError(t, err)
	forms := func(text string) (made []istio.Form) {
		var entries []map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(text), &entries))
		for _, entry := range entries {
			made = append(made, istio.Forms(entry)...)
		}
		return made
	}
	a := forms(`[{match: [{uri: {prefix: /a/}}, {uri: {exact: /a}}], route: [{destination: {host: x, port: {number: 80}, subset: s}}], rewrite: {authority: h, uriRegexRewrite: {match: ^/a, rewrite: /b}}}]`)
	b := forms(`
- {match: [{uri: {regex: /b.*}}], route: [{destination: {host: w, port: {number: 80}}, weight: 3}, {destination: {host: z, port: {number: 80}}}, {destination: {host: x, port: {number: 80}}, weight: 1}]}
- {directResponse: {status: 400}}`)
	require.Empty(t, proxy.Forms(8080, map[string][]istio.Form{"a": a, "b": b}))
	for name, change := range map[string]func(*istio.Form){
		"rewrite": func(f *istio.Form) { f.Rewrite = "^/a -> /c" },
		"plain":   func(f *istio.Form) { f.Rewrite = "" },
		"host":    func(f *istio.Form) { f.Host = "i" },
		"cluster": func(f *istio.Form) { f.To = "outbound|80||x" },
		"path":    func(f *istio.Form) { f.Path = "regex /a/" },
	} {
		other := append([]istio.Form{}, a...)
		change(&other[0])
		require.Equal(t, []string{
			"route a is not there on port 8080 as " + other[0].String(), "route a is there on port 8080 still as " + a[0].String(),
		}, proxy.Forms(8080, map[string][]istio.Form{"a": other}), name)
	}
	require.Equal(t, []string{"route b is there on port 8080 still as prefix /, answered by the gateway"}, proxy.Forms(8080, map[string][]istio.Form{"b": b[:1]}))
	require.Len(t, proxy.Forms(80, map[string][]istio.Form{"b": b}), 2, "of another port")
}
