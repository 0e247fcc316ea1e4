package controlplane_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/controlplane"
	"weir.dev/controlplane/ads"
	"weir.dev/controlplane/envoy"
	"weir.dev/controlplane/folder"
	"weir.dev/kit/adsclient"
	"weir.dev/kit/certs"
	"weir.dev/kit/config"
	"weir.dev/kit/daemon"
	"weir.dev/policy"
)

const patience = time.Minute

// world is a whole control plane on free ports with a folder of policy.
type world struct {
	t         *testing.T
	authority *certs.Authority
	policy    string
	config    *controlplane.Config
	address   string
	registry  *prometheus.Registry
	admin     func(path string) *httptest.ResponseRecorder
	ready     func() error
	stop      func() time.Duration
}

const gateway = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: api}
spec:
  parentRefs: [{name: edge}]
  rules: [{name: all, backendRefs: [{group: weir.dev, kind: Backend, name: api}]}]
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: api}
spec: {endpoints: [{address: 127.0.0.1, port: 9000}]}
`

// limits is a RateLimitPolicy; its number is what edits change.
func limits(requests int) string {
	return fmt.Sprintf(`apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: limits}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: api}]
  limits: [{name: all, requests: %d, window: 1m}]
`, requests)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	authority, err := certs.OpenAuthority(t.TempDir(), time.Now())
	require.NoError(t, err)
	w := &world{t: t, authority: authority, policy: t.TempDir()}
	w.write("gateway.yaml", gateway)
	w.write("limits.yaml", limits(1))
	w.config = new(controlplane.Config)
	w.config.SetDefaults()
	w.config.Sources.Folders = []string{w.policy}
	w.config.StateFile = filepath.Join(t.TempDir(), "keep.json")
	w.config.ExtAuthz.Address, w.config.RateLimit.Address = "127.0.0.1:1", "127.0.0.1:2"
	w.config.Server.TLS, err = authority.Issue("controlplane", t.TempDir(), time.Now())
	require.NoError(t, err)
	require.NoError(t, w.config.Validate())
	return w
}

func (w *world) write(name, content string) {
	w.t.Helper()
	temp := filepath.Join(w.policy, "."+name)
	require.NoError(w.t, os.WriteFile(temp, []byte(content), 0o644))
	require.NoError(w.t, os.Rename(temp, filepath.Join(w.policy, name)))
}

// logAddress finds where the server listens, as an operator would.
type logAddress struct {
	slog.Handler
	found chan string
}

func (l logAddress) Handle(ctx context.Context, record slog.Record) error {
	if record.Message == "serving gRPC" {
		record.Attrs(func(attr slog.Attr) bool {
			if attr.Key == "address" {
				l.found <- attr.Value.String()
			}
			return true
		})
	}
	return nil
}

func (logAddress) Enabled(context.Context, slog.Level) bool { return true }

// run starts the daemon's work; it is stopped with the test.
func (w *world) run() {
	w.t.Helper()
	found := make(chan string, 1)
	started := make(chan *daemon.Runtime, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	path := filepath.Join(w.t.TempDir(), "c.yaml")
	raw, err := json.Marshal(map[string]any{
		"sources": map[string]any{"folders": []string{w.policy}}, "stateFile": w.config.StateFile,
		"extAuthz": map[string]any{"address": "127.0.0.1:1"}, "rateLimit": map[string]any{"address": "127.0.0.1:2"},
		"server": map[string]any{"tls": map[string]any{
			"certFile": w.config.Server.TLS.CertFile, "keyFile": w.config.Server.TLS.KeyFile, "caFile": w.config.Server.TLS.CAFile,
		}},
	})
	require.NoError(w.t, err)
	require.NoError(w.t, os.WriteFile(path, raw, 0o600))
	cfg := new(controlplane.Config)
	go func() {
		done <- daemon.Execute(ctx, "controlplaned", []string{"--config", path}, cfg, func(ctx context.Context, runtime *daemon.Runtime) error {
			runtime.Logger = slog.New(logAddress{Handler: slog.DiscardHandler, found: found})
			started <- runtime
			return controlplane.Run(ctx, cfg, runtime)
		}, os.Stderr)
	}()
	var runtime *daemon.Runtime
	select {
	case runtime = <-started:
	case code := <-done:
		require.FailNow(w.t, "did not start", "exit code %d", code)
	}
	w.address = <-found
	w.registry, w.ready = runtime.Registry, runtime.Ready
	w.admin = func(path string) *httptest.ResponseRecorder {
		recorder := httptest.NewRecorder()
		runtime.Admin.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
		return recorder
	}
	stopped := false
	w.stop = func() time.Duration {
		if stopped {
			return 0
		}
		stopped = true
		began := time.Now()
		cancel()
		select {
		case code := <-done:
			require.Zero(w.t, code)
		case <-time.After(patience):
			require.FailNow(w.t, "does not stop")
		}
		return time.Since(began)
	}
	w.t.Cleanup(func() { w.stop() })
}

func (w *world) status() controlplane.Status {
	w.t.Helper()
	recorder := w.admin("/status")
	require.Equal(w.t, "application/json", recorder.Header().Get("Content-Type"))
	var status controlplane.Status
	require.NoError(w.t, json.Unmarshal(recorder.Body.Bytes(), &status))
	return status
}

func (w *world) eventually(what string, condition func(controlplane.Status) bool) controlplane.Status {
	w.t.Helper()
	var status controlplane.Status
	require.Eventually(w.t, func() bool {
		status = w.status()
		return condition(status)
	}, patience, 5*time.Millisecond, "%s; last: %+v", what, &status)
	return status
}

// limiter subscribes like ratelimitd does. Rules whose number is in refuse are
// rejected; what is applied arrives on the channel.
func (w *world) limiter(refuse ...uint32) <-chan uint32 {
	w.t.Helper()
	files, err := w.authority.Issue("ratelimit", w.t.TempDir(), time.Now())
	require.NoError(w.t, err)
	tls, err := files.ClientConfig(certs.PeerID("controlplane"))
	require.NoError(w.t, err)
	client := adsclient.New(adsclient.Config{Address: w.address, TLS: tls, NodeID: "ratelimit-1"})
	applied := make(chan uint32, 1000)
	client.Subscribe("type.googleapis.com/weir.rules.v1.RateLimitRule", func(resources map[string]*anypb.Any) error {
		for _, resource := range resources {
			var rule rulesv1.RateLimitRule
			if err := proto.Unmarshal(resource.GetValue(), &rule); err != nil {
				return err
			}
			for _, number := range refuse {
				if rule.GetRequests() == number {
					return errors.New("cannot count to that")
				}
			}
			applied <- rule.GetRequests()
		}
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		require.ErrorIs(w.t, <-done, context.Canceled)
	})
	return applied
}

func (w *world) requireApplied(applied <-chan uint32, want uint32) {
	w.t.Helper()
	for limit := time.After(patience); ; {
		select {
		case got := <-applied:
			if got == want {
				return
			}
		case <-limit:
			require.FailNow(w.t, "was not applied", "%d; status %+v", want, w.status())
		}
	}
}

func TestFromSavingToServing(t *testing.T) {
	w := newWorld(t)
	w.run()
	applied := w.limiter()
	w.requireApplied(applied, 1)
	require.Eventually(t, func() bool { return w.ready() == nil }, patience, time.Millisecond)
	first := w.eventually("in force", func(s controlplane.Status) bool { return s.Plan != "" && s.Rolling == "" })
	for n := uint32(2); n < 12; n++ {
		w.write("limits.yaml", limits(int(n)))
		w.requireApplied(applied, n)
	}
	last := w.eventually("in force", func(s controlplane.Status) bool { return s.Rolling == "" && s.Plan != first.Plan })
	require.Empty(t, last.Error)
	require.Equal(t, "ratelimit-1", last.Clients[0].Node)
}

func TestStoppingDoesNotWaitForSubscribers(t *testing.T) {
	w := newWorld(t)
	w.run()
	w.requireApplied(w.limiter(), 1)
	require.Less(t, w.stop(), 8*time.Second, "the drain timeout is 10 s")
}

func TestARejectedPlan(t *testing.T) {
	w := newWorld(t)
	w.run()
	applied := w.limiter(13)
	w.requireApplied(applied, 1)
	good := w.eventually("in force", func(s controlplane.Status) bool { return s.Plan != "" && s.Rolling == "" })

	w.write("limits.yaml", limits(13))
	bad := w.eventually("rejected", func(s controlplane.Status) bool { return s.Error != "" })
	require.Equal(t, good.Plan, bad.Plan, "the last one is in force")
	require.NotEqual(t, good.Plan, bad.Rolling)
	require.Contains(t, bad.Error, "ratelimit-1 rejected RateLimitRule default/limits/all: ")
	require.Contains(t, bad.Error, "cannot count to that")
	require.NoError(t, w.ready(), "what was served still is")

	// Saving the same again tries again, and fails again.
	rejections := w.rejections()
	w.write("limits.yaml", limits(13))
	w.eventually("tried again", func(controlplane.Status) bool { return w.rejections() > rejections })
	w.eventually("rejected again", func(s controlplane.Status) bool { return s.Error != "" && s.Plan == good.Plan })

	// Going back to what is in force clears the error.
	w.write("limits.yaml", limits(1))
	back := w.eventually("mended", func(s controlplane.Status) bool { return s.Error == "" && s.Rolling == "" })
	require.Equal(t, good.Plan, back.Plan)

	w.write("limits.yaml", limits(14))
	w.requireApplied(applied, 14)
	w.eventually("in force", func(s controlplane.Status) bool { return s.Plan != good.Plan && s.Error == "" && s.Rolling == "" })
}

func (w *world) rejections() float64 {
	families, err := w.registry.Gather()
	require.NoError(w.t, err)
	for _, family := range families {
		if family.GetName() == "weir_ads_rejections_total" && len(family.GetMetric()) > 0 {
			return family.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}

// A plan that is rejected from the start, or by who connects first, is never said
// to be without error, however often it is saved.
func TestAFirstPlanThatIsRejected(t *testing.T) {
	w := newWorld(t)
	w.write("limits.yaml", limits(13))
	w.run()
	applied := w.limiter(13)
	w.eventually("rejected", func(s controlplane.Status) bool { return len(s.Clients) == 1 && s.Error != "" })
	w.write("limits.yaml", limits(13)+"# saved again\n")
	require.Never(t, func() bool { return w.status().Error == "" }, 500*time.Millisecond, 10*time.Millisecond)
	w.write("limits.yaml", limits(1))
	w.requireApplied(applied, 1)
	w.eventually("in force", func(s controlplane.Status) bool {
		return s.Plan != "" && s.Rolling == "" && s.Error == "" && s.Clients[0].InSync
	})
}

func TestABrokenObjectIsNamedAndTheOthersMoveOn(t *testing.T) {
	w := newWorld(t)
	w.run()
	applied := w.limiter()
	w.requireApplied(applied, 1)
	w.write("broken.yaml", "apiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: x}\nspec: {endpoints: 5}\n")
	w.write("limits.yaml", limits(2))
	w.requireApplied(applied, 2)
	status := w.eventually("named", func(s controlplane.Status) bool { return len(s.Problems.Errors()) == 1 })
	require.Equal(t, filepath.Join(w.policy, "broken.yaml"), status.Problems.Errors()[0].File)
	require.Equal(t, 4, status.Problems.Errors()[0].Line)
	require.Equal(t, "spec.endpoints", status.Problems.Errors()[0].Field)
}

func TestARestartKeepsWhatWasGood(t *testing.T) {
	w := newWorld(t)
	w.run()
	w.requireApplied(w.limiter(), 1)
	w.stop()
	w.write("limits.yaml", strings.Replace(limits(2), "requests: 2", "requests: two", 1))
	w.run()
	w.requireApplied(w.limiter(), 1)
}

// What comes while a rollout is under way replaces what waits.
func TestTheNewestUpdateWins(t *testing.T) {
	w := newWorld(t)
	parser, err := policy.NewParser()
	require.NoError(t, err)
	source, err := folder.New(folder.Config{Folders: []string{w.policy}, KeepFile: w.config.StateFile, Logger: slog.New(slog.DiscardHandler)}, parser)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	updates, ended := controlplane.Follow(ctx, source)
	// Nobody takes anything while ten updates are emitted.
	for n := 2; n <= 11; n++ {
		w.write("limits.yaml", limits(n))
		require.Eventually(t, func() bool {
			kept, _ := os.ReadFile(w.config.StateFile) // written before the update is handed on
			return strings.Contains(string(kept), fmt.Sprintf(`"requests":%d`, n))
		}, patience, time.Millisecond)
	}
	taken, newest := 0, false
	require.Eventually(t, func() bool {
		select {
		case update := <-updates:
			taken++
			for _, object := range update.Input.Objects {
				newest = newest || strings.Contains(string(object.JSON()), `"requests":11`)
			}
		default:
		}
		return newest
	}, patience, time.Millisecond)
	require.LessOrEqual(t, taken, 2)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}

func TestTheLoopEndsWithItsContext(t *testing.T) {
	server := ads.NewServer(ads.Access{}, slog.New(slog.DiscardHandler), nil)
	loop := &controlplane.Loop{Server: server, Options: envoy.Options{ListenAddress: "127.0.0.1"}, Logger: slog.New(slog.DiscardHandler)}
	require.Empty(t, loop.Status().Plan)
	ctx, cancel := context.WithCancel(t.Context())
	updates, done := make(chan folder.Update, 1), make(chan error, 1)
	go func() { done <- loop.Run(ctx, updates) }()
	updates <- folder.Update{}
	<-server.Serving()
	require.Eventually(t, func() bool { return loop.Status().Plan != "" }, patience, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}

func TestConfigReportsAllMistakes(t *testing.T) {
	cfg := new(controlplane.Config)
	cfg.SetDefaults()
	cfg.Ingress.Address = "localhost"
	cfg.RateLimit.Address = "nonsense"
	cfg.RateLimit.Timeout = config.Duration(time.Minute)
	cfg.OTLP.Address = "host:0"
	cfg.Ingress.PortMap = map[int32]int32{80: 8080, 81: 8080, 82: 0, 70000: 1}
	err := cfg.Validate()
	for _, want := range []string{
		"sources.folders", "ingress.address", "extAuthz.address: is required", "rateLimit.address", "rateLimit.timeout: 1m0s is outside 10ms to 10s", "otlp.address",
		"80 and 81 are both bound to 8080", "0 is not a port", "70000 is not a port", "server.tls",
	} {
		require.ErrorContains(t, err, want)
	}
	for range 20 {
		require.Equal(t, err.Error(), cfg.Validate().Error(), "in the same order each time")
	}
}
