package lease

import (
	"context"

	"weir.dev/ratelimit"
)

// Forget implements ratelimit.Forgetter. What this replica holds of the keys is
// dropped; what other replicas hold they still spend, at most one part in
// Options.Fraction of the limit each.
func (s *Store) Forget(ctx context.Context, charges []ratelimit.Charge) error {
	next, able := s.next.(ratelimit.Forgetter)
	if !able {
		return ratelimit.ErrCannotForget
	}
	s.mu.Lock()
	for i := range charges {
		if e := s.entries[charges[i].Key]; e != nil {
			e.segments = nil
		}
	}
	s.mu.Unlock()
	return next.Forget(ctx, charges)
}
