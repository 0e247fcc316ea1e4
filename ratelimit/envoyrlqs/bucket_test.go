package envoyrlqs

import (
	"strconv"
	"testing"
	"time"

	rlqsv3 "github.com/envoyproxy/go-control-plane/envoy/service/rate_limit_quota/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
)

// reported is what an observer was told of reports.
type reported struct{ allowed, denied, unassigned uint64 }

func (r *reported) Reported(_ string, allowed, denied, unassigned uint64) {
	*r = reported{allowed, denied, unassigned}
}
func (*reported) Assigned(string, uint64) {}
func (*reported) Streams(int)             {}

func TestAReportIsTakenIn(t *testing.T) {
	began := time.Unix(1_800_000_000, 0)
	for name, one := range map[string]struct {
		before          bucket
		took            time.Duration
		allowed, denied uint64
		want            bucket
		unassigned      uint64
	}{
		"what was assigned": {
			bucket{kind: tokens, left: 10, idle: true},
			time.Second, 4, 2,
			bucket{kind: tokens, left: 6, every: time.Second, rate: 6},
			0,
		},
		"more than was assigned is owed": {
			bucket{kind: tokens, left: 3, owed: 1},
			time.Second, 10, 0,
			bucket{kind: tokens, owed: 8, every: time.Second, rate: 10},
			7,
		},
		"as is all without an assignment":           {bucket{}, time.Second, 5, 0, bucket{owed: 5, every: time.Second, rate: 5}, 5},
		"what everybody is let through is not owed": {bucket{kind: admit}, time.Second, 5, 0, bucket{kind: admit, every: time.Second, rate: 5}, 0},
		"no request":                        {bucket{kind: tokens, left: 3, idle: true, rate: 8, every: time.Second}, time.Second, 0, 0, bucket{kind: tokens, left: 3, idle: true, rate: 4, every: time.Second}, 0},
		"refused ones are asked for, too":   {bucket{kind: refuse, idle: true}, time.Second, 0, 9, bucket{kind: refuse, every: time.Second, rate: 9}, 0},
		"the interval follows":              {bucket{every: time.Second}, 5 * time.Second, 0, 10, bucket{every: 2 * time.Second, rate: 2}, 0},
		"a moment says nothing of the rate": {bucket{rate: 7, every: time.Second}, time.Millisecond, 0, 9, bucket{rate: 7, every: time.Second}, 0},
		"what is owed is bounded":           {bucket{owed: maxSpent - 1}, time.Second, 5, 0, bucket{owed: maxSpent, every: time.Second, rate: 5}, 5},
	} {
		b, told := one.before, reported{}
		b.reported = began
		b.report(began.Add(one.took), one.allowed, one.denied, &told)
		one.want.reported = began.Add(one.took)
		require.Equal(t, one.want, b, name)
		require.Equal(t, reported{one.allowed, one.denied, one.unassigned}, told, name)
	}
}

// tell reports what was done with a bucket, and returns what comes back.
func (p *proxy) tell(t *testing.T, allowed, denied uint64) []*rlqsv3.RateLimitQuotaResponse_BucketAction {
	t.Helper()
	due, err := p.stream.read(&rlqsv3.RateLimitQuotaUsageReports{Domain: "weir", BucketQuotaUsages: []*rlqsv3.RateLimitQuotaUsageReports_BucketQuotaUsage{
		{BucketId: p.id, NumRequestsAllowed: allowed, NumRequestsDenied: denied},
	}})
	require.NoError(t, err)
	return p.stream.assign(t.Context(), due).GetBucketAction()
}

// charged is what the counter of the proxies' bucket holds.
func (w *world) charged(t *testing.T, limit int) int {
	t.Helper()
	counter, err := w.limiter.Look(t.Context(), ratelimit.Descriptor{Rule: "a/b/c", Entries: []ratelimit.Entry{{Name: "consumer", Value: "x"}}})
	require.NoError(t, err)
	return limit - int(counter.Decision.Remaining)
}

// tokensOf is the last assignment's.
func tokensOf(actions []*rlqsv3.RateLimitQuotaResponse_BucketAction) *typev3.TokenBucket {
	if len(actions) == 0 {
		return nil
	}
	return actions[len(actions)-1].GetQuotaAssignmentAction().GetRateLimitStrategy().GetTokenBucket()
}

// What passes without an assignment is charged afterwards, to the request.
func TestWhatNobodyPaidForIsCharged(t *testing.T) {
	p := &proxy{}
	w := newWorld(t, ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 1000, Window: time.Hour}, Options{}, p)
	assigned := int(tokensOf(p.tell(t, 7, 0)).GetMaxTokens())
	require.Positive(t, assigned)
	require.Equal(t, 7+assigned, w.charged(t, 1000))
	w.clock.Advance(time.Second)
	more := int(tokensOf(p.tell(t, uint64(assigned)+3, 0)).GetMaxTokens())
	require.Equal(t, 7+3+assigned+more, w.charged(t, 1000))
}

// An assignment that ends while tokens of it are left is given again: nothing is
// charged for it, and nothing lost.
func TestTokensThatAreLeftAreAssignedAgain(t *testing.T) {
	p := &proxy{}
	w := newWorld(t, ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 1000, Window: time.Hour}, Options{}, p)
	first := p.tell(t, 0, 1)
	assigned := tokensOf(first)
	charged := w.charged(t, 1000)
	require.Equal(t, int(assigned.GetMaxTokens()), charged)

	life := first[0].GetQuotaAssignmentAction().GetAssignmentTimeToLive().AsDuration()
	w.clock.Advance(life - 100*time.Millisecond)
	again := p.tell(t, 1, 0)
	require.Len(t, again, 1, "nothing takes away what is there")
	require.Equal(t, assigned.GetMaxTokens(), tokensOf(again).GetMaxTokens())
	require.Equal(t, charged, w.charged(t, 1000))

	// Too late for it, so it is another one.
	w.clock.Advance(life + time.Second)
	p.tell(t, 1, 0)
	require.Greater(t, w.charged(t, 1000), charged)
}

// Limits that can't be paid in advance get no assignment, so that Envoy does what its
// configuration says.
func TestWhatCannotBePaidInAdvanceIsNotAssigned(t *testing.T) {
	for _, algorithm := range []ratelimit.Algorithm{ratelimit.Concurrency, ratelimit.SlidingWindow} {
		p := &proxy{}
		newWorld(t, ratelimit.Limit{Algorithm: algorithm, Requests: 10, Window: time.Minute}, Options{}, p)
		require.Empty(t, p.tell(t, 0, 1), algorithm.String())
	}
}

func TestABucketThatIsReportedTwiceIsAssignedOnce(t *testing.T) {
	p := &proxy{}
	w := newWorld(t, ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 1000, Window: time.Hour}, Options{}, p)
	usage := &rlqsv3.RateLimitQuotaUsageReports_BucketQuotaUsage{BucketId: p.id, NumRequestsDenied: 1}
	due, err := p.stream.read(&rlqsv3.RateLimitQuotaUsageReports{Domain: "weir", BucketQuotaUsages: []*rlqsv3.RateLimitQuotaUsageReports_BucketQuotaUsage{usage, usage}})
	require.NoError(t, err)
	actions := p.stream.assign(t.Context(), due).GetBucketAction()
	require.Len(t, actions, 1)
	require.Equal(t, int(tokensOf(actions).GetMaxTokens()), w.charged(t, 1000))
}

// An Envoy that makes up buckets takes no more memory than so many.
func TestTheBucketsOfAStreamAreBounded(t *testing.T) {
	p := &proxy{}
	newWorld(t, ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 10, Window: time.Minute}, Options{}, p)
	report := &rlqsv3.RateLimitQuotaUsageReports{Domain: "weir"}
	for i := range MaxBuckets + 2 {
		id := &rlqsv3.BucketId{Bucket: map[string]string{"weir.limit": "a/b/c", "consumer": strconv.Itoa(i)}}
		report.BucketQuotaUsages = append(report.BucketQuotaUsages, &rlqsv3.RateLimitQuotaUsageReports_BucketQuotaUsage{BucketId: id, NumRequestsDenied: 1})
	}
	due, err := p.stream.read(report)
	require.NoError(t, err)
	require.Len(t, due, MaxBuckets)
	require.Len(t, p.stream.buckets, MaxBuckets)
}

// Buckets are looked at when they have to be, whether there is a report or none.
func TestWhenBucketsAreDue(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	never, past, soon := &bucket{}, &bucket{next: now}, &bucket{next: now.Add(time.Second)}
	all := &stream{buckets: map[string]*bucket{"never": never, "past": past, "soon": soon}}
	require.Equal(t, []*bucket{past}, all.due(now))
	require.ElementsMatch(t, []*bucket{past, soon}, all.due(now.Add(time.Second)))
	require.Equal(t, 5*time.Millisecond, all.wait(now), "at once, but not in circles")
	delete(all.buckets, "past")
	require.Equal(t, time.Second, all.wait(now))
	delete(all.buckets, "soon")
	require.Equal(t, time.Hour, all.wait(now))
}
