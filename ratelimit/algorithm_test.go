package ratelimit_test

import (
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"weir.dev/ratelimit"
)

const start = ratelimit.Time(1_800_000_000_000_000) // a boundary of whole hours

type step struct {
	after      time.Duration
	cost       uint64
	allowed    bool
	remaining  uint32
	reset      time.Duration
	retryAfter time.Duration
}

func TestDecide(t *testing.T) {
	const s = time.Second
	fixed := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 3, Window: 10 * s}
	smooth := ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 10, Burst: 3, Window: 10 * s}
	third := ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 3, Burst: 1, Window: s}
	refuseAll := ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 0, Burst: 5, Window: 10 * s}
	for name, tc := range map[string]struct {
		limit ratelimit.Limit
		steps []step
	}{
		"fixed window: fills, refuses, starts again at the boundary": {fixed, []step{
			{4 * s, 1, true, 2, 6 * s, 0},
			{1 * s, 2, true, 0, 5 * s, 0},
			{0, 1, false, 0, 5 * s, 5 * s},
			{5*s - time.Microsecond, 1, false, 0, time.Microsecond, time.Microsecond},
			{time.Microsecond, 1, true, 2, 10 * s, 0},
		}},
		"fixed window: a cost that does not fit leaves the smaller one room": {fixed, []step{
			{0, 2, true, 1, 10 * s, 0},
			{0, 2, false, 1, 10 * s, 10 * s},
			{0, 1, true, 0, 10 * s, 0},
		}},
		"fixed window: more than the capacity never fits": {fixed, []step{
			{0, 4, false, 3, 10 * s, 10 * s},
			{0, 1 << 33, false, 3, 10 * s, 10 * s},
		}},
		"fixed window: looking at nothing used": {fixed, []step{{0, 0, true, 3, 10 * s, 0}}},
		"gcra: a burst, then one per interval": {smooth, []step{
			{0, 1, true, 2, 1 * s, 0},
			{0, 2, true, 0, 3 * s, 0},
			{0, 1, false, 0, 3 * s, 1 * s},
			{s - time.Microsecond, 1, false, 0, 2*s + time.Microsecond, time.Microsecond},
			{time.Microsecond, 1, true, 0, 3 * s, 0},
			{5 * s, 0, true, 3, 0, 0},
			{0, 2, true, 1, 2 * s, 0},
			{0, 3, false, 1, 2 * s, 2 * s},
		}},
		"gcra: more than the burst never fits": {smooth, []step{
			{0, 1, true, 2, s, 0},
			{0, 4, false, 2, s, s},
		}},
		"gcra: thirds of a second add up": {third, []step{
			{0, 1, true, 0, 333334 * time.Microsecond, 0},
			{333333 * time.Microsecond, 1, false, 0, time.Microsecond, time.Microsecond},
			{time.Microsecond, 1, true, 0, 333334 * time.Microsecond, 0},
		}},
		"gcra: no requests at all": {refuseAll, []step{
			{0, 1, false, 0, 10 * s, 10 * s},
			{time.Hour, 1, false, 0, 10 * s, 10 * s},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			now, state := start, ratelimit.State{}
			for i, step := range tc.steps {
				now += step.after.Microseconds()
				next, got := ratelimit.Decide(now, tc.limit, state, step.cost)
				require.Equal(t, ratelimit.Decision{
					Allowed: step.allowed, Remaining: step.remaining, Reset: step.reset, RetryAfter: step.retryAfter,
				}, got, "step %d", i)
				if !got.Allowed {
					require.Equal(t, state, next, "a refusal keeps the state")
				}
				state = next
			}
		})
	}
}

// TestGCRAAgainstRationals compares with the textbook in exact fractions.
func TestGCRAAgainstRationals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := drawGCRA(t)
		interval := new(big.Rat).Quo(rat(limit.Window.Microseconds()), rat(int64(limit.Requests)))
		tolerance := new(big.Rat).Mul(interval, rat(int64(limit.Capacity())))
		now, state, arrival := start, ratelimit.State{}, rat(0)
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			now += rapid.Int64Range(0, 2*limit.Window.Microseconds()/int64(limit.Requests)+1).Draw(t, "advance")
			cost := rapid.Uint64Range(1, limit.Capacity()+1).Draw(t, "cost")
			if arrival.Cmp(rat(now)) < 0 {
				arrival = rat(now)
			}
			full := new(big.Rat).Add(rat(now), tolerance)
			next := new(big.Rat).Add(arrival, new(big.Rat).Mul(interval, rat(int64(cost))))
			allowed := next.Cmp(full) <= 0
			if allowed {
				arrival = next
			}
			var got ratelimit.Decision
			state, got = ratelimit.Decide(now, limit, state, cost)
			require.Equal(t, allowed, got.Allowed)
			require.EqualValues(t, floor(new(big.Rat).Quo(new(big.Rat).Sub(full, arrival), interval)), got.Remaining)
			require.Equal(t, ceil(new(big.Rat).Sub(arrival, rat(now))), got.Reset.Microseconds())
			if !allowed && cost <= limit.Capacity() {
				require.Equal(t, ceil(new(big.Rat).Sub(next, full)), got.RetryAfter.Microseconds())
				_, early := ratelimit.Decide(now+got.RetryAfter.Microseconds()-1, limit, state, cost)
				require.False(t, early.Allowed, "RetryAfter is not too late")
				_, later := ratelimit.Decide(now+got.RetryAfter.Microseconds(), limit, state, cost)
				require.True(t, later.Allowed, "RetryAfter is not too early")
			}
		}
	})
}

// TestFixedWindowAgainstALog compares with a list of what was admitted.
func TestFixedWindowAgainstALog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := ratelimit.Limit{
			Algorithm: ratelimit.FixedWindow, Requests: rapid.Uint32Range(0, 20).Draw(t, "requests"),
			Window: time.Duration(rapid.IntRange(100, 10_000).Draw(t, "window")) * time.Millisecond,
		}
		window, used := limit.Window.Microseconds(), map[int64]uint64{}
		now, state := start, ratelimit.State{}
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			now += rapid.Int64Range(0, window).Draw(t, "advance")
			cost := rapid.Uint64Range(1, 6).Draw(t, "cost")
			allowed := used[now/window]+cost <= uint64(limit.Requests)
			if allowed {
				used[now/window] += cost
			}
			var got ratelimit.Decision
			state, got = ratelimit.Decide(now, limit, state, cost)
			require.Equal(t, allowed, got.Allowed)
			require.EqualValues(t, uint64(limit.Requests)-used[now/window], got.Remaining)
			require.Equal(t, (now/window+1)*window-now, got.Reset.Microseconds())
		}
	})
}

// TestAStateExpiresWithoutEffect is what lets stores forget.
func TestAStateExpiresWithoutEffect(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := drawGCRA(t)
		if rapid.Bool().Draw(t, "fixed") {
			limit.Algorithm, limit.Burst = ratelimit.FixedWindow, 0
		}
		state, decision := ratelimit.Decide(start, limit, ratelimit.State{}, rapid.Uint64Range(1, limit.Capacity()).Draw(t, "cost"))
		require.True(t, decision.Allowed)
		later := state.Expiry(limit) + rapid.Int64Range(0, 1_000_000).Draw(t, "later")
		require.Equal(t, ratelimit.Describe(later, limit, ratelimit.State{}), ratelimit.Describe(later, limit, state))
	})
}

// FuzzDecide looks for panics and for admissions beyond the capacity, whatever
// the state: stores hand over what they were given.
func FuzzDecide(f *testing.F) {
	f.Add(uint8(1), uint32(10), uint32(0), int64(1000), start, uint64(3), uint32(0), uint64(1))
	f.Add(uint8(2), uint32(3), uint32(1), int64(60_000), start, uint64(2), uint32(3), uint64(1))
	f.Add(uint8(2), uint32(4_294_967_295), uint32(1), int64(100), int64(-5), uint64(1<<63), uint32(1), uint64(1<<63))
	f.Fuzz(func(t *testing.T, algorithm uint8, requests, burst uint32, windowMillis, at int64, count uint64, scale uint32, cost uint64) {
		rule := ratelimit.Rule{ID: "a/b/c", Limit: ratelimit.Limit{
			Algorithm: ratelimit.Algorithm(algorithm), Requests: requests, Burst: burst, Window: time.Duration(windowMillis) * time.Millisecond,
		}}
		if rule.Validate() != nil {
			return
		}
		cost = min(cost, 1<<33)
		_, decision := ratelimit.Decide(start, rule.Limit, ratelimit.State{At: at, Count: count, Scale: scale}, cost)
		require.LessOrEqual(t, uint64(decision.Remaining), rule.Capacity())
		if decision.Allowed {
			require.LessOrEqual(t, cost, rule.Capacity())
		} else {
			require.Positive(t, decision.RetryAfter)
		}
	})
}

func drawGCRA(t *rapid.T) ratelimit.Limit {
	return ratelimit.Limit{
		Algorithm: ratelimit.GCRA, Requests: rapid.Uint32Range(1, 1_000_003).Draw(t, "requests"),
		Burst:  rapid.Uint32Range(0, 30).Draw(t, "burst"),
		Window: time.Duration(rapid.IntRange(100, 3_600_000).Draw(t, "window")) * time.Millisecond,
	}
}

func rat(n int64) *big.Rat { return new(big.Rat).SetInt64(n) }

func floor(r *big.Rat) int64 {
	return new(big.Int).Div(r.Num(), r.Denom()).Int64() // Euclidean: floors for a positive denominator
}

func ceil(r *big.Rat) int64 { return -floor(new(big.Rat).Neg(r)) }
