//go:build slow

package redis_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/internal/redistest"
	"weir.dev/ratelimit/store/guard"
	"weir.dev/ratelimit/store/lease"
	"weir.dev/ratelimit/store/redis"
)

// soak is how long it is asked.
const soak = 2 * time.Minute

// TestSlowSoak asks for ever new keys, some of them leased, while Redis hangs and
// dies now and then, and looks whether memory and goroutines come back to where
// they were.
func TestSlowSoak(t *testing.T) {
	server := redistest.Start(t)
	store, err := redis.New(client(t, server), redis.Options{Prefix: "weir"})
	require.NoError(t, err)
	leasing := lease.New(guard.New(store, guard.Options{Timeout: storeTimeout}), lease.Options{Hold: 50 * time.Millisecond, MaxKeys: 2000})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { leasing.Run(ctx) })
	limit := ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 100_000, Window: time.Minute}
	round := func(n int) {
		var group sync.WaitGroup
		for worker := range 32 {
			group.Go(func() {
				for i := range 1000 {
					_, _ = leasing.Take(context.Background(), []ratelimit.Charge{
						{Key: "hot", Limit: limit, Cost: 1, Leased: true},
						{Key: ratelimit.Key(fmt.Sprint("cold", n, worker, i)), Limit: limit, Cost: 1, Leased: i%2 == 0},
					})
				}
			})
		}
		if n%3 == 1 {
			server.Pause(t)
			time.Sleep(2 * storeTimeout)
			server.Resume(t)
		}
		if n%3 == 2 {
			server.Kill(t)
			server.Restart(t)
		}
		group.Wait()
	}
	settled := func() (heap uint64, goroutines int) {
		time.Sleep(time.Second) // unused slices are given back
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc, runtime.NumGoroutine()
	}
	for n := range 4 {
		round(n)
	}
	heapBefore, goroutinesBefore := settled()
	rounds := 0
	for end := time.Now().Add(soak); time.Now().Before(end); rounds++ {
		round(4 + rounds)
	}
	heapAfter, goroutinesAfter := settled()
	back := func() bool { return heapAfter <= heapBefore+4<<20 && goroutinesAfter <= goroutinesBefore+10 }
	for tries := 0; !back() && tries < 30; tries++ { // a busy machine takes longer to end what was under way
		heapAfter, goroutinesAfter = settled()
	}
	t.Logf("%d requests", rounds*32*1000)
	t.Logf("heap %d KiB, then %d; goroutines %d, then %d", heapBefore>>10, heapAfter>>10, goroutinesBefore, goroutinesAfter)
	require.LessOrEqual(t, heapAfter, heapBefore+4<<20)
	require.LessOrEqual(t, goroutinesAfter, goroutinesBefore+10)
	cancel()
	running.Wait()
}
