package redis

import (
	"context"
	"fmt"

	"weir.dev/ratelimit"
)

// Forget implements ratelimit.Forgetter. The other replicas hear of it, if they
// run Forgotten.
func (s *Store) Forget(ctx context.Context, charges []ratelimit.Charge) error {
	for i := range charges {
		if err := s.client.Unlink(ctx, s.prefixes[s.groupOf(&charges[i])]+string(charges[i].Key)).Err(); err != nil {
			return fmt.Errorf("redis: %w", err)
		}
		if err := s.client.Publish(ctx, s.forgotten(), string(charges[i].Key)).Err(); err != nil {
			return fmt.Errorf("redis: the counter is reset; what other replicas have leased of it is theirs for a moment longer: %w", err)
		}
	}
	return nil
}

// forgotten is the channel on which replicas tell each other of reset counters.
func (s *Store) forgotten() string { return s.prefixes[0] + "forgotten" }

// Forgotten calls forgotten with the key of each counter that any replica resets,
// until ctx ends. While there is no connection none is heard of.
func (s *Store) Forgotten(ctx context.Context, forgotten func(ratelimit.Key)) {
	subscription := s.client.Subscribe(ctx, s.forgotten())
	defer func() { _ = subscription.Close() }()
	messages := subscription.Channel()
	for {
		select {
		case <-ctx.Done():
			return
		case message, open := <-messages:
			if !open {
				return
			}
			forgotten(ratelimit.Key(message.Payload))
		}
	}
}
