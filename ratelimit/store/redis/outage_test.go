package redis_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/internal/redistest"
	"weir.dev/ratelimit/store/guard"
	"weir.dev/ratelimit/store/redis"
)

const storeTimeout = 50 * time.Millisecond

// outage is a limiter with an open and a closed rule over a guarded Redis.
type outage struct {
	server  *redistest.Server
	limiter *ratelimit.Limiter
	guard   *guard.Guard
	changes atomic.Int64
}

func (o *outage) StoreCalled(time.Duration, error) {}
func (o *outage) BreakerChanged(error)             { o.changes.Add(1) }

func newOutage(t *testing.T) *outage {
	o := &outage{server: redistest.Start(t)}
	var cfg redis.Config
	cfg.SetDefaults()
	cfg.URL = o.server.URL()
	client, err := cfg.NewClient(storeTimeout)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	store, err := redis.New(client, redis.Options{Prefix: "weir"})
	require.NoError(t, err)
	o.guard = guard.New(store, guard.Options{Timeout: storeTimeout, Observer: o})
	o.limit(t, ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 1_000_000, Window: time.Minute})
	return o
}

// limit begins anew with rules of that limit.
func (o *outage) limit(t *testing.T, limit ratelimit.Limit) {
	table, err := ratelimit.NewTable([]*ratelimit.Rule{
		{ID: "open", Limit: limit, FailureMode: ratelimit.FailOpen}, {ID: "closed", Limit: limit, FailureMode: ratelimit.FailClosed},
	})
	require.NoError(t, err)
	o.limiter = ratelimit.NewLimiter(o.guard, nil)
	o.limiter.SetTable(table)
}

func (o *outage) ask(rule string) (ratelimit.Verdict, error) {
	return o.limiter.Decide(context.Background(), []ratelimit.Descriptor{{Rule: rule, Cost: 1}})
}

func (o *outage) requireHealthy(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := o.ask("closed")
		return err == nil
	}, time.Minute, 5*time.Millisecond, "served again")
	require.Eventually(t, func() bool { // A call that takes longer than storeTimeout fails open.
		verdict, err := o.ask("open")
		return err == nil && verdict.Statuses[0].Event == ratelimit.Admitted
	}, time.Minute, 5*time.Millisecond)
}

// requireFailureModes calls with 64 in flight for a while and checks every
// answer, how long the whole took and that nothing piled up.
func (o *outage) requireFailureModes(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	var passed, wrong, peak atomic.Int64
	var group sync.WaitGroup
	started := time.Now()
	for range 64 {
		group.Go(func() {
			for range 200 {
				verdict, err := o.ask("open")
				if err != nil || !verdict.Allowed || verdict.Statuses[0].Event != ratelimit.FailedOpen {
					wrong.Add(1)
				}
				_, err = o.ask("closed")
				if failed := (*ratelimit.StoreError)(nil); !errors.As(err, &failed) {
					wrong.Add(1)
				}
				passed.Add(2)
				for now := int64(runtime.NumGoroutine()); ; {
					if old := peak.Load(); now <= old || peak.CompareAndSwap(old, now) {
						break
					}
				}
			}
		})
	}
	group.Wait()
	took := time.Since(started)
	t.Logf("%d answers in %s, goroutines %d before, %d at most", passed.Load(), took, before, peak.Load())
	require.Zero(t, wrong.Load(), "every answer is its rule's failure mode")
	require.Less(t, took, 400*storeTimeout/2, "a dead store must not cost its timeout on each of a caller's 400 calls")
	require.Less(t, peak.Load(), int64(before+64+200), "goroutines do not pile up")
	require.True(t, o.guard.Open())
}

func TestRedisKilledAndBack(t *testing.T) {
	o := newOutage(t)
	o.requireHealthy(t)
	o.server.Kill(t)
	o.requireFailureModes(t)
	o.server.Restart(t) // knows neither counters nor the script
	o.requireHealthy(t)
	require.EqualValues(t, 2, o.changes.Load(), "one episode is reported once, and its end")
}

func TestRedisHungAndBack(t *testing.T) {
	o := newOutage(t)
	o.requireHealthy(t)
	o.server.Pause(t)
	o.requireFailureModes(t)
	o.server.Resume(t)
	o.requireHealthy(t)
	require.EqualValues(t, 2, o.changes.Load())
}

// TestControlWithoutGuardAHungRedisStallsEveryCall shows what the guard is for.
func TestControlWithoutGuardAHungRedisStallsEveryCall(t *testing.T) {
	server := redistest.Start(t)
	var cfg redis.Config
	cfg.SetDefaults()
	cfg.URL = server.URL()
	client, err := cfg.NewClient(storeTimeout)
	require.NoError(t, err)
	defer func() { _ = client.Close() }()
	store, err := redis.New(client, redis.Options{Prefix: "weir"})
	require.NoError(t, err)
	server.Pause(t)
	defer server.Resume(t)
	limit := ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 1, Window: time.Minute}
	started := time.Now()
	for range 10 {
		_, err := store.Take(t.Context(), []ratelimit.Charge{{Key: "k", Limit: limit, Cost: 1}})
		require.Error(t, err)
	}
	require.GreaterOrEqual(t, time.Since(started), 10*storeTimeout)
}
