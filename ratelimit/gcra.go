package ratelimit

import (
	"math"
	"math/bits"
	"time"
)

func gcra(now Time, limit Limit, state State, cost uint64, force bool) (State, Decision) {
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
	longest := now + limit.longestBacklog()
	arrival := arrivalOf(now, limit, state, longest)
	decision := Decision{Allowed: cost <= limit.Capacity()}
	if cost > 0 {
		next := newOffset(limit, cost).after(arrival.whole, arrival.rest, scale)
		if decision.Allowed && full.before(next) {
			decision.Allowed = false
			decision.RetryAfter = next.since(full, scale)
		}
		if decision.Allowed || force {
			back := state.Back
			if state.At > now && state.At > arrival.whole {
				back += state.At - arrival.whole + 1
			}
			arrival = next
			if arrival.whole >= longest {
				arrival = offset{whole: longest}
			}
			state = State{At: arrival.whole, Count: arrival.rest, Scale: limit.Requests, Back: back}
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
func arrivalOf(now Time, limit Limit, state State, longest Time) offset {
	arrival := offset{whole: state.At, rest: state.Count}
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

// longestBacklog is the length, in microseconds, that a backlog can have: the
// burst, whatever of it is kept for others, and a window.
func (l Limit) longestBacklog() int64 {
	l.Ceiling = 0
	whole, _ := l.spread(l.Capacity())
	return whole + l.Window.Microseconds()
}

// refundGCRA gives back at most the part of the charge that has not drained yet:
// what lies between now and the arrival time that the charge led to, less what
// that has moved since as others were given back.
func refundGCRA(now Time, limit Limit, state State, cost uint64, receipt Receipt) State {
	if state.Scale != limit.Requests || limit.Requests == 0 || state.At < now {
		return state // or it is no longer known what a request was
	}
	undrained := receipt.At - max(0, state.Back-receipt.Back) - now
	if undrained <= 0 {
		return state
	}
	scale := uint64(limit.Requests)
	back := newOffset(limit, cost)
	if back.whole >= undrained {
		back = offset{whole: undrained}
	}
	arrival := offset{whole: state.At, rest: state.Count}.minus(back, scale)
	if arrival.whole < now {
		arrival = offset{whole: now}
	}
	if back.rest > 0 {
		back.whole++
	}
	return State{At: arrival.whole, Count: arrival.rest, Scale: limit.Requests, Back: state.Back + back.whole}
}
