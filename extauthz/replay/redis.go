package replay

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// DefaultTimeout bounds one question to Redis unless told otherwise.
const DefaultTimeout = 100 * time.Millisecond

// Redis is a Store that several processes share.
type Redis struct {
	client  redis.UniversalClient
	prefix  string
	timeout time.Duration
}

// NewRedis uses a client that the caller closes, and whose option
// ContextTimeoutEnabled is set. Keys begin with prefix; timeout bounds each
// question, zero means DefaultTimeout.
func NewRedis(client redis.UniversalClient, prefix string, timeout time.Duration) *Redis {
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	return &Redis{client: client, prefix: prefix, timeout: timeout}
}

// First implements Store. A replica that has not heard of an id yet may be
// promoted; what was used in that moment can then be used again.
func (r *Redis) First(ctx context.Context, id ID, _ time.Time, keep time.Duration) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	keep = max(keep, time.Second).Truncate(time.Millisecond)
	key, own := r.prefix+base64.RawURLEncoding.EncodeToString(id[:]), rand.Text()
	first, err := r.client.SetNX(ctx, key, own, keep).Result()
	if err == nil && !first {
		// The client asks again when an answer does not come in time, and then finds what
		// it has put there itself.
		var held string
		if held, err = r.client.Get(ctx, key).Result(); errors.Is(err, redis.Nil) {
			err = nil // its time is over by now
		}
		first = held == own
	}
	if err != nil {
		return false, fmt.Errorf("redis: %w", err)
	}
	return first, nil
}
