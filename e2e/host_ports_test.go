package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// A service is told the port that a client wrote behind the host; nothing that is
// decided depends on it.
func TestPortsBehindHostsThroughEnvoy(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Met", r.Header.Get("X-Seen"))
		_, _ = io.WriteString(w, r.Host)
	}))
	t.Cleanup(backend.Close)
	p := startEnvoy(t)
	one := &processor{name: "one"}
	p.requireAccepted(p.compileText(fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: edge}]
  hostnames: [a.example, "*.b.example"]
  rules:
    - {name: secure, matches: [{path: {value: /secure}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}
    - {name: elsewhere, matches: [{path: {value: /elsewhere}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: c.example}}]}
    - {name: rewritten, matches: [{path: {value: /rewritten}}], filters: [{type: URLRewrite, urlRewrite: {hostname: in.example}}], backendRefs: [{group: weir.dev, kind: Backend, name: web}]}
    - {name: named, matches: [{path: {value: /named}, headers: [{name: Host, value: a.example}]}], backendRefs: [{group: weir.dev, kind: Backend, name: web}]}
    - {name: all, matches: [{path: {value: /all}}], backendRefs: [{group: weir.dev, kind: Backend, name: web}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: web}
spec: {endpoints: [{address: 127.0.0.1, port: %d}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: one}
spec: {protocol: GRPC, endpoints: [{address: 127.0.0.1, port: %d}]}
`, backend.Listener.Addr().(*net.TCPAddr).Port, one.serve(t)) + extensionPolicy("all", `{name: scan, backendRef: {name: one}, when: [{headers: [{name: Host, value: a.example}]}]}`)))
	for _, tc := range []struct {
		host, path, want, extension string
		status                      int
	}{
		{"a.example", "/all", "a.example", "one", 200},
		{"a.example:8443", "/all", "a.example:8443", "one", 200},
		{"a.example:", "/all", "a.example:", "one", 200}, // Envoy takes what follows the colon for a port.
		{"a.example:x", "/all", "a.example:x", "one", 200},
		{"a.example:80x", "/all", "a.example:80x", "one", 200},
		{"a.example:+80", "/all", "a.example:+80", "one", 200},
		{"a.example:1", "/named", "a.example:1", "", 200},
		{"x.b.example:99", "/all", "x.b.example:99", "", 200},
		{"x.b.example:99", "/named", "", "", 404},
		{"a.example.c:80", "/all", "", "", 404},
		{"a.example:80", "/rewritten", "in.example", "", 200},
		{"a.example", "/secure", "https://a.example/secure", "", 302},
		{"a.example:8080", "/secure", "https://a.example/secure", "", 302},
		{"x.b.example", "/secure", "https://x.b.example/secure", "", 302},
		{"x.b.example:8080", "/secure", "https://x.b.example:443/secure", "", 302},
		{"A.example:8080", "/all", "A.example:8080", "one", 200},
		{"a.example:8080", "/elsewhere", "https://c.example/elsewhere", "", 302},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", p.ports[8080], tc.path), nil)
		require.NoError(t, err)
		request.Host = tc.host
		response, err := http.DefaultTransport.RoundTrip(request)
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, tc.status, response.StatusCode, "%s%s", tc.host, tc.path)
		switch tc.status {
		case http.StatusOK:
			require.Equal(t, tc.want, string(body), "%s%s", tc.host, tc.path)
			require.Equal(t, tc.extension, response.Header.Get("X-Met"), "%s%s", tc.host, tc.path)
		case http.StatusFound:
			require.Equal(t, tc.want, response.Header.Get("Location"), "%s%s", tc.host, tc.path)
		}
	}
}

// A limit by host counts a host once, whatever port a client writes behind it,
// and rules about hosts hold whatever the port.
func TestPortsBehindHostsAreNotCounted(t *testing.T) {
	s, _ := ruled(t, `    - {name: hosts, requests: 6, window: 744h, by: [{type: Header, header: Host}], failureMode: Closed}
    - {name: costs, requests: 100, window: 744h, cost: {expression: "request.host == '127.0.0.1' ? 2 : 60", max: 60}, failureMode: Closed}
`, harness.Files{"auth.yaml": openYAML("limited")})
	ask := func(host string) int {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/limited", nil)
		require.NoError(t, err)
		request.Host = host
		response, err := http.DefaultTransport.RoundTrip(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response.StatusCode
	}
	for _, host := range []string{"127.0.0.1", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:65535", "127.0.0.1:080", "127.0.0.1:8443"} {
		require.Equal(t, http.StatusOK, ask(host), host)
	}
	for _, host := range []string{"127.0.0.1", "127.0.0.1:3"} {
		require.Equal(t, http.StatusTooManyRequests, ask(host), host)
	}
	require.Equal(t, http.StatusOK, ask("localhost:1"), "another host, another counter, and another cost")
	require.Equal(t, http.StatusTooManyRequests, ask("localhost:2"), "6 × 2 + 60 of 100 are spent")
}
