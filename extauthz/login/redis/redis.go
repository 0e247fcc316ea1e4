// Package redis keeps what logins share between replicas in Redis 6.2 or later,
// or Valkey, cluster included: every command has one key.
package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// Store is a login.Store in Redis. Safe for concurrent use.
type Store struct {
	client goredis.UniversalClient
	prefix string
}

// New makes a Store that begins every key with prefix. The client is the
// caller's to close.
func New(client goredis.UniversalClient, prefix string) *Store {
	return &Store{client: client, prefix: prefix + ":login:"}
}

// Get implements login.Store.
func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	value, err := s.client.Get(ctx, s.prefix+key).Bytes()
	if errors.Is(err, goredis.Nil) {
		return nil, nil
	}
	return value, wrap(err)
}

// Put implements login.Store.
func (s *Store) Put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	return wrap(s.client.Set(ctx, s.prefix+key, value, ttl).Err())
}

// Add implements login.Store.
func (s *Store) Add(ctx context.Context, key string, value []byte, ttl time.Duration) (bool, error) {
	added, err := s.conditional(ctx, key, value, ttl, "NX")
	if err != nil || added {
		return added, err
	}
	// The client asks again when an answer does not come in time, and then finds what
	// it has put there itself.
	held, err := s.Get(ctx, key)
	return err == nil && bytes.Equal(held, value), err
}

// Replace implements login.Store.
func (s *Store) Replace(ctx context.Context, key string, value []byte, ttl time.Duration) (bool, error) {
	return s.conditional(ctx, key, value, ttl, "XX")
}

func (s *Store) conditional(ctx context.Context, key string, value []byte, ttl time.Duration, mode string) (bool, error) {
	err := s.client.SetArgs(ctx, s.prefix+key, value, goredis.SetArgs{Mode: mode, TTL: ttl}).Err()
	if errors.Is(err, goredis.Nil) {
		return false, nil
	}
	return err == nil, wrap(err)
}

// Delete implements login.Store.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	var errs []error
	for _, key := range keys {
		errs = append(errs, s.client.Del(ctx, s.prefix+key).Err())
	}
	return wrap(errors.Join(errs...))
}

// append keeps a list as a sorted set whose scores count up, so that the oldest
// can be told, whatever the clocks of replicas say.
const appendScript = `
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
local score = 1
if last[2] then score = tonumber(last[2]) + 1 end
redis.call('ZADD', KEYS[1], score, ARGV[1])
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[2])
local dropped = {}
if over > 0 then
  dropped = redis.call('ZRANGE', KEYS[1], 0, over - 1)
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, over - 1)
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return dropped`

// Append implements login.Store.
func (s *Store) Append(ctx context.Context, list, member string, most int, ttl time.Duration) ([]string, error) {
	dropped, err := s.client.Eval(ctx, appendScript, []string{s.prefix + list}, member, most, ttl.Milliseconds()).StringSlice()
	return dropped, wrap(err)
}

// Members implements login.Store.
func (s *Store) Members(ctx context.Context, list string) ([]string, error) {
	members, err := s.client.ZRange(ctx, s.prefix+list, 0, -1).Result()
	return members, wrap(err)
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("redis: %w", err)
}
