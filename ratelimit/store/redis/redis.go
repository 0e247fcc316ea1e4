// Package redis keeps rate limit counters in Redis, shared by all replicas and
// decided by the server's clock. Requests that come while a call is under way go
// together with the next one: one script call decides many requests, one after
// the other, each atomically. It owns the form of keys and values there. It has
// no breaker: package guard wraps it.
//
// On a Redis Cluster keys are spread over groups, each of which has a hash tag
// and so lies in one slot. A request whose counters are all in one group is
// decided at one instant, as on a single server. One whose counters are in
// several is charged in all at once, and if one refuses, the others get back
// what they were charged: see split.go for what that promises.
package redis

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
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

// Bounds of Options.Groups.
const (
	// DefaultClusterGroups spreads well over some ten shards.
	DefaultClusterGroups = 64
	MaxGroups            = 1024
)

// Options of a Store.
type Options struct {
	// Prefix starts every key and is in its hash tag. Required, without braces.
	Prefix string
	// Groups is the number of hash tags, 1 to MaxGroups; 0 takes
	// DefaultClusterGroups for a cluster and 1 otherwise. All replicas must agree;
	// another number starts all counters afresh.
	Groups int
	// WaitReplicas is how many replicas of a server must have what a call charged
	// before it is answered; fewer within WaitTimeout (0 is DefaultWaitTimeout) is an
	// error, and the charges stay. 0 waits for none.
	WaitReplicas int
	WaitTimeout  time.Duration
	// Clock replaces the server's clock, for tests only.
	Clock func() time.Time
	// Local replaces this process's clock, by which nothing is decided, for tests
	// only.
	Local func() time.Time
}

// Store is a ratelimit.Store over a client that it does not own.
type Store struct {
	client   goredis.UniversalClient
	cluster  *goredis.ClusterClient // nil if it is none
	source   string
	digest   string
	prefixes []string // by group
	clock    func() time.Time
	local    func() time.Time
	lanes    lanes
	hopes    hopes
	wait     []any // the command WAIT; nil for none
}

const (
	// DefaultWaitTimeout is Options.WaitTimeout's.
	DefaultWaitTimeout = 10 * time.Millisecond
	maxWaitReplicas    = 5
)

// New makes a store. It does not connect.
func New(client goredis.UniversalClient, options Options) (*Store, error) {
	if !validPrefix(options.Prefix) {
		return nil, fmt.Errorf("keyPrefix: %q must be 1 to 64 letters, digits, dots, colons, dashes or underscores", options.Prefix)
	}
	if options.Groups < 0 || options.Groups > MaxGroups {
		return nil, fmt.Errorf("groups: %d is outside 1 to %d", options.Groups, MaxGroups)
	}
	source := clockScript + algorithmsScript + takeScript
	store := &Store{client: client, source: source, digest: goredis.NewScript(source).Hash(), clock: options.Clock, local: options.Local}
	if options.WaitReplicas > 0 {
		timeout := cmp.Or(options.WaitTimeout, DefaultWaitTimeout)
		store.wait = []any{"wait", options.WaitReplicas, max(1, timeout.Milliseconds())}
	}
	store.cluster, _ = client.(*goredis.ClusterClient)
	switch groups := options.Groups; {
	case groups == 1, groups == 0 && store.cluster == nil:
		store.prefixes = []string{"{" + options.Prefix + "}"}
	default:
		if groups == 0 {
			groups = DefaultClusterGroups
		}
		for group := range groups {
			store.prefixes = append(store.prefixes, fmt.Sprintf("{%s.%d}", options.Prefix, group))
		}
	}
	store.lanes.make = func(node goredis.UniversalClient) *batcher {
		call := func(batch []*request) { store.call(node, batch) }
		return &batcher{call: call, maxBatch: maxBatch, maxQueue: maxQueue, maxCalls: maxCalls, maxWait: maxWait}
	}
	return store, nil
}

// Ping reports whether the server answers; of a cluster, one of its nodes.
func (s *Store) Ping(ctx context.Context) error { return s.client.Ping(ctx).Err() }

// Take implements ratelimit.Store. ctx bounds the wait, dialling included: what
// is not sent when it ends is never sent.
func (s *Store) Take(ctx context.Context, charges []ratelimit.Charge) (ratelimit.Outcome, error) {
	if err := checkCharges(charges); err != nil {
		return ratelimit.Outcome{}, err
	}
	outcome, err := s.take(ctx, charges)
	if err != nil {
		return ratelimit.Outcome{}, fmt.Errorf("redis: %w", err)
	}
	return outcome, nil
}

func (s *Store) take(ctx context.Context, charges []ratelimit.Charge) (ratelimit.Outcome, error) {
	group := s.groupOf(&charges[0])
	for i := range charges[1:] {
		if s.groupOf(&charges[i+1]) != group {
			return s.takeSplit(ctx, charges, s.byGroup(charges))
		}
	}
	r := s.newRequest(ctx, group, charges)
	err := s.send(ctx, r)
	if err == nil {
		err = r.wait(ctx)
	}
	if errors.Is(err, errTryAgain) {
		// The keys are in one slot that is under way from one node to another,
		// some here and some there: each by itself can be charged.
		return s.takeSplit(ctx, charges, s.byKey(charges))
	}
	if err != nil {
		return ratelimit.Outcome{}, err
	}
	return r.decided(charges)
}

func (s *Store) newRequest(ctx context.Context, group int, charges []ratelimit.Charge) *request {
	r := &request{group: group, done: make(chan struct{})}
	r.keys, r.own, r.charges = r.few.keys[:0], append(r.few.own[:0], charges...), r.few.charges[:0]
	if len(charges) > fewCharges {
		r.keys, r.charges = make([]string, 0, len(charges)), make([]byte, 0, 1+chargeMost*len(charges))
	}
	r.deadline, _ = ctx.Deadline()
	prefix, size := s.prefixes[group], 0
	for i := range charges {
		size += len(prefix) + len(charges[i].Key)
	}
	var names strings.Builder // of all keys in one
	names.Grow(size)
	for i := range charges {
		names.WriteString(prefix)
		names.WriteString(string(charges[i].Key))
	}
	rest := names.String()
	for i := range charges {
		length := len(prefix) + len(charges[i].Key)
		r.keys = append(r.keys, rest[:length])
		rest = rest[length:]
	}
	r.charges = appendRequest(r.charges, s.now(), charges)
	return r
}

// send sends a request to the node that has its slot.
func (s *Store) send(ctx context.Context, r *request) error {
	node := s.client
	if s.cluster != nil {
		var err error
		if node, err = s.cluster.MasterForKey(ctx, s.prefixes[r.group]); err != nil {
			return err
		}
	}
	return s.lanes.of(node).send(r)
}

func (s *Store) groupOf(charge *ratelimit.Charge) int {
	if len(s.prefixes) == 1 {
		return 0
	}
	group := charge.Group
	if group == 0 {
		group = ratelimit.NewGroup(string(charge.Key)+"/", nil)
	}
	return int(group % uint64(len(s.prefixes)))
}

// now is this process's clock; see Charge.Numbers.
func (s *Store) now() ratelimit.Time {
	if s.local != nil {
		return s.local().UnixMicro()
	}
	if s.clock != nil {
		return s.clock().UnixMicro()
	}
	return time.Now().UnixMicro()
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
