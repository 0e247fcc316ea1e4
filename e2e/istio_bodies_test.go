package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"weir.dev/e2e/internal/harness"
)

// readers are two routes whose rules let in who sends no body, or a small amount.
const readers = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 8080, hostname: localhost}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: web}
spec: {endpoints: [{address: 198.51.100.7, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: readers}
spec:
  parentRefs: [{name: edge}]
  rules:
    - {name: sent, matches: [{path: {value: /sent}}], backendRefs: [{group: weir.dev, kind: Backend, name: web}]}
    - {name: silent, matches: [{path: {value: /silent}}], backendRefs: [{group: weir.dev, kind: Backend, name: web}]}
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: readers}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: readers}]
  authentication: [{name: all, anonymous: {}}]
  authorization:
    body: {maxBytes: 1024}
    rules: [{name: small, effect: Allow, when: "request.body == null || request.body.amount < 100.0"}]
`

// forIstio is what `weir translate --target istio` makes of readers: the rules of
// extauthz, and what the EnvoyFilter puts into the route "sent".
func forIstio(t *testing.T) (rules string, patch any) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "readers.yaml")
	require.NoError(t, os.WriteFile(file, []byte(readers), 0o600))
	out, err := exec.CommandContext(t.Context(), harness.Bin(t, "weir"), "translate", "--alone", "--target", "istio", "--secrets", "-o", "json", file).Output()
	require.NoError(t, err)
	var list struct{ Items []tree }
	require.NoError(t, json.Unmarshal(out, &list))
	for _, object := range list.Items {
		switch dig(object, "metadata", "name") {
		case "weir-extauthz-rules":
			rules = dig(object, "stringData", "rules.yaml").(string)
		case "weir-8080-routes":
			patch = dig(object, "spec", "configPatches", 0, "patch", "value", "typed_per_filter_config")
		}
	}
	require.NotEmpty(t, rules)
	require.NotNil(t, patch)
	return rules, patch
}

// A route of Istio's whose patch is there has its bodies read; one whose patch is not
// is closed, however a body is framed, and not open as if nobody sent one.
func TestBodiesThatAreNotSentAreNotTakenForNone(t *testing.T) {
	rules, patch := forIstio(t)
	a := startAlone(t)
	load := func(rules string, times int) {
		require.NoError(t, os.WriteFile(a.rules, []byte(rules), 0o600))
		require.Eventually(t, func() bool { return strings.Count(a.log.String(), "rules loaded") >= times }, patience, 20*time.Millisecond, "%s", a.log)
	}
	raw, err := os.ReadFile(filepath.Join(harness.Root(t), "examples", "standalone", "envoy.yaml"))
	require.NoError(t, err)
	text := strings.NewReplacer("port_value: 9901", "port_value: 0", "port_value: 10000", "port_value: 0",
		"port_value: 9001", "port_value: "+port(a.grpc), "port_value: 8000", "port_value: "+port(rawEcho(t))).Replace(string(raw))
	var config tree
	require.NoError(t, yaml.Unmarshal([]byte(text), &config))
	host := dig(config, "static_resources", "listeners", 0, "filter_chains", 0, "filters", 0, "typed_config", "route_config", "virtual_hosts", 0).(tree)
	host["routes"] = []any{
		tree{"name": "sent", "match": tree{"path_separated_prefix": "/sent"}, "route": tree{"cluster": "service"}, "typed_per_filter_config": patch},
		tree{"name": "silent", "match": tree{"path_separated_prefix": "/silent"}, "route": tree{"cluster": "service"}},
	}
	address := runEnvoy(t, config)["ingress"]
	ask := func(path, body string, sized bool) int {
		var reader io.Reader
		switch {
		case body != "" && sized:
			reader = strings.NewReader(body)
		case body != "":
			reader = io.MultiReader(strings.NewReader(body)) // of a length that is not known: chunked
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+path, reader)
		require.NoError(t, err)
		request.Host = "localhost"
		request.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer answer.Body.Close()
		_, err = io.Copy(io.Discard, answer.Body)
		require.NoError(t, err)
		return answer.StatusCode
	}
	load(rules, 1)
	large := `{"amount": 5, "x": "` + string(bytes.Repeat([]byte("x"), 2000)) + `"}`
	for _, c := range []struct {
		path, body string
		want       int
	}{
		{"/sent", `{"amount": 5}`, 200},
		{"/sent", `{"amount": 500}`, 403},
		{"/sent", `{`, 400},
		{"/sent", large, 413},
		{"/sent", "", 200},
		{"/silent", `{"amount": 5}`, 400},
		{"/silent", `{"amount": 500}`, 400},
		{"/silent", large, 400},
		{"/silent", "", 400},
	} {
		for _, sized := range []bool{true, false} {
			require.Equal(t, c.want, ask(c.path, c.body, sized), "%.40s sized=%t", c.path+" "+c.body, sized)
		}
	}
	// The negative control: rules that do not ask for it take a body that is not sent
	// for none.
	without := strings.ReplaceAll(rules, `"announced":true`, `"announced":false`)
	require.NotEqual(t, rules, without)
	load(without, 2)
	require.Equal(t, 200, ask("/silent", `{"amount": 500}`, false))
}
