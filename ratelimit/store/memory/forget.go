package memory

import (
	"context"
	"hash/maphash"

	"weir.dev/ratelimit"
)

// Forget implements ratelimit.Forgetter. It never fails.
func (s *Store) Forget(_ context.Context, charges []ratelimit.Charge) error {
	for i := range charges {
		shard := &s.shards[maphash.String(s.seed, string(charges[i].Key))%shardCount]
		shard.mu.Lock()
		// The place stays until it would have expired: the heap knows of it.
		if place, ok := shard.places[charges[i].Key]; ok {
			shard.setState(place, ratelimit.State{})
		}
		shard.mu.Unlock()
	}
	return nil
}
