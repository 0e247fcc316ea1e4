package redis

import (
	"context"
	"fmt"

	"weir.dev/ratelimit"
)

// Forget implements ratelimit.Forgetter.
func (s *Store) Forget(ctx context.Context, keys []ratelimit.Key) error {
	for _, key := range keys {
		if err := s.client.Unlink(ctx, s.prefix+string(key)).Err(); err != nil {
			return fmt.Errorf("redis: %w", err)
		}
	}
	return nil
}
