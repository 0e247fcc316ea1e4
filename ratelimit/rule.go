package ratelimit

import (
	"errors"
	"fmt"
	"math/bits"
	"time"

	"weir.dev/kit/config"
)

// Bounds of a rule. They keep every intermediate result of the algorithms
// exact, also in Redis, whose scripts count in float64.
const (
	MinWindow = 100 * time.Millisecond
	MaxWindow = 366 * 24 * time.Hour
	// maxBacklog bounds the time in which a full GCRA burst drains.
	maxBacklog = 10 * 366 * 24 * time.Hour
	// MaxRuleIDBytes and MaxTiers bound what one rule holds.
	MaxRuleIDBytes = 512
	MaxTiers       = 1000
)

// Algorithm says how a limit counts.
type Algorithm uint8

// The algorithms. The zero value is none of them.
const (
	// FixedWindow counts per window of the clock, aligned to the Unix epoch.
	// Around a boundary two windows' worth can pass within one window's length.
	FixedWindow Algorithm = iota + 1
	// GCRA is the generic cell rate algorithm (ITU-T I.371 annex A): a smooth
	// rate with a burst allowance.
	GCRA
)

// String is the algorithm's name in keys and logs.
func (a Algorithm) String() string {
	switch a {
	case FixedWindow:
		return "fixedWindow"
	case GCRA:
		return "gcra"
	}
	return "unknown"
}

// FailureMode says what a rule answers while the store cannot.
type FailureMode uint8

// The zero value is the safe one.
const (
	FailClosed FailureMode = iota
	FailOpen
)

// Limit is the numbers that one decision is made with.
type Limit struct {
	Algorithm Algorithm
	// Requests is admitted per Window; 0 refuses all.
	Requests uint32
	// Burst is what GCRA admits at once after idleness; 0 means Requests.
	Burst  uint32
	Window time.Duration
}

// Capacity is the largest cost that can ever be admitted at once.
func (l Limit) Capacity() uint64 {
	if l.Algorithm == GCRA && l.Burst > 0 && l.Requests > 0 {
		return uint64(l.Burst)
	}
	return uint64(l.Requests)
}

func (l Limit) validate() error {
	var errs []error
	if l.Algorithm != FixedWindow && l.Algorithm != GCRA {
		errs = append(errs, errors.New("algorithm: must be fixed window or GCRA"))
	}
	if l.Window < MinWindow || l.Window > MaxWindow {
		errs = append(errs, fmt.Errorf("window: %s is outside %s to %s", l.Window, MinWindow, MaxWindow))
	} else if l.Window%time.Millisecond != 0 {
		errs = append(errs, fmt.Errorf("window: %s is not a whole number of milliseconds", l.Window))
	}
	if l.Algorithm == FixedWindow && l.Burst != 0 {
		errs = append(errs, errors.New("burst: applies to GCRA only"))
	}
	if len(errs) == 0 && l.Algorithm == GCRA && l.Requests > 0 {
		if whole, _ := l.spread(l.Capacity()); whole > maxBacklog.Microseconds() {
			errs = append(errs, fmt.Errorf("burst: %d at %d per %s would take more than ten years to drain", l.Capacity(), l.Requests, l.Window))
		}
	}
	return errors.Join(errs...)
}

// spread is the time in which n requests pass at the limit's rate, in whole
// microseconds and a rest in units of 1/Requests of a microsecond. Requests
// must not be 0.
func (l Limit) spread(n uint64) (whole int64, rest uint64) {
	high, low := bits.Mul64(n, uint64(l.Window.Microseconds()))
	if high >= uint64(l.Requests) {
		return maxBacklog.Microseconds() + 1, 0
	}
	quotient, rest := bits.Div64(high, low, uint64(l.Requests))
	if quotient > uint64(maxBacklog.Microseconds()) {
		return maxBacklog.Microseconds() + 1, 0
	}
	return int64(quotient), rest
}

// TierNumbers replace a rule's numbers for one tier.
type TierNumbers struct {
	Requests uint32
	Burst    uint32
}

// Rule is one limit of one policy. It is immutable once in a Table.
type Rule struct {
	// ID is "namespace/policy/limit", printable ASCII without spaces.
	ID string
	Limit
	FailureMode FailureMode
	// Shadow rules are counted and reported, and never refuse.
	Shadow bool
	// Tiers replaces Requests and Burst by the value of the entry "tier". A
	// tier that is not named here gets the rule's own numbers.
	Tiers map[string]TierNumbers
	// Digest identifies the rule's content in decision records.
	Digest string
	// Headers are those in which clients are told of the limit; 0 is
	// HeadersStandard.
	Headers Headers
}

// Headers is a set of ways in which clients are told of a limit.
type Headers uint8

// The ways. HeadersNone stands alone.
const (
	HeadersStandard Headers = 1 << iota
	HeadersOlder
	HeadersXRateLimit
	HeadersNone
)

// Has reports whether clients are told in a way.
func (h Headers) Has(way Headers) bool { return h&way != 0 || h == 0 && way == HeadersStandard }

// Validate reports every mistake of the rule.
func (r *Rule) Validate() error {
	var errs []error
	if !validID(r.ID) {
		errs = append(errs, fmt.Errorf("id: must be 1 to %d printable ASCII characters without spaces", MaxRuleIDBytes))
	}
	if err := r.validate(); err != nil {
		errs = append(errs, err)
	}
	if len(r.Tiers) > MaxTiers {
		errs = append(errs, fmt.Errorf("tiers: %d are more than %d", len(r.Tiers), MaxTiers))
	}
	for name := range r.Tiers {
		if err := r.LimitFor(name).validate(); err != nil {
			errs = append(errs, config.Prefix(fmt.Sprintf("tiers[%q]: ", name), err))
		}
	}
	return errors.Join(errs...)
}

// LimitFor is the limit that applies to a tier; "" is no tier.
func (r *Rule) LimitFor(tier string) Limit {
	limit := r.Limit
	if numbers, ok := r.Tiers[tier]; ok {
		limit.Requests, limit.Burst = numbers.Requests, numbers.Burst
	}
	return limit
}

func validID(id string) bool {
	if id == "" || len(id) > MaxRuleIDBytes {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}

// Table is an immutable set of rules by id.
type Table struct {
	rules map[string]*Rule
}

// NewTable checks all rules and builds the table, or reports every mistake,
// each with the id of its rule. The rules must not be changed afterwards.
func NewTable(rules []*Rule) (*Table, error) {
	table := &Table{rules: make(map[string]*Rule, len(rules))}
	var errs []error
	for _, rule := range rules {
		if err := rule.Validate(); err != nil {
			errs = append(errs, config.Prefix(fmt.Sprintf("rate limit rule %q: ", rule.ID), err))
			continue
		}
		if table.rules[rule.ID] != nil {
			errs = append(errs, fmt.Errorf("rate limit rule %q: is present twice", rule.ID))
			continue
		}
		table.rules[rule.ID] = rule
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return table, nil
}

// Rule finds a rule, nil if there is none.
func (t *Table) Rule(id string) *Rule { return t.rules[id] }

// Len is the number of rules.
func (t *Table) Len() int { return len(t.rules) }

// IDs lists the rules' ids in no particular order.
func (t *Table) IDs() []string {
	ids := make([]string, 0, len(t.rules))
	for id := range t.rules {
		ids = append(ids, id)
	}
	return ids
}

// Numbers are the integers by which a store outside this process decides a
// cost, for FixedWindow capacity, cost and window, for GCRA the tolerance and
// the cost as times (each whole and rest, see State), the scale and the window. possible is
// false when the cost exceeds what the limit can ever admit; the numbers are
// then zero.
func (l Limit) Numbers(cost uint64) (numbers [6]int64, possible bool) {
	if cost > l.Capacity() {
		return numbers, false
	}
	if l.Algorithm != GCRA {
		return [6]int64{int64(l.Capacity()), int64(cost), l.Window.Microseconds()}, true
	}
	toleranceWhole, toleranceRest := l.spread(l.Capacity())
	costWhole, costRest := l.spread(cost)
	return [6]int64{toleranceWhole, int64(toleranceRest), costWhole, int64(costRest), int64(l.Requests), l.Window.Microseconds()}, true
}
