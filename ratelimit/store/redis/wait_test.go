package redis_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/internal/redistest"
	"weir.dev/ratelimit/store/lease"
	"weir.dev/ratelimit/store/redis"
)

// Asked to, the store answers when a replica has the charges, and else not at all:
// the rule's failure mode is for that.
func TestWaitsForReplicas(t *testing.T) {
	watched := redistest.StartWatched(t)
	limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 100, Window: time.Hour}
	charges := func(rule string) []ratelimit.Charge {
		return []ratelimit.Charge{{Key: ratelimit.NewKey(rule, limit, nil), Limit: limit, Cost: 1}}
	}
	direct := client(t, watched.Master)
	waiting, err := redis.New(direct, redis.Options{Prefix: "weir", WaitReplicas: 1, WaitTimeout: 100 * time.Millisecond})
	require.NoError(t, err)
	hasty, err := redis.New(direct, redis.Options{Prefix: "weir"})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := waiting.Take(t.Context(), charges("a/b/warm"))
		return err == nil
	}, time.Minute, 20*time.Millisecond)

	watched.Replica.Pause(t)
	_, err = waiting.Take(t.Context(), charges("a/b/c"))
	require.ErrorContains(t, err, "too few replicas")
	// Control: without it the master alone answers, and what it admits is lost with it.
	outcome, err := hasty.Take(t.Context(), charges("a/b/c"))
	require.NoError(t, err)
	require.EqualValues(t, 2, outcome.Results[0].State.Count, "what could not be confirmed stays charged")
	watched.Replica.Resume(t)
	require.Eventually(t, func() bool {
		_, err := waiting.Take(t.Context(), charges("a/b/c"))
		return err == nil
	}, time.Minute, 20*time.Millisecond)
	_, err = redis.New(direct, redis.Options{Prefix: "weir"})
	require.NoError(t, err)
}

// A counter that one replica resets is whole for the others too: what they have
// leased of it goes.
func TestOthersHearOfResets(t *testing.T) {
	server := redistest.Start(t)
	limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 1000, Window: time.Hour}
	charge := ratelimit.Charge{Key: ratelimit.NewKey("a/b/c", limit, nil), Limit: limit, Cost: 1, Leased: true}
	var dropped atomic.Int64
	replica := func(listens bool) *lease.Store {
		store, err := redis.New(client(t, server), redis.Options{Prefix: "weir"})
		require.NoError(t, err)
		leasing := lease.New(store, lease.Options{Hold: time.Hour})
		if listens {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				store.Forgotten(ctx, func(key ratelimit.Key) {
					leasing.Drop(key)
					dropped.Add(1)
				})
			}()
			t.Cleanup(func() { cancel(); <-ended })
		}
		return leasing
	}
	one, two, deaf := replica(true), replica(true), replica(false)
	take := func(store *lease.Store, times int) (state ratelimit.State) {
		for range times {
			outcome, err := store.Take(t.Context(), []ratelimit.Charge{charge})
			require.NoError(t, err)
			state = outcome.Results[0].State
		}
		return state
	}
	observer, err := redis.New(client(t, server), redis.Options{Prefix: "weir"})
	require.NoError(t, err)
	look := charge
	look.Look, look.Leased = true, false
	count := func() uint64 {
		outcome, err := observer.Take(t.Context(), []ratelimit.Charge{look})
		require.NoError(t, err)
		return outcome.Results[0].State.Count
	}
	for _, store := range []*lease.Store{two, deaf} {
		before := count()
		require.Eventually(t, func() bool { take(store, 1); before++; return count() > before+2 }, 30*time.Second, time.Millisecond, "a slice was leased")
	}
	require.Eventually(t, func() bool {
		require.NoError(t, one.Forget(t.Context(), []ratelimit.Charge{charge}))
		return dropped.Load() >= 2
	}, 30*time.Second, 20*time.Millisecond)
	require.Zero(t, count())
	take(two, 1)
	require.Positive(t, count(), "it asks the store again")
	before := count()
	take(deaf, 1)
	require.Equal(t, before, count(), "control: one that does not hear of it spends what it had")
}
