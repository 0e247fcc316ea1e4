package persecond_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/store/memory"
	"weir.dev/ratelimit/store/persecond"
	"weir.dev/ratelimit/storetest"
)

func inMemory(t testing.TB, clock func() time.Time) *memory.Store {
	store, err := memory.New(memory.Options{MaxKeys: 10_000, Clock: clock})
	require.NoError(t, err)
	return store
}

// It is spread over two stores. Which one a limit is in changes with the limit,
// so the model, which keeps a counter whatever becomes of its limit, is not for it.
func TestConformance(t *testing.T) {
	storetest.RunSpread(t, func(t testing.TB, clock func() time.Time) ratelimit.Store {
		return persecond.New(inMemory(t, clock), inMemory(t, clock))
	})
}

// failing is a store that can be told to fail.
type failing struct {
	ratelimit.Store
	err error
}

func (f *failing) Take(ctx context.Context, charges []ratelimit.Charge) (ratelimit.Outcome, error) {
	if f.err != nil {
		return ratelimit.Outcome{}, f.err
	}
	return f.Store.Take(ctx, charges)
}

func TestLimitsInBothAreAllOrNothing(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	clock := func() time.Time { return now }
	seconds, others := &failing{Store: inMemory(t, clock)}, &failing{Store: inMemory(t, clock)}
	store := persecond.New(seconds, others)
	charge := func(name string, requests uint32, window time.Duration) ratelimit.Charge {
		limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: requests, Window: window}
		return ratelimit.Charge{Key: ratelimit.NewKey("a/b/"+name, limit, nil), Limit: limit, Cost: 1}
	}
	burst, daily := charge("burst", 3, time.Second), charge("daily", 5, 24*time.Hour)
	take := func() ratelimit.Outcome {
		t.Helper()
		outcome, err := store.Take(t.Context(), []ratelimit.Charge{daily, burst})
		require.NoError(t, err)
		return outcome
	}
	counts := func(outcome ratelimit.Outcome) string {
		return fmt.Sprintf("%v %d %d", outcome.Admitted, outcome.Results[0].State.Count, outcome.Results[1].State.Count)
	}
	require.Equal(t, "true 1 1", counts(take()))
	require.Equal(t, "true 2 2", counts(take()))
	require.Equal(t, "true 3 3", counts(take()))
	require.Equal(t, "false 3 3", counts(take()), "the second refuses, the day is not charged")
	now = now.Add(time.Second)
	require.Equal(t, "true 4 1", counts(take()))
	require.Equal(t, "true 5 2", counts(take()))
	require.Equal(t, "false 5 2", counts(take()), "the day refuses, the second gets its charge back")
	others.err = errors.New("away")
	_, err := store.Take(t.Context(), []ratelimit.Charge{daily, burst})
	require.ErrorIs(t, err, others.err)
	outcome, err := store.Take(t.Context(), []ratelimit.Charge{burst})
	require.NoError(t, err)
	require.EqualValues(t, 3, outcome.Results[0].State.Count, "it got back what it was charged when the other failed")
	seconds.err = errors.New("away, too")
	_, err = store.Take(t.Context(), []ratelimit.Charge{daily, burst})
	require.ErrorIs(t, err, seconds.err)
}
