// Package redis keeps rate limit counters in Redis, shared by all replicas and
// decided by the server's clock. Requests that come while a call is under way go
// together with the next one: one script call decides many requests, one after
// the other, each atomically. It owns the form of keys and values there. It has
// no breaker: package guard wraps it.
//
// All keys of an instance carry one hash tag, its prefix, because a request's
// limits are decided atomically and Redis Cluster does that within one slot
// only. On a cluster one shard therefore carries the limits of one prefix.
package redis

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"weir.dev/ratelimit"
)

var (
	//go:embed clock.lua
	clockScript string
	//go:embed algorithms.lua
	algorithmsScript string
	//go:embed take.lua
	takeScript string
)

// Bounds of a batch and of the queue before it.
const (
	// maxBatch bounds the requests of one call, and so the time for which one
	// call keeps the server, which is about 3 µs a charge.
	maxBatch = 64
	// maxQueue bounds the requests that wait to be sent.
	maxQueue = 4096
	// maxCalls bounds the calls under way at once.
	maxCalls = 8
	// maxWait is how long a request waits for the call before it to end.
	maxWait = 200 * time.Microsecond
	// callTimeout bounds a call whose requests have no deadline.
	callTimeout = 5 * time.Second
)

// Options of a Store.
type Options struct {
	// Prefix starts every key and is its hash tag. Required, without braces.
	Prefix string
	// Clock replaces the server's clock, for tests only.
	Clock func() time.Time
}

// Store is a ratelimit.Store over a client that it does not own.
type Store struct {
	client  goredis.UniversalClient
	script  *goredis.Script
	prefix  string
	clock   func() time.Time
	batches batcher
}

// New makes a store. It does not connect.
func New(client goredis.UniversalClient, options Options) (*Store, error) {
	if !validPrefix(options.Prefix) {
		return nil, fmt.Errorf("keyPrefix: %q must be 1 to 64 letters, digits, dots, colons, dashes or underscores", options.Prefix)
	}
	store := &Store{
		client: client, script: goredis.NewScript(clockScript + algorithmsScript + takeScript),
		prefix: "{" + options.Prefix + "}", clock: options.Clock,
	}
	store.batches = batcher{call: store.call, maxBatch: maxBatch, maxQueue: maxQueue, maxCalls: maxCalls, maxWait: maxWait}
	return store, nil
}

// Ping reports whether the server answers.
func (s *Store) Ping(ctx context.Context) error { return s.client.Ping(ctx).Err() }

// Take implements ratelimit.Store. ctx bounds the wait, dialling included: what
// is not sent when it ends is never sent.
func (s *Store) Take(ctx context.Context, charges []ratelimit.Charge) (ratelimit.Outcome, error) {
	if err := checkCharges(charges); err != nil {
		return ratelimit.Outcome{}, err
	}
	r := &request{keys: make([]string, len(charges)), charges: make([]byte, 0, 1+51*len(charges)), done: make(chan struct{})}
	r.deadline, _ = ctx.Deadline()
	for i := range charges {
		r.keys[i] = s.prefix + string(charges[i].Key)
	}
	r.charges = appendRequest(r.charges, charges)
	if err := s.batches.do(ctx, r); err != nil {
		return ratelimit.Outcome{}, fmt.Errorf("redis: %w", err)
	}
	outcome, err := parse(r.now, r.part, charges)
	if err != nil {
		return ratelimit.Outcome{}, fmt.Errorf("redis: %w", err)
	}
	return outcome, nil
}

// call decides a batch in one call of the script. It lasts as long as the most
// patient of its requests.
func (s *Store) call(batch []*request) {
	deadline, size, count := batch[0].deadline, 0, 0
	for _, r := range batch {
		if deadline.IsZero() || r.deadline.IsZero() {
			deadline = time.Time{}
		} else if r.deadline.After(deadline) {
			deadline = r.deadline
		}
		size += len(r.charges)
		count += len(r.keys)
	}
	if deadline.IsZero() {
		deadline = time.Now().Add(callTimeout)
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	answer, err := s.run(ctx, batch, size, count)
	counts := make([]int, len(batch))
	for i, r := range batch {
		counts[i] = len(r.keys)
	}
	if err == nil {
		err = split(answer, counts, func(i int, now ratelimit.Time, part string) { batch[i].answer(now, part, nil) })
	}
	if err != nil {
		for _, r := range batch {
			r.answer(0, "", err)
		}
	}
}

// run calls the script, by its digest where the server knows it.
func (s *Store) run(ctx context.Context, batch []*request, size, count int) (string, error) {
	arguments := make([]any, 0, 5+count)
	arguments = append(arguments, "evalsha", s.script.Hash(), count)
	charges := make([]byte, 0, size)
	for _, r := range batch {
		for i := range r.keys {
			arguments = append(arguments, &r.keys[i])
		}
		charges = append(charges, r.charges...)
	}
	now := any("")
	if s.clock != nil {
		now = s.clock().UnixMicro()
	}
	arguments = append(arguments, now, charges)
	answer, err := s.client.Do(ctx, arguments...).Text()
	if err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT") {
		arguments[0], arguments[1] = "eval", clockScript+algorithmsScript+takeScript
		answer, err = s.client.Do(ctx, arguments...).Text()
	}
	return answer, err
}

func validPrefix(prefix string) bool {
	if prefix == "" || len(prefix) > 64 {
		return false
	}
	for _, r := range prefix {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == ':', r == '-', r == '_':
		default:
			return false
		}
	}
	return true
}
