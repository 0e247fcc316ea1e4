package lease

import (
	"context"

	"weir.dev/ratelimit"
)

// Forget implements ratelimit.Forgetter. Slices that this process holds go with
// the counter; those of others stay theirs, as long as slices last.
func (s *Store) Forget(ctx context.Context, charges []ratelimit.Charge) error {
	next, able := s.next.(ratelimit.Forgetter)
	if !able {
		return ratelimit.ErrCannotForget
	}
	s.mu.Lock()
	for i := range charges {
		delete(s.entries, charges[i].Key)
	}
	s.mu.Unlock()
	return next.Forget(ctx, charges)
}
