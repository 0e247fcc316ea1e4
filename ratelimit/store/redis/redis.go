// Package redis keeps rate limit counters in Redis, shared by all replicas: one
// script call per request, decided by the server's clock. It owns the form of
// keys and values there. It has no breaker: package guard wraps it.
//
// All keys of an instance carry one hash tag, its prefix, because a request's
// limits are decided atomically and Redis Cluster does that within one slot
// only. On a cluster one shard therefore carries the limits of one prefix.
package redis

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"weir.dev/ratelimit"
)

//go:embed take.lua
var takeScript string

// The script's flags.
const (
	flagLook = 1 << iota
	flagShadow
	flagRefuse
)

const (
	argumentsPerCharge = 8
	valuesPerCharge    = 4
	valuesBefore       = 2
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
	client goredis.UniversalClient
	script *goredis.Script
	prefix string
	clock  func() time.Time
}

// New makes a store. It does not connect.
func New(client goredis.UniversalClient, options Options) (*Store, error) {
	if !validPrefix(options.Prefix) {
		return nil, fmt.Errorf("keyPrefix: %q must be 1 to 64 letters, digits, dots, colons, dashes or underscores", options.Prefix)
	}
	return &Store{
		client: client, script: goredis.NewScript(takeScript),
		prefix: "{" + options.Prefix + "}", clock: options.Clock,
	}, nil
}

// Ping reports whether the server answers.
func (s *Store) Ping(ctx context.Context) error { return s.client.Ping(ctx).Err() }

// Take implements ratelimit.Store. ctx bounds the call, dialling included.
func (s *Store) Take(ctx context.Context, charges []ratelimit.Charge) (ratelimit.Outcome, error) {
	if len(charges) == 0 {
		return ratelimit.Outcome{}, errors.New("no charges")
	}
	keys := make([]string, len(charges))
	arguments := make([]any, 1, 1+argumentsPerCharge*len(charges))
	arguments[0] = ""
	if s.clock != nil {
		arguments[0] = s.clock().UnixMicro()
	}
	for i := range charges {
		keys[i] = s.prefix + string(charges[i].Key)
		arguments = appendArguments(arguments, &charges[i])
	}
	values, err := s.script.Run(ctx, s.client, keys, arguments...).Int64Slice()
	if err != nil {
		return ratelimit.Outcome{}, fmt.Errorf("redis: %w", err)
	}
	return parse(values, len(charges))
}

func appendArguments(arguments []any, charge *ratelimit.Charge) []any {
	algorithm := "f"
	if charge.Limit.Algorithm == ratelimit.GCRA {
		algorithm = "g"
	}
	numbers, possible := charge.Limit.Numbers(charge.Cost)
	flags := 0
	if charge.Look {
		flags |= flagLook
	}
	if charge.Shadow {
		flags |= flagShadow
	}
	if !possible {
		flags |= flagRefuse
	}
	arguments = append(arguments, algorithm, flags)
	for _, number := range numbers {
		arguments = append(arguments, number)
	}
	return arguments
}

func parse(values []int64, charges int) (ratelimit.Outcome, error) {
	if len(values) != valuesBefore+valuesPerCharge*charges {
		return ratelimit.Outcome{}, errors.New("redis: the script answered with " + strconv.Itoa(len(values)) + " values; is another program using its keys?")
	}
	outcome := ratelimit.Outcome{Now: values[0], Admitted: values[1] == 1, Results: make([]ratelimit.Result, charges)}
	for i := range outcome.Results {
		v := values[valuesBefore+valuesPerCharge*i:]
		outcome.Results[i] = ratelimit.Result{
			Allowed: v[0] == 1,
			State:   ratelimit.State{At: v[1], Count: uint64(v[2]), Scale: uint32(v[3])},
		}
	}
	return outcome, nil
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
