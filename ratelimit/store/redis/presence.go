package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"weir.dev/ratelimit"
)

const (
	// beat is how often a replica says that it is there.
	beat = 2 * time.Second
	// gone is after how long without a word it counts no more.
	gone = 10 * time.Second
)

// presenceScript says that ARGV[1] is here, or leaves if ARGV[2] is 0, and returns
// its place and the number of all who have said so in the last ARGV[2]
// milliseconds of the server's clock.
const presenceScript = `local time = redis.call('TIME')
local now, gone = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[2])
if gone == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
  return {0, 0}
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - gone)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], gone)
local all = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(all)
for i, name in ipairs(all) do
  if name == ARGV[1] then return {i - 1, #all} end
end
return {0, 0}`

// Presence knows how many replicas share the store, for when it is gone: what it
// last heard stays. A replica that ends without saying so counts for ten more
// seconds, which makes the shares of the others smaller, not larger. Safe for
// concurrent use.
type Presence struct {
	store    *Store
	script   *goredis.Script
	name     string
	fallback uint32
	share    atomic.Pointer[ratelimit.Share]
}

// NewPresence makes one; fallback is the least number of replicas to believe in, 1
// or more, and what counts until the store has answered.
func NewPresence(store *Store, fallback uint32) *Presence {
	p := &Presence{store: store, script: goredis.NewScript(presenceScript), name: rand.Text(), fallback: max(1, fallback)}
	p.share.Store(&ratelimit.Share{Replicas: p.fallback, Rank: p.fallback})
	return p
}

// Share is what was last heard. It doesn't block.
func (p *Presence) Share() ratelimit.Share { return *p.share.Load() }

// Run says that this replica is there until ctx ends, and then that it leaves.
func (p *Presence) Run(ctx context.Context) {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		_ = p.Beat(ctx) // what was heard before stays
		select {
		case <-ticker.C:
		case <-ctx.Done():
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_, _ = p.say(bounded, 0) // it is believed gone soon in any case
			return
		}
	}
}

// Beat says once that this replica is there. Run calls it.
func (p *Presence) Beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, beat)
	defer cancel()
	answer, err := p.say(ctx, gone)
	if err != nil {
		return err
	}
	if len(answer) != 2 || answer[1] < 1 {
		return errors.New("redis: the replicas' key holds something else")
	}
	p.share.Store(&ratelimit.Share{Replicas: max(p.fallback, uint32(min(answer[1], 1<<20))), Rank: uint32(min(answer[0], 1<<20))})
	return nil
}

func (p *Presence) say(ctx context.Context, gone time.Duration) ([]int64, error) {
	key := p.store.prefixes[0] + "replicas"
	return p.script.Run(ctx, p.store.client, []string{key}, p.name, gone.Milliseconds()).Int64Slice()
}
