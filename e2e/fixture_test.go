package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
	"weir.dev/services/pgtest"
)

// patience is what a condition is waited for: a busy machine is no fault.
const patience = time.Minute

// echo is an HTTP backend that answers with what it was sent, and counts.
type echo struct {
	*httptest.Server
	requests atomic.Int64
}

type echoed struct {
	Method, Path, Query string
	Headers             http.Header
}

func newEcho(t *testing.T) *echo {
	t.Helper()
	e := &echo{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.requests.Add(1)
		if r.URL.Query().Has("slow") {
			select {
			case <-time.After(20 * time.Second):
			case <-r.Context().Done():
			}
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("x-weir-consumer", "forged by the backend")
		_ = json.NewEncoder(w).Encode(echoed{Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Headers: r.Header})
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *echo) port() int { return e.Listener.Addr().(*net.TCPAddr).Port }

// backendYAML is a Backend that leads to the echo.
func (e *echo) backendYAML() string {
	return fmt.Sprintf(`apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: echo}
spec:
  endpoints: [{address: 127.0.0.1, port: %d}]
`, e.port())
}

// routeYAML is an HTTPRoute from a path prefix to the echo, attached to the
// quickstart's gateway.
func routeYAML(name, prefix string) string {
	return fmt.Sprintf(`---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s}
spec:
  parentRefs: [{name: quickstart}]
  rules:
    - name: all
      matches: [{path: {type: PathPrefix, value: %s}}]
      timeouts: {request: 3s}
      backendRefs: [{group: weir.dev, kind: Backend, name: echo}]
`, name, prefix)
}

// openYAML lets everybody call a route.
func openYAML(route string) string {
	return fmt.Sprintf(`---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: %[1]s-open}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: %[1]s}]
  authentication: [{name: everybody, anonymous: {}}]
`, route)
}

// limitYAML limits a route per consumer.
func limitYAML(route, algorithm string, requests int, window, failureMode string) string {
	return fmt.Sprintf(`---
apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: %[1]s-limit}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: %[1]s}]
  limits:
    - name: few
      algorithm: %[2]s
      requests: %[3]d
      window: %[4]s
      by: [{type: Consumer}]
      failureMode: %[5]s
`, route, algorithm, requests, window, failureMode)
}

// edge is a system with an open and a closed route to an echo beside the
// quickstart's.
func edge(t *testing.T, more string, env ...string) (*harness.System, *echo) {
	t.Helper()
	e := newEcho(t)
	files := harness.Files{"echo.yaml": e.backendYAML() + routeYAML("open", "/open") + openYAML("open") + routeYAML("closed", "/closed") + more}
	return harness.Start(t, files, env...), e
}

// consumerYAML is a Consumer with one key.
func consumerYAML(name, tenant, key string) string {
	sum := sha256.Sum256([]byte(key))
	return fmt.Sprintf(`apiVersion: weir.dev/v1alpha1
kind: Consumer
metadata: {name: %s}
spec:
  tenant: %s
  apiKeys: [{name: only, sha256: %x}]
`, name, tenant, sum)
}

// postgres is the URL of an empty database on a server of the test's own.
func postgres(t *testing.T) string {
	t.Helper()
	url, err := pgtest.New(t).Database(t.Context())
	require.NoError(t, err)
	return url
}
