package envoyrls_test

import (
	"context"
	"errors"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/envoyrls"
	"weir.dev/ratelimit/store/memory"
	"weir.dev/ratelimit/storetest"
)

func newServer(t testing.TB, store ratelimit.Store) *envoyrls.Server {
	if store == nil {
		clock := storetest.NewClock()
		clock.Advance(-3_457 * time.Microsecond) // 0.12 s into a second
		var err error
		store, err = memory.New(memory.Options{MaxKeys: memory.MinKeys, Clock: clock.Now})
		require.NoError(t, err)
	}
	fixed := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 2, Window: time.Minute}
	smooth := ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 60, Burst: 3, Window: time.Minute}
	table, err := ratelimit.NewTable([]*ratelimit.Rule{
		{ID: "ns/policy/per-consumer", Limit: fixed, FailureMode: ratelimit.FailClosed},
		{ID: "ns/policy/burst", Limit: smooth, FailureMode: ratelimit.FailOpen},
		{ID: "ns/other/burst", Limit: smooth, FailureMode: ratelimit.FailOpen},
		{ID: `ns/policy/qu"o\te`, Limit: fixed},
		{ID: "ns/policy/nothing", Limit: ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Window: time.Hour}},
		{ID: "ns/policy/shadow", Limit: ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Window: 90 * time.Second}, Shadow: true},
	})
	require.NoError(t, err)
	limiter := ratelimit.NewLimiter(store, nil)
	limiter.SetTable(table)
	return envoyrls.New(limiter, "weir", nil)
}

func descriptor(rule string, pairs ...string) *ratelimitv3.RateLimitDescriptor {
	d := &ratelimitv3.RateLimitDescriptor{Entries: []*ratelimitv3.RateLimitDescriptor_Entry{{Key: envoyrls.LimitKey, Value: rule}}}
	for i := 0; i < len(pairs); i += 2 {
		d.Entries = append(d.Entries, &ratelimitv3.RateLimitDescriptor_Entry{Key: pairs[i], Value: pairs[i+1]})
	}
	return d
}

func request(descriptors ...*ratelimitv3.RateLimitDescriptor) *rlsv3.RateLimitRequest {
	return &rlsv3.RateLimitRequest{Domain: "weir", Descriptors: descriptors}
}

func call(t testing.TB, server *envoyrls.Server, request *rlsv3.RateLimitRequest) *rlsv3.RateLimitResponse {
	response, err := server.ShouldRateLimit(t.Context(), request)
	require.NoError(t, err)
	return response
}

func headers(response *rlsv3.RateLimitResponse) map[string]string {
	got := map[string]string{}
	for _, header := range response.GetResponseHeadersToAdd() {
		got[header.GetKey()] = header.GetValue()
	}
	return got
}

func TestAnswers(t *testing.T) {
	server := newServer(t, nil)
	ask := request(descriptor("ns/policy/per-consumer", "consumer", "ns/c"), descriptor("ns/policy/burst"), descriptor("ns/policy/shadow"))

	first := call(t, server, ask)
	require.Equal(t, rlsv3.RateLimitResponse_OK, first.GetOverallCode())
	require.Len(t, first.GetStatuses(), 3)
	require.Equal(t, "ns/policy/per-consumer", first.GetStatuses()[0].GetCurrentLimit().GetName())
	require.EqualValues(t, 2, first.GetStatuses()[0].GetCurrentLimit().GetRequestsPerUnit())
	require.Equal(t, rlsv3.RateLimitResponse_RateLimit_MINUTE, first.GetStatuses()[0].GetCurrentLimit().GetUnit())
	require.EqualValues(t, 1, first.GetStatuses()[0].GetLimitRemaining())
	require.Equal(t, rlsv3.RateLimitResponse_OK, first.GetStatuses()[2].GetCode(), "a shadow refuses nothing")
	require.Equal(t, map[string]string{
		"ratelimit-policy": `"per-consumer";q=2;w=60, "burst";q=60;w=60`,
		"ratelimit":        `"per-consumer";r=1;t=60, "burst";r=2;t=1`,
	}, headers(first), "shadow limits are not shown")
	require.Nil(t, first.GetDynamicMetadata())

	call(t, server, ask)
	refused := call(t, server, ask)
	require.Equal(t, rlsv3.RateLimitResponse_OVER_LIMIT, refused.GetOverallCode())
	require.Equal(t, rlsv3.RateLimitResponse_OVER_LIMIT, refused.GetStatuses()[0].GetCode())
	require.Equal(t, rlsv3.RateLimitResponse_OK, refused.GetStatuses()[1].GetCode())
	require.Equal(t, map[string]string{
		"ratelimit-policy": `"per-consumer";q=2;w=60, "burst";q=60;w=60`,
		"ratelimit":        `"per-consumer";r=0;t=60, "burst";r=1;t=2`,
		"retry-after":      "60",
	}, headers(refused))
	require.Equal(t, map[string]any{"limit": "ns/policy/per-consumer", "violated": []any{"per-consumer"}, "decision": "over_limit"}, refused.GetDynamicMetadata().AsMap())
}

func TestRetryAfterIsAtLeastASecond(t *testing.T) {
	server := newServer(t, nil)
	ask := request(descriptor("ns/policy/burst"))
	ask.HitsAddend = 3
	call(t, server, ask)
	ask.HitsAddend = 1
	require.Equal(t, "1", headers(call(t, server, ask))["retry-after"])
}

func TestWaitingDoesNotHelpWhereNothingIsAdmitted(t *testing.T) {
	server := newServer(t, nil)
	refused := call(t, server, request(descriptor("ns/policy/nothing")))
	require.Equal(t, rlsv3.RateLimitResponse_OVER_LIMIT, refused.GetOverallCode())
	require.Equal(t, map[string]string{"ratelimit-policy": `"nothing";q=0;w=3600`, "ratelimit": `"nothing";r=0;t=3600`}, headers(refused))
}

func TestHeaderNames(t *testing.T) {
	server := newServer(t, nil)
	require.Equal(t, `"ns/policy/burst";r=2;t=1, "ns/other/burst";r=2;t=1`,
		headers(call(t, server, request(descriptor("ns/policy/burst"), descriptor("ns/other/burst"))))["ratelimit"])
	require.Equal(t, `"qu\"o\\te";q=2;w=60`, headers(call(t, server, request(descriptor(`ns/policy/qu"o\te`))))["ratelimit-policy"])
	require.Empty(t, headers(call(t, server, request(descriptor("ns/policy/shadow")))))
}

func TestHits(t *testing.T) {
	for name, tc := range map[string]struct {
		request    uint32
		descriptor *wrapperspb.UInt64Value
		remaining  uint32
		code       rlsv3.RateLimitResponse_Code
	}{
		"not set":                  {0, nil, 1, rlsv3.RateLimitResponse_OK},
		"by request":               {2, nil, 0, rlsv3.RateLimitResponse_OK},
		"too much":                 {3, nil, 2, rlsv3.RateLimitResponse_OVER_LIMIT},
		"the descriptor wins":      {2, wrapperspb.UInt64(1), 1, rlsv3.RateLimitResponse_OK},
		"the descriptor only asks": {2, wrapperspb.UInt64(0), 2, rlsv3.RateLimitResponse_OK},
		"absurd":                   {0, wrapperspb.UInt64(1<<64 - 1), 2, rlsv3.RateLimitResponse_OVER_LIMIT},
	} {
		t.Run(name, func(t *testing.T) {
			d := descriptor("ns/policy/per-consumer", "consumer", "x")
			d.HitsAddend = tc.descriptor
			ask := request(d)
			ask.HitsAddend = tc.request
			response := call(t, newServer(t, nil), ask)
			require.Equal(t, tc.code, response.GetOverallCode())
			require.Equal(t, tc.remaining, response.GetStatuses()[0].GetLimitRemaining())
		})
	}
}

func TestOverridesChangeNothing(t *testing.T) {
	d := descriptor("ns/policy/per-consumer")
	d.Limit = &ratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1_000_000, Unit: 99}
	response := call(t, newServer(t, nil), request(d))
	require.EqualValues(t, 2, response.GetStatuses()[0].GetCurrentLimit().GetRequestsPerUnit())
}

func TestMalformedRequests(t *testing.T) {
	negative := descriptor("ns/policy/burst")
	negative.IsNegativeHits = true
	many := request()
	for range ratelimit.MaxDescriptors + 1 {
		many.Descriptors = append(many.Descriptors, descriptor("ns/policy/burst"))
	}
	wide := descriptor("ns/policy/burst")
	for range envoyrls.MaxEntries {
		wide.Entries = append(wide.Entries, &ratelimitv3.RateLimitDescriptor_Entry{Key: "k"})
	}
	for name, bad := range map[string]*rlsv3.RateLimitRequest{
		"nothing":              {},
		"no domain":            {Descriptors: request(descriptor("ns/policy/burst")).Descriptors},
		"another domain":       {Domain: "other", Descriptors: request(descriptor("ns/policy/burst")).Descriptors},
		"no descriptors":       request(),
		"an empty descriptor":  request(&ratelimitv3.RateLimitDescriptor{}),
		"a nil descriptor":     request(nil),
		"a nil entry":          request(&ratelimitv3.RateLimitDescriptor{Entries: []*ratelimitv3.RateLimitDescriptor_Entry{nil}}),
		"another first key":    request(&ratelimitv3.RateLimitDescriptor{Entries: []*ratelimitv3.RateLimitDescriptor_Entry{{Key: "consumer", Value: "ns/policy/burst"}}}),
		"an empty rule":        request(descriptor("")),
		"negative hits":        request(negative),
		"too many descriptors": many,
		"too many entries":     request(wide),
		"a bad one among good": request(descriptor("ns/policy/burst"), nil),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newServer(t, nil).ShouldRateLimit(t.Context(), bad)
			require.Equal(t, codes.InvalidArgument, status.Code(err), "%v", err)
		})
	}
}

type brokenStore struct{}

func (brokenStore) Take(context.Context, []ratelimit.Charge) (ratelimit.Outcome, error) {
	return ratelimit.Outcome{}, errors.New("dial tcp 10.0.0.7:6379: no route")
}

func TestUnknownRulesAndStoreFailures(t *testing.T) {
	_, err := newServer(t, nil).ShouldRateLimit(t.Context(), request(descriptor("ns/policy/none")))
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorContains(t, err, "ns/policy/none")

	broken := newServer(t, brokenStore{})
	open := call(t, broken, request(descriptor("ns/policy/burst")))
	require.Equal(t, rlsv3.RateLimitResponse_OK, open.GetOverallCode())
	require.Empty(t, headers(open), "no numbers are made up")
	require.Nil(t, open.GetStatuses()[0].GetCurrentLimit())
	_, err = broken.ShouldRateLimit(t.Context(), request(descriptor("ns/policy/burst"), descriptor("ns/policy/per-consumer")))
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.NotContains(t, status.Convert(err).Message(), "10.0.0.7", "causes are logged, not sent")
}

func FuzzShouldRateLimit(f *testing.F) {
	seed := func(request *rlsv3.RateLimitRequest) {
		raw, err := proto.Marshal(request)
		require.NoError(f, err)
		f.Add(raw)
	}
	withLimit := descriptor("ns/policy/burst", "consumer", "c", "tier", "gold")
	withLimit.Limit = &ratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1, Unit: 0}
	withLimit.HitsAddend = wrapperspb.UInt64(1 << 63)
	seed(request(descriptor("ns/policy/per-consumer", "ip", "::1")))
	seed(request(withLimit, descriptor("ns/policy/shadow")))
	seed(&rlsv3.RateLimitRequest{Domain: "x", HitsAddend: 1<<32 - 1})
	f.Add([]byte("\xff"))
	server := newServer(f, nil)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var ask rlsv3.RateLimitRequest
		if proto.Unmarshal(raw, &ask) != nil {
			return
		}
		response, err := server.ShouldRateLimit(t.Context(), &ask)
		if err != nil {
			require.Contains(t, []codes.Code{codes.InvalidArgument, codes.Unavailable}, status.Code(err))
			return
		}
		require.Len(t, response.GetStatuses(), len(ask.GetDescriptors()))
		_, err = proto.Marshal(response)
		require.NoError(t, err)
	})
}
