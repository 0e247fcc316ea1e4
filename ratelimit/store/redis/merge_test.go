package redis

import (
	"context"
	"fmt"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/internal/redistest"
)

// batchStore is a store whose calls a test makes itself.
type batchStore struct {
	*Store
	client goredis.UniversalClient
}

func newBatchStore(t require.TestingT, client goredis.UniversalClient, prefix string, clock func() time.Time) *batchStore {
	store, err := New(client, Options{Prefix: prefix, Clock: clock})
	require.NoError(t, err)
	return &batchStore{store, client}
}

func connect(t testing.TB) goredis.UniversalClient {
	var cfg Config
	cfg.SetDefaults()
	cfg.URL = redistest.Start(t).URL()
	client, err := cfg.NewClient(5 * time.Second)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// decide makes one call of many requests.
func (s *batchStore) decide(t require.TestingT, batch [][]ratelimit.Charge) (outcomes []ratelimit.Outcome, errs []error, whole bool) {
	var requests []*request
	for _, charges := range batch {
		requests = append(requests, s.newRequest(context.Background(), 0, charges))
	}
	s.call(s.client, requests)
	for i, r := range requests {
		<-r.done
		outcome, err := ratelimit.Outcome{}, r.err
		if err == nil {
			outcome, err = r.decided(batch[i])
		}
		whole = whole || r.outcome.Results != nil
		outcomes, errs = append(outcomes, outcome), append(errs, err)
	}
	return outcomes, errs, whole
}

var algorithms = []ratelimit.Limit{
	{Algorithm: ratelimit.FixedWindow, Window: time.Minute},
	{Algorithm: ratelimit.GCRA, Window: 7 * time.Second},
	{Algorithm: ratelimit.SlidingWindow, Window: 16 * time.Second},
	{Algorithm: ratelimit.Concurrency, Window: 20 * time.Second},
	{Algorithm: ratelimit.FixedWindow, Window: ratelimit.Day.Length(), Calendar: ratelimit.Day},
}

// Requests that are decided together find what they find one by one: while the
// clock goes on and back, while limits change, and when charges are given back by
// the receipts that they found.
func TestAWholeIsTheSameAsOneByOne(t *testing.T) {
	client := connect(t)
	run, wholes, refusals, refunds := 0, 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		now := time.Date(2026, 3, 1, 23, 59, 30, 0, time.UTC)
		clock := func() time.Time { return now }
		together := newBatchStore(t, client, fmt.Sprintf("together-%d", run), clock)
		apart := newBatchStore(t, client, fmt.Sprintf("apart-%d", run), clock)
		limits := map[ratelimit.Key]ratelimit.Limit{}
		for i := range 4 {
			limit := rapid.SampledFrom(algorithms).Draw(t, "algorithm")
			limit.Requests = rapid.Uint32Range(1, 60).Draw(t, "requests")
			limits[ratelimit.Key(fmt.Sprint("key-", i))] = limit
		}
		var charged []ratelimit.Charge // what can be given back
		for range rapid.IntRange(1, 20).Draw(t, "calls") {
			now = now.Add(time.Duration(rapid.Int64Range(-2_000_000, 10_000_000).Draw(t, "later µs")) * time.Microsecond)
			if key := ratelimit.Key(fmt.Sprint("key-", rapid.IntRange(0, 20).Draw(t, "changed"))); limits[key].Requests > 0 {
				limit := limits[key]
				limit.Requests = rapid.Uint32Range(1, 60).Draw(t, "requests now")
				limits[key] = limit
			}
			batch := rapid.SliceOfN(requestOf(limits), 2, 8).Draw(t, "batch")
			if len(charged) > 0 && rapid.IntRange(0, 3).Draw(t, "give back") == 0 {
				batch = append(batch, []ratelimit.Charge{rapid.SampledFrom(charged).Draw(t, "refund")})
				refunds++
			}
			together.hopes.learn(true)
			apart.hopes.skip.Store(1000)
			got, gotErrs, whole := together.decide(t, batch)
			want, wantErrs, alsoWhole := apart.decide(t, batch)
			require.False(t, alsoWhole)
			require.Equal(t, wantErrs, gotErrs)
			require.Equal(t, want, got)
			if whole {
				wholes++
			}
			for i := range want {
				if !want[i].Admitted {
					require.False(t, whole, "a whole is of requests that are all admitted")
					refusals++
					continue
				}
				charged = append(charged, given(batch[i], got[i])...)
			}
		}
	})
	require.Greater(t, wholes, 10, "wholes were decided")
	require.Greater(t, refusals, 10, "and some were refused")
	require.Greater(t, refunds, 10, "and some given back")
}

// given are the refunds of what an admitted request was charged.
func given(charges []ratelimit.Charge, outcome ratelimit.Outcome) (refunds []ratelimit.Charge) {
	for i, charge := range charges {
		if charge.Look || charge.Refund {
			continue
		}
		charge.Receipt, charge.Refund, charge.Force, charge.Shadow = outcome.Results[i].State.Receipt(charge.Limit), true, false, false
		refunds = append(refunds, charge)
	}
	return refunds
}

// requestOf is a request of some of the keys.
func requestOf(limits map[ratelimit.Key]ratelimit.Limit) *rapid.Generator[[]ratelimit.Charge] {
	return rapid.Custom(func(t *rapid.T) (charges []ratelimit.Charge) {
		odd := rapid.IntRange(0, 60).Draw(t, "odd")
		for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, len(limits)-1), 1, 3, rapid.ID).Draw(t, "keys") {
			key := ratelimit.Key(fmt.Sprint("key-", i))
			charges = append(charges, ratelimit.Charge{
				Key: key, Limit: limits[key], Cost: rapid.Uint64Range(1, 3).Draw(t, "cost"),
				Shadow: rapid.IntRange(0, 4).Draw(t, "shadow") == 0, Look: odd == 1, Force: odd == 2,
			})
		}
		return charges
	})
}

func TestWholeOf(t *testing.T) {
	limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 100, Window: time.Minute}
	other := limit
	other.Requests = 200
	charge := func(key ratelimit.Key, change func(*ratelimit.Charge)) ratelimit.Charge {
		made := ratelimit.Charge{Key: key, Limit: limit, Cost: 1}
		if change != nil {
			change(&made)
		}
		return made
	}
	store, err := New(goredis.NewClient(&goredis.Options{}), Options{Prefix: "p"})
	require.NoError(t, err)
	for name, tc := range map[string]struct {
		second []ratelimit.Charge
		want   []uint64 // costs
	}{
		"shared":              {[]ratelimit.Charge{charge("a", nil), charge("b", nil)}, []uint64{2, 2}},
		"partly shared":       {[]ratelimit.Charge{charge("a", nil), charge("c", nil)}, []uint64{2, 1, 1}},
		"little shared":       {[]ratelimit.Charge{charge("c", nil), charge("d", nil), charge("a", nil)}, []uint64{2, 1, 1, 1}},
		"nothing shared":      {[]ratelimit.Charge{charge("c", nil), charge("d", nil)}, nil},
		"one looks":           {[]ratelimit.Charge{charge("a", func(c *ratelimit.Charge) { c.Look = true })}, nil},
		"one refunds":         {[]ratelimit.Charge{charge("a", func(c *ratelimit.Charge) { c.Refund = true })}, nil},
		"one is forced":       {[]ratelimit.Charge{charge("a", func(c *ratelimit.Charge) { c.Force = true })}, nil},
		"one in the shadow":   {[]ratelimit.Charge{charge("a", func(c *ratelimit.Charge) { c.Shadow = true })}, []uint64{2, 1}},
		"numbers differ":      {[]ratelimit.Charge{charge("a", func(c *ratelimit.Charge) { c.Limit = other })}, nil},
		"never to be":         {[]ratelimit.Charge{charge("a", func(c *ratelimit.Charge) { c.Cost = 100 })}, nil},
		"as much as there is": {[]ratelimit.Charge{charge("a", func(c *ratelimit.Charge) { c.Cost = 99 })}, []uint64{100, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			one := &call{requests: []*request{
				store.newRequest(t.Context(), 0, []ratelimit.Charge{charge("a", nil), charge("b", nil)}),
				store.newRequest(t.Context(), 0, tc.second),
			}}
			store.hopes.learn(true)
			store.arguments(one, "evalsha", "x")
			var costs []uint64
			for i := range one.whole {
				require.False(t, one.whole[i].Shadow)
				costs = append(costs, one.whole[i].Cost)
			}
			require.Equal(t, tc.want, costs)
		})
	}
}

func TestRefusedWholesAreTriedLess(t *testing.T) {
	var h hopes
	tries := func(calls int, admitted bool) (at []int) {
		for i := range calls {
			if h.worth() {
				at = append(at, i)
				h.learn(admitted)
			}
		}
		return at
	}
	require.Len(t, tries(10, true), 10)
	require.Equal(t, []int{0, 3, 8, 17, 34, 67, 132, 197}, tries(200, false))
	require.Len(t, tries(maxApart+10, true), 12, "one that is admitted ends that")
	require.Equal(t, []int{0, 3, 8}, tries(10, false), "and pauses are short again")
}

// A call has more keys than fit into one call from Lua, a key of another type among
// them.
func TestCallsOfManyKeys(t *testing.T) {
	client := connect(t)
	store := newBatchStore(t, client, "many", nil)
	limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 3, Window: 24 * time.Hour}
	const requests, keys, broken = maxBatch, 130, 50 // Lua takes some 8,000
	require.NoError(t, client.LPush(t.Context(), fmt.Sprintf("{many}key-%d-7", broken), "a list").Err())
	batch := make([][]ratelimit.Charge, requests)
	for i := range batch {
		for j := range keys {
			batch[i] = append(batch[i], ratelimit.Charge{Key: ratelimit.Key(fmt.Sprintf("key-%d-%d", i, j)), Limit: limit, Cost: 1})
		}
	}
	for round := range 4 {
		outcomes, errs, _ := store.decide(t, batch)
		for i := range batch {
			if i == broken {
				require.ErrorContains(t, errs[i], "another type")
				continue
			}
			require.NoError(t, errs[i])
			require.Equal(t, round < 3, outcomes[i].Admitted)
			for j := range keys {
				require.EqualValues(t, min(round+1, 3), outcomes[i].Results[j].State.Count)
			}
		}
	}
	stored, err := client.DBSize(t.Context()).Result()
	require.NoError(t, err)
	require.EqualValues(t, requests*keys-keys+1, stored, "what is refused leaves nothing")
	ttl, err := client.PTTL(t.Context(), "{many}key-63-129").Result()
	require.NoError(t, err)
	require.Positive(t, ttl, "the expiry stays when a counter is written in place")
}
