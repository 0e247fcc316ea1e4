// Package answers keeps what others answered for as long as the policy says, and
// asks once for many requests that want to know the same. It knows nothing of
// what is asked.
package answers

import (
	"context"
	"fmt"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Terms are how one question is asked.
type Terms struct {
	// Timeout bounds one question; TTL is how long its answer is kept, 0 for not
	// at all.
	Timeout, TTL time.Duration
}

// Bounds of terms.
const (
	maxTimeout = 10 * time.Second
	maxTTL     = time.Hour
)

// NewTerms reads a policy's terms: zero or unset means the usual timeout, and
// that nothing is kept. Errors begin with the field at fault.
func NewTerms(timeout *durationpb.Duration, usual time.Duration, kept *durationpb.Duration) (Terms, error) {
	terms := Terms{Timeout: timeout.AsDuration(), TTL: kept.AsDuration()}
	if terms.Timeout == 0 {
		terms.Timeout = usual
	}
	if terms.Timeout < 0 || terms.Timeout > maxTimeout {
		return Terms{}, fmt.Errorf("timeout: %s is outside 0s to %s", terms.Timeout, maxTimeout)
	}
	if terms.TTL < 0 || terms.TTL > maxTTL {
		return Terms{}, fmt.Errorf("cache_duration: %s is outside 0s to %s", terms.TTL, maxTTL)
	}
	return terms, nil
}

// Answer is what came back.
type Answer[T any] struct {
	Value T
	// Size is how much of the cache it takes, in bytes, approximately.
	Size int
	// Expires is when it is not good any more; zero leaves it to the TTL.
	Expires time.Time
}

// Events hears what happens, for metrics. It must not block.
type Events interface {
	// AnswerCache says "hit", "miss" or "error" of a kind of question.
	AnswerCache(kind, outcome string)
}

// Cache is bounded. Safe for concurrent use.
type Cache[T any] struct {
	kind    string
	events  Events
	entries *otter.Cache[string, entry[T]]
	flight  singleflight.Group
}

type entry[T any] struct {
	value   T
	weight  uint32
	expires time.Time
}

// entryBytes is what an entry takes beside its key and value.
const entryBytes = 128

// New makes a cache of at most so many bytes, approximately. events may be nil.
func New[T any](kind string, bytes uint64, events Events) (*Cache[T], error) {
	entries, err := otter.New(&otter.Options[string, entry[T]]{
		MaximumWeight: bytes,
		Weigher:       func(_ string, e entry[T]) uint32 { return e.weight },
	})
	if err != nil {
		return nil, err
	}
	return &Cache[T]{kind: kind, events: events, entries: entries}, nil
}

// Ask returns the answer to the question that key stands for. Many callers with
// one key share one call of ask, which outlives any single caller and ends with
// the timeout; a caller waits no longer than its own ctx. Errors are not kept.
func (c *Cache[T]) Ask(ctx context.Context, now time.Time, key string, terms Terms, ask func(ctx context.Context) (Answer[T], error)) (T, error) {
	if terms.TTL > 0 {
		if kept, ok := c.entries.GetIfPresent(key); ok && now.Before(kept.expires) {
			c.say("hit")
			return kept.value, nil
		}
	}
	result := c.flight.DoChan(key, func() (any, error) {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), terms.Timeout)
		defer cancel()
		answer, err := ask(bounded)
		if err != nil {
			c.say("error")
			return nil, err
		}
		c.say("miss")
		c.keep(now, key, terms.TTL, answer)
		return answer.Value, nil
	})
	var none T
	select {
	case <-ctx.Done():
		return none, fmt.Errorf("no answer in time: %w", context.Cause(ctx))
	case answered := <-result:
		if answered.Err != nil {
			return none, answered.Err
		}
		value, ok := answered.Val.(T)
		if !ok {
			return none, fmt.Errorf("answered %T", answered.Val)
		}
		return value, nil
	}
}

func (c *Cache[T]) keep(now time.Time, key string, ttl time.Duration, answer Answer[T]) {
	if ttl <= 0 {
		return
	}
	expires := now.Add(ttl)
	if !answer.Expires.IsZero() && answer.Expires.Before(expires) {
		expires = answer.Expires
	}
	if expires.After(now) {
		c.entries.Set(key, entry[T]{value: answer.Value, weight: uint32(len(key) + answer.Size + entryBytes), expires: expires}) //nolint:gosec // bounded by what is read
	}
}

func (c *Cache[T]) say(outcome string) {
	if c.events != nil {
		c.events.AnswerCache(c.kind, outcome)
	}
}
