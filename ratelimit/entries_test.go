package ratelimit_test

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"weir.dev/kit/limitexpr"
	"weir.dev/ratelimit"
)

// over is what Envoy sends when the request of that status is over.
func over(d ratelimit.Descriptor, status ratelimit.Status, cost string) ratelimit.Descriptor {
	d.Entries = append(slices.Clone(d.Entries), ratelimit.Entry{Name: ratelimit.EntryTicket, Value: status.Ticket})
	if cost != "" {
		d.Entries = append(d.Entries, ratelimit.Entry{Name: ratelimit.EntryCost, Value: cost})
	}
	return d
}

func only(v ratelimit.Verdict) ratelimit.Status { return v.Statuses[0] }

func kinds() []ratelimit.Limit {
	return []ratelimit.Limit{
		{Algorithm: ratelimit.FixedWindow, Requests: 100, Window: time.Hour},
		{Algorithm: ratelimit.GCRA, Requests: 100, Window: time.Hour},
		{Algorithm: ratelimit.SlidingWindow, Requests: 100, Window: time.Hour},
		{Algorithm: ratelimit.FixedWindow, Requests: 100, Window: ratelimit.Month.Length(), Calendar: ratelimit.Month},
	}
}

func TestCostsAreReservedAndSettled(t *testing.T) {
	for _, limit := range kinds() {
		t.Run(limit.Algorithm.String()+" "+limit.Calendar.String(), func(t *testing.T) {
			limiter, seen := newLimiter(t, rule("r", func(r *ratelimit.Rule) {
				r.Limit, r.Cost = limit, ratelimit.Cost{Number: 10, Max: 60, Settles: true}
			}))
			left := func() uint32 {
				look := ask("r", "consumer", "a")
				look.Cost = 0
				return only(decide(t, limiter, look)).Decision.Remaining
			}
			for _, step := range []struct {
				estimate, actual string
				reserved, left   uint32
			}{
				{"", "4", 90, 96},         // less than reserved
				{"", "10", 86, 86},        // as much
				{"", "25", 76, 61},        // more
				{"20", "0", 41, 61},       // estimated by the request, and free in the end
				{"junk", "5", 1, 56},      // what is no number may cost the most
				{"1", "", 46, 46},         // less than the least; and the response says nothing
				{"", "many", 36, 36},      // or nothing sensible
				{"", "-1", 26, 26},        //
				{"", "99999999", 16, 0},   // no more than the most
				{"00000000001", "", 0, 0}, // refused: see below
			} {
				d := ask("r", "consumer", "a")
				entries := d.Entries
				if step.estimate != "" {
					d.Entries = append(slices.Clone(entries), ratelimit.Entry{Name: ratelimit.EntryCost, Value: step.estimate})
				}
				status := only(decide(t, limiter, d))
				require.Equal(t, step.reserved, status.Decision.Remaining, "%+v", step)
				if step.reserved == 0 {
					require.Equal(t, ratelimit.Refused, status.Event)
					require.Empty(t, status.Ticket, "nothing to settle")
					continue
				}
				d.Entries = entries
				settled := decide(t, limiter, over(d, status, step.actual))
				require.True(t, settled.Allowed, "nobody is refused any more")
				require.Equal(t, ratelimit.Settled, only(settled).Event)
				require.Equal(t, step.left, left(), "%+v", step)
			}
			require.Equal(t, 9, seen["r settled"])
		})
	}
}

// What was overspent is owed: nobody passes before it is back.
func TestDebtsAreWaitedFor(t *testing.T) {
	limiter, _ := newLimiter(t, rule("r", func(r *ratelimit.Rule) {
		r.Limit = ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 100, Window: time.Hour}
		r.Cost = ratelimit.Cost{Number: 0, Max: 1000, Settles: true}
	}))
	first := only(decide(t, limiter, ask("r")))
	require.EqualValues(t, 100, first.Decision.Remaining, "0 only looks")
	decide(t, limiter, over(ask("r"), first, "150"))
	refused := only(decide(t, limiter, ask("r")))
	require.Equal(t, ratelimit.Refused, refused.Event)
	require.Equal(t, 30*time.Minute+36*time.Second, refused.Decision.RetryAfter, "the 50 too many, and one")
}

func TestPlacesComeBackOnce(t *testing.T) {
	limiter, _ := newLimiter(t, rule("r", func(r *ratelimit.Rule) {
		r.Limit = ratelimit.Limit{Algorithm: ratelimit.Concurrency, Requests: 2, Window: time.Minute}
	}))
	first := only(decide(t, limiter, ask("r", "consumer", "a")))
	require.NotEmpty(t, first.Ticket)
	decide(t, limiter, ask("r", "consumer", "a"))
	require.False(t, decide(t, limiter, ask("r", "consumer", "a")).Allowed)
	decide(t, limiter, over(ask("r", "consumer", "b"), first, ""))
	require.False(t, decide(t, limiter, ask("r", "consumer", "a")).Allowed, "another's place is not ours")
	decide(t, limiter, over(ask("r", "consumer", "a"), first, ""))
	require.True(t, decide(t, limiter, ask("r", "consumer", "a")).Allowed)
}

func TestTicketsOfNobodyChangeNothing(t *testing.T) {
	limiter, _ := newLimiter(t, rule("r", func(r *ratelimit.Rule) {
		r.Cost = ratelimit.Cost{Number: 1, Max: 10, Settles: true}
	}), rule("plain"))
	real := only(decide(t, limiter, ask("r"))).Ticket
	for _, ticket := range []string{
		"x", "..", "1.2", "1.2.3.4", "-1.0.5", "1.-2.5", "zzzzzzzzzzzzzzzz.0.1", "1.1.zzzzzzzzz", strings.Repeat("1", 4096), " " + real, real + ".",
	} {
		for _, id := range []string{"r", "plain"} {
			d := over(ask(id), ratelimit.Status{Ticket: ticket}, "0")
			require.True(t, decide(t, limiter, d).Allowed, ticket)
		}
	}
	decide(t, limiter, over(ask("plain"), ratelimit.Status{Ticket: real}, "0"))
	require.True(t, decide(t, limiter, ask("r")).Allowed)
	require.False(t, decide(t, limiter, ask("r")).Allowed, "both places of the rule are still taken")
}

func TestTicketsAreReadAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ticket := ratelimit.Ticket{
			Receipt: ratelimit.Receipt{At: rapid.Int64Range(0, 1<<53-1).Draw(t, "at"), Back: rapid.Int64Range(0, 1<<53-1).Draw(t, "back")},
			Cost:    rapid.Uint64Range(0, ratelimit.MaxCost).Draw(t, "cost"),
		}
		got, ok := ratelimit.ParseTicket(ticket.String())
		require.True(t, ok)
		require.Equal(t, ticket, got)
	})
}

func TestReservesKeepAShare(t *testing.T) {
	for _, limit := range kinds() {
		t.Run(limit.Algorithm.String()+" "+limit.Calendar.String(), func(t *testing.T) {
			limiter, _ := newLimiter(t, rule("r", func(r *ratelimit.Rule) {
				r.Limit, r.Reserves = limit, []ratelimit.Reserve{{Tier: "gold", Percent: 20}, {Tier: "silver", Percent: 10}}
			}))
			passes := func(class string) int {
				n := 0
				for decide(t, limiter, ask("r", ratelimit.EntryClass, class)).Allowed {
					n++
				}
				return n
			}
			require.Equal(t, 70, passes("tin"))
			require.Equal(t, 0, passes(""))
			require.Equal(t, 10, passes("silver"))
			require.Equal(t, 20, passes("gold"))
		})
	}
}

// A small limit leaves the less important at least one.
func TestReservesLeaveSomething(t *testing.T) {
	limiter, _ := newLimiter(t, rule("r", func(r *ratelimit.Rule) {
		r.Requests, r.Reserves = 1, []ratelimit.Reserve{{Tier: "gold", Percent: 99}}
	}))
	require.True(t, decide(t, limiter, ask("r")).Allowed)
	require.False(t, decide(t, limiter, ask("r", ratelimit.EntryClass, "gold")).Allowed)
}

func TestOverridesAreBounded(t *testing.T) {
	limiter, _ := newLimiter(t, rule("r", func(r *ratelimit.Rule) { r.MaxOverride = 50 }), rule("deaf"))
	for value, want := range map[string]uint32{"10": 9, "50": 49, "51": 49, "4294967295": 49, "4294967296": 1, "-1": 1, "many": 1, "": 1, " 5": 1} {
		d := ask("r", "consumer", "c"+value, ratelimit.EntryRequests, value)
		require.Equal(t, want, only(decide(t, limiter, d)).Decision.Remaining, "%q", value)
	}
	require.False(t, decide(t, limiter, ask("r", ratelimit.EntryRequests, "0")).Allowed, "0 refuses all")
	require.EqualValues(t, 1, only(decide(t, limiter, ask("deaf", ratelimit.EntryRequests, "10"))).Decision.Remaining)
}

func TestUnlimitedTiersReachNoStore(t *testing.T) {
	unlimited := func(r *ratelimit.Rule) { r.Tiers = map[string]ratelimit.TierNumbers{"gold": {Unlimited: true}} }
	limiter, seen := withStore(t, brokenStore{context.DeadlineExceeded}, rule("r", unlimited), rule("open", func(r *ratelimit.Rule) { r.FailureMode = ratelimit.FailOpen }))
	status := only(decide(t, limiter, ask("r", "tier", "gold")))
	require.Equal(t, ratelimit.Admitted, status.Event)
	require.EqualValues(t, math.MaxUint32, status.Decision.Remaining)
	_, err := limiter.Decide(t.Context(), []ratelimit.Descriptor{ask("r", "tier", "tin")})
	require.Error(t, err, "the other tiers do")
	require.True(t, decide(t, limiter, ask("r", "tier", "gold"), ask("open")).Allowed)
	require.Equal(t, 2, seen["r ok"])
}

func TestCountRefused(t *testing.T) {
	stubborn := func(r *ratelimit.Rule) {
		r.Limit, r.CountRefused = ratelimit.Limit{Algorithm: ratelimit.SlidingWindow, Requests: 5, Window: time.Minute}, true
	}
	limiter, _ := newLimiter(t, rule("stubborn", stubborn), rule("narrow", func(r *ratelimit.Rule) { r.Requests = 1 }))
	both := []ratelimit.Descriptor{ask("stubborn"), ask("narrow")}
	require.True(t, decide(t, limiter, both...).Allowed)
	for i := range 4 {
		verdict := decide(t, limiter, both...)
		require.False(t, verdict.Allowed)
		require.EqualValues(t, 3-i, verdict.Statuses[0].Decision.Remaining, "charged for what the other refused")
	}
	require.Equal(t, ratelimit.Refused, only(decide(t, limiter, both...)).Event)
}

// What is said of a request is no part of what it is counted by, wherever it
// stands.
func TestHintsAreNotCountedBy(t *testing.T) {
	hint := func(name string) ratelimit.Entry { return ratelimit.Entry{Name: name, Value: "1"} }
	limiter, _ := newLimiter(t, rule("r", func(r *ratelimit.Rule) { r.Requests = 100 }))
	want := uint32(100)
	for _, entries := range [][]ratelimit.Entry{
		{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}},
		{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}, hint(ratelimit.EntryClass), hint(ratelimit.EntryCost)},
		{{Name: "a", Value: "1"}, hint(ratelimit.EntryClass), {Name: "b", Value: "2"}, hint(ratelimit.EntryRequests)},
		{hint("weir.later"), {Name: "a", Value: "1"}, {Name: "b", Value: "2"}},
	} {
		want--
		before := slices.Clone(entries)
		status := only(decide(t, limiter, ratelimit.Descriptor{Rule: "r", Cost: 1, Entries: entries}))
		require.Equal(t, want, status.Decision.Remaining)
		require.Equal(t, before, entries, "the caller's entries are his")
	}
}

func TestCostsOfHits(t *testing.T) {
	limiter, _ := newLimiter(t, rule("r", func(r *ratelimit.Rule) { r.Requests, r.Cost = 100, ratelimit.Cost{Number: 5, Max: 50} }))
	hits := func(n uint64) ratelimit.Descriptor { return ratelimit.Descriptor{Rule: "r", Cost: n} }
	require.EqualValues(t, 95, only(decide(t, limiter, hits(1))).Decision.Remaining)
	require.EqualValues(t, 80, only(decide(t, limiter, hits(3))).Decision.Remaining, "each costs")
	require.EqualValues(t, 80, only(decide(t, limiter, hits(0))).Decision.Remaining)
	require.False(t, decide(t, limiter, hits(math.MaxUint64)).Allowed, "and no product wraps")
}

// An expression's cost is charged if it is more than the number, and never more
// than the most; what it reads is not counted by.
func TestCostsByExpression(t *testing.T) {
	environment, err := limitexpr.NewEnvironment()
	require.NoError(t, err)
	program, err := environment.Compile(`int(request.param("n")) * (identity.claim("plan") == "big" ? 10 : 1) + (request.path == "/deep" ? 7 : 0)`)
	require.NoError(t, err)
	limiter, _ := newLimiter(t, rule("r", func(r *ratelimit.Rule) {
		r.Limit = ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 1000, Window: time.Hour}
		r.Cost = ratelimit.Cost{Number: 2, Max: 60, Expression: program}
	}))
	left := uint32(1000)
	for _, test := range []struct {
		entries []string
		hits    uint64
		cost    uint32
	}{
		{[]string{"weir.in.param.n", "5"}, 1, 5},
		{[]string{"weir.in.param.n", "5"}, 3, 15},
		{[]string{"weir.in.param.n", "1"}, 1, 2},
		{[]string{"weir.in.param.n", "3", "weir.in.claim.plan", "big"}, 1, 30},
		{[]string{"weir.in.param.n", "3", "weir.in.path", "/deep?n=3"}, 1, 10},
		{[]string{"weir.in.param.n", "500"}, 1, 60},
		{[]string{"weir.in.param.n", "many"}, 1, 60},
		{nil, 1, 60},
		{[]string{"weir.in.nothing", "x"}, 1, 60},
		{[]string{"weir.in.param.n", "3", ratelimit.EntryCost, "8"}, 1, 8},
	} {
		d := ask("r", append([]string{"consumer", "a"}, test.entries...)...)
		d.Cost = test.hits
		left -= test.cost
		require.Equal(t, left, only(decide(t, limiter, d)).Decision.Remaining, "%v", test.entries)
	}
}
