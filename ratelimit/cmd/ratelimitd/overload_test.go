package main

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir.dev/kit/config"

	"weir.dev/ratelimit/internal/redistest"
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

// waits is what a call to Redis waits in.
const waits = "store/guard.(*Guard).Take+"

// crowd are calls that are asked at once.
type crowd struct {
	open, closed, answered atomic.Int64
	wrong                  atomic.Pointer[string]
	group                  sync.WaitGroup
}

// ask asks n calls over some connections, half of them by a rule that fails open
// and half by one that fails closed.
func (c *crowd) ask(ctx context.Context, clients []rlsv3.RateLimitServiceClient, n int) {
	for i := range n {
		c.group.Go(func() {
			rule := []string{"a/b/open", "a/b/closed"}[i%2]
			response, err := clients[i/2%len(clients)].ShouldRateLimit(ctx, &rlsv3.RateLimitRequest{Domain: "weir", Descriptors: []*ratelimitv3.RateLimitDescriptor{{
				Entries: []*ratelimitv3.RateLimitDescriptor_Entry{{Key: "weir.limit", Value: rule}, {Key: "consumer", Value: fmt.Sprint(i)}},
			}}})
			switch {
			case err == nil && response.GetOverallCode() == ok:
				c.open.Add(1)
			case i%2 == 1 && status.Code(err) == codes.Unavailable:
				c.closed.Add(1)
			default:
				wrong := fmt.Sprintf("%s answered %v, %v", rule, response, err)
				c.wrong.Store(&wrong)
			}
			c.answered.Add(1)
		})
	}
}

func allocated() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// With a Redis that hangs, calls beyond the bound are answered at once by their
// rules' failure modes, nothing piles up however many come, and all is well when
// Redis goes on. Without a bound they all wait.
func TestOverloadSheds(t *testing.T) {
	const calls = 3000
	for name, tc := range map[string]struct {
		bound string
		most  int
	}{
		"default bound":    {"", 512},
		"small bound":      {", maxInFlight: 40", 40},
		"negative control": {", maxInFlight: 100000", calls},
	} {
		t.Run(name, func(t *testing.T) {
			redis := redistest.Start(t)
			f := startWith(t, fmt.Sprintf("store: {redis: {url: %q}%s}\n", redis.URL(), tc.bound), func(cfg *Config) {
				cfg.Store.Timeout = config.Duration(time.Minute) // longer than may be set: no call ends before Redis answers
			})
			f.setRules(t, hourly("a/b/open", 1000, failOpen), hourly("a/b/closed", 1000, failClosed))
			f.ready(t)
			var clients []rlsv3.RateLimitServiceClient
			for range 4 {
				clients = append(clients, rlsv3.NewRateLimitServiceClient(f.dial(t, "ingress")))
				_, err := clients[len(clients)-1].ShouldRateLimit(t.Context(), &rlsv3.RateLimitRequest{Domain: "weir"}, grpc.WaitForReady(true))
				require.Equal(t, codes.InvalidArgument, status.Code(err), "it is connected")
			}
			require.Equal(t, ok, f.code(t, "a/b/closed", "x"))

			redis.Pause(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			first := &crowd{}
			first.ask(ctx, clients, calls)
			require.Eventually(t, func() bool { return inside(t, waits) == tc.most }, time.Minute, 20*time.Millisecond, "as many wait as may")
			require.Eventually(t, func() bool { return first.answered.Load() == int64(calls-tc.most) }, time.Minute, 20*time.Millisecond, "the others don't")
			require.Equal(t, tc.most, inside(t, waits), "and none of those that wait was given up for it")
			if tc.most < calls {
				memory, routines := allocated(), runtime.NumGoroutine()
				more := &crowd{}
				for range 5 {
					more.ask(ctx, clients, calls/4)
					more.group.Wait() // Each is answered though nothing moves.
				}
				require.Nil(t, more.wrong.Load())
				require.Less(t, allocated(), memory+(8<<20))
				require.Less(t, runtime.NumGoroutine(), routines+200)
				_, metrics := f.get(t, "/metrics")
				require.Contains(t, metrics, `weir_ratelimit_store_errors_total{reason="busy"}`)
			}
			refused := first.closed.Load()
			redis.Resume(t)
			first.group.Wait()
			if wrong := first.wrong.Load(); wrong != nil {
				require.Fail(t, *wrong)
			}
			require.Equal(t, refused, first.closed.Load(), "those that waited are answered by Redis")
			require.Equal(t, ok, f.code(t, "a/b/closed", "y"))
			require.Eventually(t, func() bool { return inside(t, waits) == 0 }, time.Minute, 20*time.Millisecond)
		})
	}
}
