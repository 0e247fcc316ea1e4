// Package storetest is the conformance suite of ratelimit.Store: every
// implementation passes it.
package storetest

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"weir.dev/ratelimit"
)

// New makes an empty store. With a nil clock the store uses its own, otherwise
// the given one, which stands still between the suite's steps.
type New func(t testing.TB, clock func() time.Time) ratelimit.Store

// Clock is a clock that moves when told. Safe for concurrent use.
type Clock struct{ micros atomic.Int64 }

// NewClock starts at a time that is no window's boundary.
func NewClock() *Clock {
	clock := &Clock{}
	clock.micros.Store(1_800_000_000_123_457)
	return clock
}

// Now is the clock's time.
func (c *Clock) Now() time.Time { return time.UnixMicro(c.micros.Load()) }

// Advance moves the clock, back if d is negative.
func (c *Clock) Advance(d time.Duration) { c.micros.Add(d.Microseconds()) }

// Run runs the suite.
func Run(t *testing.T, newStore New) {
	t.Run("decides like the pure algorithms", func(t *testing.T) { likeTheModel(t, newStore) })
	RunSpread(t, newStore)
}

// RunSpread is Run for a store whose counters are on many servers: what it takes
// back can leave a rounding behind, so it is not held to the model by the
// microsecond.
func RunSpread(t *testing.T, newStore New) {
	t.Run("all or nothing", func(t *testing.T) { allOrNothing(t, newStore) })
	t.Run("shadow and look", func(t *testing.T) { shadowAndLook(t, newStore) })
	t.Run("changed numbers keep the counters", func(t *testing.T) { changedNumbers(t, newStore) })
	t.Run("the clock goes back", func(t *testing.T) { clockGoesBack(t, newStore) })
	t.Run("exact under concurrency", func(t *testing.T) { exactUnderConcurrency(t, newStore) })
	t.Run("opposite orders do not block", func(t *testing.T) { oppositeOrders(t, newStore) })
	t.Run("its own clock", func(t *testing.T) { ownClock(t, newStore) })
	t.Run("no charges is an error", func(t *testing.T) {
		_, err := newStore(t, nil).Take(t.Context(), nil)
		require.Error(t, err)
	})
}

// Limits used by the cases.
func fixed(requests uint32) ratelimit.Limit {
	return ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: requests, Window: time.Minute}
}

func of(algorithm ratelimit.Algorithm, requests uint32) ratelimit.Limit {
	return ratelimit.Limit{Algorithm: algorithm, Requests: requests, Window: time.Minute}
}

func daily(requests uint32) ratelimit.Limit {
	return ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: requests, Window: ratelimit.Day.Length(), Calendar: ratelimit.Day}
}

// each is a limit of each kind.
func each(requests uint32) []ratelimit.Limit {
	return []ratelimit.Limit{
		fixed(requests), gcra(requests, requests), of(ratelimit.SlidingWindow, requests), of(ratelimit.Concurrency, requests), daily(requests),
	}
}

func nameOf(limit ratelimit.Limit) string {
	if limit.Calendar != ratelimit.NoCalendar {
		return limit.Calendar.String()
	}
	return limit.Algorithm.String()
}

func gcra(requests, burst uint32) ratelimit.Limit {
	return ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: requests, Burst: burst, Window: time.Minute}
}

func take(t require.TestingT, store ratelimit.Store, charges ...ratelimit.Charge) ratelimit.Outcome {
	outcome, err := store.Take(background(), charges)
	require.NoError(t, err)
	require.Len(t, outcome.Results, len(charges))
	return outcome
}

func one(key string, limit ratelimit.Limit) ratelimit.Charge {
	return ratelimit.Charge{Key: ratelimit.Key(key), Limit: limit, Cost: 1}
}

// model is the plain meaning of Store.Take.
type model map[ratelimit.Key]ratelimit.State

func (m model) take(now ratelimit.Time, charges []ratelimit.Charge) ratelimit.Outcome {
	outcome := ratelimit.Outcome{Now: now, Admitted: true}
	after := maps.Clone(m)
	for _, charge := range charges {
		next, decision := charge.Apply(now, m[charge.Key])
		outcome.Results = append(outcome.Results, ratelimit.Result{Allowed: decision.Allowed})
		if charge.Force {
			m[charge.Key], after[charge.Key] = next, next
		} else if decision.Allowed && !charge.Look {
			after[charge.Key] = next
		}
		if !decision.Allowed && !charge.Shadow {
			outcome.Admitted = false
		}
	}
	if outcome.Admitted {
		maps.Copy(m, after)
	}
	return outcome
}

func likeTheModel(t *testing.T, newStore New) {
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		clock := NewClock()
		trial := &trial{
			store: newStore(t, clock.Now), plain: model{}, receipts: map[ratelimit.Key][]ratelimit.Receipt{},
			limits: rapid.SliceOfN(rapid.Custom(drawLimit), 1, 4).Draw(rt, "limits"), name: fmt.Sprintf("model %d", run),
			kept: map[ratelimit.Key]kept{},
		}
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			clock.Advance(time.Duration(rapid.Int64Range(0, 3_000_000).Draw(rt, "advance")) * time.Microsecond)
			if rapid.IntRange(0, 20).Draw(rt, "wait") == 0 {
				clock.Advance(time.Duration(rapid.Int64Range(-600, 7200).Draw(rt, "seconds")) * time.Second)
			}
			trial.step(rt, clock.Now().UnixMicro())
		}
	})
}

// trial charges a store and the model with the same.
type trial struct {
	store    ratelimit.Store
	plain    model
	limits   []ratelimit.Limit
	name     string
	receipts map[ratelimit.Key][]ratelimit.Receipt
	// latest is the greatest time so far, kept what was last kept for each key.
	latest ratelimit.Time
	kept   map[ratelimit.Key]kept
	// renewed counts the keys each limit had before this one.
	renewed [4]int
}

// kept says until when a counter matters under the limit it was charged for.
type kept struct {
	limit ratelimit.Limit
	until ratelimit.Time
}

// key of the limit at i. A store may have dropped a counter that was over, or
// not. That shows when the clock is or was set back or the limit is another:
// such a counter is not asked for again.
func (tr *trial) key(i int, now ratelimit.Time) ratelimit.Key {
	key := ratelimit.Key(fmt.Sprintf("%s %d %d", tr.name, i, tr.renewed[i]))
	last, known := tr.kept[key]
	if !known || last.until > max(tr.latest, now) {
		return key
	}
	if now >= tr.latest && last.limit == tr.limits[i] && tr.plain[key].Back == 0 {
		return key
	}
	tr.renewed[i]++
	return tr.key(i, now)
}

func (tr *trial) step(t *rapid.T, now ratelimit.Time) {
	var charges []ratelimit.Charge
	defer func() { tr.latest = max(tr.latest, now) }()
	for i := range tr.limits {
		if !rapid.Bool().Draw(t, "charged") {
			continue
		}
		if rapid.IntRange(0, 9).Draw(t, "changed") == 0 {
			tr.limits[i] = changed(t, tr.limits[i])
		}
		charges = append(charges, tr.charge(t, tr.key(i, now), tr.limits[i]))
	}
	if len(charges) == 0 {
		return
	}
	before := maps.Clone(tr.plain)
	want, got := tr.plain.take(now, charges), take(t, tr.store, charges...)
	require.Equal(t, want.Now, got.Now)
	require.Equal(t, want.Admitted, got.Admitted)
	for i := range charges {
		charge := &charges[i]
		state := tr.plain[charge.Key]
		if charge.Applies(want.Results[i].Allowed, want.Admitted) && state != before[charge.Key] {
			tr.kept[charge.Key] = kept{charge.Limit, state.Expiry(charge.Limit)}
		}
		require.Equal(t, want.Results[i].Allowed, got.Results[i].Allowed, "charge %d", i)
		require.Equal(t, ratelimit.Describe(want.Now, charge.Limit, state),
			ratelimit.Describe(got.Now, charge.Limit, got.Results[i].State), "what is left of charge %d", i)
		if !charge.Refund && charge.Applies(want.Results[i].Allowed, want.Admitted) {
			require.Equal(t, state.Receipt(charge.Limit), got.Results[i].State.Receipt(charge.Limit), "receipt %d", i)
			tr.receipts[charge.Key] = append(tr.receipts[charge.Key], state.Receipt(charge.Limit))
		}
	}
}

func (tr *trial) charge(t *rapid.T, key ratelimit.Key, limit ratelimit.Limit) ratelimit.Charge {
	charge := ratelimit.Charge{
		Key: key, Limit: limit, Cost: rapid.OneOf(rapid.Uint64Range(1, 4), rapid.SampledFrom([]uint64{30, 1 << 31, ratelimit.MaxCost})).Draw(t, "cost"),
		Shadow: rapid.IntRange(0, 5).Draw(t, "shadow") == 0,
	}
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0, 1:
		charge.Look = true
	case 2, 3:
		charge.Force = true
	case 4, 5, 6:
		if given := tr.receipts[key]; len(given) > 0 {
			i := rapid.IntRange(0, len(given)-1).Draw(t, "receipt")
			charge.Refund, charge.Receipt = true, given[i]
			tr.receipts[key] = slices.Delete(given, i, i+1)
		}
	}
	return charge
}

func drawLimit(t *rapid.T) ratelimit.Limit {
	limit := ratelimit.Limit{
		Algorithm: rapid.SampledFrom([]ratelimit.Algorithm{
			ratelimit.FixedWindow, ratelimit.GCRA, ratelimit.SlidingWindow, ratelimit.Concurrency,
		}).Draw(t, "algorithm"),
		Requests: rapid.SampledFrom([]uint32{0, 1, 2, 3, 7, 10, 40, 4_000_000_000}).Draw(t, "requests"),
		Window:   rapid.SampledFrom([]time.Duration{time.Second, 7 * time.Second, 20 * time.Second, time.Hour}).Draw(t, "window"),
	}
	switch limit.Algorithm {
	case ratelimit.GCRA:
		limit.Burst = rapid.SampledFrom([]uint32{0, 1, 3, 20}).Draw(t, "burst")
	case ratelimit.FixedWindow:
		limit.Calendar = rapid.SampledFrom([]ratelimit.Calendar{
			ratelimit.NoCalendar, ratelimit.NoCalendar, ratelimit.Day, ratelimit.Week, ratelimit.Month,
		}).Draw(t, "calendar")
		if limit.Calendar != ratelimit.NoCalendar {
			limit.Window = limit.Calendar.Length()
			limit.Zone = rapid.SampledFrom([]*time.Location{nil, time.FixedZone("east", 12*3600), time.FixedZone("soon", -(8*3600 + 60*2))}).Draw(t, "zone")
		}
	}
	limit.Ceiling = rapid.SampledFrom([]uint32{0, 0, 0, 1, 5}).Draw(t, "ceiling")
	return limit
}

// changed is a limit with other numbers and the same algorithm and window, which
// the same key may be charged under.
func changed(t *rapid.T, limit ratelimit.Limit) ratelimit.Limit {
	other := drawLimit(t)
	limit.Requests, limit.Ceiling = other.Requests, other.Ceiling
	if limit.Algorithm == ratelimit.GCRA {
		limit.Burst = other.Burst
	}
	return limit
}

func allOrNothing(t *testing.T, newStore New) {
	for _, wide := range each(10) {
		for _, narrow := range each(2) {
			t.Run(nameOf(wide)+" and "+nameOf(narrow), func(t *testing.T) {
				store := newStore(t, NewClock().Now)
				for range 2 {
					require.True(t, take(t, store, one("wide", wide), one("narrow", narrow)).Admitted)
				}
				for range 5 {
					refused := take(t, store, one("wide", wide), one("narrow", narrow))
					require.False(t, refused.Admitted)
					require.True(t, refused.Results[0].Allowed, "the wide limit alone would admit")
					require.False(t, refused.Results[1].Allowed)
				}
				for range 8 {
					require.True(t, take(t, store, one("wide", wide)).Admitted, "refused requests cost the wide limit nothing")
				}
				require.False(t, take(t, store, one("wide", wide)).Admitted)
			})
		}
	}
}

func shadowAndLook(t *testing.T, newStore New) {
	store := newStore(t, NewClock().Now)
	shadow := one("shadow", fixed(1))
	shadow.Shadow = true
	require.True(t, take(t, store, shadow, one("real", fixed(2))).Admitted)
	second := take(t, store, shadow, one("real", fixed(2)))
	require.True(t, second.Admitted, "a shadow refuses nothing")
	require.False(t, second.Results[0].Allowed, "and says what it would have done")
	require.False(t, take(t, store, one("other shadow", fixed(5)), one("real", fixed(2))).Admitted)

	look := one("looked at", gcra(1, 1))
	look.Look = true
	for range 3 {
		require.True(t, take(t, store, look).Admitted, "looking costs nothing")
	}
	require.True(t, take(t, store, one("looked at", gcra(1, 1))).Admitted)
	require.False(t, take(t, store, look).Admitted, "looking tells that nothing is left")
}

func changedNumbers(t *testing.T, newStore New) {
	clock := NewClock()
	store := newStore(t, clock.Now)
	for range 3 {
		require.True(t, take(t, store, one("f", fixed(5)), one("g", gcra(5, 5))).Admitted)
	}
	require.False(t, take(t, store, one("f", fixed(3))).Admitted, "three were used")
	require.True(t, take(t, store, one("f", fixed(4))).Admitted, "a fourth is left")
	require.False(t, take(t, store, one("g", gcra(5, 1))).Admitted, "the burst shrank below what is used")
	clock.Advance(36*time.Second - time.Microsecond)
	require.False(t, take(t, store, one("g", gcra(5, 1))).Admitted)
	clock.Advance(time.Microsecond)
	require.True(t, take(t, store, one("g", gcra(5, 1))).Admitted, "what was used has drained")
	raised := take(t, store, one("g", gcra(60, 60)))
	require.True(t, raised.Admitted)
	require.EqualValues(t, 58, ratelimit.Describe(raised.Now, gcra(60, 60), raised.Results[0].State).Remaining,
		"one request of the old rate is one of the new")
}

func clockGoesBack(t *testing.T, newStore New) {
	clock := NewClock()
	store := newStore(t, clock.Now)
	for range 2 {
		require.True(t, take(t, store, one("f", fixed(2)), one("g", gcra(2, 2))).Admitted)
	}
	clock.Advance(-30 * time.Second)
	require.False(t, take(t, store, one("f", fixed(2))).Admitted)
	require.False(t, take(t, store, one("g", gcra(2, 2))).Admitted)
	clock.Advance(2 * time.Minute)
	require.True(t, take(t, store, one("f", fixed(2)), one("g", gcra(2, 2))).Admitted)
}

func exactUnderConcurrency(t *testing.T, newStore New) {
	const workers, calls, limit = 16, 40, 100
	for _, tc := range each(limit) {
		t.Run(nameOf(tc), func(t *testing.T) {
			store := newStore(t, NewClock().Now)
			var admitted atomic.Int64
			var wide sync.WaitGroup
			for worker := range workers {
				wide.Go(func() {
					for range calls {
						own := one(fmt.Sprintf("own %d", worker), fixed(calls))
						outcome, err := store.Take(background(), []ratelimit.Charge{own, one("shared", tc)})
						if err == nil && outcome.Admitted {
							admitted.Add(1)
						}
					}
				})
			}
			wide.Wait()
			require.EqualValues(t, limit, admitted.Load(), "of %d", workers*calls)
			spent := int64(0)
			for worker := range workers {
				state := take(t, store, ratelimit.Charge{
					Key: ratelimit.Key(fmt.Sprintf("own %d", worker)), Limit: fixed(calls), Cost: 1, Look: true,
				}).Results[0].State
				spent += int64(state.Count)
			}
			require.EqualValues(t, limit, spent, "only admitted requests were charged")
		})
	}
}

func oppositeOrders(t *testing.T, newStore New) {
	store := newStore(t, NewClock().Now)
	keys := make([]ratelimit.Charge, 20)
	for i := range keys {
		keys[i] = one(fmt.Sprintf("key %d", i), fixed(1_000_000))
	}
	reversed := make([]ratelimit.Charge, len(keys))
	for i := range keys {
		reversed[len(keys)-1-i] = keys[i]
	}
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			order := keys
			if worker%2 == 1 {
				order = reversed
			}
			for range 50 {
				_, _ = store.Take(background(), order)
			}
		})
	}
	group.Wait()
	state := take(t, store, keys...).Results[0].State
	require.EqualValues(t, 8*50+1, state.Count)
}

func ownClock(t *testing.T, newStore New) {
	store := newStore(t, nil)
	limit := ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 1, Window: 200 * time.Millisecond}
	first := take(t, store, one("own", limit))
	require.True(t, first.Admitted)
	require.WithinDuration(t, time.Now(), time.UnixMicro(first.Now), 5*time.Second)
	require.Eventually(t, func() bool { return take(t, store, one("own", limit)).Admitted },
		5*time.Second, 5*time.Millisecond, "the allowance comes back with time")
}
