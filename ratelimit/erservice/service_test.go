package erservice_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/erconfig"
	"weir.dev/ratelimit/erservice"
	"weir.dev/ratelimit/store/memory"
)

const (
	over = rlsv3.RateLimitResponse_OVER_LIMIT
	ok   = rlsv3.RateLimitResponse_OK
)

// heard keeps what an observer was told.
type heard struct {
	hits, overs, shadows, near map[string]uint64
	unknown, failed, shadowed  int
}

func (h *heard) Limited(name string, hits uint64, outcome erservice.Outcome) {
	if h.hits == nil {
		h.hits, h.overs, h.shadows, h.near = map[string]uint64{}, map[string]uint64{}, map[string]uint64{}, map[string]uint64{}
	}
	h.hits[name] += hits
	h.near[name] += outcome.Near
	if outcome.Over {
		h.overs[name]++
	}
	if outcome.Shadow {
		h.shadows[name]++
	}
}
func (h *heard) UnknownDomain(string) { h.unknown++ }
func (h *heard) Failed(bool)          { h.failed++ }
func (h *heard) ShadowedAll()         { h.shadowed++ }

// world is a service on a clock that a test sets.
type world struct {
	t       *testing.T
	service *erservice.Service
	heard   *heard
	now     time.Time
}

const configuration = `
domain: shop
descriptors:
  - key: user
    rate_limit: {unit: minute, requests_per_unit: 3, name: user}
    metadata: {team: {a: 1}}
  - key: path
    value: /v1*
    share_threshold: true
    rate_limit: {unit: second, requests_per_unit: 2}
  - key: shadow
    shadow_mode: true
    rate_limit: {unit: minute, requests_per_unit: 1}
  - key: quota
    quota_mode: true
    rate_limit: {unit: day, requests_per_unit: 1}
  - key: vip
    metadata: {team: {b: 2}, vip: true}
    rate_limit: {unlimited: true, replaces: [{name: user}]}
  - key: none
    rate_limit: {unit: hour, requests_per_unit: 0}
`

func start(t *testing.T, options erservice.Options) *world {
	w := &world{t: t, heard: &heard{}, now: time.Unix(1_800_000_010, 0)}
	store, err := memory.New(memory.Options{MaxKeys: memory.MinKeys, Clock: func() time.Time { return w.now }})
	require.NoError(t, err)
	w.service = erservice.New(store, w.heard, options)
	config, err := erconfig.Load([]erconfig.File{{Name: "shop.yaml", Content: []byte(configuration)}}, erconfig.Options{})
	require.NoError(t, err)
	w.service.SetConfig(config)
	return w
}

// descriptors are "key=value,key=value", one for each argument.
func descriptors(texts ...string) (list []*ratelimitv3.RateLimitDescriptor) {
	for _, text := range texts {
		made := &ratelimitv3.RateLimitDescriptor{}
		for pair := range strings.SplitSeq(text, ",") {
			key, value, _ := strings.Cut(pair, "=")
			made.Entries = append(made.Entries, &ratelimitv3.RateLimitDescriptor_Entry{Key: key, Value: value})
		}
		list = append(list, made)
	}
	return list
}

func (w *world) ask(hits uint32, texts ...string) *rlsv3.RateLimitResponse {
	w.t.Helper()
	response, err := w.service.ShouldRateLimit(w.t.Context(), &rlsv3.RateLimitRequest{Domain: "shop", HitsAddend: hits, Descriptors: descriptors(texts...)})
	require.NoError(w.t, err)
	return response
}

func TestLimit(t *testing.T) {
	w := start(t, erservice.Options{NearLimit: 0.5})
	for i := range 3 {
		response := w.ask(0, "user=ann")
		require.Equal(t, ok, response.GetOverallCode())
		status := response.GetStatuses()[0]
		require.EqualValues(t, 2-i, status.GetLimitRemaining())
		require.EqualValues(t, 50, status.GetDurationUntilReset().GetSeconds())
		require.EqualValues(t, 3, status.GetCurrentLimit().GetRequestsPerUnit())
		require.Equal(t, rlsv3.RateLimitResponse_RateLimit_MINUTE, status.GetCurrentLimit().GetUnit())
		require.Equal(t, "user", status.GetCurrentLimit().GetName())
	}
	require.Equal(t, over, w.ask(0, "user=ann").GetOverallCode())
	require.Equal(t, ok, w.ask(0, "user=bob").GetOverallCode(), "another value counts by itself")
	w.now = w.now.Add(50 * time.Second)
	require.Equal(t, ok, w.ask(0, "user=ann").GetOverallCode(), "the next window")
	require.Equal(t, over, w.ask(3, "user=ann").GetOverallCode(), "all of the hits or none")
	require.Equal(t, ok, w.ask(2, "user=ann").GetOverallCode(), "what was refused cost nothing")
	require.EqualValues(t, 11, w.heard.hits["shop.user"])
	require.EqualValues(t, 2, w.heard.overs["shop.user"])
	require.EqualValues(t, 4, w.heard.near["shop.user"])
}

func TestWhatHasNoLimit(t *testing.T) {
	w := start(t, erservice.Options{})
	response := w.ask(0, "nothing=x", "vip=x")
	require.Equal(t, ok, response.GetOverallCode())
	require.Nil(t, response.GetStatuses()[0].GetCurrentLimit())
	require.EqualValues(t, uint32(math.MaxUint32), response.GetStatuses()[1].GetLimitRemaining())
	other, err := w.service.ShouldRateLimit(t.Context(), &rlsv3.RateLimitRequest{Domain: "other", Descriptors: descriptors("user=x")})
	require.NoError(t, err)
	require.Equal(t, ok, other.GetOverallCode())
	require.Equal(t, 1, w.heard.unknown)
	require.Equal(t, over, w.ask(0, "none=x").GetOverallCode())
}

func TestSharedWildcard(t *testing.T) {
	w := start(t, erservice.Options{})
	require.Equal(t, ok, w.ask(0, "path=/v1/a").GetOverallCode())
	require.Equal(t, ok, w.ask(0, "path=/v1/b").GetOverallCode())
	require.Equal(t, over, w.ask(0, "path=/v1/c").GetOverallCode())
	require.EqualValues(t, 3, w.heard.hits["shop.path_/v1*"])
}

func TestModes(t *testing.T) {
	w := start(t, erservice.Options{})
	w.ask(0, "shadow=x")
	response := w.ask(0, "shadow=x")
	require.Equal(t, ok, response.GetOverallCode())
	require.Equal(t, ok, response.GetStatuses()[0].GetCode())
	require.EqualValues(t, 1, w.heard.shadows["shop.shadow"])

	require.Equal(t, ok, w.ask(0, "quota=a").GetOverallCode())
	response = w.ask(0, "quota=a", "quota=b")
	require.Equal(t, ok, response.GetOverallCode(), "one of two quotas is left")
	require.Equal(t, over, response.GetStatuses()[0].GetCode())
	require.Equal(t, over, w.ask(0, "quota=a", "quota=b").GetOverallCode(), "none is left")
	require.Equal(t, ok, w.ask(0, "nothing=x").GetOverallCode(), "no quota is not an exhausted one")

	w = start(t, erservice.Options{GlobalShadow: true})
	response = w.ask(0, "none=x")
	require.Equal(t, ok, response.GetOverallCode())
	require.Equal(t, over, response.GetStatuses()[0].GetCode(), "the descriptor still says so")
	require.Equal(t, 1, w.heard.shadowed)

	w = start(t, erservice.Options{GlobalQuota: true})
	require.Equal(t, ok, w.ask(0, "none=x", "user=x").GetOverallCode())
	require.Equal(t, over, w.ask(0, "none=x").GetOverallCode())
}

func TestReplaces(t *testing.T) {
	w := start(t, erservice.Options{})
	for range 5 {
		require.Equal(t, ok, w.ask(0, "user=ann", "vip=ann").GetOverallCode())
	}
	require.Zero(t, w.heard.hits["shop.user"])
	require.EqualValues(t, 2, w.ask(0, "user=ann").GetStatuses()[0].GetLimitRemaining(), "negative control: alone it counts")
}

// Two descriptors of one request that name one counter pay twice.
func TestSameCounterTwice(t *testing.T) {
	w := start(t, erservice.Options{})
	require.Equal(t, over, w.ask(2, "user=ann", "user=ann").GetOverallCode())
	require.Equal(t, ok, w.ask(0, "user=ann", "user=ann").GetOverallCode())
	require.EqualValues(t, 0, w.ask(0, "user=ann").GetStatuses()[0].GetLimitRemaining())
}

func TestOverride(t *testing.T) {
	w := start(t, erservice.Options{})
	request := &rlsv3.RateLimitRequest{Domain: "shop", Descriptors: descriptors("shadow=secret")}
	set := func(unit typev3.RateLimitUnit) {
		request.Descriptors[0].Limit = &ratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1, Unit: unit}
	}
	set(typev3.RateLimitUnit_HOUR)
	for i, want := range []rlsv3.RateLimitResponse_Code{ok, over} {
		response, err := w.service.ShouldRateLimit(t.Context(), request)
		require.NoError(t, err)
		require.Equal(t, want, response.GetOverallCode(), i)
		require.Equal(t, rlsv3.RateLimitResponse_RateLimit_HOUR, response.GetStatuses()[0].GetCurrentLimit().GetUnit())
	}
	require.Contains(t, w.heard.hits, "shop.shadow", "metrics do not grow by the clients' values")
	set(7) // a week, which the enumeration of requests leaves out
	response, err := w.service.ShouldRateLimit(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, rlsv3.RateLimitResponse_RateLimit_WEEK, response.GetStatuses()[0].GetCurrentLimit().GetUnit())
	for _, unit := range []typev3.RateLimitUnit{typev3.RateLimitUnit_UNKNOWN, 8, 200, -1} {
		set(unit)
		_, err := w.service.ShouldRateLimit(t.Context(), request)
		require.Equal(t, codes.InvalidArgument, status.Code(err), unit)
	}
}

func TestHeaders(t *testing.T) {
	w := start(t, erservice.Options{Headers: &erservice.Headers{Limit: "L", Remaining: "R", Reset: "T"}})
	list := func(response *rlsv3.RateLimitResponse) (all []string) {
		for _, header := range response.GetResponseHeadersToAdd() {
			all = append(all, header.GetKey()+"="+header.GetValue())
		}
		return all
	}
	require.Equal(t, []string{"L=2", "R=1", "T=1"}, list(w.ask(0, "user=ann", "path=/v1/x")), "the nearest to its limit")
	require.Equal(t, []string{"L=0", "R=0", "T=3590"}, list(w.ask(0, "none=x", "user=bob")), "the refused one")
	require.Empty(t, list(w.ask(0, "nothing=x", "vip=x")))
}

func TestMetadata(t *testing.T) {
	w := start(t, erservice.Options{Metadata: true})
	request := &rlsv3.RateLimitRequest{Domain: "shop", HitsAddend: 2, Descriptors: descriptors("user=ann", "path=/v1/x", "none=x")}
	request.Descriptors[2].HitsAddend = wrapperspb.UInt64(1)
	response, err := w.service.ShouldRateLimit(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, map[string]any{
		"domain": "shop", "hitsAddend": 2.0, "metadata": map[string]any{"team": map[string]any{"a": 1.0}},
		"descriptors": []any{
			map[string]any{"entries": []any{"user=ann"}},
			map[string]any{"entries": []any{"path=/v1/x"}},
			map[string]any{"entries": []any{"none=x"}, "hitsAddend": 1.0},
		},
	}, response.GetDynamicMetadata().AsMap())
}

// A check of no hits charges nothing and says whether one more would pass.
func TestLook(t *testing.T) {
	w := start(t, erservice.Options{})
	look := func() rlsv3.RateLimitResponse_Code {
		request := &rlsv3.RateLimitRequest{Domain: "shop", Descriptors: descriptors("user=ann")}
		request.Descriptors[0].HitsAddend = wrapperspb.UInt64(0)
		response, err := w.service.ShouldRateLimit(t.Context(), request)
		require.NoError(t, err)
		return response.GetOverallCode()
	}
	for range 5 {
		require.Equal(t, ok, look())
	}
	w.ask(3, "user=ann")
	require.Equal(t, over, look())
}

type broken struct{}

func (broken) Take(context.Context, []ratelimit.Charge) (ratelimit.Outcome, error) {
	return ratelimit.Outcome{}, errors.New("down")
}

func TestErrors(t *testing.T) {
	w := start(t, erservice.Options{})
	for name, request := range map[string]*rlsv3.RateLimitRequest{
		"no domain":        {Descriptors: descriptors("user=x")},
		"no descriptors":   {Domain: "shop"},
		"many descriptors": {Domain: "shop", Descriptors: descriptors(make([]string, ratelimit.MaxDescriptors+1)...)},
		"many entries":     {Domain: "shop", Descriptors: descriptors(strings.Repeat("a=b,", erservice.MaxEntries) + "a=b")},
		"negative":         {Domain: "shop", Descriptors: []*ratelimitv3.RateLimitDescriptor{{IsNegativeHits: true}}},
	} {
		_, err := w.service.ShouldRateLimit(t.Context(), request)
		require.Equal(t, codes.InvalidArgument, status.Code(err), name)
	}
	require.Equal(t, 5, w.heard.failed)
	empty := erservice.New(broken{}, &heard{}, erservice.Options{})
	_, err := empty.ShouldRateLimit(t.Context(), &rlsv3.RateLimitRequest{Domain: "shop", Descriptors: descriptors("user=x")})
	require.Equal(t, codes.Unavailable, status.Code(err))
}

func TestStoreGone(t *testing.T) {
	config, err := erconfig.Load([]erconfig.File{{Content: []byte(configuration)}}, erconfig.Options{})
	require.NoError(t, err)
	request := &rlsv3.RateLimitRequest{Domain: "shop", Descriptors: descriptors("none=x")}
	closed := erservice.New(broken{}, &heard{}, erservice.Options{})
	closed.SetConfig(config)
	_, err = closed.ShouldRateLimit(t.Context(), request)
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.NotContains(t, status.Convert(err).Message(), "down", "the cause is for the log")
	open := erservice.New(broken{}, &heard{}, erservice.Options{FailOpen: true})
	open.SetConfig(config)
	response, err := open.ShouldRateLimit(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, ok, response.GetOverallCode())
}
