package redis

import (
	"encoding/binary"
	"errors"
	"sync/atomic"

	"weir.dev/ratelimit"
)

// Most of what a call costs the server are the charges that its script goes
// through one by one, and many of them are often of the same counters: a route's, a
// tenant's. Where requests share counters, the script therefore first tries all
// requests of the call as one, with the sum of what they charge. If that is
// admitted, each of them is, one after the other: they are decided at the same
// instant, and less was used before each than there is after all. What each found
// is worked out here, by the same functions that the script's are tested against.
// If it isn't, nothing has been charged, and the script decides one by one.

// maxWhole bounds the counters of a whole; see maxCharges.
const maxWhole = maxCharges

// whole is all requests of a call as one: the sums of what they charge, in the
// order of the call's keys.
type whole []ratelimit.Charge

// wholeOf returns nil where requests are better decided one by one: they share
// little, or one of them does not simply charge. places are those of all their keys,
// one after the other, from 1 to keys.
func wholeOf(requests []*request, places []uint16, keys int) whole {
	if keys > maxWhole || 4*len(places) < 5*keys {
		return nil
	}
	w := make(whole, 0, keys)
	for _, r := range requests {
		for i := range r.own {
			if !w.add(places[0], &r.own[i]) {
				return nil
			}
			places = places[1:]
		}
	}
	for i := range w {
		if w[i].Cost >= ratelimit.MaxCost || w[i].Cost > w[i].Limit.Capacity() {
			return nil
		}
	}
	return w
}

// add reports whether the charge can be part of a sum. Keys come in their order.
func (w *whole) add(place uint16, charge *ratelimit.Charge) bool {
	if charge.Look || charge.Refund || charge.Force {
		return false
	}
	if int(place) > len(*w) {
		*w = append(*w, *charge)
		(*w)[place-1].Shadow = false // One that would be refused has to be decided by itself.
		return true
	}
	same := &(*w)[place-1]
	same.Cost = min(same.Cost+charge.Cost, ratelimit.MaxCost)
	return same.Limit == charge.Limit
}

// encode is the whole as the script reads it.
func (w whole) encode(clock ratelimit.Time) []byte {
	buffer := appendRequest(make([]byte, 0, 1+chargeMost*len(w)), clock, w)
	for at, place := 1, uint16(1); at < len(buffer); place++ {
		binary.LittleEndian.PutUint16(buffer[at+chargePlace:], place)
		at += chargeHead + int(buffer[at+chargeHead-1])
	}
	return buffer
}

var errWhole = errors.New("the script admitted more than there is; is another program using its keys?")

// answer tells each request what it found, from what the counters held before all
// of them.
func (w whole) answer(answer string, requests []*request, places []uint16) (err error) {
	var now ratelimit.Time
	var before ratelimit.Outcome
	if cutErr := cut(answer, []int{len(w)}, func(_ int, at ratelimit.Time, part string) {
		now = at
		before, err = parse(at, part, w)
	}); cutErr != nil || err != nil {
		return errors.Join(cutErr, err)
	}
	outcomes := make([]ratelimit.Outcome, len(requests))
	for n, r := range requests {
		results := make([]ratelimit.Result, len(r.own))
		for i := range r.own {
			state := &before.Results[places[0]-1].State
			places = places[1:]
			after, decision := r.own[i].Apply(now, *state)
			if !decision.Allowed {
				return errWhole
			}
			*state = after
			results[i] = ratelimit.Result{Allowed: true, State: after}
		}
		outcomes[n] = ratelimit.Outcome{Now: now, Admitted: true, Results: results}
	}
	for n, r := range requests {
		r.outcome = outcomes[n]
		r.answer(now, "", nil)
	}
	return nil
}

// maxApart bounds the calls that are not tried as a whole after one was refused.
const maxApart = 64

// hopes says whether trying a whole is likely to be worth it: after a refusal not
// for two calls, after another for four, and so on. Safe for concurrent use.
type hopes struct{ skip, pause atomic.Int32 }

func (h *hopes) worth() bool { return h.skip.Load() <= 0 || h.skip.Add(-1) < 0 }

func (h *hopes) learn(admitted bool) {
	pause := int32(0)
	if !admitted {
		pause = min(max(2, 2*h.pause.Load()), maxApart)
	}
	h.pause.Store(pause)
	h.skip.Store(pause)
}
