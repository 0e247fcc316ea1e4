package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// quotaEnvoy is the configuration of an Envoy that somebody runs beside Weir, as
// docs/guides/quotas.md has it.
const quotaEnvoy = `
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
    - name: edge
      address: {socket_address: {address: 127.0.0.1, port_value: 0}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: edge
                route_config:
                  virtual_hosts:
                    - {name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}
                http_filters:
                  - name: envoy.filters.http.rate_limit_quota
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaFilterConfig
                      domain: weir
                      rlqs_server: {envoy_grpc: {cluster_name: ratelimit}}
                      bucket_matchers:
                        on_no_match:
                          action:
                            name: bucket
                            typed_config:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaBucketSettings
                              bucket_id_builder:
                                bucket_id_builder:
                                  weir.limit: {string_value: %[1]s}
                              reporting_interval: 5s
                              no_assignment_behavior: {fallback_rate_limit: {blanket_rule: DENY_ALL}}
                  - name: envoy.filters.http.router
                    typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
    - name: ratelimit
      connect_timeout: 1s
      load_assignment:
        cluster_name: ratelimit
        endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %[2]s}}}}]}]
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          common_tls_context:
            tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
            alpn_protocols: [h2]
            tls_certificates: [{certificate_chain: {filename: %[3]s/tls.crt}, private_key: {filename: %[3]s/tls.key}}]
            validation_context:
              trusted_ca: {filename: %[3]s/ca.crt}
              match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: "spiffe://weir.local/ratelimit"}}]
`

// startQuotaEnvoy runs one and returns its address.
func startQuotaEnvoy(t *testing.T, s *harness.System, rule string, id int) string {
	t.Helper()
	dir := t.TempDir()
	_, port, err := net.SplitHostPort(grpcAddress(t, s, "ratelimitd"))
	require.NoError(t, err)
	config := filepath.Join(dir, "envoy.yaml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, quotaEnvoy, rule, port, filepath.Join(s.State, "certs", "ingress")), 0o600))
	var log bytes.Buffer
	address := filepath.Join(dir, "admin")
	command := exec.Command(findEnvoy(t), "-c", config, "--base-id", fmt.Sprint(os.Getpid()*10+id), "--concurrency", "2", "--admin-address-path", address, "-l", "warning")
	command.Stdout, command.Stderr = &log, &log
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	listening := regexp.MustCompile(`edge::(127\.0\.0\.1:\d+)`)
	var edge string
	require.Eventually(t, func() bool {
		admin, err := os.ReadFile(address)
		if err != nil {
			return false
		}
		response, err := http.Get("http://" + strings.TrimSpace(string(admin)) + "/listeners")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		if found := listening.FindSubmatch(body); found != nil {
			edge = "http://" + string(found[1])
		}
		return edge != ""
	}, patience, 20*time.Millisecond, log.String())
	return edge
}

var listenLine = regexp.MustCompile(`server:\s*\n\s*listen:\s*"?([0-9.:]+)`)

func grpcAddress(t *testing.T, s *harness.System, component string) string {
	raw, err := os.ReadFile(filepath.Join(s.State, "run", component+".yaml"))
	require.NoError(t, err)
	found := listenLine.FindSubmatch(raw)
	require.NotNil(t, found, string(raw))
	return string(found[1])
}

// Two Envoys with quotas and the ingress, which asks for every request, share one
// counter and never pass more than its limit together.
func TestQuotasThroughEnvoy(t *testing.T) {
	const limit = 400
	s, _ := edge(t, routeYAML("limited", "/limited")+fmt.Sprintf(`---
apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: shared}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: limited}]
  limits: [{name: all, requests: %d, window: 744h, failureMode: Closed}]
`, limit))
	one, two := startQuotaEnvoy(t, s, "default/shared/all", 1), startQuotaEnvoy(t, s, "default/shared/all", 2)
	var passed, refused [3]atomic.Int64
	stop := time.Now().Add(20 * time.Second)
	var group sync.WaitGroup
	ask := func(place int, get func() int) {
		for time.Now().Before(stop) && passed[0].Load()+passed[1].Load()+passed[2].Load() < limit+50 {
			switch status := get(); status {
			case http.StatusOK:
				passed[place].Add(1)
			case http.StatusTooManyRequests:
				refused[place].Add(1)
				if refused[place].Load() > 400 && passed[0].Load()+passed[1].Load()+passed[2].Load() >= limit*9/10 {
					return
				}
				time.Sleep(time.Millisecond)
			default:
				require.Fail(t, "another answer", "%d", status)
			}
		}
	}
	for i, url := range []string{one, two} {
		group.Go(func() {
			ask(i, func() int {
				response, err := http.Get(url)
				if err != nil {
					return 0
				}
				defer response.Body.Close()
				_, _ = io.Copy(io.Discard, response.Body)
				return response.StatusCode
			})
		})
	}
	group.Go(func() {
		for range 60 {
			if s.Get("/limited").Status == http.StatusOK {
				passed[2].Add(1)
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	group.Wait()
	total := passed[0].Load() + passed[1].Load() + passed[2].Load()
	t.Logf("passed: %d and %d by quotas, %d by the ingress; refused: %d and %d", passed[0].Load(), passed[1].Load(), passed[2].Load(), refused[0].Load(), refused[1].Load())
	require.LessOrEqual(t, total, int64(limit), "never more than the limit")
	require.GreaterOrEqual(t, total, int64(limit*7/10))
	require.Positive(t, passed[0].Load())
	require.Positive(t, passed[1].Load())
	require.Positive(t, passed[2].Load())
	require.Positive(t, s.Metric("ratelimitd", "weir_ratelimit_quota_assigned_total", `rule="default/shared/all"`))
}
