//go:build slow

package kubernetes_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"weir.dev/mesh/istio"
)

// decidedBy is a policy of the routes a and b, of which Istio decides about some: as
// package istio makes it, in few words.
func decidedBy(native ...string) []istio.Object {
	objects := policyOf("same", "a", "b")
	set := func(kind, name, text string) {
		body := map[string]any{}
		if err := yaml.Unmarshal([]byte(text), &body); err != nil {
			return
		}
		made := istio.Object{APIVersion: "security.istio.io/v1", Kind: kind, Namespace: "gw", Name: name, Body: map[string]any{"spec": body}, Origins: objects[0].Origins, Annotations: map[string]string{istio.AnnotationOrigin: "shop.yaml:9"}}
		if kind == "EnvoyFilter" {
			made.APIVersion = "networking.istio.io/v1alpha3"
		}
		objects = slices.DeleteFunc(objects, func(o istio.Object) bool { return o.Kind == kind && o.Name == name })
		objects = append(objects, made)
	}
	if len(native) == 0 {
		return objects
	}
	var refuses, leaves strings.Builder
	for _, route := range []string{"a", "b"} {
		if slices.Contains(native, route) {
			fmt.Fprintf(&refuses, "- {from: [{source: {notRequestPrincipals: ['*']}}], to: [{operation: {paths: [/%s]}}]}\n", route)
		} else {
			fmt.Fprintf(&leaves, "- {applyTo: HTTP_ROUTE, match: {routeConfiguration: {vhost: {route: {name: %s}}}}, patch: {operation: MERGE, value: {typed_per_filter_config: {envoy.filters.http.jwt_authn: {disabled: true}}}}}\n", route)
		}
	}
	set("AuthorizationPolicy", "guard", "{action: CUSTOM, provider: {name: weir-extauthz}, rules: [{to: [{operation: {notPaths: [/"+strings.Join(native, ", /")+"]}}]}]}")
	set("AuthorizationPolicy", "by-token", "action: DENY\nrules:\n"+refuses.String())
	set("RequestAuthentication", "tokens", "{jwtRules: [{issuer: one, jwks: '{}'}]}")
	if leaves.Len() > 0 {
		set("EnvoyFilter", "routes", "configPatches:\n"+leaves.String())
	}
	return objects
}

// guards are who guards a path as things are, and whether Istio judges its tokens.
func (w *istioAPI) guards(path string) (asked, refused, judged bool) {
	type operation struct {
		Paths    []string `json:"paths"`
		NotPaths []string `json:"notPaths"`
	}
	type object struct {
		Spec struct {
			Rules []struct {
				To []struct {
					Operation operation `json:"operation"`
				} `json:"to"`
			} `json:"rules"`
			ConfigPatches []struct {
				Match struct {
					RouteConfiguration struct {
						Vhost struct {
							Route struct {
								Name string `json:"name"`
							} `json:"route"`
						} `json:"vhost"`
					} `json:"routeConfiguration"`
				} `json:"match"`
				Patch struct {
					Value map[string]map[string]any `json:"value"`
				} `json:"patch"`
			} `json:"configPatches"`
		} `json:"spec"`
	}
	read := func(text string) (made object) {
		w.t.Helper()
		require.NoError(w.t, yaml.Unmarshal([]byte(text), &made))
		return made
	}
	all := w.all()
	for _, rule := range read(all["AuthorizationPolicy/guard"]).Spec.Rules {
		asked = asked || len(rule.To) == 0
		for _, to := range rule.To {
			asked = asked || !slices.Contains(to.Operation.NotPaths, path)
		}
	}
	for _, rule := range read(all["AuthorizationPolicy/by-token"]).Spec.Rules {
		for _, to := range rule.To {
			refused = refused || slices.Contains(to.Operation.Paths, path)
		}
	}
	judged = all["RequestAuthentication/tokens"] != ""
	for _, patch := range read(all["EnvoyFilter/routes"]).Spec.ConfigPatches {
		if "/"+patch.Match.RouteConfiguration.Vhost.Route.Name == path && patch.Patch.Value["typed_per_filter_config"]["envoy.filters.http.jwt_authn"] != nil {
			judged = false
		}
	}
	return asked, refused, judged
}

// deciding has routes change between extauthz and Istio: at no time is one without a
// guard, or refused for a token that nobody looks at.
func deciding(t *testing.T, w *istioAPI) {
	w.t = t
	require.Empty(t, w.apply(w.request(decidedBy()), &pretended{}).Failed)
	looked := 0
	for _, native := range [][]string{{"a"}, {"b"}, {"a", "b"}, {"b"}, nil, {"a", "b"}, nil} {
		for _, fails := range []bool{true, false} {
			t.Run(fmt.Sprintf("Istio decides about %v, in vain %v", native, fails), func(t *testing.T) {
				w.t = t
				before := w.all()
				mesh := &pretended{says: map[string][]string{}}
				look := func(method string) {
					looked++
					for _, path := range []string{"/a", "/b"} {
						asked, refused, judged := w.guards(path)
						require.True(t, asked || refused, "%s is open at %s", path, method)
						require.True(t, judged || !refused, "%s is refused to everybody at %s", path, method)
					}
				}
				mesh.when = func(method string) {
					look(method)
					if fails && strings.HasPrefix(method, "Unserved") {
						mesh.says[method] = []string{"not there"}
					}
				}
				request := w.request(decidedBy(native...))
				request.Progress = look // before each change
				result := w.apply(request, mesh)
				if fails {
					require.NotEmpty(t, result.Failed)
					require.True(t, result.RolledBack, "%v", result.Failed)
					require.Equal(t, before, w.all())
					return
				}
				require.Empty(t, result.Failed)
				for _, path := range []string{"/a", "/b"} {
					asked, refused, _ := w.guards(path)
					require.Equal(t, slices.Contains(native, path[1:]), refused, path)
					require.Equal(t, !refused, asked, path)
				}
				require.False(t, w.plan(w.request(decidedBy(native...))).Differs(), "nothing is left of the change")
			})
		}
	}
	require.Greater(t, looked, 100)
}
