package lease

import (
	"math"

	"weir.dev/ratelimit"
)

// segment is a slice of a limit's budget that is charged to the store.
//
// For GCRA it is a piece of the theoretical time of the counter, from base on,
// one place for each of total. A request that comes at an instant t may take a
// place that begins at t or later, and none that ends beyond what the burst
// allows at t; places that begin before t are lost. All admitted requests then
// have places of their own, each in the time that GCRA would admit it in, so in
// any interval of a length d there are at most burst + d × rate of them, as with
// one counter. The end of the slice is within the burst when it is leased, so
// only the beginning needs to be looked at.
//
// For a fixed window base is the window's start, and end its end.
type segment struct {
	charge ratelimit.Charge // what was charged: Cost is total
	state  ratelimit.State  // and what that left
	base   ratelimit.Time
	end    ratelimit.Time
	total  uint64
	used   uint64
	// ahead is how far the store's clock is ahead of ours, at most.
	ahead ratelimit.Time
}

// newSegment is what an admitted charge gives, of which the answer came from a
// call that began at sent of our clock.
func newSegment(charge ratelimit.Charge, outcome ratelimit.Outcome, sent ratelimit.Time) *segment {
	state := outcome.Results[0].State
	s := &segment{charge: charge, state: state, total: charge.Cost, ahead: outcome.Now - sent}
	if charge.Limit.Algorithm == ratelimit.GCRA {
		s.end = state.At
		// Rounded so that no place is thought later than it is.
		s.base = state.At - int64(math.Ceil(float64(s.total)*s.place())) - 1
		return s
	}
	_, s.end = charge.Limit.Period(state.At)
	s.base = state.At
	return s
}

// place is the length of one place in microseconds (GCRA).
func (s *segment) place() float64 {
	return float64(s.charge.Limit.Window.Microseconds()) / float64(s.charge.Limit.Requests)
}

// left loses the places that begin before now of the store's clock, and returns
// how many are left.
func (s *segment) left(now ratelimit.Time) uint64 {
	if s.charge.Limit.Algorithm == ratelimit.GCRA {
		if now > s.base {
			s.used = max(s.used, uint64(math.Ceil(float64(now-s.base)/s.place())))
		}
	} else if now >= s.end {
		s.used = s.total
	}
	s.used = min(s.used, s.total)
	return s.total - s.used
}

// stateNow is what the counter would hold if nobody else had charged it since.
func (s *segment) stateNow() ratelimit.State {
	state := s.state
	if s.charge.Limit.Algorithm == ratelimit.GCRA {
		state.At, state.Count = s.base+int64(math.Ceil(float64(s.used)*s.place())), 0
		return state
	}
	state.Count -= min(state.Count, s.total-s.used)
	return state
}

// refund is the charge that gives back what is left; it can't be spent then. Of
// GCRA nothing is given back: that would move the places of all later slices to
// an earlier time, and those who hold them could not know. They pass unused.
func (s *segment) refund(now ratelimit.Time) (charge ratelimit.Charge, any bool) {
	left := s.left(now)
	s.used = s.total
	charge = s.charge
	charge.Cost, charge.Refund, charge.Receipt = left, true, s.state.Receipt(charge.Limit)
	return charge, left > 0 && s.charge.Limit.Algorithm == ratelimit.FixedWindow
}
