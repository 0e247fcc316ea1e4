package ratelimit

import "context"

// Charge is one counter to be charged in a call to a Store.
type Charge struct {
	Key   Key
	Limit Limit
	// Group says which charges are best kept together where counters are spread
	// over many servers: those of one Group are decided by one server at one
	// instant. 0 is a group of the key's own. A key always comes with the same
	// Group. See NewGroup.
	Group uint64
	// Cost is what is charged, at least 1.
	Cost uint64
	// Look asks whether Cost would be admitted and charges nothing.
	Look bool
	// Leased allows that a replica decides this charge from a slice of the budget
	// that it was charged beforehand; see package store/lease. Stores themselves
	// leave it unread.
	Leased bool
	// Shadow charges are left out of the common verdict: their refusal stops
	// nothing. They too are charged only if all enforced ones are admitted.
	Shadow bool
	// Force charges are applied also when they or others are refused; see Force.
	Force bool
	// Refund gives back Cost of the charge of that Receipt, and is always
	// allowed.
	Refund  bool
	Receipt Receipt
}

// Apply decides the charge on a state, and returns the state after it.
func (c *Charge) Apply(now Time, state State) (State, Decision) {
	if c.Refund {
		return Refund(now, c.Limit, state, c.Cost, c.Receipt), Decision{Allowed: true}
	}
	return decide(now, c.Limit, state, c.Cost, c.Force)
}

// Applies says whether the state that Apply returned is kept, given whether the
// charge itself and the whole request are admitted.
func (c *Charge) Applies(allowed, admitted bool) bool {
	return !c.Look && (c.Force || allowed && admitted)
}

// Result is the outcome of one Charge.
type Result struct {
	// Allowed says whether this limit by itself admits the cost.
	Allowed bool
	// State is the key's state after the call.
	State State
}

// Outcome is the outcome of a call to a Store.
type Outcome struct {
	// Now is the instant of the store's clock at which all was decided.
	Now Time
	// Admitted says whether every enforced charge was allowed.
	Admitted bool
	// Results has one element per charge, in order.
	Results []Result
	// Remembered says that the refusal was known without asking for it.
	Remembered bool
}

// Store keeps the states of counters. Implementations are safe for concurrent
// use and pass storetest.Run.
type Store interface {
	// Take decides all charges as Charge.Apply would, atomically, at one instant
	// of the store's clock. If any charge that is not Shadow is refused, no state
	// changes but those of Force charges; otherwise every allowed charge that is
	// not Look is applied. A refused charge changes its state only with Force.
	// Keys within one call are distinct and there is at least one.
	//
	// On an error the outcome is the zero value, and it is unknown whether the
	// charges were applied: they were applied wholly or not at all.
	//
	// A store that is spread over servers promises this for the charges of one
	// Group. For several it charges each group as if it were alone and takes the
	// charges back when another refuses: in between, and after an error, more may
	// be charged than was admitted, never less.
	Take(ctx context.Context, charges []Charge) (Outcome, error)
}
