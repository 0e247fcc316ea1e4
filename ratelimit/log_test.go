package ratelimit_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"weir.dev/ratelimit"
)

// spend is one entry of the plain model of a sliding window: all that was
// admitted, each with its time.
type spend struct {
	at   ratelimit.Time
	cost uint64
}

// within is what was spent in the window's length that ends with, and includes,
// the instant at.
func within(log []spend, at ratelimit.Time, window int64) uint64 {
	total := uint64(0)
	for _, one := range log {
		if one.at > at-window && one.at <= at {
			total += one.cost
		}
	}
	return total
}

// windowed is a decision procedure over a state; the negative control has
// another.
type windowed func(now ratelimit.Time, limit ratelimit.Limit, state ratelimit.State, cost uint64) (ratelimit.State, ratelimit.Decision)

// againstLog drives decide and reports whether it kept the promise of
// SlidingWindow: never more than the limit in any window's length, and no
// refusal of what the log of the last window and a sixteenth would admit.
func againstLog(t *rapid.T, limit ratelimit.Limit, decide windowed) (never, late bool) {
	window := limit.Window.Microseconds()
	slot := (window + 15) / 16
	now, state := start+rapid.Int64Range(0, 2*window).Draw(t, "begin"), ratelimit.State{}
	var log []spend
	never, late = true, true
	for range rapid.IntRange(1, 80).Draw(t, "steps") {
		now += rapid.OneOf(rapid.Int64Range(0, 3), rapid.Int64Range(0, window/20), rapid.Int64Range(0, window)).Draw(t, "advance")
		cost := rapid.Uint64Range(1, limit.Capacity()+1).Draw(t, "cost")
		next, decision := decide(now, limit, state, cost)
		if decision.Allowed {
			log = append(log, spend{now, cost})
			never = never && within(log, now, window) <= limit.Capacity()
		} else {
			late = late && within(log, now, window+slot)+cost > limit.Capacity()
		}
		state = next
	}
	return never, late
}

func drawSliding(t *rapid.T) ratelimit.Limit {
	return ratelimit.Limit{
		Algorithm: ratelimit.SlidingWindow, Requests: rapid.SampledFrom([]uint32{1, 2, 5, 16, 17, 18, 40, 1000}).Draw(t, "requests"),
		Window: rapid.SampledFrom([]time.Duration{time.Second, 7 * time.Second, time.Hour, 101 * time.Millisecond}).Draw(t, "window"),
	}
}

func TestSlidingWindowAgainstALogOfTimestamps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		never, late := againstLog(t, drawSliding(t), ratelimit.Decide)
		require.True(t, never, "more than the limit within one window's length")
		require.True(t, late, "refused what is older than a window and a sixteenth")
	})
}

// The property above sees the double burst of a fixed window at a boundary.
func TestFixedWindowsFailTheSlidingWindowsProperty(t *testing.T) {
	failed := false
	rapid.Check(t, func(t *rapid.T) {
		never, _ := againstLog(t, drawSliding(t), func(now ratelimit.Time, limit ratelimit.Limit, state ratelimit.State, cost uint64) (ratelimit.State, ratelimit.Decision) {
			limit.Algorithm = ratelimit.FixedWindow
			return ratelimit.Decide(now, limit, state, cost)
		})
		failed = failed || !never
	})
	require.True(t, failed)
}

// Up to 17 admissions in a window a log is exact in both directions.
func TestSlidingWindowIsExactForFew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := drawSliding(t)
		limit.Requests = rapid.Uint32Range(1, 17).Draw(t, "few")
		window := limit.Window.Microseconds()
		now, state := start, ratelimit.State{}
		var log []spend
		for range 60 {
			now += rapid.Int64Range(0, window/8).Draw(t, "advance")
			next, decision := ratelimit.Decide(now, limit, state, 1)
			require.Equal(t, within(log, now, window)+1 <= limit.Capacity(), decision.Allowed)
			if decision.Allowed {
				log = append(log, spend{now, 1})
			} else {
				require.Equal(t, state, next)
				later := now + decision.RetryAfter.Microseconds()
				require.LessOrEqual(t, within(log, later, window)+1, limit.Capacity(), "Retry-After is long enough")
				require.Greater(t, within(log, later-1, window)+1, limit.Capacity(), "and no longer than that")
			}
			state = next
		}
	})
}

func TestLogsAnswer(t *testing.T) {
	const s = time.Second
	sliding := ratelimit.Limit{Algorithm: ratelimit.SlidingWindow, Requests: 3, Window: 10 * s}
	places := ratelimit.Limit{Algorithm: ratelimit.Concurrency, Requests: 2, Window: 30 * s}
	for name, tc := range map[string]struct {
		limit ratelimit.Limit
		steps []step
	}{
		"a boundary of the clock is none here": {sliding, []step{
			{9 * s, 2, true, 1, 10 * s, 0},
			{2 * s, 2, false, 1, 8 * s, 8 * s},
			{0, 1, true, 0, 10 * s, 0},
			{8*s - time.Microsecond, 1, false, 0, 2*s + time.Microsecond, time.Microsecond},
			{time.Microsecond, 2, true, 0, 10 * s, 0},
			{0, 3, false, 0, 10 * s, 10 * s},
			{0, 4, false, 0, 10 * s, 10 * s},
			{10 * s, 0, true, 3, 0, 0},
		}},
		"more than the limit, of nothing used": {sliding, []step{{0, 4, false, 3, 0, time.Microsecond}}},
		"places are told to come back within a second": {places, []step{
			{0, 2, true, 0, 30 * s, 0},
			{s, 1, false, 0, 29 * s, s},
			{29*s - time.Millisecond, 1, false, 0, time.Millisecond, time.Millisecond},
			{time.Millisecond, 1, true, 1, 30 * s, 0},
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
				state = next
			}
		})
	}
}

// What is left after refunds is never more than if the rest alone had been
// charged in the first place.
func TestRefundsNeverGiveMoreThanWasTaken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := ratelimit.Limit{
			Algorithm: rapid.SampledFrom([]ratelimit.Algorithm{ratelimit.FixedWindow, ratelimit.GCRA}).Draw(t, "algorithm"),
			Requests:  rapid.SampledFrom([]uint32{7, 100, 1000}).Draw(t, "requests"), Window: 10 * time.Second,
		}
		type reservation struct {
			receipt ratelimit.Receipt
			back    uint64
		}
		now, real, ideal := start, ratelimit.State{}, ratelimit.State{}
		var open []reservation
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += rapid.Int64Range(0, 2_000_000).Draw(t, "advance")
			if len(open) > 0 && rapid.Bool().Draw(t, "settle") {
				i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				real = ratelimit.Refund(now, limit, real, open[i].back, open[i].receipt)
				open = slices.Delete(open, i, i+1)
			} else {
				reserved := rapid.Uint64Range(1, limit.Capacity()/2+1).Draw(t, "reserved")
				used := rapid.Uint64Range(0, reserved).Draw(t, "used")
				next, decision := ratelimit.Decide(now, limit, real, reserved)
				if decision.Allowed {
					real = next
					// The ideal knew from the beginning what would be used.
					ideal, _ = ratelimit.Force(now, limit, ideal, used)
					open = append(open, reservation{next.Receipt(limit), reserved - used})
				}
			}
			require.LessOrEqual(t, ratelimit.Describe(now, limit, real).Remaining, ratelimit.Describe(now, limit, ideal).Remaining)
		}
	})
}

// Under a log what is given back is held to the model of timestamps instead:
// what was really used never exceeds the limit in any window's length.
func TestPlacesGivenBack(t *testing.T) {
	for _, algorithm := range []ratelimit.Algorithm{ratelimit.SlidingWindow, ratelimit.Concurrency} {
		t.Run(algorithm.String(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				limit := drawSliding(t)
				limit.Algorithm = algorithm
				window := limit.Window.Microseconds()
				type place struct {
					spend
					receipt ratelimit.Receipt
				}
				var log []spend
				var open []place
				now, state := start, ratelimit.State{}
				for range rapid.IntRange(1, 100).Draw(t, "steps") {
					now += rapid.OneOf(rapid.Int64Range(0, window/40), rapid.Int64Range(0, window/3)).Draw(t, "advance")
					if len(open) > 0 && rapid.Bool().Draw(t, "give back") {
						i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
						state = ratelimit.Refund(now, limit, state, open[i].cost, open[i].receipt)
						log = slices.DeleteFunc(log, func(s spend) bool { return s == open[i].spend })
						open = slices.Delete(open, i, i+1)
						continue
					}
					cost := rapid.Uint64Range(1, 3).Draw(t, "cost")
					next, decision := ratelimit.Decide(now, limit, state, cost)
					if !decision.Allowed || len(log) > 0 && log[len(log)-1].at == now {
						continue
					}
					state = next
					log = append(log, spend{now, cost})
					open = append(open, place{spend{now, cost}, next.Receipt(limit)})
					require.LessOrEqual(t, within(log, now, window), limit.Capacity())
				}
			})
		})
	}
}

func TestLogsAndAClockThatGoesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := drawSliding(t)
		now, state := start, ratelimit.State{}
		for range 100 {
			now += rapid.Int64Range(-limit.Window.Microseconds(), limit.Window.Microseconds()).Draw(t, "step")
			next, decision := ratelimit.Force(now, limit, state, rapid.Uint64Range(1, 1<<33).Draw(t, "cost"))
			require.LessOrEqual(t, len(next.Log), 17*12, "bounded")
			require.GreaterOrEqual(t, decision.Reset, time.Duration(0))
			require.LessOrEqual(t, decision.Reset, 2*limit.Window)
			state = next
		}
	})
}
