package refusals_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/store/memory"
	"weir.dev/ratelimit/store/refusals"
	"weir.dev/ratelimit/storetest"
)

// counting counts the calls that reach the store.
type counting struct {
	*memory.Store
	calls int
}

func (c *counting) Take(ctx context.Context, charges []ratelimit.Charge) (ratelimit.Outcome, error) {
	c.calls++
	return c.Store.Take(ctx, charges)
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t testing.TB, clock func() time.Time) ratelimit.Store {
		store, err := memory.New(memory.Options{MaxKeys: memory.MinKeys, Clock: clock})
		require.NoError(t, err)
		if clock == nil {
			clock = time.Now
		}
		return refusals.New(store, 1<<20, clock)
	})
}

func TestWhatIsUsedUpIsRefusedWithoutAsking(t *testing.T) {
	clock := storetest.NewClock()
	inner, err := memory.New(memory.Options{MaxKeys: memory.MinKeys, Clock: clock.Now})
	require.NoError(t, err)
	next := &counting{Store: inner}
	store := refusals.New(next, 160*10, clock.Now)
	limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 2, Window: time.Minute}
	charge := func(name string) ratelimit.Charge {
		return ratelimit.Charge{Key: ratelimit.NewKey(name, limit, nil), Limit: limit, Cost: 1}
	}
	take := func(charges ...ratelimit.Charge) ratelimit.Outcome {
		outcome, err := store.Take(t.Context(), charges)
		require.NoError(t, err)
		return outcome
	}
	for range 2 {
		require.True(t, take(charge("a")).Admitted)
	}
	first := take(charge("a"))
	require.False(t, first.Admitted)
	require.False(t, first.Remembered)
	asked := next.calls
	clock.Advance(time.Second)
	again := take(charge("a"))
	require.False(t, again.Admitted)
	require.True(t, again.Remembered)
	require.Equal(t, first.Now+time.Second.Microseconds(), again.Now)
	require.Equal(t, first.Results[0].State, again.Results[0].State)
	require.Equal(t, asked, next.calls)
	shadow := charge("a")
	shadow.Shadow = true
	require.True(t, take(shadow).Admitted)
	require.False(t, take(charge("a"), charge("b")).Remembered, "one that is not known: the store is asked")
	require.NoError(t, store.Forget(t.Context(), []ratelimit.Charge{charge("a")}))
	require.True(t, take(charge("a")).Admitted)
	take(charge("a"))
	take(charge("a"))
	clock.Advance(time.Minute)
	require.True(t, take(charge("a")).Admitted, "another window")
	for i := range 100 { // Bounded: the first ones are forgotten, and asked for again.
		for range 3 {
			take(charge(fmt.Sprint(i)))
		}
	}
	asked = next.calls
	for i := range 100 {
		require.False(t, take(charge(fmt.Sprint(i))).Admitted)
	}
	require.Greater(t, next.calls, asked+80)
}

// What was used up at a time is not known to be used up before it.
func TestAClockSetBackIsAskedAgain(t *testing.T) {
	clock := storetest.NewClock()
	inner, err := memory.New(memory.Options{MaxKeys: memory.MinKeys, Clock: clock.Now})
	require.NoError(t, err)
	store := refusals.New(inner, 160*10, clock.Now)
	limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 1, Window: time.Second}
	take := func(cost uint64, look bool) ratelimit.Outcome {
		outcome, err := store.Take(t.Context(), []ratelimit.Charge{{Key: ratelimit.NewKey("a", limit, nil), Limit: limit, Cost: cost, Look: look}})
		require.NoError(t, err)
		return outcome
	}
	require.True(t, take(1, false).Admitted)
	require.False(t, take(1, false).Admitted)
	require.True(t, take(1, true).Remembered)
	clock.Advance(-2 * time.Second)
	require.False(t, take(2, true).Admitted, "refused for its cost, in a window of which nothing is used")
	require.True(t, take(1, true).Admitted, "the window before the one that was used up")
	require.True(t, take(1, false).Admitted)
	require.False(t, take(1, false).Admitted)
	clock.Advance(2 * time.Second)
	require.True(t, take(1, false).Admitted, "the store counts a window at a time; what it says last holds")
}
