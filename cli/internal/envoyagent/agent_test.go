package envoyagent

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// envoy plays the admin interface.
type envoy struct {
	mu      sync.Mutex
	active  int
	updates int
	ready   bool
	// members are the endpoints of each cluster.
	members map[string]int
	calls   []string
	server  *httptest.Server
	// drained is closed by the first POST to drain_listeners.
	drained chan struct{}
}

func newEnvoy(t *testing.T) *envoy {
	e := &envoy{ready: true, updates: 1, drained: make(chan struct{})}
	e.server = httptest.NewServer(e)
	t.Cleanup(e.server.Close)
	return e
}

func (e *envoy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls = append(e.calls, r.Method+" "+r.URL.Path)
	stat := func(name string, value int) {
		_, _ = io.WriteString(w, `{"stats":[{"name":"http.admin.downstream_rq_active","value":1},{"name":"`+name+`","value":`+string(rune('0'+value))+`},{"histograms":{}}]}`)
	}
	switch {
	case r.URL.Path == "/drain_listeners":
		select {
		case <-e.drained:
		default:
			close(e.drained)
		}
	case strings.Contains(r.URL.RawQuery, "downstream_rq_active"):
		stat("http.x.downstream_rq_active", e.active)
	case strings.Contains(r.URL.RawQuery, "update_success"):
		stat("listener_manager.lds.update_success", e.updates)
	case strings.Contains(r.URL.RawQuery, "membership_total"):
		var stats []map[string]any
		for name, value := range e.members {
			if regexp.MustCompile(r.URL.Query().Get("filter")).MatchString("cluster." + name + ".membership_total") {
				stats = append(stats, map[string]any{"name": "cluster." + name + ".membership_total", "value": value})
			}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"stats": stats})
	case r.URL.Path == "/ready" && !e.ready:
		http.Error(w, "PRE_INITIALIZING", http.StatusServiceUnavailable)
	case r.URL.Path == "/stats/prometheus":
		_, _ = io.WriteString(w, "envoy_up 1\n")
	}
}

func (e *envoy) set(change func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change()
}

func (e *envoy) address() string { return e.server.Listener.Addr().String() }

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	response, err := http.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(body)
}

// start runs an agent; stop ends its context, done tells Serve's result.
func start(t *testing.T, config Config) (base string, stop func(), kill chan struct{}, done chan error) {
	t.Helper()
	config.Logger = slog.New(slog.DiscardHandler)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	kill, done = make(chan struct{}), make(chan error, 1)
	go func() { done <- New(config).Serve(ctx, kill, listener) }()
	return "http://" + listener.Addr().String(), cancel, kill, done
}

func TestReadiness(t *testing.T) {
	admin := newEnvoy(t)
	base, _, _, _ := start(t, Config{Admin: admin.address(), Timeout: time.Minute})
	code, _ := get(t, base+"/ready")
	require.Equal(t, http.StatusOK, code)
	code, _ = get(t, base+"/live")
	require.Equal(t, http.StatusOK, code)
	code, body := get(t, base+"/metrics")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, "envoy_up 1\n", body)

	admin.set(func() { admin.updates = 0 })
	code, body = get(t, base+"/ready")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, "has not sent any listeners")
	admin.set(func() { admin.updates, admin.ready = 1, false })
	code, body = get(t, base+"/ready")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, "PRE_INITIALIZING")

	admin.server.Close()
	for _, path := range []string{"/ready", "/live", "/metrics"} {
		code, _ = get(t, base+path)
		require.Equal(t, http.StatusServiceUnavailable, code, path)
	}
	response, err := http.Post(base+"/drained", "", nil)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusMethodNotAllowed, response.StatusCode)
	admin.set(func() {
		require.NotContains(t, admin.calls, "POST /drain_listeners", "nobody can have it drained from outside")
	})
}

// An Envoy that has no address of a guard is not ready at first; one that once had
// them stays ready when guards go, as does one that has asked in vain long enough.
func TestReadinessWaitsForGuards(t *testing.T) {
	t.Run("until they are known", func(t *testing.T) {
		admin := newEnvoy(t)
		admin.members = map[string]int{"weir/extauthz": 0, "weir/ratelimit": 0, "shop": 0}
		base, _, _, _ := start(t, Config{Admin: admin.address(), Timeout: time.Minute})
		code, body := get(t, base+"/ready")
		require.Equal(t, http.StatusServiceUnavailable, code)
		require.Contains(t, body, "no address of weir/extauthz and weir/ratelimit is known")
		admin.set(func() { admin.members["weir/extauthz"] = 1 })
		_, body = get(t, base+"/ready")
		require.Contains(t, body, "no address of weir/ratelimit is known")
		admin.set(func() { admin.members["weir/ratelimit"] = 2 })
		code, _ = get(t, base+"/ready")
		require.Equal(t, http.StatusOK, code)
		admin.set(func() { admin.members["weir/ratelimit"] = 0 })
		code, _ = get(t, base+"/ready")
		require.Equal(t, http.StatusOK, code, "who goes later does not take the proxy along")
	})
	t.Run("for so long", func(t *testing.T) {
		admin := newEnvoy(t)
		admin.members = map[string]int{"weir/ratelimit": 0}
		agent := New(Config{Admin: admin.address(), Logger: slog.New(slog.DiscardHandler)})
		require.ErrorContains(t, agent.ready(t.Context()), "no address of weir/ratelimit")
		agent.configured = time.Now().Add(-guardsWithin)
		require.NoError(t, agent.ready(t.Context()))
	})
}

func TestDrainedIsAnsweredWhenRequestsHaveEnded(t *testing.T) {
	admin := newEnvoy(t)
	admin.active = 2
	base, stop, _, done := start(t, Config{Admin: admin.address(), Timeout: time.Minute})
	answered := make(chan int, 1)
	go func() {
		response, err := http.Get(base + "/drained")
		if err != nil {
			answered <- 0
			return
		}
		_ = response.Body.Close()
		answered <- response.StatusCode
	}()
	stop()
	<-admin.drained
	code, body := get(t, base+"/ready")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, "the pod is ending")
	select {
	case <-answered:
		t.Fatal("answered while requests run")
	default:
	}
	admin.set(func() { admin.active = 0 })
	require.Equal(t, http.StatusOK, <-answered)
	code, _ = get(t, base+"/drained")
	require.Equal(t, http.StatusOK, code, "who asks later is told, too")
	admin.server.Close() // Envoy ends.
	require.NoError(t, <-done)
}

func TestDrainingIsBounded(t *testing.T) {
	admin := newEnvoy(t)
	admin.active = 1
	base, stop, _, _ := start(t, Config{Admin: admin.address(), Timeout: 50 * time.Millisecond})
	stop()
	code, _ := get(t, base+"/drained")
	require.Equal(t, http.StatusOK, code)

	admin = newEnvoy(t)
	admin.active = 1
	base, stop, kill, done := start(t, Config{Admin: admin.address(), Timeout: time.Hour, Delay: time.Hour})
	stop()
	close(kill)
	require.NoError(t, <-done)
	_, err := http.Get(base + "/live")
	require.Error(t, err)
}

func TestDrainWaitsForRequests(t *testing.T) {
	admin := newEnvoy(t)
	admin.active = 3
	ended := make(chan error, 1)
	go func() { ended <- Drain(context.Background(), admin.address()) }()
	<-admin.drained
	admin.set(func() { admin.active = 0 })
	require.NoError(t, <-ended)
	admin.set(func() { admin.active = 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, Drain(ctx, admin.address()), context.DeadlineExceeded)
}
