package lease

import (
	"context"

	"weir.dev/ratelimit"
)

// Forget implements ratelimit.Forgetter. Slices that this process holds go with
// the counter; other processes Drop theirs when they hear of it.
func (s *Store) Forget(ctx context.Context, charges []ratelimit.Charge) error {
	next, able := s.next.(ratelimit.Forgetter)
	if !able {
		return ratelimit.ErrCannotForget
	}
	for i := range charges {
		s.Drop(charges[i].Key)
	}
	return next.Forget(ctx, charges)
}

// Drop loses what this process holds of a counter, without giving it back: the
// counter was reset. A slice that is on its way is lost when it comes.
func (s *Store) Drop(key ratelimit.Key) {
	s.mu.Lock()
	delete(s.entries, key)
	s.mu.Unlock()
}
