package redis

import (
	"context"
	"errors"

	"weir.dev/ratelimit"
)

// A request whose counters are in several groups is charged in each as if it
// were alone there, all at the same time. If one refuses it, the others are told
// to take their charges back, each at most once, before the request is refused. Charges that
// count refused requests stay.
//
// No limit ever admits more than alone: a request passes only when it is charged
// everywhere, and what is taken back is never more than was charged. In turn a
// limit may admit less: for a round trip, what others refuse counts; what drained
// in that round trip is not given back; and what is charged stays so when a
// server gives no answer, for then it isn't known whether it charged.

// part is a request to one group.
type part struct {
	request *request
	// places are those of its charges in the whole request.
	places  []int
	charges []ratelimit.Charge
	outcome ratelimit.Outcome
	err     error
}

func (s *Store) byGroup(charges []ratelimit.Charge) []*part {
	var parts []*part
	byGroup := map[int]*part{}
	for i := range charges {
		group := s.groupOf(&charges[i])
		one := byGroup[group]
		if one == nil {
			one = &part{}
			byGroup[group] = one
			parts = append(parts, one)
		}
		one.places = append(one.places, i)
		one.charges = append(one.charges, charges[i])
	}
	return parts
}

func (s *Store) byKey(charges []ratelimit.Charge) []*part {
	parts := make([]*part, len(charges))
	for i := range charges {
		parts[i] = &part{places: []int{i}, charges: charges[i : i+1 : i+1]}
	}
	return parts
}

// takeSplit decides parts that each are in one group. Once they are sent it ends
// what it began, though the caller may no longer wait.
func (s *Store) takeSplit(ctx context.Context, charges []ratelimit.Charge, parts []*part) (ratelimit.Outcome, error) {
	type result struct {
		outcome ratelimit.Outcome
		err     error
	}
	own := append([]ratelimit.Charge(nil), charges...) // the caller may leave, and use its own again
	for _, one := range parts {
		for i, place := range one.places {
			one.charges[i] = own[place]
		}
	}
	ended := make(chan result, 1)
	go func() {
		outcome, err := s.settle(ctx, len(own), parts)
		ended <- result{outcome, err}
	}()
	select {
	case result := <-ended:
		return result.outcome, result.err
	case <-ctx.Done():
		return ratelimit.Outcome{}, ctx.Err()
	}
}

func (s *Store) settle(ctx context.Context, count int, parts []*part) (ratelimit.Outcome, error) {
	s.takeParts(ctx, parts)
	admitted := true
	var errs []error
	for _, one := range parts {
		admitted = admitted && one.err == nil && one.outcome.Admitted
		errs = append(errs, one.err)
	}
	err := errors.Join(errs...)
	if !admitted {
		// The charges have been made, so the caller's patience no longer counts.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		s.refund(bounded, parts)
	}
	if err != nil {
		return ratelimit.Outcome{}, err
	}
	whole := ratelimit.Outcome{Admitted: admitted, Results: make([]ratelimit.Result, count)}
	for _, one := range parts {
		whole.Now = max(whole.Now, one.outcome.Now)
		for i, place := range one.places {
			whole.Results[place] = one.outcome.Results[i]
		}
	}
	return whole, nil
}

// takeParts sends all and waits for all.
func (s *Store) takeParts(ctx context.Context, parts []*part) {
	for _, one := range parts {
		one.request = s.newRequest(ctx, s.groupOf(&one.charges[0]), one.charges)
		one.err = s.send(ctx, one.request)
	}
	for _, one := range parts {
		if one.err == nil {
			one.err = one.request.wait(ctx)
		}
		if errors.Is(one.err, errTryAgain) && len(one.charges) > 1 {
			s.takeKeys(ctx, one)
			continue
		}
		if one.err == nil {
			one.outcome, one.err = one.request.decided(one.charges)
		}
	}
}

// takeKeys decides a part key by key; see Store.take. A refund follows from what
// its outcome says of each.
func (s *Store) takeKeys(ctx context.Context, whole *part) {
	parts := s.byKey(whole.charges)
	whole.outcome, whole.err = s.settle(ctx, len(whole.charges), parts)
}

// refund takes back the charges of parts that were admitted, and puts what the
// keys then hold into their outcomes.
func (s *Store) refund(ctx context.Context, parts []*part) {
	var refunds []*part
	for _, one := range parts {
		if one.err != nil || !one.outcome.Admitted {
			continue
		}
		for i := range one.charges {
			charge := &one.charges[i]
			if one.outcome.Results[i].Allowed && !charge.Look && !charge.Refund && !charge.Force {
				refunds = append(refunds, s.sendRefund(ctx, one, i))
			}
		}
	}
	for _, one := range refunds {
		if one.err == nil {
			one.err = one.request.wait(ctx)
		}
		if one.err != nil {
			continue // it stays charged
		}
		if outcome, err := one.request.decided(one.charges); err == nil {
			one.outcome.Results[one.places[0]].State = outcome.Results[0].State
		}
	}
}

// sendRefund sends the refund of charge i of a part.
func (s *Store) sendRefund(ctx context.Context, from *part, i int) *part {
	charge := from.charges[i]
	charge.Refund, charge.Receipt = true, from.outcome.Results[i].State.Receipt(charge.Limit)
	one := &part{places: []int{i}, charges: []ratelimit.Charge{charge}, outcome: from.outcome}
	one.request = s.newRequest(ctx, from.request.group, one.charges)
	one.err = s.send(ctx, one.request)
	return one
}
