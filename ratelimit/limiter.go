package ratelimit

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
)

// MaxDescriptors bounds the limits of one request.
const MaxDescriptors = 64

// tierEntry is the descriptor entry that chooses a rule's numbers.
const tierEntry = "tier"

// Descriptor asks for a decision by one rule.
type Descriptor struct {
	// Rule is the rule's id.
	Rule string
	// Entries say what is counted separately, in order. An entry named "tier"
	// also picks the numbers; those named EntryClass, EntryRequests, EntryCost
	// and EntryTicket say something of the request and are not counted by.
	Entries []Entry
	// Cost is the hits, which are charged, each as the rule's Cost says; 0 looks
	// without charging, and is refused when a cost of 1 would be. A cost above
	// every possible limit is refused, not an error.
	Cost uint64
}

// MaxCost saturates costs: it is above every capacity, so a sum cannot overflow.
const MaxCost = 1 << 33

// Event names what happened to a descriptor, for observers.
type Event uint8

// The events, one per descriptor and decision.
const (
	// Admitted: the limit admits and the request passes.
	Admitted Event = iota
	// Refused: the limit refuses the request.
	Refused
	// ShadowRefused: a shadow limit would have refused the request.
	ShadowRefused
	// Spared: the limit admits, and is not charged as another one refused.
	Spared
	// FailedOpen and FailedClosed: the store gave no answer.
	FailedOpen
	FailedClosed
	// Settled: the request was over, and what it was charged is settled.
	Settled
	// LocalAdmitted and LocalRefused: the store gave no answer, and the replica's
	// share of the limit decided. Observers hear these; the Status has what it
	// would have with the store.
	LocalAdmitted
	LocalRefused
	eventCount
)

// EventCount is the number of different events.
const EventCount = int(eventCount)

// String is the event's name in metrics.
func (e Event) String() string {
	return [...]string{"ok", "over_limit", "shadow_over_limit", "spared", "failed_open", "failed_closed", "settled", "local_ok", "local_over_limit"}[e]
}

// Status is the answer for one descriptor.
type Status struct {
	Rule *Rule
	// Limit is the rule's limit with the tier's numbers.
	Limit Limit
	// Decision is meaningless unless Event is Admitted, Refused, ShadowRefused
	// or Spared.
	Decision Decision
	Event    Event
	// Ticket is for the EntryTicket of the call that tells that the request is
	// over; empty if there is nothing to tell then.
	Ticket string
}

// Verdict is the answer for one request.
type Verdict struct {
	// Allowed says whether the request passes.
	Allowed bool
	// Statuses has one element per descriptor, in order.
	Statuses []Status
}

// Observer learns of every decision. It is called on the hot path, from many
// goroutines, and must not block.
type Observer interface {
	Decided(rule string, event Event)
}

// UnknownRuleError says that a descriptor names a rule that is not in the
// table.
type UnknownRuleError struct{ Rule string }

// Error implements error.
func (e *UnknownRuleError) Error() string {
	return fmt.Sprintf("rate limit rule %q is not known here (yet); check that its policy is programmed", e.Rule)
}

// StoreError says that the store gave no answer and that Rule, which fails
// closed, wants the request refused for it.
type StoreError struct {
	Rule  string
	Cause error
}

// Error implements error.
func (e *StoreError) Error() string {
	return fmt.Sprintf("rate limit rule %q fails closed and its counters cannot be reached: %v", e.Rule, e.Cause)
}

// Unwrap returns the store's error.
func (e *StoreError) Unwrap() error { return e.Cause }

// Limiter decides requests. It is safe for concurrent use.
type Limiter struct {
	store    Store
	observer Observer
	local    *Local // nil without
	table    atomic.Pointer[Table]
}

// NewLimiter makes a limiter without rules. observer may be nil.
func NewLimiter(store Store, observer Observer) *Limiter {
	limiter := &Limiter{store: store, observer: observer}
	limiter.table.Store(&Table{})
	return limiter
}

// SetTable swaps in a new set of rules; decisions under way end with the old.
func (l *Limiter) SetTable(table *Table) { l.table.Store(table) }

// Decide decides a request of 1 to MaxDescriptors descriptors. Errors are
// *UnknownRuleError and *StoreError; a store failure that all rules concerned
// leave open is a verdict, not an error.
func (l *Limiter) Decide(ctx context.Context, descriptors []Descriptor) (Verdict, error) {
	table := l.table.Load()
	statuses := make([]Status, len(descriptors))
	charges := make([]Charge, 0, len(descriptors))
	var placeSpace [8]int
	places := placeSpace[:0]
	for i, descriptor := range descriptors {
		rule := table.Rule(descriptor.Rule)
		if rule == nil {
			return Verdict{}, &UnknownRuleError{Rule: descriptor.Rule}
		}
		place := noPlace
		charge, needed := rule.charge(descriptor, &statuses[i])
		if needed {
			charges, place = AddCharge(charges, charge)
		}
		places = append(places, place)
	}
	outcome := Outcome{Admitted: true}
	if len(charges) > 0 {
		var err error
		if outcome, err = l.store.Take(ctx, charges); err != nil {
			return l.failed(ctx, statuses, charges, places, err)
		}
	}
	for i := range statuses {
		statuses[i].settle(outcome, charges, places, i)
		l.observe(&statuses[i])
	}
	return Verdict{Allowed: outcome.Admitted, Statuses: statuses}, nil
}

// noPlace is the place of a descriptor that needs no charge.
const noPlace = -1

// charge is what a descriptor asks of the store, if it needs it: what is
// unlimited doesn't. It sets what is known of the status already.
func (r *Rule) charge(descriptor Descriptor, status *Status) (charge Charge, needed bool) {
	counted, said := readEntries(descriptor.Entries)
	limit := r.limitFor(said)
	*status = Status{Rule: r, Limit: limit}
	if limit.Unlimited {
		status.Decision = Decision{Allowed: true, Remaining: math.MaxUint32}
		return Charge{}, false
	}
	cost := r.costOf(descriptor.Cost, said)
	charge = Charge{
		Key: NewKey(r.ID, limit, counted), Group: NewGroup(r.ID, counted), Limit: limit, Shadow: r.Shadow,
		Cost: max(1, cost), Look: cost == 0, Force: r.CountRefused && cost > 0, Leased: r.Leased,
	}
	if said.ticket != "" {
		status.Event = Settled
		needed = r.settlement(&charge, said)
		return charge, needed
	}
	return charge, true
}

// AddCharge appends a charge, or adds it to the one of the same key, so that a
// request which names a counter twice pays twice. It returns the charge's place.
func AddCharge(charges []Charge, charge Charge) ([]Charge, int) {
	for i := range charges {
		same := &charges[i]
		if same.Key != charge.Key {
			continue
		}
		switch {
		case charge.Look, charge.Refund:
			// What is not given back only limits more.
		case same.Look, same.Refund:
			*same = charge
		default:
			same.Cost = min(same.Cost+charge.Cost, MaxCost)
			same.Force = same.Force || charge.Force
		}
		return charges, i
	}
	return append(charges, charge), len(charges)
}

// settle completes the status of the descriptor i.
func (s *Status) settle(outcome Outcome, charges []Charge, places []int, i int) {
	place := places[i]
	if place == noPlace {
		return
	}
	charge, result := &charges[place], &outcome.Results[place]
	if s.Event == Settled {
		s.Decision = Describe(outcome.Now, charge.Limit, result.State)
		return
	}
	if !result.Allowed {
		// The state admits no more than it did, so this is the refusal again,
		// with its numbers.
		_, s.Decision = Decide(outcome.Now, charge.Limit, result.State, charge.Cost)
		s.Decision.Allowed = false
		s.Event = Refused
		if charge.Shadow {
			s.Event = ShadowRefused
		}
		return
	}
	s.Decision = Describe(outcome.Now, charge.Limit, result.State)
	if !outcome.Admitted {
		s.Event = Spared
		return
	}
	if (s.Rule.Algorithm == Concurrency || s.Rule.Cost.Settles) && slices.Index(places, place) == i {
		ticket := Ticket{Receipt: result.State.Receipt(charge.Limit)}
		if !charge.Look {
			ticket.Cost = charge.Cost
		}
		s.Ticket = ticket.String()
	}
}

func (l *Limiter) observe(status *Status) {
	if l.observer != nil {
		l.observer.Decided(status.Rule.ID, status.Event)
	}
}
