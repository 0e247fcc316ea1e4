package ratelimit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
)

// Two reservations, both given back, the second after a third charge came: what
// the refund of the first moved must be remembered, or the third, which is real,
// is given back with the second.
func TestARefundKnowsWhereItsChargeLies(t *testing.T) {
	limit := ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 100, Window: 10 * time.Second}
	run := func(forget bool) uint32 {
		charge := func(now ratelimit.Time, state ratelimit.State) (ratelimit.State, ratelimit.Receipt) {
			next, decision := ratelimit.Decide(now, limit, state, 1)
			require.True(t, decision.Allowed)
			return next, next.Receipt(limit)
		}
		later := start + 100_000
		state, first := charge(start, ratelimit.State{})
		state, second := charge(start, state)
		state = ratelimit.Refund(start, limit, state, 1, first)
		state, _ = charge(later, state)
		if forget { // the control: a state that knows only its arrival time
			state.Back = 0
		}
		state = ratelimit.Refund(later, limit, state, 1, second)
		return ratelimit.Describe(later, limit, state).Remaining
	}
	require.EqualValues(t, 99, run(false), "the third charge stays")
	require.EqualValues(t, 100, run(true), "or it would not")
}

func TestRefunds(t *testing.T) {
	const hour = 3_600_000_000
	left := func(limit ratelimit.Limit, now ratelimit.Time, state ratelimit.State) uint32 {
		return ratelimit.Describe(now, limit, state).Remaining
	}
	for _, limit := range kinds() {
		t.Run(limit.Algorithm.String()+" "+limit.Calendar.String(), func(t *testing.T) {
			charged, _ := ratelimit.Decide(start, limit, ratelimit.State{}, 60)
			receipt := charged.Receipt(limit)
			require.EqualValues(t, 90, left(limit, start, ratelimit.Refund(start, limit, charged, 50, receipt)))
			require.EqualValues(t, 100, left(limit, start, ratelimit.Refund(start, limit, charged, 1<<33, receipt)), "no more than there is")
			require.Equal(t, charged, ratelimit.Refund(start, limit, charged, 0, receipt))
			other := receipt
			other.At += 40 * 24 * hour
			require.LessOrEqual(t, left(limit, start, ratelimit.Refund(start, limit, ratelimit.State{}, 50, other)), uint32(100))
			late := start + 40*24*hour
			fresh, _ := ratelimit.Decide(late, limit, charged, 60)
			require.EqualValues(t, 40, left(limit, late, ratelimit.Refund(late, limit, fresh, 60, receipt)), "what is of the past gives nothing back")
		})
	}
	none := ratelimit.Limit{Algorithm: ratelimit.GCRA, Window: time.Second}
	require.Equal(t, ratelimit.State{}, ratelimit.Refund(start, none, ratelimit.State{}, 5, ratelimit.Receipt{At: start}))
}
