package envoyrlqs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	rlqsv3 "github.com/envoyproxy/go-control-plane/envoy/service/rate_limit_quota/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/store/memory"
	"weir.dev/ratelimit/storetest"
)

const step = 50 * time.Millisecond

// proxy is what Envoy 1.40 does with one bucket: a token bucket that starts full,
// lives for whole seconds, and refuses after that.
type proxy struct {
	stream          *stream
	id              *rlqsv3.BucketId
	known           bool
	tokens          uint64
	bucket          *typev3.TokenBucket
	everything      bool
	expires         time.Time
	allowed, denied uint64
	nextReport      time.Time
	reportEvery     time.Duration
	// arriving are assignments under way.
	arriving []arriving
	latency  time.Duration
	demand   float64
}

type arriving struct {
	at     time.Time
	action *rlqsv3.RateLimitQuotaResponse_BucketAction
}

func (p *proxy) apply(now time.Time) {
	for len(p.arriving) > 0 && !p.arriving[0].at.After(now) {
		action := p.arriving[0].action
		p.arriving = p.arriving[1:]
		if action.GetAbandonAction() != nil {
			p.known, p.tokens, p.everything = false, 0, false
			continue
		}
		expired := p.expires
		assignment := action.GetQuotaAssignmentAction()
		p.expires = now.Add(time.Duration(assignment.GetAssignmentTimeToLive().GetSeconds()) * time.Second)
		strategy := assignment.GetRateLimitStrategy()
		switch bucket := strategy.GetTokenBucket(); {
		case bucket == nil:
			p.tokens = 0
		case p.bucket == nil || !now.Before(expired):
			p.tokens = uint64(bucket.GetMaxTokens())
		default:
			p.tokens = min(p.tokens, uint64(bucket.GetMaxTokens())) // What was there is carried over.
		}
		p.bucket = strategy.GetTokenBucket()
		p.everything = strategy.GetTokenBucket() == nil && strategy.GetBlanketRule() == typev3.RateLimitStrategy_ALLOW_ALL
	}
	if !now.Before(p.expires) {
		p.tokens, p.everything = 0, false
	}
}

// request decides one, and reports a new bucket at once.
func (p *proxy) request(t testing.TB, now time.Time) bool {
	pass := p.everything || p.tokens > 0
	if pass {
		p.allowed++
		p.tokens -= min(p.tokens, 1)
	} else {
		p.denied++
	}
	if !p.known {
		p.known = true
		p.report(t, now)
	}
	return pass
}

func (p *proxy) report(t testing.TB, now time.Time) {
	if !p.known {
		return
	}
	told, err := p.stream.read(&rlqsv3.RateLimitQuotaUsageReports{Domain: "weir", BucketQuotaUsages: []*rlqsv3.RateLimitQuotaUsageReports_BucketQuotaUsage{
		{BucketId: p.id, NumRequestsAllowed: p.allowed, NumRequestsDenied: p.denied},
	}})
	require.NoError(t, err)
	p.allowed, p.denied = 0, 0
	p.answer(told, now)
}

func (p *proxy) answer(due []*bucket, now time.Time) {
	for _, action := range p.stream.assign(context.Background(), due).GetBucketAction() {
		p.arriving = append(p.arriving, arriving{now.Add(p.latency), action})
	}
}

type world struct {
	clock    *storetest.Clock
	proxies  []*proxy
	server   *Server
	limiter  *ratelimit.Limiter
	admitted []time.Time
	asked    int
}

func newWorld(t testing.TB, limit ratelimit.Limit, options Options, proxies ...*proxy) *world {
	w := &world{clock: storetest.NewClock()}
	store, err := memory.New(memory.Options{MaxKeys: memory.MinKeys, Clock: w.clock.Now})
	require.NoError(t, err)
	table, err := ratelimit.NewTable([]*ratelimit.Rule{{ID: "a/b/c", Limit: limit}, {ID: "a/b/shadow", Limit: limit, Shadow: true}})
	require.NoError(t, err)
	w.limiter = ratelimit.NewLimiter(store, nil)
	w.limiter.SetTable(table)
	options.Domain, options.Clock = "weir", w.clock.Now
	w.server = New(w.limiter, options)
	for _, p := range proxies {
		p.stream = &stream{server: w.server, buckets: map[string]*bucket{}}
		if p.id == nil {
			p.id = &rlqsv3.BucketId{Bucket: map[string]string{"weir.limit": "a/b/c", "consumer": "x"}}
		}
		w.proxies = append(w.proxies, p)
	}
	return w
}

// run lets the proxies take requests for a while.
func (w *world) run(t testing.TB, random *rand.Rand, length time.Duration) {
	for range length / step {
		now := w.clock.Now()
		for _, p := range w.proxies {
			p.apply(now)
			p.answer(p.stream.due(now), now)
			p.apply(now)
			expected := p.demand * step.Seconds()
			count := int(expected)
			if random.Float64() < expected-float64(count) {
				count++
			}
			for range count {
				w.asked++
				if p.request(t, now) {
					w.admitted = append(w.admitted, now)
				}
				p.apply(now)
			}
			if !now.Before(p.nextReport) {
				p.report(t, now)
				p.nextReport = now.Add(p.reportEvery)
			}
		}
		w.clock.Advance(step)
	}
}

// No window ever admits more than its limit, however many Envoys there are, how
// late they are told and how uneven their traffic is; and RLS in between counts
// in the same counter.
func TestFixedWindowsAreNeverExceeded(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		limit := ratelimit.Limit{
			Algorithm: ratelimit.FixedWindow, Requests: rapid.Uint32Range(1, 400).Draw(r, "requests"),
			Window: time.Duration(rapid.IntRange(5, 30).Draw(r, "window")) * time.Second,
		}
		var proxies []*proxy
		for range rapid.IntRange(1, 5).Draw(r, "envoys") {
			proxies = append(proxies, &proxy{
				demand:      rapid.Float64Range(0, 60).Draw(r, "demand"),
				reportEvery: time.Duration(rapid.IntRange(2, 60).Draw(r, "report")) * step,
				latency:     time.Duration(rapid.IntRange(0, 5).Draw(r, "latency")) * step,
			})
		}
		w := newWorld(t, limit, Options{}, proxies...)
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 0))
		for range 40 {
			w.run(t, random, 2*time.Second)
			if random.IntN(3) == 0 {
				verdict, err := w.limiter.Decide(t.Context(), []ratelimit.Descriptor{{Rule: "a/b/c", Cost: 1, Entries: []ratelimit.Entry{{Name: "consumer", Value: "x"}}}})
				require.NoError(t, err)
				if verdict.Allowed {
					w.admitted = append(w.admitted, w.clock.Now())
				}
			}
			if p := w.proxies[random.IntN(len(w.proxies))]; random.IntN(4) == 0 {
				p.demand = random.Float64() * 80
			}
		}
		counts := map[int64]uint32{}
		for _, at := range w.admitted {
			counts[at.UnixMicro()/limit.Window.Microseconds()]++
		}
		for window, count := range counts {
			require.LessOrEqual(t, count, limit.Requests, "window %d", window)
		}
	})
}

// Within any time T, GCRA passes at most burst + rate × (T + TTL).
func TestSmoothLimitsKeepTheirBound(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		limit := ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 1 + random.Uint32N(300), Burst: 1 + random.Uint32N(100), Window: 10 * time.Second}
		const ttl = 5 * time.Second
		w := newWorld(t, limit, Options{TTL: ttl},
			&proxy{demand: random.Float64() * 60, reportEvery: time.Second}, &proxy{demand: random.Float64() * 60, reportEvery: 300 * time.Millisecond, latency: 2 * step})
		w.run(t, random, 2*time.Minute)
		rate := float64(limit.Requests) / limit.Window.Seconds()
		for i := range w.admitted {
			for j := i; j < len(w.admitted); j += 7 {
				took := w.admitted[j].Sub(w.admitted[i]) + ttl
				if most := float64(limit.Capacity()) + rate*took.Seconds() + 1; float64(j-i+1) > most {
					require.FailNow(t, "too many", "seed %d: %d, at most %f", seed, j-i+1, most)
				}
			}
		}
	}
}

// What is asked for under the limit passes, nearly all of it; above it, nearly
// the whole limit does.
func TestLittleIsLost(t *testing.T) {
	limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 1200, Window: time.Minute}
	for name, test := range map[string]struct {
		demand []float64
		least  float64 // of what could pass
	}{
		"one Envoy, half the limit":    {[]float64{10}, 0.95},
		"four Envoys, half the limit":  {[]float64{2, 3, 4, 1}, 0.9},
		"one Envoy, five times":        {[]float64{100}, 0.95},
		"four Envoys, six times":       {[]float64{60, 20, 30, 10}, 0.93},
		"two Envoys, at the limit":     {[]float64{10, 10}, 0.8},
		"a busy one and a nearly idle": {[]float64{100, 0.2}, 0.9},
	} {
		t.Run(name, func(t *testing.T) {
			var proxies []*proxy
			total := 0.0
			for _, demand := range test.demand {
				total += demand
				proxies = append(proxies, &proxy{demand: demand, reportEvery: 5 * time.Second, latency: step})
			}
			w := newWorld(t, limit, Options{}, proxies...)
			w.run(t, rand.New(rand.NewPCG(7, 7)), 10*time.Minute)
			could := min(total, 20) * 600
			share := float64(len(w.admitted)) / could
			t.Logf("%.3f of what could pass did", share)
			require.GreaterOrEqual(t, share, test.least)
		})
	}
}

// Control: were assignments not paid for, as many Envoys would each spend the
// limit.
func TestControlUnpaidAssignmentsExceedTheLimit(t *testing.T) {
	limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 100, Window: 10 * time.Second}
	w := newWorld(t, limit, Options{}, &proxy{demand: 50, reportEvery: time.Second}, &proxy{demand: 50, reportEvery: time.Second})
	w.server.limiter = unpaid{w.limiter}
	w.run(t, rand.New(rand.NewPCG(1, 1)), time.Minute)
	require.Greater(t, len(w.admitted), 700)
}

type unpaid struct{ *ratelimit.Limiter }

func (u unpaid) Grant(_ context.Context, descriptor ratelimit.Descriptor, request ratelimit.GrantRequest) (ratelimit.Granted, error) {
	rule := u.Table().Rule(descriptor.Rule)
	return ratelimit.Granted{Rule: rule, Limit: rule.Limit, Cost: request.Want}, nil
}

func TestShadowRulesRefuseNothing(t *testing.T) {
	id := &rlqsv3.BucketId{Bucket: map[string]string{"weir.limit": "a/b/shadow"}}
	w := newWorld(t, ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 1, Window: time.Minute}, Options{}, &proxy{demand: 50, reportEvery: time.Second, id: id})
	w.run(t, rand.New(rand.NewPCG(1, 1)), 30*time.Second)
	require.Greater(t, len(w.admitted), w.asked-20)
}

func TestIdleBucketsAreAbandoned(t *testing.T) {
	p := &proxy{demand: 5, reportEvery: time.Second}
	w := newWorld(t, ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 1000, Window: time.Hour}, Options{}, p)
	w.run(t, rand.New(rand.NewPCG(1, 1)), 5*time.Second)
	require.Len(t, p.stream.buckets, 1)
	require.Equal(t, 1, w.server.share(fmt.Sprint(keyOf(p.stream.buckets[keys(p.stream)[0]].descriptor))))
	p.demand = 0
	w.run(t, rand.New(rand.NewPCG(1, 1)), 90*time.Second)
	require.Empty(t, p.stream.buckets)
	require.Empty(t, w.server.holders)
	require.False(t, p.known)
	p.demand = 5
	before := len(w.admitted)
	w.run(t, rand.New(rand.NewPCG(1, 1)), 5*time.Second)
	require.Greater(t, len(w.admitted), before+15, "and come back")
}

func keys(st *stream) (list []string) {
	for key := range st.buckets {
		list = append(list, key)
	}
	return list
}
