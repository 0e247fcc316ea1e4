package ratelimit

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"time"

	"weir.dev/kit/config"
	"weir.dev/kit/limitexpr"
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
	// maxReserved is the percentage of a limit that reserves keep at most.
	maxReserved = 99
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
	// SlidingWindow never admits more than Requests in any interval of a
	// Window's length, wherever it begins. Up to 17 admissions in a window are
	// remembered to the microsecond; of more, each is forgotten when it is a
	// window old or up to a sixteenth of a window later, never earlier.
	SlidingWindow
	// Concurrency admits Requests at once: each takes a place until it is given
	// back (Charge.Refund) or, as under SlidingWindow, a Window has passed.
	Concurrency
)

// String is the algorithm's name in keys and logs.
func (a Algorithm) String() string {
	switch a {
	case FixedWindow:
		return "fixedWindow"
	case GCRA:
		return "gcra"
	case SlidingWindow:
		return "slidingWindow"
	case Concurrency:
		return "concurrency"
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
	Burst uint32
	// Window is the length that is counted over; with a Calendar, its usual
	// length; of Concurrency, how long a place is held that is never given back.
	Window time.Duration
	// Calendar makes a FixedWindow one of the calendar in Zone; nil is UTC.
	Calendar Calendar
	Zone     *time.Location
	// Ceiling is how much of the capacity these requests may use, the rest being
	// kept for more important ones; 0 is all of it.
	Ceiling uint32
	// Unlimited admits everything and counts nothing.
	Unlimited bool
}

// Capacity is the largest cost that can ever be admitted at once.
func (l Limit) Capacity() uint64 {
	capacity := l.Requests
	if l.Algorithm == GCRA && l.Burst > 0 && l.Requests > 0 {
		capacity = l.Burst
	}
	if l.Ceiling > 0 {
		capacity = min(capacity, l.Ceiling)
	}
	return uint64(capacity)
}

func (l Limit) validate() error {
	var errs []error
	if l.Algorithm < FixedWindow || l.Algorithm > Concurrency {
		errs = append(errs, errors.New("algorithm: must be fixed window, GCRA, sliding window or concurrency"))
	}
	switch {
	case l.Calendar > Month:
		errs = append(errs, errors.New("calendar: must be none, day, week or month"))
	case l.Calendar != NoCalendar && l.Algorithm != FixedWindow:
		errs = append(errs, errors.New("calendar: applies to fixed windows only"))
	case l.Calendar != NoCalendar && l.Window != l.Calendar.Length():
		errs = append(errs, fmt.Errorf("window: must be %s with this calendar", l.Calendar.Length()))
	case l.Calendar == NoCalendar && l.Zone != nil:
		errs = append(errs, errors.New("zone: applies to a calendar only"))
	}
	if l.Window < MinWindow || l.Window > MaxWindow {
		errs = append(errs, fmt.Errorf("window: %s is outside %s to %s", l.Window, MinWindow, MaxWindow))
	} else if l.Window%time.Millisecond != 0 {
		errs = append(errs, fmt.Errorf("window: %s is not a whole number of milliseconds", l.Window))
	}
	if l.Algorithm != GCRA && l.Burst != 0 {
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
	// Unlimited admits everything and counts nothing; the numbers are 0.
	Unlimited bool
}

// Cost says what a request costs. The zero value is one per hit.
type Cost struct {
	// Number is charged at the request per hit, or more if EntryCost says so. 0
	// looks whether anything is left, and charges nothing.
	Number uint64
	// Max bounds what EntryCost can say, 1 to 4,294,967,295; 0 is the cost that
	// is not set: one per hit.
	Max uint64
	// Settles says that what was charged is replaced at the response's end.
	Settles bool
	// Expression is charged at the request per hit where it says more than Number;
	// it reads entries that begin with EntryInput. Where it has no value, the request
	// costs Max. nil for none.
	Expression *limitexpr.Program
}

// Reserve keeps a part of a limit for a tier and those before it in the list.
type Reserve struct {
	Tier string
	// Percent of the capacity, 1 to 99.
	Percent uint32
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
	// Cost is what a request costs.
	Cost Cost
	// CountRefused charges requests that are refused, by this rule or another.
	CountRefused bool
	// Reserves keep parts of the limit for tiers, the most important first, by
	// the value of EntryClass. They share the counters with all others.
	Reserves []Reserve
	// MaxOverride bounds what EntryRequests can say; 0 heeds no such entry.
	MaxOverride uint32
	// LocalShare says that each replica admits its share of the limit, counted by
	// itself, while the store gives no answer; FailureMode is for when it can't.
	LocalShare bool
	// Leased lets the replica decide from slices of the limit; see package
	// store/lease.
	Leased bool
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
	return errors.Join(append(errs, r.validateCost(), r.validateReserves(), r.validateReplicas())...)
}

func (r *Rule) validateReplicas() error {
	if r.LocalShare && (r.Algorithm == Concurrency || r.Cost.Settles) {
		return errors.New("localShare: is not for concurrency nor for costs that settle")
	}
	if r.Leased && (r.Algorithm != FixedWindow && r.Algorithm != GCRA || r.Calendar != NoCalendar || r.Cost.Settles || r.CountRefused || len(r.Reserves) > 0) {
		return errors.New("leased: needs a fixed window or GCRA, without calendar, settled costs, countRefused and reserves")
	}
	return nil
}

func (r *Rule) validateCost() error {
	var errs []error
	if r.Cost != (Cost{}) && (r.Cost.Max == 0 || r.Cost.Max > math.MaxUint32 || r.Cost.Number > r.Cost.Max) {
		errs = append(errs, fmt.Errorf("cost: number is at most max, and max 1 to %d", uint32(math.MaxUint32)))
	}
	if r.Algorithm == Concurrency && r.Cost.Settles {
		errs = append(errs, errors.New("cost: places are given back whole; only other algorithms settle"))
	}
	if r.Algorithm == Concurrency && r.CountRefused {
		errs = append(errs, errors.New("countRefused: a refused request takes no place"))
	}
	return errors.Join(errs...)
}

func (r *Rule) validateReserves() error {
	total := uint32(0)
	for i, reserve := range r.Reserves {
		if reserve.Percent == 0 || reserve.Percent > maxReserved {
			return fmt.Errorf("reserves[%d]: %d percent is outside 1 to %d", i, reserve.Percent, maxReserved)
		}
		if total += reserve.Percent; total > maxReserved {
			return fmt.Errorf("reserves: keep more than %d percent together", maxReserved)
		}
	}
	return nil
}

// LimitFor is the limit that applies to a tier; "" is no tier.
func (r *Rule) LimitFor(tier string) Limit {
	limit := r.Limit
	if numbers, ok := r.Tiers[tier]; ok {
		limit.Requests, limit.Burst, limit.Unlimited = numbers.Requests, numbers.Burst, numbers.Unlimited
	}
	return limit
}

// reserved leaves to a class what is not kept for more important ones; at least
// one, so that a small limit does not become a refusal of all.
func (r *Rule) reserved(limit Limit, class string) Limit {
	kept := uint64(0)
	for _, reserve := range r.Reserves {
		if reserve.Tier == class {
			break
		}
		kept += uint64(reserve.Percent)
	}
	if capacity := limit.Capacity(); kept > 0 && capacity > 0 {
		limit.Ceiling = uint32(max(1, capacity-(capacity*kept+99)/100))
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
