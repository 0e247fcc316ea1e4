package lease

import (
	"context"
	"sync"
	"time"

	"weir.dev/ratelimit"
)

// Options of a Store; zero values take the defaults.
type Options struct {
	// Horizon is how long a slice should last at the rate of the last one.
	// Default 200ms.
	Horizon time.Duration
	// Fraction of the capacity bounds what this replica holds of a limit: one in
	// Fraction. Default 10.
	Fraction uint64
	// Hold is how long an unused slice is kept. Default 1s.
	Hold time.Duration
	// MaxKeys bounds the keys looked after; others are decided by the store.
	// Default 100,000.
	MaxKeys int
	// Timeout bounds the calls that lease and give back. Default 1s.
	Timeout time.Duration
	// Clock is time.Now if nil.
	Clock func() time.Time
	// Observer may be nil.
	Observer Observer
}

// Observer hears what slices do. It must not block.
type Observer interface {
	// LeaseSpent is called for each charge that was decided from a slice.
	LeaseSpent()
	// LeaseTaken and LeaseReturned are called with the cost.
	LeaseTaken(cost uint64)
	LeaseReturned(cost uint64)
}

// Store is a ratelimit.Store around another. It is safe for concurrent use.
type Store struct {
	next    ratelimit.Store
	options Options
	calls   sync.WaitGroup // those in the background

	mu      sync.Mutex
	closed  bool
	entries map[ratelimit.Key]*entry
}

// entry is what is known of a key.
type entry struct {
	limit ratelimit.Limit
	// segments are spent in order; two at most, but for rare refusals.
	segments []*segment
	// asked is the cost asked for since began; touched is the last time.
	asked          uint64
	began, touched ratelimit.Time
	// fetching says that a slice is on its way; notBefore, when to try again.
	fetching  bool
	notBefore ratelimit.Time
	// most is how large the next slice may be after refusals; 0 is no bound.
	most uint64
}

// New wraps next. Run must be running for unused slices to be given back.
func New(next ratelimit.Store, options Options) *Store {
	setDefault(&options.Horizon, 200*time.Millisecond)
	setDefault(&options.Hold, time.Second)
	setDefault(&options.Timeout, time.Second)
	setDefault(&options.Fraction, 10)
	setDefault(&options.MaxKeys, 100_000)
	if options.Clock == nil {
		options.Clock = time.Now
	}
	return &Store{next: next, options: options, entries: map[ratelimit.Key]*entry{}}
}

func setDefault[T time.Duration | uint64 | int](value *T, fallback T) {
	if *value <= 0 {
		*value = fallback
	}
}

func (s *Store) now() ratelimit.Time { return s.options.Clock().UnixMicro() }

// leasable says whether the charge can be decided from a slice. Limits of which a
// part is kept for some aren't: a slice doesn't say for whom it is.
func leasable(charge *ratelimit.Charge) bool {
	limit := &charge.Limit
	return charge.Leased && !charge.Look && !charge.Force && !charge.Refund && limit.Ceiling == 0 && limit.Requests > 0 &&
		limit.Calendar == ratelimit.NoCalendar && (limit.Algorithm == ratelimit.GCRA || limit.Algorithm == ratelimit.FixedWindow)
}

// spent is a charge that was decided from a slice.
type spent struct {
	place   int
	segment *segment
	// after is segment.used after it.
	after uint64
	state ratelimit.State
	now   ratelimit.Time
}

// Take implements ratelimit.Store.
func (s *Store) Take(ctx context.Context, charges []ratelimit.Charge) (ratelimit.Outcome, error) {
	var space [8]spent
	local := s.spend(charges, space[:0])
	if len(local) == 0 {
		return s.next.Take(ctx, charges)
	}
	whole := ratelimit.Outcome{Admitted: true}
	if len(local) < len(charges) {
		rest, places := without(charges, local)
		outcome, err := s.next.Take(ctx, rest)
		if err != nil || !outcome.Admitted {
			s.unspend(local, charges)
		}
		if err != nil {
			return ratelimit.Outcome{}, err
		}
		whole = ratelimit.Outcome{Now: outcome.Now, Admitted: outcome.Admitted, Results: make([]ratelimit.Result, len(charges))}
		for i, place := range places {
			whole.Results[place] = outcome.Results[i]
		}
	} else {
		whole.Results = make([]ratelimit.Result, len(charges))
	}
	for i := range local {
		whole.Results[local[i].place] = ratelimit.Result{Allowed: true, State: local[i].state}
		whole.Now = max(whole.Now, local[i].now)
	}
	return whole, nil
}

func without(charges []ratelimit.Charge, local []spent) (rest []ratelimit.Charge, places []int) {
	for i := range charges {
		if len(local) > 0 && local[0].place == i {
			local = local[1:]
			continue
		}
		rest, places = append(rest, charges[i]), append(places, i)
	}
	return rest, places
}

// spend takes what it can from slices.
func (s *Store) spend(charges []ratelimit.Charge, local []spent) []spent {
	locked := false
	var now ratelimit.Time
	for i := range charges {
		charge := &charges[i]
		if !leasable(charge) {
			continue
		}
		if !locked {
			locked, now = true, s.now()
			s.mu.Lock()
		}
		e := s.entryOf(charge, now)
		if e == nil {
			continue
		}
		e.asked = min(e.asked+charge.Cost, ratelimit.MaxCost)
		e.touched = now
		if segment := e.enough(charge.Cost, now); segment != nil {
			segment.used += charge.Cost
			local = append(local, spent{place: i, segment: segment, after: segment.used, state: segment.stateNow(), now: now + segment.ahead})
			if s.options.Observer != nil {
				s.options.Observer.LeaseSpent()
			}
		}
		s.fetchIfLow(charge, e, now)
	}
	if locked {
		s.mu.Unlock()
	}
	return local
}

// enough is the first slice that has that much left; those that have nothing left
// go.
func (e *entry) enough(cost uint64, now ratelimit.Time) *segment {
	for len(e.segments) > 0 && e.segments[0].left(now+e.segments[0].ahead) == 0 {
		e.segments = e.segments[1:]
	}
	for _, segment := range e.segments {
		if segment.left(now+segment.ahead) >= cost {
			return segment
		}
	}
	return nil
}

// held is what all slices have left.
func (e *entry) held(now ratelimit.Time) (cost uint64) {
	for _, segment := range e.segments {
		cost += segment.left(now + segment.ahead)
	}
	return cost
}

// unspend puts back what was taken for a request that is not admitted: of GCRA
// only where nothing was taken after it, since places have an order.
func (s *Store) unspend(local []spent, charges []ratelimit.Charge) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range local {
		one := &local[i]
		cost := charges[one.place].Cost
		fixed := one.segment.charge.Limit.Algorithm == ratelimit.FixedWindow
		if one.segment.used == one.after || fixed && one.segment.used < one.segment.total {
			one.segment.used -= cost
		}
	}
}

// entryOf finds the key's entry, or begins one if it may; s.mu is held. A key
// whose numbers changed gives back what it had of the old ones.
func (s *Store) entryOf(charge *ratelimit.Charge, now ratelimit.Time) *entry {
	e := s.entries[charge.Key]
	if e != nil && e.limit == charge.Limit {
		return e
	}
	if s.closed || e != nil && (e.fetching || now-e.began < s.options.Hold.Microseconds()) {
		return nil // requests under two sets of numbers: the store decides them
	}
	if e == nil && len(s.entries) >= s.options.MaxKeys {
		return nil
	}
	if e != nil {
		s.giveBack(e, now)
	}
	e = &entry{limit: charge.Limit, began: now, touched: now}
	s.entries[charge.Key] = e
	return e
}
