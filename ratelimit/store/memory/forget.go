package memory

import (
	"context"
	"hash/maphash"

	"weir.dev/ratelimit"
)

// Forget implements ratelimit.Forgetter. It never fails.
func (s *Store) Forget(_ context.Context, keys []ratelimit.Key) error {
	for _, key := range keys {
		shard := &s.shards[maphash.String(s.seed, string(key))%shardCount]
		shard.mu.Lock()
		// The place stays until it would have expired: the heap knows of it.
		if place, ok := shard.places[key]; ok {
			shard.slab[place].state = ratelimit.State{}
		}
		shard.mu.Unlock()
	}
	return nil
}
