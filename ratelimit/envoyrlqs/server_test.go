package envoyrlqs

import (
	"context"
	"errors"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	rlqsv3 "github.com/envoyproxy/go-control-plane/envoy/service/rate_limit_quota/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/store/memory"
)

type reports = grpc.BidiStreamingClient[rlqsv3.RateLimitQuotaUsageReports, rlqsv3.RateLimitQuotaResponse]

// away is a store without an answer.
type away struct{}

func (away) Take(context.Context, []ratelimit.Charge) (ratelimit.Outcome, error) {
	return ratelimit.Outcome{}, errors.New("connection refused")
}

// dial opens a stream to a server of its own.
func dial(t *testing.T, store ratelimit.Store) reports {
	if store == nil {
		var err error
		store, err = memory.New(memory.Options{MaxKeys: memory.MinKeys})
		require.NoError(t, err)
	}
	hourly := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 100, Window: 24 * time.Hour}
	table, err := ratelimit.NewTable([]*ratelimit.Rule{
		{ID: "a/b/c", Limit: hourly},
		{ID: "a/b/open", Limit: hourly, FailureMode: ratelimit.FailOpen},
		{ID: "a/b/short", Limit: ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 100, Window: time.Second}},
	})
	require.NoError(t, err)
	limiter := ratelimit.NewLimiter(store, nil)
	limiter.SetTable(table)
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	rlqsv3.RegisterRateLimitQuotaServiceServer(server, New(limiter, Options{Domain: "weir"}))
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	stream, err := rlqsv3.NewRateLimitQuotaServiceClient(conn).StreamRateLimitQuotas(ctx)
	require.NoError(t, err)
	return stream
}

func usage(allowed, denied uint64, pairs ...string) *rlqsv3.RateLimitQuotaUsageReports_BucketQuotaUsage {
	id := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		id[pairs[i]] = pairs[i+1]
	}
	return &rlqsv3.RateLimitQuotaUsageReports_BucketQuotaUsage{BucketId: &rlqsv3.BucketId{Bucket: id}, NumRequestsAllowed: allowed, NumRequestsDenied: denied}
}

func send(t *testing.T, stream reports, domain string, usages ...*rlqsv3.RateLimitQuotaUsageReports_BucketQuotaUsage) {
	require.NoError(t, stream.Send(&rlqsv3.RateLimitQuotaUsageReports{Domain: domain, BucketQuotaUsages: usages}))
}

func strategy(t *testing.T, stream reports) *typev3.RateLimitStrategy {
	answer, err := stream.Recv()
	require.NoError(t, err)
	actions := answer.GetBucketAction()
	require.NotEmpty(t, actions)
	require.NoError(t, answer.ValidateAll(), "as Envoy checks it")
	for _, action := range actions[:len(actions)-1] { // What was there goes first.
		require.Equal(t, typev3.RateLimitStrategy_DENY_ALL, action.GetQuotaAssignmentAction().GetRateLimitStrategy().GetBlanketRule())
	}
	last := actions[len(actions)-1]
	require.GreaterOrEqual(t, last.GetQuotaAssignmentAction().GetAssignmentTimeToLive().GetSeconds(), int64(1))
	return last.GetQuotaAssignmentAction().GetRateLimitStrategy()
}

func TestAssignments(t *testing.T) {
	stream := dial(t, nil)
	// Unknown rules and windows too short get none; the third bucket does.
	send(t, stream, "weir", usage(0, 1, "weir.limit", "a/b/none"), usage(0, 1, "weir.limit", "a/b/short"), usage(0, 1, "weir.limit", "a/b/c", "consumer", "x"))
	first := strategy(t, stream).GetTokenBucket()
	require.EqualValues(t, 5, first.GetMaxTokens(), "a twentieth while nothing is known")
	require.Greater(t, first.GetFillInterval().AsDuration(), 300*24*time.Hour)
	<-time.After(30 * time.Millisecond) // Some time must go by, for the demand to be one.
	send(t, stream, "", usage(5, 1000, "weir.limit", "a/b/c", "consumer", "x"))
	second := strategy(t, stream).GetTokenBucket()
	require.EqualValues(t, 95, second.GetMaxTokens(), "the rest of the limit")
	send(t, stream, "", usage(95, 10, "weir.limit", "a/b/c", "consumer", "x"))
	require.Equal(t, typev3.RateLimitStrategy_DENY_ALL, strategy(t, stream).GetBlanketRule(), "nothing is left")
	send(t, stream, "", usage(0, 1, "weir.limit", "a/b/c", "consumer", "y"))
	require.EqualValues(t, 5, strategy(t, stream).GetTokenBucket().GetMaxTokens(), "others have their own")
}

func TestWithoutTheStoreFailureModesDecide(t *testing.T) {
	stream := dial(t, away{})
	send(t, stream, "weir", usage(0, 1, "weir.limit", "a/b/c"))
	require.Equal(t, typev3.RateLimitStrategy_DENY_ALL, strategy(t, stream).GetBlanketRule())
	send(t, stream, "weir", usage(0, 1, "weir.limit", "a/b/open"))
	require.Equal(t, typev3.RateLimitStrategy_ALLOW_ALL, strategy(t, stream).GetBlanketRule())
}

func TestMalformedReports(t *testing.T) {
	many := []string{"weir.limit", "a/b/c"}
	for i := range 40 {
		many = append(many, strings.Repeat("x", i+1), "")
	}
	for name, test := range map[string]struct {
		domain string
		usage  *rlqsv3.RateLimitQuotaUsageReports_BucketQuotaUsage
	}{
		"no domain":      {"", usage(0, 0, "weir.limit", "a/b/c")},
		"another domain": {"other", usage(0, 0, "weir.limit", "a/b/c")},
		"no rule":        {"weir", usage(0, 0, "consumer", "x")},
		"no id":          {"weir", &rlqsv3.RateLimitQuotaUsageReports_BucketQuotaUsage{}},
		"too many":       {"weir", usage(0, 0, many...)},
		"too long":       {"weir", usage(0, 0, "weir.limit", "a/b/c", "x", strings.Repeat("x", 9000))},
	} {
		t.Run(name, func(t *testing.T) {
			stream := dial(t, nil)
			send(t, stream, test.domain, test.usage)
			_, err := stream.Recv()
			require.Equal(t, codes.InvalidArgument, status.Code(err), "%v", err)
		})
	}
}

// No report breaks the server, whatever numbers and texts it holds.
func FuzzReports(f *testing.F) {
	f.Add("weir", "weir.limit", "a/b/c", "consumer", "x", uint64(1), uint64(2))
	f.Add("", "", "", "", "", uint64(math.MaxUint64), uint64(math.MaxUint64))
	f.Add("weir", "weir.limit", "a/b/short", "\xff", strings.Repeat("x", 9000), uint64(0), uint64(math.MaxUint64))
	f.Fuzz(func(t *testing.T, domain, key, rule, name, value string, allowed, denied uint64) {
		w := newWorld(t, ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 7, Burst: 3, Window: time.Minute}, Options{})
		st := &stream{server: w.server, buckets: map[string]*bucket{}}
		for range 3 {
			told, err := st.read(&rlqsv3.RateLimitQuotaUsageReports{Domain: domain, BucketQuotaUsages: []*rlqsv3.RateLimitQuotaUsageReports_BucketQuotaUsage{
				usage(allowed, denied, key, rule, name, value), nil, usage(denied, allowed, key, rule),
			}})
			if err != nil {
				return
			}
			for _, action := range st.assign(t.Context(), told).GetBucketAction() {
				require.NoError(t, action.ValidateAll())
			}
			w.clock.Advance(time.Duration(allowed%100) * time.Second)
			st.assign(t.Context(), st.due(w.clock.Now()))
		}
		st.leave()
	})
}
