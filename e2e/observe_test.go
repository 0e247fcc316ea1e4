package e2e

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"weir.dev/e2e/internal/harness"
)

// collector is an OTLP receiver that remembers which services took part in
// which trace.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer
	mu     sync.Mutex
	traces map[string][]string
}

func (c *collector) Export(_ context.Context, request *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.GetResourceSpans() {
		service := ""
		for _, attribute := range resource.GetResource().GetAttributes() {
			if attribute.GetKey() == "service.name" {
				service = attribute.GetValue().GetStringValue()
			}
		}
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				id := hex.EncodeToString(span.GetTraceId())
				if !slices.Contains(c.traces[id], service) {
					c.traces[id] = append(c.traces[id], service)
				}
			}
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func (c *collector) services(trace string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(slices.Values(c.traces[trace]))
}

// One request is one trace: the client's trace id goes through Envoy to both
// servers and to the service.
func TestOneTraceThroughEverything(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	received := &collector{traces: map[string][]string{}}
	server := grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(server, received)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	s := harness.Start(t, nil, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+listener.Addr().String(), "OTEL_EXPORTER_OTLP_INSECURE=true")
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	require.Equal(t, http.StatusOK, s.Get("/v1/users", "traceparent", "00-"+trace+"-00f067aa0ba902b7-01").Status)
	want := []string{"extauthzd", "ratelimitd", "userd", "weir-ingress"}
	s.Eventually("every part's spans", 15*time.Second, func() bool { return slices.Equal(received.services(trace), want) })
}

// Every part serves metrics, readiness and liveness, and logs JSON.
func TestEveryPartCanBeSeen(t *testing.T) {
	s := harness.Start(t, nil)
	require.Equal(t, http.StatusOK, s.Get("/v1/users").Status)
	require.Equal(t, http.StatusOK, s.Get("/v1/collections").Status)
	for _, component := range []string{"controlplaned", "extauthzd", "ratelimitd", "userd", "datad"} {
		for path, want := range map[string]string{"/livez": "ok", "/readyz": "ok", "/metrics": "go_goroutines"} {
			answer, err := http.Get(s.Admin(component) + path)
			require.NoError(t, err)
			body, err := io.ReadAll(answer.Body)
			require.NoError(t, err)
			require.NoError(t, answer.Body.Close())
			require.Equal(t, http.StatusOK, answer.StatusCode, component+path)
			require.Contains(t, string(body), want, component+path)
		}
		for _, line := range logLines(t, s, component) {
			require.Contains(t, line, "level", component)
			require.Contains(t, line, "msg", component)
			require.Contains(t, line, "time", component)
		}
	}
	require.Positive(t, s.Metric("extauthzd", "weir_extauthz_decisions_total"))
	require.Positive(t, s.Metric("ratelimitd", "weir_ratelimit_decisions_total"))
	require.Positive(t, s.Calls("userd"))
}

func logLines(t *testing.T, s *harness.System, component string) []map[string]any {
	t.Helper()
	file, err := os.Open(filepath.Join(s.State, "logs", component+".log"))
	require.NoError(t, err)
	defer file.Close()
	var lines []map[string]any
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		if !strings.HasPrefix(scanner.Text(), "{") {
			require.Equal(t, "envoy", component, "not JSON: %s", scanner.Text())
			continue
		}
		var line map[string]any
		require.NoError(t, json.Unmarshal(scanner.Bytes(), &line), scanner.Text())
		lines = append(lines, line)
	}
	require.NotEmpty(t, lines, component)
	return lines
}

// The access log says what was decided; no log holds a credential.
func TestAccessLogCarriesTheDecisionAndNoSecret(t *testing.T) {
	s, _ := edge(t, routeYAML("limited", "/limited")+limitYAML("limited", "FixedWindow", 1, "24h", "Open"))
	s.Get("/v1/users?secret=inquery")
	refused := s.Do(http.MethodGet, "/closed", "", "X-API-Key", "weir_canarycanarycanarycanary")
	s.Get("/limited")
	limited := s.Get("/limited")
	require.Equal(t, http.StatusTooManyRequests, limited.Status)
	find := func(id string) map[string]any {
		for _, line := range logLines(t, s, "envoy") {
			if line["log"] == "access" && line["request_id"] == id {
				return line
			}
		}
		return nil
	}
	s.Eventually("the access log to be written", 15*time.Second, func() bool { // by several workers
		return find(refused.Header.Get("X-Request-Id")) != nil && find(limited.Header.Get("X-Request-Id")) != nil
	})
	denied := find(refused.Header.Get("X-Request-Id"))
	require.Equal(t, "deny", denied["decision"])
	require.Equal(t, "API_KEY_INVALID", denied["reason"])
	require.Equal(t, "default/callers", denied["policy"])
	over := find(limited.Header.Get("X-Request-Id"))
	require.Equal(t, "allow", over["decision"])
	require.Equal(t, "demo", over["tenant"])
	require.Equal(t, "default/quickstart", over["consumer"])
	require.Equal(t, "default/limited-limit/few", over["limit"])
	require.EqualValues(t, http.StatusTooManyRequests, over["status"])
	for _, name := range []string{"envoy", "controlplaned", "extauthzd", "ratelimitd", "userd", "datad", "weir"} {
		raw, err := os.ReadFile(filepath.Join(s.State, "logs", name+".log"))
		require.NoError(t, err)
		for _, secret := range []string{s.APIKey, "canarycanary", "inquery", strings.Split(s.Token, ".")[2]} {
			require.NotContains(t, string(raw), secret, name)
		}
	}
}
