package redis

import (
	"context"
	"fmt"

	"weir.dev/ratelimit"
)

// Forget implements ratelimit.Forgetter.
func (s *Store) Forget(ctx context.Context, charges []ratelimit.Charge) error {
	for i := range charges {
		if err := s.client.Unlink(ctx, s.prefixes[s.groupOf(&charges[i])]+string(charges[i].Key)).Err(); err != nil {
			return fmt.Errorf("redis: %w", err)
		}
	}
	return nil
}
