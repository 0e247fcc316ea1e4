package lease

import (
	"context"
	"time"

	"weir.dev/ratelimit"
)

const (
	// smallest is the least that is worth leasing.
	smallest = 4
	// pause is how long a key goes without a slice after the store refused one.
	pause = 100 * time.Millisecond
	// sweep is how often unused slices are looked for.
	sweep = 250 * time.Millisecond
	// forget is how many Holds a key is remembered that nobody asks for.
	forget = 10
)

// fetchIfLow leases the next slice in the background when this one is nearly
// used up, as large as what was asked for in the last Horizon; s.mu is held.
func (s *Store) fetchIfLow(charge *ratelimit.Charge, e *entry, now ratelimit.Time) {
	if e.fetching || s.closed || now < e.notBefore {
		return
	}
	// The rate is looked at over at least a quarter of the horizon.
	horizon := s.options.Horizon.Microseconds()
	elapsed := now - e.began
	if elapsed < horizon/4 {
		return
	}
	amount := uint64(float64(e.asked) * float64(horizon) / float64(elapsed))
	amount = min(amount, charge.Limit.Capacity()/s.options.Fraction)
	if e.most > 0 {
		amount = min(amount, e.most)
	}
	if elapsed > horizon {
		e.asked, e.began = e.asked/2, now-elapsed/2
	}
	if amount < smallest || e.held(now) > amount/4 {
		return
	}
	e.fetching = true
	lease := *charge
	lease.Cost, lease.Shadow = amount, false
	s.calls.Go(func() { s.fetch(lease, e) })
}

func (s *Store) fetch(charge ratelimit.Charge, e *entry) {
	ctx, cancel := context.WithTimeout(context.Background(), s.options.Timeout)
	defer cancel()
	sent := s.now()
	outcome, err := s.next.Take(ctx, []ratelimit.Charge{charge})
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	e.fetching = false
	if err != nil || !outcome.Admitted {
		// Less may still be had, and soon it may be more again.
		e.notBefore = now + pause.Microseconds()
		if e.most = max(charge.Cost/2, smallest); err != nil {
			e.most = 0
		}
		return
	}
	if e.most *= 2; e.most > 0 && e.most > charge.Limit.Capacity() {
		e.most = 0
	}
	e.segments = append(e.segments, newSegment(charge, outcome, sent))
	if s.options.Observer != nil {
		s.options.Observer.LeaseTaken(charge.Cost)
	}
	if s.closed {
		s.giveBack(e, now)
	}
}

// giveBack refunds in the background what is left of the entry's slices, at most
// once; s.mu is held.
func (s *Store) giveBack(e *entry, now ratelimit.Time) {
	for _, segment := range e.segments {
		refund, any := segment.refund(now + segment.ahead)
		if !any {
			continue
		}
		s.calls.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), s.options.Timeout)
			defer cancel()
			// An error leaves it charged, which admits less and never more.
			if _, err := s.next.Take(ctx, []ratelimit.Charge{refund}); err == nil && s.options.Observer != nil {
				s.options.Observer.LeaseReturned(refund.Cost)
			}
		})
	}
	e.segments = nil
}

// Run gives back slices that are not used, until ctx ends; then it gives back
// all, and waits for that, at most for Timeout. Nothing is leased afterwards.
func (s *Store) Run(ctx context.Context) {
	ticker := time.NewTicker(sweep)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.Sweep()
		case <-ctx.Done():
			s.mu.Lock()
			s.closed = true
			now := s.now()
			for _, e := range s.entries {
				s.giveBack(e, now)
			}
			s.mu.Unlock()
			s.calls.Wait()
			return
		}
	}
}

// Sweep gives back what was not used for Hold, and forgets keys that nobody asked
// for in a long time. Run calls it.
func (s *Store) Sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, hold := s.now(), s.options.Hold.Microseconds()
	for key, e := range s.entries {
		idle := now - e.touched
		if idle > hold {
			s.giveBack(e, now)
		}
		if idle > forget*hold && !e.fetching {
			delete(s.entries, key)
		}
	}
}

// Wait waits for the calls that are under way in the background.
func (s *Store) Wait() { s.calls.Wait() }
