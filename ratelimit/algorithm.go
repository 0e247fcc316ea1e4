package ratelimit

import "time"

// Time is an instant in microseconds since the Unix epoch.
type Time = int64

// State is what a store keeps per key; the zero value is a key never seen.
type State struct {
	// At is the start of the window counted in (FixedWindow), or the whole
	// microseconds of the theoretical arrival time (GCRA).
	At Time
	// Count is the cost admitted in the window (FixedWindow), or the rest of
	// the theoretical arrival time in units of 1/Scale microseconds (GCRA).
	Count uint64
	// Scale is the rate that Count was written under (GCRA).
	Scale uint32
	// Back is the time by which the theoretical arrival time ever moved earlier
	// (GCRA), so that a Refund knows where its charge now lies.
	Back int64
	// Log is what a SlidingWindow or Concurrency remembers, packed; see log.go.
	Log string
}

// Expiry is when the state stops mattering: from then on it decides like the
// zero value.
func (s State) Expiry(limit Limit) Time {
	switch limit.Algorithm {
	case GCRA:
		if s.Count > 0 {
			return s.At + 1
		}
		return s.At
	case SlidingWindow, Concurrency:
		if len(s.Log) < markBytes {
			return 0
		}
		return int64(readFloat(s.Log[len(s.Log)-markBytes:])) + limit.Window.Microseconds()
	}
	_, end := limit.Period(s.At)
	return end
}

// Decision is the answer for one limit.
type Decision struct {
	// Allowed says whether the limit admits the cost.
	Allowed bool
	// Remaining is the cost that could be admitted now, after this decision.
	Remaining uint32
	// Reset is the time until the whole allowance is back.
	Reset time.Duration
	// RetryAfter is the time until the same cost could be admitted, if nothing
	// else is; for a cost that never can be, the time until the allowance is
	// back. 0 when Allowed.
	RetryAfter time.Duration
}

// Decide is the pure heart: it charges cost to state under limit at now, and
// returns the state to keep. A refusal returns the state as it was. A cost of 0
// is always allowed; look-only callers pass 1 and drop the new state.
func Decide(now Time, limit Limit, state State, cost uint64) (State, Decision) {
	return decide(now, limit, state, cost, false)
}

// Force decides like Decide, and charges the cost also when it is refused. What
// is owed then is bounded, so that no later clock takes it for nonsense: for
// GCRA by a window beyond the burst.
func Force(now Time, limit Limit, state State, cost uint64) (State, Decision) {
	return decide(now, limit, state, cost, true)
}

// Describe is what remains of the limit at now, charging nothing.
func Describe(now Time, limit Limit, state State) Decision {
	_, decision := Decide(now, limit, state, 0)
	return decision
}

// Receipt says where in a State a charge is, for Refund.
type Receipt struct {
	At   Time
	Back int64
}

// Receipt is that of the charge that led to the state.
func (s State) Receipt(limit Limit) Receipt {
	if limit.Algorithm != SlidingWindow && limit.Algorithm != Concurrency {
		return Receipt{At: s.At, Back: s.Back}
	}
	if len(s.Log) < markBytes {
		return Receipt{}
	}
	return Receipt{At: int64(readFloat(s.Log[len(s.Log)-markBytes:]))}
}

// Refund gives back cost of the charge that the receipt is for, which was at
// least as much. It never leaves less than if only the rest had been charged
// then: what has left the window, or drained, is not given back.
func Refund(now Time, limit Limit, state State, cost uint64, receipt Receipt) State {
	switch limit.Algorithm {
	case GCRA:
		return refundGCRA(now, limit, state, cost, receipt)
	case SlidingWindow, Concurrency:
		return refundLogged(now, limit, state, cost, receipt.At)
	}
	if state.At == receipt.At {
		state.Count -= min(cost, state.Count)
	}
	return state
}

func decide(now Time, limit Limit, state State, cost uint64, force bool) (State, Decision) {
	switch limit.Algorithm {
	case GCRA:
		return gcra(now, limit, state, cost, force)
	case SlidingWindow, Concurrency:
		return logged(now, limit, state, cost, force)
	}
	return fixedWindow(now, limit, state, cost, force)
}

// maxCount bounds what a window counts beyond its limit; float64 holds it.
const maxCount = 1 << 50

func fixedWindow(now Time, limit Limit, state State, cost uint64, force bool) (State, Decision) {
	start, end := limit.Period(now)
	used := uint64(0)
	// A window that starts later than now was counted before the clock went
	// back: it stays the current one, unless the step was longer than a window.
	if state.At == end {
		start, end = limit.Period(end)
		used = state.Count
	} else if state.At >= start && state.At < end {
		start, used = state.At, state.Count
	}
	capacity := limit.Capacity()
	decision := Decision{Allowed: cost == 0 || used+cost <= capacity, Reset: micros(end - now)}
	if !decision.Allowed {
		decision.RetryAfter = decision.Reset
	}
	if cost > 0 && (decision.Allowed || force) {
		used = min(used+cost, maxCount)
		state = State{At: start, Count: used}
	}
	if used < capacity {
		decision.Remaining = uint32(capacity - used)
	}
	return state, decision
}

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

// mod is the non-negative remainder, so that windows before 1970 align too.
func mod(a, b int64) int64 {
	r := a % b
	if r < 0 {
		r += b
	}
	return r
}
