package ratelimit

import "context"

// Local decides rules with LocalShare while the store gives no answer.
type Local struct {
	// Store keeps this replica's own counters.
	Store Store
	// Share is this replica's place among all and how many there are. It must not
	// block.
	Share func() Share
}

// Share is a replica's part of what all may admit.
type Share struct {
	// Replicas is how many there are; 0 counts as 1.
	Replicas uint32
	// Rank is this one's place among them, from 0, each replica having another;
	// Replicas or more is an unknown one.
	Rank uint32
}

// Of is the part of n: the parts of all replicas together are n. What doesn't
// divide goes to a different replica for each key, and with an unknown rank to
// nobody.
func (s Share) Of(n uint32, key Key) uint32 {
	if s.Replicas <= 1 {
		return n
	}
	part := n / s.Replicas
	if s.Rank < s.Replicas && (uint64(s.Rank)+NewGroup(string(key)+"/", nil)%uint64(s.Replicas))%uint64(s.Replicas) < uint64(n%s.Replicas) {
		part++
	}
	return part
}

// limit is this replica's part of a limit.
func (s Share) limit(limit Limit, key Key) Limit {
	limit.Requests = s.Of(limit.Requests, key)
	for _, number := range []*uint32{&limit.Burst, &limit.Ceiling} {
		if *number == 0 {
			continue
		}
		if *number = s.Of(*number, key); *number == 0 {
			limit.Requests = 0 // 0 would be all of it
		}
	}
	return limit
}

// SetLocal makes rules with LocalShare be decided by local while the store gives
// no answer. It must be called before the first decision.
func (l *Limiter) SetLocal(local *Local) { l.local = local }

// failed answers by the rules' failure modes: one enforced rule that fails
// closed is enough to refuse. Rules that share the limit decide by themselves, all
// or nothing among them.
func (l *Limiter) failed(ctx context.Context, statuses []Status, charges []Charge, places []int, cause error) (Verdict, error) {
	var closed *Rule
	shared := make([]int, len(statuses)) // their places among the local charges
	var local []Charge
	for i := range statuses {
		shared[i] = noPlace
		rule := statuses[i].Rule
		switch {
		case statuses[i].Limit.Unlimited || places[i] == noPlace:
			l.observe(&statuses[i])
			continue
		case rule.LocalShare && l.local != nil:
			charge := charges[places[i]]
			charge.Limit = l.local.Share().limit(charge.Limit, charge.Key)
			local, shared[i] = appendOnce(local, charge)
			statuses[i].Limit = charge.Limit
			continue
		}
		statuses[i].Event = FailedOpen
		if rule.FailureMode == FailClosed && !rule.Shadow {
			statuses[i].Event = FailedClosed
			if closed == nil {
				closed = rule
			}
		}
		l.observe(&statuses[i])
	}
	if closed != nil {
		return Verdict{}, &StoreError{Rule: closed.ID, Cause: cause}
	}
	if len(local) == 0 {
		return Verdict{Allowed: true, Statuses: statuses}, nil
	}
	outcome, err := l.local.Store.Take(ctx, local)
	if err != nil {
		return Verdict{}, &StoreError{Rule: statuses[0].Rule.ID, Cause: err}
	}
	for i := range statuses {
		if shared[i] == noPlace {
			continue
		}
		statuses[i].settle(outcome, local, shared, i)
		if l.observer != nil {
			event := LocalAdmitted
			if statuses[i].Event != Admitted {
				event = LocalRefused
			}
			l.observer.Decided(statuses[i].Rule.ID, event)
		}
	}
	return Verdict{Allowed: outcome.Admitted, Statuses: statuses}, nil
}

// appendOnce appends a charge unless its key is there: descriptors of one key were
// made one charge already.
func appendOnce(charges []Charge, charge Charge) ([]Charge, int) {
	for i := range charges {
		if charges[i].Key == charge.Key {
			return charges, i
		}
	}
	return append(charges, charge), len(charges)
}
