package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// An extension sees the requests that its when names, and no others.
func TestExtensionWhenThroughEnvoy(t *testing.T) {
	one := &processor{name: "one"}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Met", r.Header.Get("X-Seen"))
	}))
	t.Cleanup(backend.Close)
	p := startEnvoy(t)
	address, port := backend.Listener.Addr().(*net.TCPAddr).Port, one.serve(t)
	policy := func(when string) string {
		return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: edge}]
  rules: [{name: all, backendRefs: [{group: weir.dev, kind: Backend, name: web}]}]
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
`, address, port) + extensionPolicy("all", "{name: scan, backendRef: {name: one}"+when+"}")
	}
	p.requireAccepted(p.compileText(policy(`, when: [
	    {method: POST, path: {value: /files}},
	    {path: {type: Exact, value: /one.txt}},
	    {path: {type: RegularExpression, value: "/n/[0-9]+"}, headers: [{name: X-Scan, value: "yes"}], queryParams: [{name: depth, value: "2"}]}]`)))
	for _, tc := range []struct {
		method, path string
		headers      []string
		seen         bool
	}{
		{http.MethodPost, "/files", nil, true},
		{http.MethodPost, "/files/a?b=c", nil, true},
		{http.MethodPost, "/files?b=c", nil, true},
		{http.MethodPost, "/filesystem", nil, false},
		{http.MethodPost, "/other/../files/a", nil, true},
		{http.MethodGet, "/files/a", nil, false},
		{http.MethodGet, "/one.txt?x=1", nil, true},
		{http.MethodGet, "/oneatxt", nil, false},
		{http.MethodGet, "/one.txt/more", nil, false},
		{http.MethodGet, "/n/12?depth=2", []string{"x-scan", "yes"}, true},
		{http.MethodGet, "/n/12?depth=3", []string{"x-scan", "yes"}, false},
		{http.MethodGet, "/n/12?depth=2", []string{"x-scan", "no"}, false},
		{http.MethodGet, "/n/12?depth=2", nil, false},
		{http.MethodGet, "/n/12", []string{"x-scan", "yes"}, false},
		{http.MethodGet, "/n/a?depth=2", []string{"x-scan", "yes"}, false},
	} {
		met := p.met(tc.method, tc.path, tc.headers...)
		require.Equal(t, tc.seen, met == "one", "%s %s %v: %q", tc.method, tc.path, tc.headers, met)
	}
	p.requireAccepted(p.compileText(policy(""))) // the negative control
	require.Equal(t, "one", p.met(http.MethodGet, "/files/a"))
}

// met asks, and says which extensions the request met.
func (p *proxied) met(method, path string, headers ...string) string {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.t.Context(), method, fmt.Sprintf("http://127.0.0.1:%d%s", p.ports[8080], path), nil)
	require.NoError(p.t, err)
	for pair := range slices.Chunk(headers, 2) {
		request.Header.Set(pair[0], pair[1])
	}
	request.Close = true // The next may be for another listener.
	response, err := http.DefaultClient.Do(request)
	require.NoError(p.t, err)
	defer func() { _ = response.Body.Close() }()
	require.Equal(p.t, http.StatusOK, response.StatusCode, "%s %s", method, path)
	return response.Header.Get("X-Met")
}
