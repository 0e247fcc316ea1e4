package ratelimit

import (
	"context"
	"errors"
	"time"
)

// ErrNotGranted says that a rule's algorithm cannot be paid in advance, or that
// its requests do not all cost the same.
var ErrNotGranted = errors.New("limits of this algorithm, or with a cost, cannot be granted in advance")

// Granted is a part of a counter that was charged in advance.
type Granted struct {
	Rule  *Rule
	Limit Limit
	// Cost was charged; 0 when nothing was left.
	Cost uint64
	// Until is how long it may be spent: for FixedWindow until the window's end,
	// 0 for as long as one likes.
	Until time.Duration
	// RetryAfter is how long to wait before asking again, where Cost is 0.
	RetryAfter time.Duration
}

// grantTries bounds how often a grant is tried again with less, when others take
// from the same counter meanwhile.
const grantTries = 4

// GrantRequest says what somebody wants to have in advance.
type GrantRequest struct {
	// Want is the most that is charged.
	Want uint64
	// Least is what is useful: where less is left, nothing is charged. 0 is 1.
	Least uint64
	// Lasting is for how long the grant must be good to be useful.
	Lasting time.Duration
}

// Grant charges a part of what is left of the counter of a descriptor, or nothing,
// for somebody who spends it without asking again. All that anybody was granted
// and all that was decided is together never above the limit. Errors are
// *UnknownRuleError, ErrNotGranted and the store's; after one of the store's it
// is unknown whether something was charged.
func (l *Limiter) Grant(ctx context.Context, descriptor Descriptor, request GrantRequest) (Granted, error) {
	charge, status, err := l.looking(descriptor)
	if err != nil {
		return Granted{}, err
	}
	granted := Granted{Rule: status.Rule, Limit: status.Limit}
	switch {
	case granted.Limit.Unlimited:
		granted.Cost = request.Want
		return granted, nil
	case granted.Limit.Algorithm != FixedWindow && granted.Limit.Algorithm != GCRA, granted.Rule.Cost != (Cost{}):
		return granted, ErrNotGranted
	}
	outcome, err := l.store.Take(ctx, []Charge{charge})
	for range grantTries {
		if err != nil {
			return granted, err
		}
		state := outcome.Results[0].State
		left := Describe(outcome.Now, granted.Limit, state)
		switch ends := granted.Limit.Algorithm == FixedWindow; {
		case ends && left.Reset < request.Lasting:
			granted.RetryAfter = left.Reset
			return granted, nil
		case uint64(left.Remaining) < max(request.Least, 1):
			_, refused := Decide(outcome.Now, granted.Limit, state, max(request.Least, 1))
			granted.RetryAfter = max(refused.RetryAfter, time.Millisecond)
			return granted, nil
		case ends:
			granted.Until = left.Reset
		}
		charge.Look, charge.Cost = false, min(max(request.Want, request.Least, 1), uint64(left.Remaining))
		if outcome, err = l.store.Take(ctx, []Charge{charge}); err == nil && outcome.Admitted {
			granted.Cost = charge.Cost
			if granted.Until > 0 { // The window may be the next one by now.
				granted.Until = Describe(outcome.Now, granted.Limit, outcome.Results[0].State).Reset
			}
			return granted, nil
		}
		// Somebody else took some: what is left is smaller now.
	}
	granted.RetryAfter = time.Millisecond
	return granted, err
}
