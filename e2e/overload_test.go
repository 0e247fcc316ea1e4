package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// gate is a backend that holds every request until it is opened.
type gate struct {
	*httptest.Server
	open              chan struct{}
	inside, most, all atomic.Int64
	connections       atomic.Int64
}

func newGate(t *testing.T) *gate {
	t.Helper()
	g := &gate{open: make(chan struct{})}
	g.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.all.Add(1)
		now := g.inside.Add(1)
		defer g.inside.Add(-1)
		for most := g.most.Load(); now > most && !g.most.CompareAndSwap(most, now); most = g.most.Load() {
		}
		select {
		case <-g.open:
		case <-r.Context().Done():
		}
	}))
	g.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			g.connections.Add(1)
		}
	}
	g.Start()
	t.Cleanup(func() {
		select {
		case <-g.open:
		default:
			close(g.open)
		}
		g.Close()
	})
	return g
}

func (g *gate) backendYAML() string {
	return fmt.Sprintf("---\napiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: gate}\nspec: {endpoints: [{address: 127.0.0.1, port: %d}]}\n", g.Listener.Addr().(*net.TCPAddr).Port)
}

// crowd sends n requests at once, and opens the gate when all that are refused
// were answered; it returns the answers by status, and a refusal's body.
func (x *traffic) crowd(g *gate, n int, path string, passing int64) (statuses map[int]int, refusal string) {
	x.t.Helper()
	var mu sync.Mutex
	var asking sync.WaitGroup
	statuses = map[int]int{}
	client := &http.Client{Timeout: 2 * patience, Transport: &http.Transport{DisableKeepAlives: true}}
	answered := func() int {
		mu.Lock()
		defer mu.Unlock()
		return statuses[http.StatusServiceUnavailable]
	}
	for range n {
		asking.Go(func() {
			response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", x.ports[8080], path)) //nolint:noctx // bounded by the client
			if err != nil {
				x.t.Error(err)
				return
			}
			defer response.Body.Close()
			body, _ := io.ReadAll(response.Body)
			mu.Lock()
			defer mu.Unlock()
			if statuses[response.StatusCode]++; response.StatusCode != http.StatusOK {
				refusal = string(body)
			}
		})
	}
	// Whoever is let in is held, so everybody else has been refused by then.
	require.Eventually(x.t, func() bool { return int64(answered())+max(g.inside.Load(), passing) >= int64(n) }, patience, 5*time.Millisecond,
		"%d inside, %d refused", g.inside.Load(), answered())
	close(g.open)
	asking.Wait()
	return statuses, refusal
}

// What is over the limits of connections and requests is refused at once, and
// waits nowhere.
func TestConnectionLimitsThroughEnvoy(t *testing.T) {
	for name, tc := range map[string]struct {
		limits string
		passes [2]int // the least and the most
	}{
		// Each of Envoy's two workers may open one connection whatever the limit says.
		"one connection, one in the queue": {"maxConnections: 1, maxPendingRequests: 1", [2]int{1, 3}},
		"no limit":                         {"maxConnections: 1000", [2]int{30, 30}},
	} {
		t.Run(name, func(t *testing.T) {
			x, g := startTraffic(t), newGate(t)
			x.apply(rule("held", "gate"), g.backendYAML(), trafficPolicy("held", "connectionLimits: {"+tc.limits+"}"))
			statuses, refusal := x.crowd(g, 30, "/held", int64(tc.passes[1]))
			require.GreaterOrEqual(t, statuses[200], tc.passes[0])
			require.LessOrEqual(t, statuses[200], tc.passes[1])
			require.Equal(t, 30, statuses[200]+statuses[503], "%v", statuses)
			if tc.passes[1] < 30 {
				require.Contains(t, refusal, `"code":"UPSTREAM_UNAVAILABLE"`)
			}
		})
	}
}

func TestRequestsPerConnectionThroughEnvoy(t *testing.T) {
	x, g := startTraffic(t), newGate(t)
	close(g.open)
	x.apply(rule("short", "gate")+rule("long", "gate"), g.backendYAML(), trafficPolicy("short", "connectionLimits: {maxRequestsPerConnection: 2}"))
	for range 20 {
		require.Equal(t, http.StatusOK, x.status("/short"))
	}
	require.GreaterOrEqual(t, g.connections.Load(), int64(10))
	before := g.connections.Load()
	for range 20 {
		require.Equal(t, http.StatusOK, x.status("/long"))
	}
	require.LessOrEqual(t, g.connections.Load()-before, int64(2), "the negative control: one for each worker")
}

// Adaptive concurrency begins with few requests, until it knows how fast the
// backend is at its best, and refuses the others.
func TestAdaptiveConcurrencyThroughEnvoy(t *testing.T) {
	x, g := startTraffic(t), newGate(t)
	x.apply(rule("adaptive", "gate")+rule("plain", "gate"), g.backendYAML(), trafficPolicy("adaptive", "adaptiveConcurrency: {updateInterval: 10ms, minRTTInterval: 1h, maxConcurrency: 20}"))
	statuses, refusal := x.crowd(g, 30, "/adaptive", 3)
	require.LessOrEqual(t, g.most.Load(), int64(3), "that is how many it measures with")
	require.Equal(t, 30-statuses[200], statuses[503])
	require.GreaterOrEqual(t, statuses[503], 27)
	require.Contains(t, refusal, `"status":503`)
	// The gate is open now: it learns that the backend is fast, and lets more in.
	const limit = "http.port-8080.adaptive_concurrency.gradient_controller.concurrency_limit"
	require.Eventually(t, func() bool {
		for range 20 {
			_ = x.status("/adaptive")
		}
		return x.stats("concurrency_limit")[limit] > 3
	}, patience, 10*time.Millisecond, "%v", x.stats("gradient_controller"))
	require.LessOrEqual(t, x.stats("concurrency_limit")[limit], float64(20))
	require.Equal(t, 200, x.status("/plain"))
}

// Admission control refuses a share of requests while too many fail, and lets
// them in again afterwards.
func TestAdmissionControlThroughEnvoy(t *testing.T) {
	x := startTraffic(t)
	x.a.sick.Store(true)
	x.apply(rule("guarded", "a")+rule("plain", "a"), trafficPolicy("guarded", "admissionControl: {window: 1s, successPercent: 95, maxRejectionPercent: 80}"))
	refused := 0
	require.Eventually(t, func() bool {
		for range 50 {
			before := x.a.requests.Load()
			if response, body := x.ask("/guarded"); x.a.requests.Load() == before {
				require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
				require.Contains(t, body, `"status":503`)
				refused++
			}
		}
		return refused >= 20
	}, patience, time.Millisecond)
	before := x.a.requests.Load()
	for range 50 {
		require.Equal(t, http.StatusInternalServerError, x.status("/plain"), "the negative control")
	}
	require.EqualValues(t, 50, x.a.requests.Load()-before)
	x.a.sick.Store(false)
	require.Eventually(t, func() bool {
		for range 20 {
			if x.status("/guarded") != http.StatusOK {
				return false
			}
		}
		return true
	}, patience, 20*time.Millisecond, "it forgets")
}

// One Envoy takes so many connections and no more: the others are closed, and
// those that it has go on.
func TestDownstreamConnectionsAreBounded(t *testing.T) {
	const most = 5
	x := startTrafficWith(t, func(p *proxied) { p.maxConnections = most })
	x.apply(rule("plain", "a"))
	x.client.CloseIdleConnections()
	address := fmt.Sprintf("127.0.0.1:%d", x.ports[8080])
	// open holds a connection, if it is served.
	open := func() (net.Conn, bool) {
		conn, err := net.Dial("tcp", address)
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		_, _ = io.WriteString(conn, "GET /plain HTTP/1.1\r\nHost: x\r\n\r\n")
		answer := make([]byte, 12)
		_, err = io.ReadFull(conn, answer)
		return conn, err == nil && strings.HasSuffix(string(answer), "200")
	}
	var held []net.Conn
	defer func() {
		for _, conn := range held {
			_ = conn.Close()
		}
	}()
	require.Eventually(t, func() bool {
		conn, ok := open()
		if ok {
			held = append(held, conn)
		} else {
			_ = conn.Close()
		}
		return !ok
	}, patience, time.Millisecond, "at some time it takes no more")
	require.LessOrEqual(t, len(held), most)
	require.Positive(t, len(held))
	_, err := io.WriteString(held[0], "GET /plain HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	require.NoError(t, held[0].Close())
	held = held[1:]
	require.Eventually(t, func() bool {
		conn, ok := open()
		_ = conn.Close()
		return ok
	}, patience, 10*time.Millisecond, "and where one leaves there is room")
}
