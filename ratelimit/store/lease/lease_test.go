package lease_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/store/lease"
	"weir.dev/ratelimit/store/memory"
	"weir.dev/ratelimit/storetest"
)

// counted counts the calls that reach a store.
type counted struct {
	ratelimit.Store
	calls atomic.Int64
	err   atomic.Pointer[error]
}

func (c *counted) Take(ctx context.Context, charges []ratelimit.Charge) (ratelimit.Outcome, error) {
	c.calls.Add(1)
	if err := c.err.Load(); err != nil {
		return ratelimit.Outcome{}, *err
	}
	return c.Store.Take(ctx, charges)
}

func shared(t testing.TB, clock func() time.Time) *counted {
	store, err := memory.New(memory.Options{MaxKeys: 10_000, Clock: clock})
	require.NoError(t, err)
	return &counted{Store: store}
}

func leased(key string, limit ratelimit.Limit, cost uint64) ratelimit.Charge {
	return ratelimit.Charge{Key: ratelimit.Key(key), Limit: limit, Cost: cost, Leased: true}
}

// TestConformance: whoever doesn't ask for slices has the store as it is.
func TestConformance(t *testing.T) {
	storetest.Run(t, func(t testing.TB, clock func() time.Time) ratelimit.Store {
		return lease.New(shared(t, clock), lease.Options{Clock: clock})
	})
}

// use is one admitted request.
type use struct {
	at   ratelimit.Time
	cost uint64
}

// requireWithin checks that no interval admits more than the limit may.
func requireWithin(t require.TestingT, limit ratelimit.Limit, uses []use) {
	for i := range uses {
		sum := uint64(0)
		for j := i; j < len(uses); j++ {
			sum += uses[j].cost
			if limit.Algorithm == ratelimit.FixedWindow {
				start, _ := limit.Period(uses[i].at)
				if other, _ := limit.Period(uses[j].at); other != start {
					break
				}
				require.LessOrEqual(t, sum, limit.Capacity(), "in the window of %d", start)
				continue
			}
			window := uint64(limit.Window.Microseconds())
			// sum × window/requests ≤ length + burst × window/requests
			require.LessOrEqual(t, (sum-limit.Capacity()*b2u(sum > limit.Capacity()))*window*b2u(sum > limit.Capacity()),
				uint64(uses[j].at-uses[i].at)*uint64(limit.Requests), "%d from %d to %d", sum, uses[i].at, uses[j].at)
		}
	}
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// TestReplicasNeverAdmitMoreThanTheLimit lets up to four replicas, whose clocks
// are wrong by up to five seconds, ask at random.
func TestReplicasNeverAdmitMoreThanTheLimit(t *testing.T) {
	var local, total int64
	rapid.Check(t, func(rt *rapid.T) {
		clock := storetest.NewClock()
		store := shared(t, clock.Now)
		limit := ratelimit.Limit{
			Algorithm: rapid.SampledFrom([]ratelimit.Algorithm{ratelimit.FixedWindow, ratelimit.GCRA}).Draw(rt, "algorithm"),
			Requests:  rapid.SampledFrom([]uint32{50, 200, 3000}).Draw(rt, "requests"),
			Window:    rapid.SampledFrom([]time.Duration{time.Second, 7 * time.Second}).Draw(rt, "window"),
		}
		if limit.Algorithm == ratelimit.GCRA {
			limit.Burst = rapid.SampledFrom([]uint32{0, 45, 400}).Draw(rt, "burst")
		}
		replicas := make([]*lease.Store, rapid.IntRange(1, 4).Draw(rt, "replicas"))
		for i := range replicas {
			skew := time.Duration(rapid.IntRange(-5000, 5000).Draw(rt, "skew")) * time.Millisecond
			replicas[i] = lease.New(store, lease.Options{
				Horizon: 50 * time.Millisecond, Hold: 300 * time.Millisecond, Fraction: rapid.SampledFrom([]uint64{2, 5, 10}).Draw(rt, "fraction"),
				Clock: func() time.Time { return clock.Now().Add(skew) },
			})
		}
		var uses []use
		asked := int64(0)
		step := rapid.SampledFrom([]int64{2_000, 20_000, 300_000}).Draw(rt, "step")
		for range rapid.IntRange(50, 200).Draw(rt, "steps") {
			clock.Advance(time.Duration(rapid.Int64Range(0, step).Draw(rt, "advance")) * time.Microsecond)
			replica := replicas[rapid.IntRange(0, len(replicas)-1).Draw(rt, "replica")]
			switch rapid.IntRange(0, 30).Draw(rt, "what") {
			case 0:
				replica.Sweep()
			default:
				for range rapid.IntRange(1, 12).Draw(rt, "requests at once") {
					cost := rapid.SampledFrom([]uint64{1, 1, 1, 3}).Draw(rt, "cost")
					asked++
					outcome, err := replica.Take(t.Context(), []ratelimit.Charge{leased("k", limit, cost)})
					require.NoError(rt, err)
					if outcome.Admitted {
						uses = append(uses, use{at: clock.Now().UnixMicro(), cost: cost})
					}
				}
			}
			replica.Wait()
		}
		requireWithin(rt, limit, uses)
		total += asked
		local += asked - min(asked, store.calls.Load())
	})
	t.Logf("%d of %d requests without a call", local, total)
	require.Greater(t, local, total/10, "negative control: slices were used")
}

func TestHotKeysCostNoCallsAndUnusedSlicesComeBack(t *testing.T) {
	clock := storetest.NewClock()
	store := shared(t, clock.Now)
	limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 10_000, Window: time.Hour}
	replica := lease.New(store, lease.Options{Clock: clock.Now})
	take := func() ratelimit.Outcome {
		outcome, err := replica.Take(t.Context(), []ratelimit.Charge{leased("k", limit, 1)})
		require.NoError(t, err)
		replica.Wait()
		return outcome
	}
	for range 2000 {
		clock.Advance(time.Millisecond)
		outcome := take()
		require.True(t, outcome.Admitted)
		require.LessOrEqual(t, outcome.Results[0].State.Count, uint64(2000+1000), "and what remains is told nearly right")
	}
	require.Less(t, store.calls.Load(), int64(200), "2,000 requests")
	charged := func() uint64 {
		outcome, err := store.Store.Take(t.Context(), []ratelimit.Charge{{Key: "k", Limit: limit, Cost: 1, Look: true}})
		require.NoError(t, err)
		return outcome.Results[0].State.Count
	}
	require.Greater(t, charged(), uint64(2000), "negative control: something is held")
	require.LessOrEqual(t, charged(), uint64(2000+2*10_000/10))
	clock.Advance(2 * time.Second)
	replica.Sweep()
	replica.Wait()
	require.EqualValues(t, 2000, charged(), "what was not used is back")

	take() // slices again, then an end in good order
	for range 500 {
		clock.Advance(time.Millisecond)
		take()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	replica.Run(ctx)
	require.EqualValues(t, 2501, charged())
	take()
	require.EqualValues(t, 2502, charged(), "after the end the store decides")
}

func TestOutagesAreBridgedBySlices(t *testing.T) {
	clock := storetest.NewClock()
	store := shared(t, clock.Now)
	limit := ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 100_000, Window: time.Minute}
	replica := lease.New(store, lease.Options{Clock: clock.Now})
	take := func(charges ...ratelimit.Charge) (ratelimit.Outcome, error) {
		defer replica.Wait()
		return replica.Take(t.Context(), charges)
	}
	for range 1000 {
		clock.Advance(time.Millisecond)
		_, err := take(leased("k", limit, 1))
		require.NoError(t, err)
	}
	down := errors.New("down")
	store.err.Store(&down)
	served := 0
	for range 300 {
		if _, err := take(leased("k", limit, 1)); err == nil {
			served++
		}
	}
	require.Greater(t, served, 20, "the last slice goes on for a while")
	require.Less(t, served, 300, "and ends")
	_, err := take(leased("k", limit, 1))
	require.ErrorIs(t, err, down)
}

func TestRefusalsOfOtherLimitsReturnWhatWasSpent(t *testing.T) {
	clock := storetest.NewClock()
	store := shared(t, clock.Now)
	wide := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 10_000, Window: time.Hour}
	narrow := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 1, Window: time.Hour}
	replica := lease.New(store, lease.Options{Clock: clock.Now})
	for range 500 {
		clock.Advance(time.Millisecond)
		_, err := replica.Take(t.Context(), []ratelimit.Charge{leased("wide", wide, 1)})
		require.NoError(t, err)
		replica.Wait()
	}
	admitted := 0
	for range 200 {
		outcome, err := replica.Take(t.Context(), []ratelimit.Charge{leased("wide", wide, 1), {Key: "narrow", Limit: narrow, Cost: 1}})
		require.NoError(t, err)
		require.Len(t, outcome.Results, 2)
		if outcome.Admitted {
			admitted++
		} else {
			require.True(t, outcome.Results[0].Allowed)
			require.False(t, outcome.Results[1].Allowed)
		}
		replica.Wait()
	}
	require.Equal(t, 1, admitted)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	replica.Run(ctx)
	outcome, err := store.Store.Take(t.Context(), []ratelimit.Charge{{Key: "wide", Limit: wide, Cost: 1, Look: true}})
	require.NoError(t, err)
	require.EqualValues(t, 501, outcome.Results[0].State.Count)
}

func TestConcurrentUse(t *testing.T) {
	store := shared(t, nil)
	limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 20_000, Window: 24 * time.Hour}
	var admitted atomic.Int64
	var group sync.WaitGroup
	for range 4 {
		replica := lease.New(store, lease.Options{Horizon: 2 * time.Millisecond, Hold: 5 * time.Millisecond})
		ctx, cancel := context.WithCancel(t.Context())
		var workers sync.WaitGroup
		for range 4 {
			workers.Go(func() {
				for range 3000 {
					outcome, err := replica.Take(context.Background(), []ratelimit.Charge{leased("k", limit, 1)})
					if err == nil && outcome.Admitted {
						admitted.Add(1)
					}
				}
			})
		}
		group.Go(func() {
			workers.Wait()
			cancel()
			replica.Run(ctx)
		})
	}
	group.Wait()
	require.LessOrEqual(t, admitted.Load(), int64(20_000))
	outcome, err := store.Store.Take(t.Context(), []ratelimit.Charge{{Key: "k", Limit: limit, Cost: 1, Look: true}})
	require.NoError(t, err)
	require.EqualValues(t, admitted.Load(), outcome.Results[0].State.Count, "everything unused came back")
}

func TestForget(t *testing.T) {
	store, err := memory.New(memory.Options{MaxKeys: 1000})
	require.NoError(t, err)
	storetest.RunForget(t, lease.New(store, lease.Options{}))
	require.ErrorIs(t, lease.New(shared(t, time.Now), lease.Options{}).Forget(t.Context(), nil), ratelimit.ErrCannotForget)
}
