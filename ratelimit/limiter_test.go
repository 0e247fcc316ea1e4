package ratelimit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/store/memory"
	"weir.dev/ratelimit/storetest"
)

type events map[string]int

func (e events) Decided(rule string, event ratelimit.Event) { e[rule+" "+event.String()]++ }

type brokenStore struct{ error }

func (s brokenStore) Take(context.Context, []ratelimit.Charge) (ratelimit.Outcome, error) {
	return ratelimit.Outcome{}, s.error
}

func newLimiter(t testing.TB, rules ...*ratelimit.Rule) (*ratelimit.Limiter, events) {
	store, err := memory.New(memory.Options{MaxKeys: memory.MinKeys, Clock: storetest.NewClock().Now})
	require.NoError(t, err)
	return withStore(t, store, rules...)
}

func withStore(t testing.TB, store ratelimit.Store, rules ...*ratelimit.Rule) (*ratelimit.Limiter, events) {
	table, err := ratelimit.NewTable(rules)
	require.NoError(t, err)
	seen := events{}
	limiter := ratelimit.NewLimiter(store, seen)
	limiter.SetTable(table)
	return limiter, seen
}

func ask(id string, entries ...string) ratelimit.Descriptor {
	descriptor := ratelimit.Descriptor{Rule: id, Cost: 1}
	for i := 0; i < len(entries); i += 2 {
		descriptor.Entries = append(descriptor.Entries, ratelimit.Entry{Name: entries[i], Value: entries[i+1]})
	}
	return descriptor
}

func decide(t testing.TB, limiter *ratelimit.Limiter, descriptors ...ratelimit.Descriptor) ratelimit.Verdict {
	verdict, err := limiter.Decide(t.Context(), descriptors)
	require.NoError(t, err)
	require.Len(t, verdict.Statuses, len(descriptors))
	return verdict
}

func TestEachValueIsCountedByItself(t *testing.T) {
	limiter, seen := newLimiter(t, rule("r"))
	for range 2 {
		require.True(t, decide(t, limiter, ask("r", "consumer", "a")).Allowed)
		require.True(t, decide(t, limiter, ask("r", "consumer", "b")).Allowed)
	}
	verdict := decide(t, limiter, ask("r", "consumer", "a"))
	require.False(t, verdict.Allowed)
	require.Equal(t, ratelimit.Refused, verdict.Statuses[0].Event)
	require.Positive(t, verdict.Statuses[0].Decision.RetryAfter)
	require.Equal(t, events{"r ok": 4, "r over_limit": 1}, seen)
}

func TestTheOthersAreSparedWhenOneRefuses(t *testing.T) {
	limiter, seen := newLimiter(t, rule("narrow"), rule("wide", func(r *ratelimit.Rule) { r.Requests = 9 }))
	both := []ratelimit.Descriptor{ask("narrow"), ask("wide")}
	decide(t, limiter, both...)
	decide(t, limiter, both...)
	verdict := decide(t, limiter, both...)
	require.False(t, verdict.Allowed)
	require.Equal(t, ratelimit.Spared, verdict.Statuses[1].Event)
	require.True(t, verdict.Statuses[1].Decision.Allowed)
	require.EqualValues(t, 7, verdict.Statuses[1].Decision.Remaining)
	require.Equal(t, 1, seen["wide spared"])
}

func TestTiersPickTheNumbers(t *testing.T) {
	limiter, _ := newLimiter(t, rule("r", func(r *ratelimit.Rule) {
		r.Tiers = map[string]ratelimit.TierNumbers{"gold": {Requests: 5}, "none": {Requests: 0}}
	}))
	require.EqualValues(t, 4, decide(t, limiter, ask("r", "consumer", "a", "tier", "gold")).Statuses[0].Decision.Remaining)
	require.EqualValues(t, 1, decide(t, limiter, ask("r", "consumer", "a", "tier", "tin")).Statuses[0].Decision.Remaining)
	require.False(t, decide(t, limiter, ask("r", "consumer", "a", "tier", "none")).Allowed)
}

func TestACounterNamedTwicePaysTwice(t *testing.T) {
	limiter, _ := newLimiter(t, rule("r", func(r *ratelimit.Rule) { r.Requests = 3 }))
	look := ask("r")
	look.Cost = 0
	require.EqualValues(t, 1, decide(t, limiter, ask("r"), look, ask("r")).Statuses[0].Decision.Remaining)
	require.False(t, decide(t, limiter, ask("r"), ask("r")).Allowed)
	require.True(t, decide(t, limiter, look, ask("r")).Allowed)
	require.False(t, decide(t, limiter, look).Allowed)
}

func TestHugeCostsAreRefusedNotWrapped(t *testing.T) {
	limiter, _ := newLimiter(t, rule("r", func(r *ratelimit.Rule) { r.Requests = 4_294_967_295 }))
	huge := ask("r")
	huge.Cost = 1<<64 - 1
	require.False(t, decide(t, limiter, huge).Allowed)
	require.False(t, decide(t, limiter, huge, huge, huge).Allowed)
	require.True(t, decide(t, limiter, ask("r")).Allowed)
}

func TestShadowsRefuseNothing(t *testing.T) {
	limiter, seen := newLimiter(t, rule("s", func(r *ratelimit.Rule) { r.Requests, r.Shadow = 0, true }))
	verdict := decide(t, limiter, ask("s"))
	require.True(t, verdict.Allowed)
	require.Equal(t, ratelimit.ShadowRefused, verdict.Statuses[0].Event)
	require.Equal(t, events{"s shadow_over_limit": 1}, seen)
}

func TestUnknownRules(t *testing.T) {
	limiter, _ := newLimiter(t, rule("r"))
	_, err := limiter.Decide(t.Context(), []ratelimit.Descriptor{ask("r"), ask("gone")})
	var unknown *ratelimit.UnknownRuleError
	require.ErrorAs(t, err, &unknown)
	require.Equal(t, "gone", unknown.Rule)
	for range 2 {
		require.True(t, decide(t, limiter, ask("r")).Allowed, "the error charged nothing")
	}
}

func TestStoreFailureByFailureMode(t *testing.T) {
	cause := errors.New("no route")
	open := func(r *ratelimit.Rule) { r.FailureMode = ratelimit.FailOpen }
	shadow := func(r *ratelimit.Rule) { r.Shadow = true }
	limiter, seen := withStore(t, brokenStore{cause}, rule("open", open), rule("closed"), rule("shadow", shadow))
	verdict := decide(t, limiter, ask("open"), ask("shadow"))
	require.True(t, verdict.Allowed, "a shadow never refuses")
	require.Equal(t, ratelimit.FailedOpen, verdict.Statuses[0].Event)
	_, err := limiter.Decide(t.Context(), []ratelimit.Descriptor{ask("open"), ask("closed")})
	var failed *ratelimit.StoreError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, "closed", failed.Rule)
	require.ErrorIs(t, err, cause)
	require.Equal(t, events{"open failed_open": 2, "shadow failed_open": 1, "closed failed_closed": 1}, seen)
}

func TestNewNumbersKeepCountersNewWindowsDoNot(t *testing.T) {
	limiter, _ := newLimiter(t, rule("r"))
	decide(t, limiter, ask("r"))
	swap := func(change func(*ratelimit.Rule)) {
		table, err := ratelimit.NewTable([]*ratelimit.Rule{rule("r", change)})
		require.NoError(t, err)
		limiter.SetTable(table)
	}
	swap(func(r *ratelimit.Rule) { r.Requests = 10 })
	require.EqualValues(t, 8, decide(t, limiter, ask("r")).Statuses[0].Decision.Remaining)
	swap(func(r *ratelimit.Rule) { r.Requests, r.Window = 10, time.Hour })
	require.EqualValues(t, 9, decide(t, limiter, ask("r")).Statuses[0].Decision.Remaining)
}

func BenchmarkDecideInMemory(b *testing.B) {
	store, err := memory.New(memory.Options{MaxKeys: 1_000_000})
	require.NoError(b, err)
	plenty := func(r *ratelimit.Rule) {
		r.Algorithm, r.Requests, r.Window = ratelimit.GCRA, 4_000_000_000, time.Second
	}
	table, err := ratelimit.NewTable([]*ratelimit.Rule{rule("default/policy/per-consumer", plenty), rule("default/policy/per-route", plenty)})
	require.NoError(b, err)
	limiter := ratelimit.NewLimiter(store, nil)
	limiter.SetTable(table)
	one := []ratelimit.Descriptor{ask("default/policy/per-consumer", "consumer", "default/consumer-1")}
	two := append(one, ask("default/policy/per-route", "route", "httproute/default/users/rule/0"))
	for name, descriptors := range map[string][]ratelimit.Descriptor{"descriptors=1": one, "descriptors=2": two} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = limiter.Decide(b.Context(), descriptors)
			}
		})
		b.Run(name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_, _ = limiter.Decide(context.Background(), descriptors)
				}
			})
		})
	}
}
