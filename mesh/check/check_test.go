package check_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/mesh/check"
	"weir.dev/policy"
)

// resolve reads a policy that must be without errors.
func resolve(t *testing.T, text string) (*policy.Plan, []*policy.Object) {
	t.Helper()
	parser, err := policy.NewParser()
	require.NoError(t, err)
	var input policy.Input
	for _, document := range parser.Parse("p.yaml", []byte(text)) {
		require.Empty(t, document.Problems)
		input.Objects = append(input.Objects, document.Object)
	}
	plan, problems := policy.Resolve(input)
	require.Empty(t, problems.Errors())
	return plan, input.Objects
}

const base = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge%s}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 8080}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: web}
spec: {endpoints: [{address: %s, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web%s}
spec:
  parentRefs: [{name: edge}]
  hostnames: [%q]
  rules:
    - name: all
      matches: [{path: {value: /a}}, {path: {value: /b}}]
      backendRefs: [{group: weir.dev, kind: Backend, name: web}]
`

const guards = `---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: a}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}], authentication: [{name: keys, apiKey: {}}]}
---
apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: l}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}], limits: [{name: few, requests: 1, window: 1s, by: [{type: Consumer}]}]}
`

func codes(result *check.Result) []policy.Code {
	all := []policy.Code{}
	for _, finding := range result.Findings {
		all = append(all, finding.Code)
	}
	return all
}

func TestWhatAMeshShouldNotHave(t *testing.T) {
	idle := "---\napiVersion: weir.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: t}\nspec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}], timeouts: {request: 0s}}\n"
	for name, tc := range map[string]struct {
		text string
		mesh bool
		want []policy.Code
	}{
		"all of it":             {fmt.Sprintf(base, "", "web.example", "", "*.example"), false, []policy.Code{"WEIR6104", "WEIR6105", "WEIR6101", "WEIR6102", "WEIR6103"}},
		"guarded":               {fmt.Sprintf(base, "", "127.0.0.1", "", "a.example") + guards, false, []policy.Code{"WEIR6104"}},
		"owned by the route":    {fmt.Sprintf(base, "", "127.0.0.1", ", annotations: {weir.dev/owner: shop}", "*.example") + guards, false, []policy.Code{"WEIR6104"}},
		"owned by the Gateway":  {fmt.Sprintf(base, ", annotations: {weir.dev/owner: shop}", "127.0.0.1", "", "*.example") + guards, false, []policy.Code{"WEIR6104"}},
		"accepted":              {fmt.Sprintf(base, `, annotations: {weir.dev/accepts: "WEIR6104, WEIR6105"}`, "127.0.0.1", `, annotations: {weir.dev/accepts: " WEIR6103"}`, "*.example") + guards, false, []policy.Code{}},
		"accepted elsewhere":    {fmt.Sprintf(base, "", "127.0.0.1", `, annotations: {weir.dev/accepts: "WEIR6104"}`, "a.example") + guards, false, []policy.Code{"WEIR6104"}},
		"outside of the mesh":   {fmt.Sprintf(base, "", "web.example", "", "a.example") + guards, true, []policy.Code{"WEIR6104", "WEIR6105"}},
		"no timeout":            {fmt.Sprintf(base, "", "127.0.0.1", "", "a.example") + guards + idle, false, []policy.Code{"WEIR6104", "WEIR6106"}},
		"a redirect is guarded": {strings.Replace(fmt.Sprintf(base, "", "127.0.0.1", "", "a.example"), "backendRefs: [{group: weir.dev, kind: Backend, name: web}]", "filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]", 1), false, []policy.Code{}},
	} {
		t.Run(name, func(t *testing.T) {
			plan, objects := resolve(t, tc.text)
			result := check.Plan(plan, objects, check.Options{Mesh: tc.mesh})
			require.Equal(t, tc.want, codes(result), "%v", result.Findings)
			require.Equal(t, 2, result.Routes)
			for _, finding := range result.Findings {
				require.NotEmpty(t, policy.Explanations()[finding.Code])
				require.Contains(t, finding.Error(), "p.yaml:", "the place is named")
			}
			if name == "accepted" {
				require.Equal(t, 2, result.Accepted)
			}
		})
	}
}

// An issuer that gives no keys is found, by every way to have them.
func TestIssuersThatGiveNoKeys(t *testing.T) {
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	answer := func(path, body string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) })
	}
	answer("/keys", `{"keys": [{"kty": "RSA"}]}`)
	answer("/none", `{"keys": []}`)
	answer("/html", `<html>`)
	answer("/good/.well-known/openid-configuration", `{"jwks_uri": "`+server.URL+`/keys"}`)
	answer("/lying/.well-known/openid-configuration", `{"issuer": "x"}`)
	answer("/large", `{"keys": ["`+strings.Repeat("a", 2<<20)+`"]}`)
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	for _, tc := range []struct{ issuer, jwks, want string }{
		{"https://i.example", "{remote: {uri: " + server.URL + "/keys}}", ""},
		{"https://i.example", "{remote: {uri: " + server.URL + "/none}}", "its set of keys is empty"},
		{"https://i.example", "{remote: {uri: " + server.URL + "/html}}", "not JSON"},
		{"https://i.example", "{remote: {uri: " + server.URL + "/gone}}", "404"},
		{"https://i.example", "{remote: {uri: " + server.URL + "/large}}", "more than"},
		{"https://i.example", "{remote: {uri: " + server.URL + "/loop}}", "too many redirects"},
		{"https://i.example", "{remote: {uri: http://127.0.0.1:1/keys}}", "refused"},
		{server.URL + "/good", "{discovery: {}}", ""},
		{"https://i.example", "{discovery: {uri: " + server.URL + "/good/.well-known/openid-configuration}}", ""},
		{server.URL + "/lying", "{discovery: {}}", "names no jwks_uri"},
	} {
		plan, objects := resolve(t, fmt.Sprintf(base, `, annotations: {weir.dev/accepts: WEIR6104}`, "127.0.0.1", "", "a.example")+
			strings.Replace(guards, "apiKey: {}", "jwt: {issuer: "+fmt.Sprintf("%q", tc.issuer)+", audiences: [a], algorithms: [RS256], jwks: "+tc.jwks+"}", 1))
		result := check.Plan(plan, objects, check.Options{})
		require.Empty(t, result.Findings)
		asked := 0
		result.Issuers(t.Context(), plan, func(string) { asked++ })
		require.Equal(t, 1, asked, "once, on however many routes")
		if tc.want == "" {
			require.Empty(t, result.Findings, tc)
			continue
		}
		require.Equal(t, []policy.Code{"WEIR6107"}, codes(result), tc)
		require.Contains(t, result.Findings[0].Message, tc.want)
		require.Contains(t, result.Findings[0].Field, "authentication[0]")
	}
	plan, objects := resolve(t, fmt.Sprintf(base, `, annotations: {weir.dev/accepts: WEIR6104}`, "127.0.0.1", "", "a.example")+
		strings.NewReplacer("apiKey: {}", "jwt: {issuer: https://i.example, audiences: [a], algorithms: [RS256], jwks: {remote: {uri: "+server.URL+"/gone}}}",
			"metadata: {name: a}", "metadata: {name: a, annotations: {weir.dev/accepts: WEIR6107}}").Replace(guards))
	result := check.Plan(plan, objects, check.Options{})
	result.Issuers(t.Context(), plan, func(string) {})
	require.Empty(t, result.Findings)
	require.Equal(t, 2, result.Accepted)
}
