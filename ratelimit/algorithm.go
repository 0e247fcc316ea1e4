package ratelimit

import (
	"math"
	"math/bits"
	"time"
)

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
}

// Expiry is when the state stops mattering: from then on it decides like the
// zero value.
func (s State) Expiry(limit Limit) Time {
	if limit.Algorithm == GCRA {
		if s.Count > 0 {
			return s.At + 1
		}
		return s.At
	}
	return s.At + limit.Window.Microseconds()
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
	if limit.Algorithm == GCRA {
		return gcra(now, limit, state, cost)
	}
	return fixedWindow(now, limit, state, cost)
}

// Describe is what remains of the limit at now, charging nothing.
func Describe(now Time, limit Limit, state State) Decision {
	_, decision := Decide(now, limit, state, 0)
	return decision
}

func fixedWindow(now Time, limit Limit, state State, cost uint64) (State, Decision) {
	window := limit.Window.Microseconds()
	start := now - mod(now, window)
	used := uint64(0)
	// A window that starts later than now was counted before the clock went
	// back: it stays the current one, unless the step was longer than a window.
	if state.At >= start && state.At <= start+window {
		start, used = state.At, state.Count
	}
	capacity := limit.Capacity()
	decision := Decision{Allowed: cost == 0 || used+cost <= capacity, Reset: micros(start + window - now)}
	if !decision.Allowed {
		decision.RetryAfter = decision.Reset
	} else if cost > 0 {
		used += cost
		state = State{At: start, Count: used}
	}
	if used < capacity {
		decision.Remaining = uint32(capacity - used)
	}
	return state, decision
}

func gcra(now Time, limit Limit, state State, cost uint64) (State, Decision) {
	if limit.Requests == 0 {
		decision := Decision{Allowed: cost == 0, Reset: limit.Window}
		if cost > 0 {
			decision.RetryAfter = limit.Window
		}
		return state, decision
	}
	scale := uint64(limit.Requests)
	tolerance := newOffset(limit, limit.Capacity())
	full := tolerance.after(now, 0, scale)
	arrival := arrivalOf(now, limit, state, full)
	decision := Decision{Allowed: cost <= limit.Capacity()}
	if decision.Allowed && cost > 0 {
		next := newOffset(limit, cost).after(arrival.whole, arrival.rest, scale)
		if full.before(next) {
			decision.Allowed = false
			decision.RetryAfter = next.since(full, scale)
		} else {
			arrival = next
			state = State{At: arrival.whole, Count: arrival.rest, Scale: limit.Requests}
		}
	}
	decision.Reset = arrival.since(offset{whole: now}, scale)
	if cost > limit.Capacity() {
		decision.RetryAfter = max(decision.Reset, time.Microsecond)
	}
	decision.Remaining = arrival.room(full, limit)
	return state, decision
}

// arrivalOf is the theoretical arrival time, never before now.
//
// A backlog written under another rate is converted, so that the requests it
// stands for stay the same; it loses its rest to the next whole microsecond. A
// backlog longer than the tolerance by more than a window cannot come from
// these numbers and this clock, and counts as none; a smaller excess, as after
// a small step back of the clock, is waited for.
func arrivalOf(now Time, limit Limit, state State, full offset) offset {
	arrival := offset{whole: state.At, rest: state.Count}
	longest := full.whole + limit.Window.Microseconds()
	if state.Scale != limit.Requests && state.Scale != 0 {
		if arrival.rest > 0 {
			arrival = offset{whole: arrival.whole + 1}
		}
		// In float64, as Redis computes it.
		backlog := math.Ceil(float64(arrival.whole-now) * float64(state.Scale) / float64(limit.Requests))
		if backlog > float64(longest-now) {
			return offset{whole: now}
		}
		arrival.whole = now + int64(max(backlog, 0))
	}
	if arrival.whole < now || arrival.whole > longest {
		return offset{whole: now}
	}
	return arrival
}

// offset is a time, or a length of time, of whole microseconds and a rest in
// units of 1/Requests of a microsecond, rest < Requests.
type offset struct {
	whole int64
	rest  uint64
}

func newOffset(limit Limit, n uint64) offset {
	whole, rest := limit.spread(n)
	return offset{whole: whole, rest: rest}
}

func (o offset) after(whole int64, rest, scale uint64) offset {
	sum := offset{whole: o.whole + whole, rest: o.rest + rest}
	if sum.rest >= scale {
		sum.whole, sum.rest = sum.whole+1, sum.rest-scale
	}
	return sum
}

func (o offset) before(other offset) bool {
	return o.whole < other.whole || o.whole == other.whole && o.rest < other.rest
}

// since is o - earlier, rounded up to a microsecond.
func (o offset) since(earlier offset, scale uint64) time.Duration {
	difference := o.minus(earlier, scale)
	if difference.rest > 0 {
		difference.whole++
	}
	return micros(difference.whole)
}

func (o offset) minus(earlier offset, scale uint64) offset {
	if o.rest < earlier.rest {
		return offset{whole: o.whole - earlier.whole - 1, rest: o.rest + scale - earlier.rest}
	}
	return offset{whole: o.whole - earlier.whole, rest: o.rest - earlier.rest}
}

// room is how many requests fit between o and full.
func (o offset) room(full offset, limit Limit) uint32 {
	if full.before(o) {
		return 0
	}
	gap := full.minus(o, uint64(limit.Requests))
	high, low := bits.Mul64(uint64(gap.whole), uint64(limit.Requests))
	low, carry := bits.Add64(low, gap.rest, 0)
	high += carry
	window := uint64(limit.Window.Microseconds())
	if high >= window {
		return uint32(limit.Capacity())
	}
	n, _ := bits.Div64(high, low, window)
	return uint32(min(n, limit.Capacity()))
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
