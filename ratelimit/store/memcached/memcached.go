// Package memcached keeps fixed windows in memcached, for those who have it
// already (BACKEND_TYPE=memcache of envoyproxy/ratelimit). It has no scripts and
// no clock, so it promises less than the other stores: several limits of a
// request are charged one after the other and taken back when one refuses, and
// the window is that of this process's clock. A limit is never exceeded within
// one window, given clocks that agree; while a refused request is taken back,
// others can be refused that would have passed.
package memcached

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"weir.dev/ratelimit"
)

// linger is how long a counter is kept after its window, in seconds, for clocks
// that are behind.
const linger = 60

// longest is the longest time to live that memcached does not take for a date.
const longest = 30 * 24 * 60 * 60

// Store is a ratelimit.Store over a client that it does not own. It decides
// FixedWindow without a calendar, no Force and no Refund; others are errors. Safe
// for concurrent use.
type Store struct {
	client *memcache.Client
	prefix string
	clock  func() time.Time
}

// New makes a store; prefix begins every key. clock is time.Now if nil.
func New(client *memcache.Client, prefix string, clock func() time.Time) (*Store, error) {
	if prefix == "" || len(prefix) > 64 || strings.ContainsFunc(prefix, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("prefix: %q must be 1 to 64 printable ASCII characters without spaces", prefix)
	}
	if clock == nil {
		clock = time.Now
	}
	return &Store{client: client, prefix: prefix, clock: clock}, nil
}

// Ping reports whether all servers answer.
func (s *Store) Ping(context.Context) error { return s.client.Ping() }

// applied is a charge that may have to be taken back.
type applied struct {
	key  string
	cost uint64
}

// Take implements ratelimit.Store with the package's promises. The client's own
// timeout bounds each step; ctx is looked at between them.
func (s *Store) Take(ctx context.Context, charges []ratelimit.Charge) (ratelimit.Outcome, error) {
	if len(charges) == 0 {
		return ratelimit.Outcome{}, errors.New("no charges")
	}
	outcome := ratelimit.Outcome{Now: s.clock().UnixMicro(), Admitted: true, Results: make([]ratelimit.Result, len(charges))}
	var done []applied
	for i := range charges {
		charge := &charges[i]
		err := ctx.Err()
		if err == nil {
			err = check(charge)
		}
		var taken applied
		if err == nil {
			outcome.Results[i], taken, err = s.charge(outcome.Now, charge)
		}
		if err != nil {
			return ratelimit.Outcome{}, errors.Join(fmt.Errorf("memcached: %w", err), s.takeBack(done))
		}
		if taken.cost > 0 {
			done = append(done, taken)
		}
		outcome.Admitted = outcome.Admitted && (outcome.Results[i].Allowed || charge.Shadow)
	}
	if outcome.Admitted {
		return outcome, nil
	}
	for i := range charges {
		if result := &outcome.Results[i]; result.Allowed && !charges[i].Look {
			result.State.Count -= min(result.State.Count, charges[i].Cost)
		}
	}
	if err := s.takeBack(done); err != nil {
		return ratelimit.Outcome{}, fmt.Errorf("memcached: %w", err)
	}
	return outcome, nil
}

func check(charge *ratelimit.Charge) error {
	switch {
	case charge.Limit.Algorithm != ratelimit.FixedWindow || charge.Limit.Calendar != ratelimit.NoCalendar:
		return errors.New("only fixed windows without a calendar can be kept here")
	case charge.Force || charge.Refund:
		return errors.New("forced charges and refunds cannot be made here")
	}
	return nil
}

// charge adds to one counter, unless that would exceed its limit.
func (s *Store) charge(now ratelimit.Time, charge *ratelimit.Charge) (result ratelimit.Result, taken applied, err error) {
	window := charge.Limit.Window.Microseconds()
	start := now - now%window
	result.State.At = start
	key := s.key(charge.Key, start)
	capacity := charge.Limit.Capacity()
	if charge.Look || charge.Cost > capacity {
		result.State.Count, err = s.read(key)
		result.Allowed = result.State.Count+charge.Cost <= capacity
		return result, taken, err
	}
	count, err := s.add(key, charge.Cost, charge.Limit.Window)
	if err != nil {
		return result, taken, err
	}
	if count > capacity {
		result.State.Count = min(count-charge.Cost, capacity)
		return result, taken, s.takeBack([]applied{{key, charge.Cost}})
	}
	result.Allowed, result.State.Count = true, count
	return result, applied{key, charge.Cost}, nil
}

func (s *Store) read(key string) (uint64, error) {
	item, err := s.client.Get(key)
	if errors.Is(err, memcache.ErrCacheMiss) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	// Memcached leaves spaces where a number became shorter.
	return strconv.ParseUint(strings.TrimRight(string(item.Value), " "), 10, 64)
}

// add increments, or begins, a counter. One that begins does so with its expiry.
func (s *Store) add(key string, cost uint64, window time.Duration) (uint64, error) {
	const tries = 3
	for range tries {
		count, err := s.client.Increment(key, cost)
		if !errors.Is(err, memcache.ErrCacheMiss) {
			return count, err
		}
		seconds := int64(window/time.Second) + 1 + linger
		expiry := int32(min(seconds, longest)) //nolint:gosec // bounded
		if seconds > longest {
			expiry = int32(min(time.Now().Unix()+seconds, 1<<31-1)) //nolint:gosec // bounded
		}
		err = s.client.Add(&memcache.Item{Key: key, Value: strconv.AppendUint(nil, cost, 10), Expiration: expiry})
		if !errors.Is(err, memcache.ErrNotStored) {
			return cost, err
		}
		// Another one began it meanwhile.
	}
	return 0, errors.New("a counter comes and goes; is the server out of memory?")
}

// takeBack gives back what was charged; what has expired meanwhile is gone.
func (s *Store) takeBack(done []applied) error {
	var errs []error
	for _, one := range done {
		if _, err := s.client.Decrement(one.key, one.cost); err != nil && !errors.Is(err, memcache.ErrCacheMiss) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Forget implements ratelimit.Forgetter.
func (s *Store) Forget(_ context.Context, charges []ratelimit.Charge) error {
	now := s.clock().UnixMicro()
	for i := range charges {
		window := max(charges[i].Limit.Window.Microseconds(), 1)
		if err := s.client.Delete(s.key(charges[i].Key, now-now%window)); err != nil && !errors.Is(err, memcache.ErrCacheMiss) {
			return fmt.Errorf("memcached: %w", err)
		}
	}
	return nil
}

// key is one that memcached takes: short, and without spaces.
func (s *Store) key(key ratelimit.Key, start ratelimit.Time) string {
	sum := sha256.Sum256([]byte(key))
	return s.prefix + ":" + base64.RawURLEncoding.EncodeToString(sum[:]) + ":" + strconv.FormatInt(start, 36)
}
