package e2e

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// The tests here and their namesakes elsewhere are named after the bugs of other
// control planes that docs/peers.md lists.

// envoyDump is Envoy's own account of what it runs.
func envoyDump(t *testing.T, s *harness.System) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.State, "run", "envoy.json"))
	require.NoError(t, err)
	var bootstrap struct {
		Admin struct {
			Address struct {
				Socket struct {
					Address string
					Port    int `json:"port_value"`
				} `json:"socket_address"`
			}
		}
	}
	require.NoError(t, json.Unmarshal(raw, &bootstrap), string(raw))
	admin := bootstrap.Admin.Address.Socket
	response, err := http.Get(fmt.Sprintf("http://%s:%d/config_dump?include_eds", admin.Address, admin.Port))
	require.NoError(t, err)
	defer response.Body.Close()
	dump, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(dump)
}

// Bug 7: what is in force is in Envoy, piece by piece, and what is taken out is
// gone; nothing is patched in by position and lost without a word.
func TestBug07WhatIsInForceIsInEnvoy(t *testing.T) {
	s, _ := edge(t, routeYAML("limited", "/limited"))
	mark := "default/limited-limit/few"
	require.NotContains(t, envoyDump(t, s), mark, "the control: there is nothing to find yet")
	s.Write("limit.yaml", limitYAML("limited", "FixedWindow", 5, "1h", "Open"))
	s.Eventually("the limit to be in Envoy", 5*time.Second, func() bool { return strings.Contains(envoyDump(t, s), mark) })
	dump := envoyDump(t, s)
	require.NotContains(t, dump, `"error_state"`)
	for _, name := range []string{"httproute/default/limited/all@default/quickstart/http", "httproute/default/open/all@default/quickstart/http", "backend/default/echo"} {
		require.Contains(t, dump, name)
	}
	s.Write("limit.yaml", "")
	s.Eventually("the limit to be gone", 5*time.Second, func() bool { return !strings.Contains(envoyDump(t, s), mark) })
}

// Bug 12: a rate limit is an object on a target, and applies there and nowhere
// else.
func TestBug12RateLimitIsAPolicyNotAPatch(t *testing.T) {
	s, _ := edge(t, routeYAML("limited", "/limited")+limitYAML("limited", "FixedWindow", 2, "24h", "Closed"))
	for range 2 {
		require.Equal(t, http.StatusOK, s.Get("/limited").Status)
	}
	require.Equal(t, http.StatusTooManyRequests, s.Get("/limited").Status)
	for range 5 {
		require.Equal(t, http.StatusOK, s.Get("/closed").Status, "another route of the same gateway")
	}
}

// Bug 13: a way to say who calls comes with the policy that uses it: no process is
// configured or started anew for it.
func TestBug13ProvidersComeWithThePolicy(t *testing.T) {
	s, _ := edge(t, routeYAML("team", "/team"))
	before := map[string]int{}
	for _, name := range []string{"envoy", "controlplaned", "extauthzd"} {
		before[name] = s.Component(name).PID
	}
	require.Equal(t, http.StatusOK, s.Get("/team").Status)
	s.Write("team.yaml", consumerYAML("team", "acme", "a-key-of-the-team-with-randomness-3f9a")+`---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: team}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: team}]
  authentication: [{name: team, apiKey: {header: X-Team-Key}}]
`)
	s.Eventually("the team's own way", 5*time.Second, func() bool { return s.Get("/team").Status == http.StatusUnauthorized })
	require.Equal(t, http.StatusOK, s.Do(http.MethodGet, "/team", "", "X-Team-Key", "a-key-of-the-team-with-randomness-3f9a").Status)
	require.Equal(t, http.StatusOK, s.Get("/closed").Status, "other routes keep theirs")
	for name, pid := range before {
		require.Equal(t, pid, s.Component(name).PID, name)
	}
}

// Bug 14: a Backend goes from plain text to TLS, and back, without a failed
// request: no connection of one kind ever meets an endpoint of the other.
func TestBug14PlainTextToTLSDropsNothing(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.TLS != nil) })
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	port := func(server *httptest.Server) int { return server.Listener.Addr().(*net.TCPAddr).Port }
	authority, err := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})))
	require.NoError(t, err)
	backend := func(tls bool) string {
		if !tls {
			return fmt.Sprintf("apiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: echo}\nspec: {endpoints: [{address: 127.0.0.1, port: %d}]}\n", port(plain))
		}
		return fmt.Sprintf(`apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: echo}
spec:
  endpoints: [{address: 127.0.0.1, port: %d}]
  tls: {hostname: example.com, caCertificateRef: {name: authority, key: ca.crt}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: authority}
data: {ca.crt: %s}
`, port(secure), authority)
	}
	s := harness.Start(t, harness.Files{"backend.yaml": backend(false), "route.yaml": routeYAML("open", "/open") + openYAML("open")})
	traffic := startLoad(s, 4, "/open")
	for i := range 12 {
		secure := i%2 == 0
		s.Write("backend.yaml", backend(secure))
		s.Eventually("the switch", 5*time.Second, func() bool {
			answer, err := s.TryDo(http.MethodGet, "/open", "")
			return err == nil && strings.TrimSpace(answer.Body) == fmt.Sprint(secure)
		})
	}
	counts, errs := traffic.stop()
	require.Empty(t, errs)
	require.Len(t, counts, 1, "%v", counts)
	require.Positive(t, counts[http.StatusOK])
	t.Logf("12 switches, %v", counts)
}

// Bug 10: what a change will do is shown before it is made, and showing it makes
// nothing.
func TestBug10PlanBeforeApply(t *testing.T) {
	s, _ := edge(t, "")
	change := policyFile(t, strings.TrimPrefix(routeYAML("new", "/new"), "---\n"))
	planned := command(t, s, "plan", change)
	require.Equal(t, 2, planned.code, planned.out+planned.errors)
	require.Contains(t, planned.out, "+ HTTPRoute default/new")
	require.Equal(t, http.StatusNotFound, s.Get("/new").Status, "a plan changes nothing")
	applied := command(t, s, "apply", change)
	require.Equal(t, 0, applied.code, applied.out+applied.errors)
	require.Equal(t, http.StatusOK, s.Get("/new").Status, "in force once apply says so")
	require.Equal(t, 0, command(t, s, "plan", change).code, "the control: nothing is left to show")
}
