package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/adsclient/adstest"
	"weir.dev/kit/certs"
	"weir.dev/kit/daemon"

	"weir.dev/ratelimit/internal/redistest"
	"weir.dev/ratelimit/rulesfeed"
)

// buffer is a log that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}
func (b *buffer) String() string { b.mu.Lock(); defer b.mu.Unlock(); return b.Buffer.String() }

// fixture is a running daemon with its control plane and an ingress's client.
type fixture struct {
	ads       *adstest.Server
	authority *certs.Authority
	server    *server
	log       *buffer
	client    rlsv3.RateLimitServiceClient
	conn      *grpc.ClientConn
	admin     string
}

// start runs the daemon by the path that its process takes. extra is YAML;
// before runs when only the control plane does.
func start(t *testing.T, extra string, before ...func(*adstest.Server)) *fixture {
	return startWith(t, extra, func(*Config) {}, before...)
}

// startWith changes the configuration once it was found valid.
func startWith(t *testing.T, extra string, change func(*Config), before ...func(*adstest.Server)) *fixture {
	authority, err := certs.OpenAuthority(t.TempDir(), time.Now())
	require.NoError(t, err)
	f := &fixture{authority: authority, log: &buffer{}}
	planeTLS, err := f.issue(t, "controlplane").ServerConfig([]string{certs.PeerID("ratelimit")})
	require.NoError(t, err)
	f.ads = adstest.Start(t, planeTLS)
	for _, prepare := range before {
		prepare(f.ads)
	}
	own := f.issue(t, "ratelimit")
	path := filepath.Join(t.TempDir(), "ratelimit.yaml")
	if !strings.Contains(extra, "rules:") {
		extra = fmt.Sprintf("controlPlane: {address: %q}\n%s", f.ads.Address(), extra)
	}
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `
server:
  tls: {certFile: %q, keyFile: %q, caFile: %q}
%s`, own.CertFile, own.KeyFile, own.CAFile, extra), 0o600))

	started, done := make(chan *server, 1), make(chan int, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cfg := &Config{}
	go func() {
		done <- daemon.Execute(ctx, "ratelimitd", []string{"--config", path}, cfg, func(ctx context.Context, runtime *daemon.Runtime) error {
			change(cfg)
			server, err := newServer(cfg, runtime)
			if err != nil {
				return err
			}
			started <- server
			return server.run(ctx)
		}, f.log)
	}()
	t.Cleanup(func() {
		cancel()
		require.Zero(t, <-done, "an orderly stop: %s", f.log)
	})
	select {
	case f.server = <-started:
	case <-time.After(time.Minute):
		require.FailNow(t, "the daemon did not start", f.log.String())
	}
	f.conn = f.dial(t, "ingress")
	f.client = rlsv3.NewRateLimitServiceClient(f.conn)
	admin := regexp.MustCompile(`"serving admin HTTP".*?"address":"([^"]+)"`).FindStringSubmatch(f.log.String())
	require.Len(t, admin, 2, f.log.String())
	f.admin = "http://" + admin[1]
	return f
}

func (f *fixture) issue(t *testing.T, component string) certs.Files {
	files, err := f.authority.Issue(component, t.TempDir(), time.Now())
	require.NoError(t, err)
	return files
}

func (f *fixture) dial(t *testing.T, component string) *grpc.ClientConn {
	config, err := f.issue(t, component).ClientConfig(certs.PeerID("ratelimit"))
	require.NoError(t, err)
	conn, err := grpc.NewClient(f.server.rpc.Address(), grpc.WithTransportCredentials(credentials.NewTLS(config)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (f *fixture) get(t *testing.T, path string) (int, string) {
	response, err := http.Get(f.admin + path)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(body)
}

func (f *fixture) health(t *testing.T, service string) healthpb.HealthCheckResponse_ServingStatus {
	response, err := healthpb.NewHealthClient(f.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
	require.NoError(t, err)
	return response.GetStatus()
}

func (f *fixture) ask(t *testing.T, rule, consumer string) (*rlsv3.RateLimitResponse, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return f.client.ShouldRateLimit(ctx, &rlsv3.RateLimitRequest{Domain: "weir", Descriptors: []*ratelimitv3.RateLimitDescriptor{{
		Entries: []*ratelimitv3.RateLimitDescriptor_Entry{{Key: "weir.limit", Value: rule}, {Key: "consumer", Value: consumer}},
	}}})
}

func (f *fixture) code(t *testing.T, rule, consumer string) rlsv3.RateLimitResponse_Code {
	t.Helper()
	response, err := f.ask(t, rule, consumer)
	require.NoError(t, err)
	return response.GetOverallCode()
}

func (f *fixture) setRules(t *testing.T, rules ...*rulesv1.RateLimitRule) {
	messages := map[string]proto.Message{}
	for _, rule := range rules {
		messages[rule.GetId()] = rule
	}
	f.ads.Set(t, rulesfeed.TypeURL, messages)
}

// ready waits until rules are in effect.
func (f *fixture) ready(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return f.server.runtime.Ready() == nil }, time.Minute, 2*time.Millisecond)
}

// acked waits for the daemon's answer to the update just sent.
func (f *fixture) acked(t *testing.T) (rejection string) {
	t.Helper()
	for {
		if request := f.ads.Request(t); request.GetResponseNonce() != "" {
			return request.GetErrorDetail().GetMessage()
		}
	}
}

func hourly(id string, requests uint32, mode rulesv1.FailureMode) *rulesv1.RateLimitRule {
	return &rulesv1.RateLimitRule{
		Id: id, Algorithm: rulesv1.RateLimitRule_ALGORITHM_GCRA, Requests: requests, Window: durationpb.New(time.Hour), FailureMode: mode,
	}
}

const (
	failOpen   = rulesv1.FailureMode_FAILURE_MODE_OPEN
	failClosed = rulesv1.FailureMode_FAILURE_MODE_CLOSED
	ok         = rlsv3.RateLimitResponse_OK
	over       = rlsv3.RateLimitResponse_OVER_LIMIT
)

func TestNotReadyBeforeTheFirstRules(t *testing.T) {
	f := start(t, "", (*adstest.Server).Down)
	code, body := f.get(t, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, "no rules have arrived")
	for _, service := range []string{"", "envoy.service.ratelimit.v3.RateLimitService"} {
		require.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, f.health(t, service), "%q", service)
	}
	_, err := f.ask(t, "a/b/c", "x")
	require.Equal(t, codes.Unavailable, status.Code(err), "Envoy's failure mode decides until then")
	f.setRules(t, hourly("a/b/c", 1, failOpen))
	f.ads.Up(t)
	f.ready(t)
	code, _ = f.get(t, "/readyz")
	require.Equal(t, http.StatusOK, code)
	for _, service := range []string{"", "envoy.service.ratelimit.v3.RateLimitService"} {
		require.Equal(t, healthpb.HealthCheckResponse_SERVING, f.health(t, service), "%q", service)
	}
}

func TestRulesChangeWhileServing(t *testing.T) {
	f := start(t, "")
	f.ready(t)
	require.Empty(t, f.acked(t))
	_, err := f.ask(t, "a/b/c", "x")
	require.Equal(t, codes.Unavailable, status.Code(err), "a rule that nobody sent: Envoy's failure mode decides")

	f.setRules(t, hourly("a/b/c", 2, failOpen), hourly("a/b/d", 9, failOpen))
	require.Empty(t, f.acked(t))
	require.Equal(t, ok, f.code(t, "a/b/c", "x"))
	require.Equal(t, ok, f.code(t, "a/b/c", "x"))
	require.Equal(t, over, f.code(t, "a/b/c", "x"))
	require.Equal(t, ok, f.code(t, "a/b/c", "y"))

	broken := hourly("a/b/d", 9, failOpen)
	broken.Window = nil
	f.setRules(t, hourly("a/b/c", 100, failOpen), broken)
	require.Contains(t, f.acked(t), `"a/b/d": window:`, "the rejection names the resource")
	require.Equal(t, over, f.code(t, "a/b/c", "x"), "nothing of the rejected update is in effect")
	require.Equal(t, ok, f.code(t, "a/b/d", "x"))

	f.ads.Down() // the control plane dies, and nothing changes here
	require.Equal(t, over, f.code(t, "a/b/c", "x"))
	require.Equal(t, ok, f.code(t, "a/b/d", "x"))

	f.setRules(t, hourly("a/b/c", 4, failOpen))
	f.ads.Up(t)
	require.Empty(t, f.acked(t))
	response, err := f.ask(t, "a/b/c", "x")
	require.NoError(t, err)
	require.Equal(t, ok, response.GetOverallCode())
	require.EqualValues(t, 1, response.GetStatuses()[0].GetLimitRemaining(), "counters survive new numbers")
	_, err = f.ask(t, "a/b/d", "x")
	require.Equal(t, codes.Unavailable, status.Code(err), "a removed rule is gone")

	_, metrics := f.get(t, "/metrics")
	require.Contains(t, metrics, `weir_ratelimit_decisions_total{decision="over_limit",rule="a/b/c"} 3`)
	require.NotContains(t, metrics, `rule="a/b/d"`, "series of removed rules end")
	require.Contains(t, metrics, "weir_ratelimit_rule_updates_rejected_total 1")
	require.Contains(t, metrics, "weir_ratelimit_keys ")
}

func TestOnlyTheIngressMayAsk(t *testing.T) {
	f := start(t, "")
	f.setRules(t, hourly("a/b/c", 1, failOpen))
	f.ready(t)
	f.client = rlsv3.NewRateLimitServiceClient(f.dial(t, "data"))
	_, err := f.ask(t, "a/b/c", "x")
	require.Equal(t, codes.Unavailable, status.Code(err), "the handshake fails: %v", err)
}

func TestRedisOutageByFailureMode(t *testing.T) {
	redis := redistest.Start(t)
	f := start(t, fmt.Sprintf("store: {redis: {url: %q}, timeout: 2s}\n", redis.URL()))
	f.setRules(t, hourly("a/b/open", 2, failOpen), hourly("a/b/closed", 1_000_000, failClosed))
	f.ready(t)
	require.Eventually(t, func() bool { _, err := f.ask(t, "a/b/open", "warm"); return err == nil }, time.Minute, time.Millisecond)
	require.Equal(t, ok, f.code(t, "a/b/open", "x"))
	require.Equal(t, ok, f.code(t, "a/b/open", "x"))
	require.Equal(t, over, f.code(t, "a/b/open", "x"))

	redis.Kill(t)
	for range 200 {
		require.Equal(t, ok, f.code(t, "a/b/open", "x"))
		_, err := f.ask(t, "a/b/closed", "x")
		require.Equal(t, codes.Unavailable, status.Code(err))
	}
	_, metrics := f.get(t, "/metrics")
	require.Contains(t, metrics, `weir_ratelimit_decisions_total{decision="failed_open",rule="a/b/open"} 200`)
	require.Contains(t, metrics, "weir_ratelimit_store_breaker_open 1")
	require.Equal(t, 1, strings.Count(f.log.String(), "the counter store fails"), "one line per episode")
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, f.health(t, ""), "failure modes are an answer too")

	redis.Restart(t)
	require.Eventually(t, func() bool { _, err := f.ask(t, "a/b/closed", "x"); return err == nil },
		20*time.Second, 5*time.Millisecond, "back")
	require.Equal(t, 1, strings.Count(f.log.String(), "the counter store is back"))
}

func TestStartsWithoutRedis(t *testing.T) {
	f := start(t, "store: {redis: {url: 'redis://user:hunter2@127.0.0.1:1'}}\n")
	f.setRules(t, hourly("a/b/open", 2, failOpen), hourly("a/b/closed", 2, failClosed))
	f.ready(t)
	require.Eventually(t, func() bool { _, err := f.ask(t, "a/b/open", "x"); return err == nil }, time.Minute, 5*time.Millisecond)
	_, err := f.ask(t, "a/b/closed", "x")
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.Contains(t, f.log.String(), "Redis does not answer")
	require.NotContains(t, f.log.String(), "hunter2")
}

func TestConfig(t *testing.T) {
	cfg := &Config{}
	cfg.SetDefaults()
	err := cfg.Validate()
	require.ErrorContains(t, err, "tls.certFile")
	require.ErrorContains(t, err, "controlPlane.address")
	cfg.Domain, cfg.Store.Timeout, cfg.Store.Memory.MaxKeys, cfg.Store.Redis.Mode = "", 0, 1, "x"
	cfg.Store.MaxInFlight = 0
	cfg.ControlPlane.Peer, cfg.ControlPlane.NodeID = "", ""
	err = cfg.Validate()
	for _, field := range []string{"domain:", "store.timeout:", "store.maxInFlight:", "store.memory.maxKeys:", "store.redis.mode:", "controlPlane.peer:", "controlPlane.nodeId:"} {
		require.ErrorContains(t, err, field)
	}
	cfg.applyEnvironment(func(name string) string { return map[string]string{RedisURLVariable: "redis://h:1"}[name] })
	require.Equal(t, "redis://h:1", cfg.Store.Redis.URL)
}
