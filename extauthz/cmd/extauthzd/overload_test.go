package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/rules"
)

// inside is how many goroutines are in a function.
func inside(t *testing.T, function string) (count int) {
	var text bytes.Buffer
	require.NoError(t, pprof.Lookup("goroutine").WriteTo(&text, 1))
	for group := range strings.SplitSeq(text.String(), "\n\n") {
		var same int
		if _, err := fmt.Sscanf(group, "%d @", &same); err == nil && strings.Contains(group, function) {
			count += same
		}
	}
	return count
}

// answers is what a check is held in while it asks somebody else.
const answers = "envoyauth.(*Limited).Answer+"

// hung is an introspection endpoint that answers nothing until it is released.
func hung(t *testing.T) (settings *rulesv1.IntrospectionAuthenticator, release func()) {
	released := make(chan struct{})
	var once sync.Once
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-released:
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `{"active": true, "iss": %q, "sub": "alice"}`, authtest.Issuer)
		case <-r.Context().Done():
		}
	}))
	release = func() { once.Do(func() { close(released) }) }
	t.Cleanup(func() { release(); endpoint.Close() })
	return &rulesv1.IntrospectionAuthenticator{
		Uri: endpoint.URL, Issuer: authtest.Issuer, ClientId: "edge", ClientSecret: "secret", Timeout: durationpb.New(5 * time.Second),
	}, release
}

// crowd are checks that are asked at once, each of a token of its own.
type crowd struct {
	clients                        []authv3.AuthorizationClient
	tokens                         atomic.Int64
	allowed, overloaded, otherwise atomic.Int64
	group                          sync.WaitGroup
}

func (c *crowd) ask(ctx context.Context, n int) {
	for range n {
		c.group.Go(func() {
			i := c.tokens.Add(1)
			answer, err := c.clients[int(i)%len(c.clients)].Check(ctx, authtest.Check("r", "authorization", fmt.Sprintf("Bearer token-%d", i)), grpc.WaitForReady(true))
			denied := answer.GetDeniedResponse()
			switch {
			case err == nil && answer.GetOkResponse() != nil:
				c.allowed.Add(1)
			case err == nil && denied.GetStatus().GetCode() == http.StatusServiceUnavailable && strings.Contains(denied.GetBody(), `"OVERLOADED"`):
				c.overloaded.Add(1)
			default:
				c.otherwise.Add(1)
			}
		})
	}
}

func allocated() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// While what it asks hangs, checks beyond the bound are refused as overload, by an
// answer and not by a lack of one; nothing piles up however many come, and nobody
// is let in. Without a bound more wait.
func TestOverloadSheds(t *testing.T) {
	const checks = 1500
	for name, bound := range map[string]int{"bounded": 64, "negative control": 100_000} {
		t.Run(name, func(t *testing.T) {
			w := start(t, fmt.Sprintf("limits: {inFlight: %d, queue: 16, wait: 50ms}\n", bound))
			settings, release := hung(t)
			route := authtest.Route("r", &rulesv1.Authenticator{Name: "opaque", Method: &rulesv1.Authenticator_Introspection{Introspection: settings}})
			require.Empty(t, w.plane.send(t, rules.RouteType, map[string]proto.Message{"r": route}))
			require.Empty(t, w.plane.send(t, rules.ConsumerType, map[string]proto.Message{"default/shop": authtest.Consumers()["default/shop"]}))
			c := &crowd{}
			for range 2 {
				c.clients = append(c.clients, authv3.NewAuthorizationClient(w.dial(t, "ingress")))
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c.ask(ctx, checks)
			if bound > checks {
				// What bounds the questions to one endpoint is twice as much.
				require.Eventually(t, func() bool { return inside(t, answers) > 100 }, time.Minute, 5*time.Millisecond, "more begin than may above")
				release()
				c.group.Wait()
				require.Zero(t, c.overloaded.Load())
				require.Zero(t, w.stop())
				return
			}
			require.Eventually(t, func() bool {
				return c.overloaded.Load() >= int64(checks-bound)
			}, time.Minute, 20*time.Millisecond, "all but those that may are refused")
			memory, routines := allocated(), runtime.NumGoroutine()
			for wave := range 4 {
				before := c.overloaded.Load()
				c.ask(ctx, checks/2)
				require.Eventually(t, func() bool { return c.overloaded.Load()-before >= int64(checks/2-bound) }, time.Minute, 5*time.Millisecond, "wave %d", wave)
			}
			require.Less(t, allocated(), memory+(8<<20))
			require.Less(t, runtime.NumGoroutine(), routines+4*bound)
			require.Zero(t, c.allowed.Load(), "and nobody was let in for it")
			release()
			c.group.Wait()
			require.Eventually(t, func() bool {
				before := c.allowed.Load()
				c.ask(ctx, 1)
				c.group.Wait()
				return c.allowed.Load() > before
			}, time.Minute, 5*time.Millisecond, "it recovers")
			response, err := http.Get("http://" + w.admin + "/metrics")
			require.NoError(t, err)
			metrics, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Contains(t, string(metrics), `weir_extauthz_decisions_total{decision="deny",reason="OVERLOADED"}`)
			require.Contains(t, string(metrics), "weir_extauthz_checks_in_flight 0\n")
			require.Zero(t, w.stop())
		})
	}
}
