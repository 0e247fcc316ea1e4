package memcached_test

import (
	"net"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/store/memcached"
	"weir.dev/ratelimit/storetest"
)

// start runs a real memcached.
func start(t *testing.T) *memcache.Client {
	path, err := exec.LookPath("memcached")
	require.NoError(t, err, "install memcached")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	require.NoError(t, listener.Close())
	command := exec.CommandContext(t.Context(), path, "-u", "nobody", "-l", "127.0.0.1", "-p", port, "-m", "16")
	require.NoError(t, command.Start())
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	client := memcache.New("127.0.0.1:" + port)
	client.Timeout, client.MaxIdleConns = 2*time.Second, 32
	require.Eventually(t, func() bool { return client.Ping() == nil }, time.Minute, 5*time.Millisecond)
	return client
}

func fixed(requests uint32, window time.Duration) ratelimit.Limit {
	return ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: requests, Window: window}
}

func charge(name string, limit ratelimit.Limit, cost uint64) ratelimit.Charge {
	return ratelimit.Charge{Key: ratelimit.NewKey(name, limit, nil), Limit: limit, Cost: cost}
}

func TestTake(t *testing.T) {
	clock := storetest.NewClock()
	store, err := memcached.New(start(t), "weir", clock.Now)
	require.NoError(t, err)
	take := func(charges ...ratelimit.Charge) ratelimit.Outcome {
		t.Helper()
		outcome, err := store.Take(t.Context(), charges)
		require.NoError(t, err)
		return outcome
	}
	hourly, daily := fixed(3, time.Hour), fixed(10, 24*time.Hour)
	require.True(t, take(charge("a", hourly, 2), charge("b", daily, 4)).Admitted)
	refused := take(charge("b", daily, 1), charge("a", hourly, 2))
	require.False(t, refused.Admitted)
	require.True(t, refused.Results[0].Allowed)
	require.EqualValues(t, 4, refused.Results[0].State.Count, "nothing is charged")
	require.EqualValues(t, 2, refused.Results[1].State.Count)
	look := charge("b", daily, 6)
	look.Look = true
	require.True(t, take(look).Admitted)
	require.EqualValues(t, 4, take(look).Results[0].State.Count, "a look charges nothing")
	require.False(t, take(charge("a", hourly, 4)).Admitted, "more than ever fits")
	shadow := charge("a", hourly, 3)
	shadow.Shadow = true
	passes := take(shadow, charge("b", daily, 1))
	require.True(t, passes.Admitted)
	require.False(t, passes.Results[0].Allowed)
	clock.Advance(time.Hour)
	require.True(t, take(charge("a", hourly, 3)).Admitted, "another window")
	require.NoError(t, store.Forget(t.Context(), []ratelimit.Charge{charge("a", hourly, 1), charge("never", hourly, 1)}))
	require.True(t, take(charge("a", hourly, 3)).Admitted)

	_, err = store.Take(t.Context(), []ratelimit.Charge{charge("a", ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 1, Window: time.Hour}, 1)})
	require.ErrorContains(t, err, "only fixed windows")
	_, err = store.Take(t.Context(), nil)
	require.Error(t, err)
	_, err = memcached.New(nil, "a b", nil)
	require.ErrorContains(t, err, "prefix")
}

// Of many at once never more than the limit pass, and nearly all of it does.
func TestNeverAboveTheLimit(t *testing.T) {
	store, err := memcached.New(start(t), "weir", nil)
	require.NoError(t, err)
	limit := fixed(500, 400*24*time.Hour)
	var admitted atomic.Int64
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for range 100 {
				outcome, err := store.Take(t.Context(), []ratelimit.Charge{charge("shared", limit, 1)})
				if err == nil && outcome.Admitted {
					admitted.Add(1)
				}
			}
		})
	}
	group.Wait()
	require.LessOrEqual(t, admitted.Load(), int64(500))
	require.GreaterOrEqual(t, admitted.Load(), int64(480))
}

func TestAway(t *testing.T) {
	client := memcache.New("127.0.0.1:1")
	store, err := memcached.New(client, "weir", nil)
	require.NoError(t, err)
	_, err = store.Take(t.Context(), []ratelimit.Charge{charge("a", fixed(1, time.Hour), 1)})
	require.ErrorContains(t, err, "memcached: ")
	require.Error(t, store.Ping(t.Context()))
}
