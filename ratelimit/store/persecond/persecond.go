// Package persecond keeps limits per second in a store of their own
// (REDIS_PERSECOND of envoyproxy/ratelimit). What it promises is what
// ratelimit.Store says of a store that is spread over servers: a request with
// limits in both is charged in one and then in the other, and what was charged is
// given back when the second refuses or fails.
package persecond

import (
	"context"
	"errors"
	"time"

	"weir.dev/ratelimit"
)

// refundTimeout bounds giving back, for which the caller need not wait.
const refundTimeout = 5 * time.Second

// Store is a ratelimit.Store over two others. Safe for concurrent use.
type Store struct{ seconds, others ratelimit.Store }

// New makes one: fixed windows of a second are kept in seconds.
func New(seconds, others ratelimit.Store) *Store { return &Store{seconds, others} }

func (s *Store) inSeconds(charge *ratelimit.Charge) bool {
	return charge.Limit.Algorithm == ratelimit.FixedWindow && charge.Limit.Window == time.Second
}

// part is what of a request is in one store.
type part struct {
	store   ratelimit.Store
	charges []ratelimit.Charge
	places  []int
}

// Take implements ratelimit.Store.
func (s *Store) Take(ctx context.Context, charges []ratelimit.Charge) (ratelimit.Outcome, error) {
	parts := [2]part{{store: s.seconds}, {store: s.others}}
	for i := range charges {
		of := &parts[1]
		if s.inSeconds(&charges[i]) {
			of = &parts[0]
		}
		of.charges, of.places = append(of.charges, charges[i]), append(of.places, i)
	}
	for i := range parts {
		if len(parts[i].charges) == len(charges) {
			return parts[i].store.Take(ctx, charges)
		}
	}
	// What is for a second is asked first: it refuses more often, and what it has
	// to get back is forgotten the soonest.
	first, err := parts[0].store.Take(ctx, parts[0].charges)
	if err != nil {
		return ratelimit.Outcome{}, err
	}
	if !first.Admitted {
		for i := range parts[1].charges { // The others are looked at, for the answer.
			parts[1].charges[i].Look = parts[1].charges[i].Look || !parts[1].charges[i].Force
		}
	}
	second, err := parts[1].store.Take(ctx, parts[1].charges)
	if first.Admitted && (err != nil || !second.Admitted) {
		err = errors.Join(err, parts[0].refund(ctx, &first))
	}
	if err != nil {
		return ratelimit.Outcome{}, err
	}
	whole := ratelimit.Outcome{
		Now: max(first.Now, second.Now), Admitted: first.Admitted && second.Admitted, Results: make([]ratelimit.Result, len(charges)),
	}
	for n, outcome := range []*ratelimit.Outcome{&first, &second} {
		for i, place := range parts[n].places {
			whole.Results[place] = outcome.Results[i]
		}
	}
	return whole, nil
}

// refund gives back what was charged, and puts what the counters then hold into
// the outcome.
func (p *part) refund(ctx context.Context, outcome *ratelimit.Outcome) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refundTimeout)
	defer cancel()
	var refunds []ratelimit.Charge
	var places []int
	for i, charge := range p.charges {
		if outcome.Results[i].Allowed && !charge.Look && !charge.Refund && !charge.Force {
			charge.Refund, charge.Receipt = true, outcome.Results[i].State.Receipt(charge.Limit)
			refunds, places = append(refunds, charge), append(places, i)
		}
	}
	if len(refunds) == 0 {
		return nil
	}
	back, err := p.store.Take(ctx, refunds)
	if err != nil {
		return err
	}
	for i, place := range places {
		outcome.Results[place].State = back.Results[i].State
	}
	return nil
}
