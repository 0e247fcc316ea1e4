package ratelimit

import (
	"context"
	"errors"
	"slices"
)

// Forgetter is an optional ability of a Store. A store that wraps another one
// has it whether or not the other does, and fails with ErrCannotForget then.
type Forgetter interface {
	// Forget drops the states of the keys of charges, by Key and Group, so that
	// each decides like one never seen. A key that is not there is no error. On an
	// error some may be dropped.
	Forget(ctx context.Context, charges []Charge) error
}

// ErrCannotForget says that a store cannot reset counters.
var ErrCannotForget = errors.New("the store of counters cannot reset one")

// Counter is one counter of one rule, as it stands.
type Counter struct {
	Rule *Rule
	// Limit is the rule's limit with the tier's numbers.
	Limit Limit
	Key   Key
	// Decision is what a cost of 1 would be told. Nothing is charged.
	Decision Decision
}

// Look reads the counter of a descriptor, whose cost does not matter, without
// charging or observing anything. Errors are *UnknownRuleError and the store's.
func (l *Limiter) Look(ctx context.Context, descriptor Descriptor) (Counter, error) {
	counter, _, err := l.look(ctx, descriptor)
	return counter, err
}

func (l *Limiter) look(ctx context.Context, descriptor Descriptor) (Counter, Charge, error) {
	charge, status, err := l.looking(descriptor)
	counter := Counter{Rule: status.Rule, Limit: status.Limit, Key: charge.Key, Decision: status.Decision}
	if err != nil || counter.Limit.Unlimited {
		return counter, charge, err
	}
	outcome, err := l.store.Take(ctx, []Charge{charge})
	if err != nil {
		return Counter{}, Charge{}, err
	}
	counter.Decision = Describe(outcome.Now, charge.Limit, outcome.Results[0].State)
	if !outcome.Results[0].Allowed {
		_, counter.Decision = Decide(outcome.Now, charge.Limit, outcome.Results[0].State, charge.Cost)
	}
	return counter, charge, nil
}

// looking is the charge that looks at the counter of a descriptor.
func (l *Limiter) looking(descriptor Descriptor) (Charge, Status, error) {
	rule := l.table.Load().Rule(descriptor.Rule)
	if rule == nil {
		return Charge{}, Status{}, &UnknownRuleError{Rule: descriptor.Rule}
	}
	var status Status
	descriptor.Cost = 0
	descriptor.Entries = slices.DeleteFunc(slices.Clone(descriptor.Entries), func(entry Entry) bool {
		return entry.Name == EntryTicket || entry.Name == EntryCost
	})
	charge, _ := rule.charge(descriptor, &status)
	charge.Look, charge.Cost, charge.Force = true, 1, false
	return charge, status, nil
}

// Forget resets the counter of a descriptor and returns what it held before.
// Errors are those of Look, and ErrCannotForget.
func (l *Limiter) Forget(ctx context.Context, descriptor Descriptor) (Counter, error) {
	store, able := l.store.(Forgetter)
	if !able {
		return Counter{}, ErrCannotForget
	}
	before, charge, err := l.look(ctx, descriptor)
	if err != nil || before.Limit.Unlimited {
		return before, err
	}
	return before, store.Forget(ctx, []Charge{charge})
}

// Table is the rules in effect.
func (l *Limiter) Table() *Table { return l.table.Load() }
