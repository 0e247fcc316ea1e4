package memory_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/store/memory"
	"weir.dev/ratelimit/storetest"
)

func newStore(t testing.TB, clock func() time.Time) ratelimit.Store {
	store, err := memory.New(memory.Options{MaxKeys: 100_000, Clock: clock})
	require.NoError(t, err)
	return store
}

func TestConformance(t *testing.T) { storetest.Run(t, newStore) }

func TestForget(t *testing.T) { storetest.RunForget(t, newStore(t, nil)) }

func TestNewRefusesUselessBounds(t *testing.T) {
	for _, keys := range []int{-1, 0, memory.MinKeys - 1, memory.MaxKeys + 1} {
		_, err := memory.New(memory.Options{MaxKeys: keys})
		require.ErrorContains(t, err, "maxKeys", "%d", keys)
	}
}

func charge(key string, window time.Duration) []ratelimit.Charge {
	return []ratelimit.Charge{{
		Key: ratelimit.Key(key), Cost: 1,
		Limit: ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 10, Window: window},
	}}
}

func TestEvictionTakesTheDeadFirst(t *testing.T) {
	const maxKeys = 6400
	clock := storetest.NewClock()
	store, err := memory.New(memory.Options{MaxKeys: maxKeys, Clock: clock.Now})
	require.NoError(t, err)
	take := func(key string, window time.Duration) {
		_, err := store.Take(t.Context(), charge(key, window))
		require.NoError(t, err)
	}
	for i := range maxKeys / 4 {
		take(fmt.Sprintf("short %d", i), time.Second)
		take(fmt.Sprintf("long %d", i), 24*time.Hour)
	}
	require.Zero(t, store.EvictedLive())
	clock.Advance(2 * time.Second)
	for i := range maxKeys / 4 {
		take(fmt.Sprintf("new %d", i), 24*time.Hour)
	}
	require.Zero(t, store.EvictedLive(), "the dead made room")
	require.LessOrEqual(t, store.Len(), maxKeys)
	for i := range 4 * maxKeys {
		take(fmt.Sprintf("flood %d", i), time.Hour)
	}
	require.LessOrEqual(t, store.Len(), maxKeys, "the bound holds")
	require.Positive(t, store.EvictedLive(), "and what it cost is counted")
}

func TestEvictionPrefersWhatExpiresSoon(t *testing.T) {
	const maxKeys = memory.MinKeys
	clock := storetest.NewClock()
	store, err := memory.New(memory.Options{MaxKeys: maxKeys, Clock: clock.Now})
	require.NoError(t, err)
	_, err = store.Take(t.Context(), charge("precious", 24*time.Hour))
	require.NoError(t, err)
	for i := range 20 * maxKeys {
		_, err := store.Take(t.Context(), charge(fmt.Sprintf("cheap %d", i), time.Minute))
		require.NoError(t, err)
	}
	outcome, err := store.Take(t.Context(), charge("precious", 24*time.Hour))
	require.NoError(t, err)
	require.Greater(t, outcome.Results[0].State.At, clock.Now().Add(4*time.Hour).UnixMicro(), "the long-lived counter survived the flood")
}

func TestAMillionKeysFitIn200MiB(t *testing.T) {
	store, err := memory.New(memory.Options{MaxKeys: 1_100_000})
	require.NoError(t, err)
	before := heap()
	limit := ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 100, Window: time.Hour}
	for i := range 1_000_000 {
		key := ratelimit.NewKey("default/quickstart/per-consumer", limit, []ratelimit.Entry{{Name: "consumer", Value: fmt.Sprintf("default/consumer-%d", i)}})
		_, err := store.Take(t.Context(), []ratelimit.Charge{{Key: key, Limit: limit, Cost: 1}})
		require.NoError(t, err)
	}
	used := heap() - before
	t.Logf("%d keys held in %d MiB", store.Len(), used>>20)
	require.LessOrEqual(t, used, uint64(200<<20))
	runtime.KeepAlive(store)
}

func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
