package ratelimit

import (
	"context"
	"errors"
)

// Forgetter is an optional ability of a Store. A store that wraps another one
// has it whether or not the other does, and fails with ErrCannotForget then.
type Forgetter interface {
	// Forget drops the states of keys, so that each decides like one never seen.
	// A key that is not there is no error. On an error some may be dropped.
	Forget(ctx context.Context, keys []Key) error
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
	rule := l.table.Load().Rule(descriptor.Rule)
	if rule == nil {
		return Counter{}, &UnknownRuleError{Rule: descriptor.Rule}
	}
	limit := rule.LimitFor(tierOf(descriptor.Entries))
	counter := Counter{Rule: rule, Limit: limit, Key: NewKey(rule.ID, limit, descriptor.Entries)}
	charge := Charge{Key: counter.Key, Limit: limit, Cost: 1, Look: true}
	outcome, err := l.store.Take(ctx, []Charge{charge})
	if err != nil {
		return Counter{}, err
	}
	counter.Decision = Describe(outcome.Now, limit, outcome.Results[0].State)
	if !outcome.Results[0].Allowed {
		_, counter.Decision = Decide(outcome.Now, limit, outcome.Results[0].State, charge.Cost)
	}
	return counter, nil
}

// Forget resets the counter of a descriptor and returns what it held before.
// Errors are those of Look, and ErrCannotForget.
func (l *Limiter) Forget(ctx context.Context, descriptor Descriptor) (Counter, error) {
	store, able := l.store.(Forgetter)
	if !able {
		return Counter{}, ErrCannotForget
	}
	before, err := l.Look(ctx, descriptor)
	if err != nil {
		return Counter{}, err
	}
	return before, store.Forget(ctx, []Key{before.Key})
}

// Table is the rules in effect.
func (l *Limiter) Table() *Table { return l.table.Load() }
