package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/store/memory"
	"weir.dev/ratelimit/storetest"
)

func TestSharesAreTogetherTheWhole(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.Uint32Range(0, 1000).Draw(rt, "n")
		replicas := rapid.Uint32Range(0, 12).Draw(rt, "replicas")
		key := ratelimit.Key(rapid.String().Draw(rt, "key"))
		sum := uint32(0)
		for rank := range max(1, replicas) {
			sum += ratelimit.Share{Replicas: replicas, Rank: rank}.Of(n, key)
		}
		require.Equal(rt, n, sum)
		require.LessOrEqual(rt, ratelimit.Share{Replicas: replicas, Rank: replicas}.Of(n, key)*max(1, replicas), n, "whoever doesn't know its place takes no rest")
	})
}

// absent is a store that never answers.
type absent struct{}

func (absent) Take(context.Context, []ratelimit.Charge) (ratelimit.Outcome, error) {
	return ratelimit.Outcome{}, errors.New("down")
}

type heard map[ratelimit.Event]int

func (e heard) Decided(_ string, event ratelimit.Event) { e[event]++ }

func TestWithoutTheStoreEachReplicaAdmitsItsShare(t *testing.T) {
	clock := storetest.NewClock()
	for _, tc := range []struct {
		limit ratelimit.Limit
		ids   int
	}{
		{ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 10, Window: time.Hour}, 1},
		{ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 10, Burst: 5, Window: time.Hour}, 5},
		{ratelimit.Limit{Algorithm: ratelimit.SlidingWindow, Requests: 2, Window: time.Hour}, 5},
	} {
		for id := range tc.ids {
			admitted, seen := 0, heard{}
			for rank := range uint32(4) {
				store, err := memory.New(memory.Options{MaxKeys: memory.MinKeys, Clock: clock.Now})
				require.NoError(t, err)
				limiter := ratelimit.NewLimiter(absent{}, seen)
				limiter.SetLocal(&ratelimit.Local{Store: store, Share: func() ratelimit.Share { return ratelimit.Share{Replicas: 4, Rank: rank} }})
				rule := &ratelimit.Rule{ID: fmt.Sprintf("a/b/%d", id), Limit: tc.limit, LocalShare: true}
				table, err := ratelimit.NewTable([]*ratelimit.Rule{rule, {ID: "open", Limit: tc.limit, FailureMode: ratelimit.FailOpen}})
				require.NoError(t, err)
				limiter.SetTable(table)
				for range 20 {
					verdict, err := limiter.Decide(t.Context(), []ratelimit.Descriptor{{Rule: rule.ID, Cost: 1}, {Rule: rule.ID, Cost: 0}, {Rule: "open", Cost: 1}})
					require.NoError(t, err)
					require.Equal(t, ratelimit.FailedOpen, verdict.Statuses[2].Event)
					if verdict.Allowed {
						admitted++
					} else {
						require.Equal(t, ratelimit.Refused, verdict.Statuses[0].Event)
					}
				}
			}
			require.EqualValues(t, tc.limit.Capacity(), admitted, "%s: all replicas together", tc.limit.Algorithm)
			require.Equal(t, 2*admitted, seen[ratelimit.LocalAdmitted])
			require.Positive(t, seen[ratelimit.LocalRefused])
		}
	}
}

// TestControlWithoutSharesTheFailureModeAnswers shows what shares are for.
func TestControlWithoutSharesTheFailureModeAnswers(t *testing.T) {
	limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 1, Window: time.Hour}
	limiter := ratelimit.NewLimiter(absent{}, nil)
	table, err := ratelimit.NewTable([]*ratelimit.Rule{
		{ID: "open", Limit: limit, LocalShare: true, FailureMode: ratelimit.FailOpen}, {ID: "closed", Limit: limit, LocalShare: true},
	})
	require.NoError(t, err)
	limiter.SetTable(table)
	for range 5 {
		verdict, err := limiter.Decide(t.Context(), []ratelimit.Descriptor{{Rule: "open", Cost: 1}})
		require.NoError(t, err)
		require.True(t, verdict.Allowed)
	}
	_, err = limiter.Decide(t.Context(), []ratelimit.Descriptor{{Rule: "closed", Cost: 1}})
	require.Error(t, err)
}

func TestRulesThatReplicasCannotDecide(t *testing.T) {
	base := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 1, Window: time.Hour}
	for name, change := range map[string]func(*ratelimit.Rule){
		"share of places":   func(r *ratelimit.Rule) { r.LocalShare, r.Algorithm = true, ratelimit.Concurrency },
		"share settled":     func(r *ratelimit.Rule) { r.LocalShare, r.Cost = true, ratelimit.Cost{Number: 1, Max: 9, Settles: true} },
		"leased log":        func(r *ratelimit.Rule) { r.Leased, r.Algorithm = true, ratelimit.SlidingWindow },
		"leased and forced": func(r *ratelimit.Rule) { r.Leased, r.CountRefused = true, true },
		"leased reserves":   func(r *ratelimit.Rule) { r.Leased, r.Reserves = true, []ratelimit.Reserve{{Tier: "a", Percent: 5}} },
	} {
		rule := &ratelimit.Rule{ID: "a/b/c", Limit: base}
		change(rule)
		require.Error(t, rule.Validate(), name)
	}
	require.NoError(t, (&ratelimit.Rule{ID: "a/b/c", Limit: base, Leased: true, LocalShare: true}).Validate())
}
