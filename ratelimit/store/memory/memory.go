// Package memory keeps rate limit counters in the process: sharded, bounded,
// and evicting the dead first. It owns no algorithm; it is exact for one
// replica and shares nothing with others.
package memory

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/bits"
	"sync/atomic"
	"time"

	"weir.dev/ratelimit"
)

// Bounds of Options.MaxKeys.
const (
	MinKeys = 1000
	MaxKeys = 100_000_000
)

const shardCount = 64

// Options of a Store.
type Options struct {
	// MaxKeys bounds the counters held, MinKeys to MaxKeys; about 200 bytes
	// each. The bound is kept per shard, so with an uneven spread of keys
	// eviction starts a little earlier.
	MaxKeys int
	// Clock is time.Now if nil.
	Clock func() time.Time
}

// Store is a ratelimit.Store. A request locks the shards of its keys in order,
// so it is atomic over all of them.
type Store struct {
	clock   func() time.Time
	seed    maphash.Seed
	shards  [shardCount]shard
	evicted atomic.Uint64
}

// New makes an empty store.
func New(options Options) (*Store, error) {
	if options.MaxKeys < MinKeys || options.MaxKeys > MaxKeys {
		return nil, fmt.Errorf("maxKeys: %d is outside %d to %d", options.MaxKeys, MinKeys, MaxKeys)
	}
	if options.Clock == nil {
		options.Clock = time.Now
	}
	store := &Store{clock: options.Clock, seed: maphash.MakeSeed()}
	perShard := (options.MaxKeys + shardCount - 1) / shardCount
	for i := range store.shards {
		store.shards[i].limit = perShard
		store.shards[i].places = map[ratelimit.Key]int32{}
	}
	return store, nil
}

// Len is the number of counters held, dead ones included.
func (s *Store) Len() int {
	total := 0
	for i := range s.shards {
		s.shards[i].mu.Lock()
		total += len(s.shards[i].places)
		s.shards[i].mu.Unlock()
	}
	return total
}

// EvictedLive is how many counters were dropped while they still mattered; each
// may have let its key start afresh.
func (s *Store) EvictedLive() uint64 { return s.evicted.Load() }

// Take implements ratelimit.Store. It fails only without charges.
func (s *Store) Take(_ context.Context, charges []ratelimit.Charge) (ratelimit.Outcome, error) {
	if len(charges) == 0 {
		return ratelimit.Outcome{}, errors.New("no charges")
	}
	var indexSpace [8]uint8
	indexes := indexSpace[:0]
	var touched uint64
	for i := range charges {
		index := uint8(maphash.String(s.seed, string(charges[i].Key)) % shardCount)
		indexes = append(indexes, index)
		touched |= 1 << index
	}
	outcome := ratelimit.Outcome{Admitted: true, Results: make([]ratelimit.Result, len(charges))}
	s.lock(touched)
	defer s.unlock(touched)
	// The clock is read under the locks: decisions on a key then happen in the
	// order of their times.
	outcome.Now = s.clock().UnixMicro()
	var stateSpace [8]ratelimit.State
	after := stateSpace[:0]
	for i := range charges {
		charge, result := &charges[i], &outcome.Results[i]
		result.State = s.shards[indexes[i]].get(charge.Key)
		next, decision := charge.Apply(outcome.Now, result.State)
		after = append(after, next)
		result.Allowed = decision.Allowed
		outcome.Admitted = outcome.Admitted && (decision.Allowed || charge.Shadow)
	}
	for i := range charges {
		charge, result := &charges[i], &outcome.Results[i]
		if !charge.Applies(result.Allowed, outcome.Admitted) || after[i] == result.State {
			continue
		}
		result.State = after[i]
		s.evicted.Add(s.shards[indexes[i]].put(charge.Key, result.State, result.State.Expiry(charge.Limit), outcome.Now))
	}
	return outcome, nil
}

// lock takes the shards in ascending order, so that requests never deadlock.
func (s *Store) lock(set uint64) {
	for ; set != 0; set &= set - 1 {
		s.shards[bits.TrailingZeros64(set)].mu.Lock()
	}
}

func (s *Store) unlock(set uint64) {
	for ; set != 0; set &= set - 1 {
		s.shards[bits.TrailingZeros64(set)].mu.Unlock()
	}
}
