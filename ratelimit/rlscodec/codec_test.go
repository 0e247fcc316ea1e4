package rlscodec

import (
	"fmt"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/require"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func usual() *rlsv3.RateLimitRequest {
	descriptor := func(entries ...string) *ratelimitv3.RateLimitDescriptor {
		made := &ratelimitv3.RateLimitDescriptor{}
		for i := 0; i < len(entries); i += 2 {
			made.Entries = append(made.Entries, &ratelimitv3.RateLimitDescriptor_Entry{Key: entries[i], Value: entries[i+1]})
		}
		return made
	}
	return &rlsv3.RateLimitRequest{Domain: "weir", Descriptors: []*ratelimitv3.RateLimitDescriptor{
		descriptor("weir.limit", "shop/api/all", "route", "users"), descriptor("weir.limit", "shop/api/each", "user", "user-17"),
	}}
}

func answer() *rlsv3.RateLimitResponse {
	status := func(remaining uint32) *rlsv3.RateLimitResponse_DescriptorStatus {
		return &rlsv3.RateLimitResponse_DescriptorStatus{
			Code: rlsv3.RateLimitResponse_OK, LimitRemaining: remaining, DurationUntilReset: durationpb.New(90*time.Second + time.Microsecond),
			CurrentLimit: &rlsv3.RateLimitResponse_RateLimit{Name: "shop/api/all", RequestsPerUnit: 100, Unit: rlsv3.RateLimitResponse_RateLimit_MINUTE},
		}
	}
	return &rlsv3.RateLimitResponse{
		OverallCode: rlsv3.RateLimitResponse_OK, Statuses: []*rlsv3.RateLimitResponse_DescriptorStatus{status(99), status(0)},
		ResponseHeadersToAdd: []*corev3.HeaderValue{{Key: "ratelimit", Value: `"all";r=99;t=90`}},
	}
}

// requests are messages, and whether they are read here.
func requests(t testing.TB) map[string]struct {
	raw  []byte
	here bool
} {
	type message = struct {
		raw  []byte
		here bool
	}
	of := func(change func(*rlsv3.RateLimitRequest)) []byte {
		request := usual()
		change(request)
		raw, err := proto.Marshal(request)
		require.NoError(t, err)
		return raw
	}
	whole := of(func(*rlsv3.RateLimitRequest) {})
	hits := func(raw ...byte) []byte { // of one descriptor
		return append([]byte{descriptorsTag, byte(2 + len(raw)), hitsTag, byte(len(raw))}, raw...)
	}
	return map[string]message{
		"usual":   {whole, true},
		"nothing": {nil, true},
		"hits":    {of(func(r *rlsv3.RateLimitRequest) { r.HitsAddend = 7 }), true},
		"hits of descriptors": {of(func(r *rlsv3.RateLimitRequest) {
			r.Descriptors[0].HitsAddend, r.Descriptors[1].HitsAddend = wrapperspb.UInt64(0), wrapperspb.UInt64(1<<63)
		}), true},
		"empty parts":       {of(func(r *rlsv3.RateLimitRequest) { r.Descriptors[0].Entries[0].Reset(); r.Descriptors[1].Reset() }), true},
		"twice":             {append(append([]byte{}, whole...), whole...), true},
		"hits twice":        {append(hits(wrappedTag, 5), requestHitsTag, 9, requestHitsTag, 0), true},
		"hits in two parts": {[]byte{descriptorsTag, 6, hitsTag, 2, wrappedTag, 5, hitsTag, 0}, true},
		"long numbers":      {[]byte{requestHitsTag, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, true},
		"a long tag":        {[]byte{0x80 | requestHitsTag, 0x00, 5}, true},
		"too long a number": {[]byte{requestHitsTag, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2}, false},
		"cut":               {whole[:len(whole)-3], false},
		"no length":         {[]byte{descriptorsTag}, false},
		"a length too long": {[]byte{domainTag, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 'x'}, false},
		"not UTF-8":         {[]byte{domainTag, 1, 0xff}, false},
		"a key not UTF-8":   {[]byte{descriptorsTag, 5, entriesTag, 3, keyTag, 1, 0xff}, false},
		"a value not UTF-8": {[]byte{descriptorsTag, 5, entriesTag, 3, valueTag, 1, 0xff}, false},
		"an override": {of(func(r *rlsv3.RateLimitRequest) {
			r.Descriptors[1].Limit = &ratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 3}
		}), false},
		"negative hits":      {of(func(r *rlsv3.RateLimitRequest) { r.Descriptors[1].IsNegativeHits = true }), false},
		"an unknown field":   {append(append([]byte{}, whole...), 15<<3|2, 1, 'x'), false},
		"one of an entry":    {[]byte{descriptorsTag, 5, entriesTag, 3, 3<<3 | 2, 1, 'x'}, false},
		"one of a number":    {hits(2<<3, 5), false},
		"another wire type":  {[]byte{1 << 3, 5}, false},
		"a cut number":       {hits(wrappedTag, 0x80), false},
		"a cut hits message": {[]byte{descriptorsTag, 2, hitsTag, 5}, false},
	}
}

func TestRequestsOfAnySize(t *testing.T) {
	for descriptors := range 5 {
		for entries := range 7 {
			request := &rlsv3.RateLimitRequest{Domain: "weir"}
			for i := range descriptors {
				made := &ratelimitv3.RateLimitDescriptor{}
				for j := range entries {
					made.Entries = append(made.Entries, &ratelimitv3.RateLimitDescriptor_Entry{Key: fmt.Sprint("key-", j), Value: fmt.Sprint("value-", i)})
				}
				request.Descriptors = append(request.Descriptors, made)
			}
			raw, err := proto.Marshal(request)
			require.NoError(t, err)
			require.True(t, compareRead(t, raw), "%d descriptors of %d entries", descriptors, entries)
		}
	}
}

// compareRead reads a message both ways, and says whether it is read here.
func compareRead(t testing.TB, raw []byte) (here bool) {
	var got, fast, want rlsv3.RateLimitRequest
	wantErr := proto.Unmarshal(raw, &want)
	gotErr := New().Unmarshal(mem.BufferSlice{mem.SliceBuffer(raw)}, &got)
	require.Equal(t, wantErr == nil, gotErr == nil, "%v, not %v", gotErr, wantErr)
	if wantErr == nil {
		require.True(t, proto.Equal(&want, &got), "%v, not %v", &got, &want)
	}
	if here = read(string(raw), &fast); here {
		require.NoError(t, wantErr)
		require.True(t, proto.Equal(&want, &fast), "%v, not %v", &fast, &want)
	} else {
		require.True(t, proto.Equal(&rlsv3.RateLimitRequest{}, &fast), "nothing is left of the try")
	}
	return here
}

func TestRequestsAreReadAsProtocolBuffersDoes(t *testing.T) {
	for name, tc := range requests(t) {
		t.Run(name, func(t *testing.T) { require.Equal(t, tc.here, compareRead(t, tc.raw)) })
	}
	t.Run("in two buffers", func(t *testing.T) {
		raw, err := proto.Marshal(usual())
		require.NoError(t, err)
		var got rlsv3.RateLimitRequest
		require.NoError(t, New().Unmarshal(mem.BufferSlice{mem.SliceBuffer(raw[:9]), mem.SliceBuffer(raw[9:])}, &got))
		require.True(t, proto.Equal(usual(), &got))
	})
	t.Run("into one that is not empty", func(t *testing.T) {
		raw, err := proto.Marshal(usual())
		require.NoError(t, err)
		got := &rlsv3.RateLimitRequest{HitsAddend: 5}
		require.NoError(t, New().Unmarshal(mem.BufferSlice{mem.SliceBuffer(raw)}, got))
		require.True(t, proto.Equal(usual(), got))
	})
	t.Run("what was read stays when the buffer is used again", func(t *testing.T) {
		raw, err := proto.Marshal(usual())
		require.NoError(t, err)
		var got rlsv3.RateLimitRequest
		require.NoError(t, New().Unmarshal(mem.BufferSlice{mem.SliceBuffer(raw)}, &got))
		clear(raw)
		require.True(t, proto.Equal(usual(), &got))
	})
}

func FuzzRead(f *testing.F) {
	for _, tc := range requests(f) {
		f.Add(tc.raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) { compareRead(t, raw) })
}

func TestAnswersAreWrittenAsProtocolBuffersDoes(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*rlsv3.RateLimitResponse)
		here   bool
	}{
		"usual":   {func(*rlsv3.RateLimitResponse) {}, true},
		"nothing": {func(r *rlsv3.RateLimitResponse) { r.Reset() }, true},
		"refused": {func(r *rlsv3.RateLimitResponse) { r.OverallCode, r.Statuses[1].Code = 2, 2 }, true},
		"an empty part": {func(r *rlsv3.RateLimitResponse) {
			r.Statuses[0].Reset()
			r.Statuses[1].CurrentLimit.Reset()
			r.ResponseHeadersToAdd[0].Reset()
		}, true},
		"large numbers": {func(r *rlsv3.RateLimitResponse) {
			r.OverallCode, r.Statuses[0].Code, r.Statuses[0].CurrentLimit.Unit = -1, -2, 1<<31-1
			r.Statuses[0].LimitRemaining, r.Statuses[0].CurrentLimit.RequestsPerUnit = 1<<32-1, 1<<32-1
			r.Statuses[0].DurationUntilReset = &durationpb.Duration{Seconds: -1 << 63, Nanos: -1}
		}, true},
		"long texts": {func(r *rlsv3.RateLimitResponse) {
			r.Statuses[0].CurrentLimit.Name = fmt.Sprintf("%0300d", 1)
			r.ResponseHeadersToAdd[0].Value = fmt.Sprintf("%020000d", 1)
		}, true},
		"metadata": {func(r *rlsv3.RateLimitResponse) {
			r.DynamicMetadata = &structpb.Struct{Fields: map[string]*structpb.Value{"a": structpb.NewBoolValue(true)}}
		}, false},
		"empty metadata":     {func(r *rlsv3.RateLimitResponse) { r.DynamicMetadata = &structpb.Struct{} }, false},
		"a body":             {func(r *rlsv3.RateLimitResponse) { r.RawBody = []byte("x") }, false},
		"headers up":         {func(r *rlsv3.RateLimitResponse) { r.RequestHeadersToAdd = r.ResponseHeadersToAdd }, false},
		"a quota":            {func(r *rlsv3.RateLimitResponse) { r.Quota = &rlsv3.RateLimitResponse_Quota{Requests: 5} }, false},
		"a status' quota":    {func(r *rlsv3.RateLimitResponse) { r.Statuses[1].Quota = &rlsv3.RateLimitResponse_Quota{Requests: 5} }, false},
		"multiples":          {func(r *rlsv3.RateLimitResponse) { r.Statuses[1].CurrentLimit.UnitMultiplier = wrapperspb.UInt32(2) }, false},
		"a raw value":        {func(r *rlsv3.RateLimitResponse) { r.ResponseHeadersToAdd[0].RawValue = []byte("x") }, false},
		"no status":          {func(r *rlsv3.RateLimitResponse) { r.Statuses[0] = nil }, false},
		"no header":          {func(r *rlsv3.RateLimitResponse) { r.ResponseHeadersToAdd[0] = nil }, false},
		"a name not UTF-8":   {func(r *rlsv3.RateLimitResponse) { r.Statuses[0].CurrentLimit.Name = "\xff" }, false},
		"a header not UTF-8": {func(r *rlsv3.RateLimitResponse) { r.ResponseHeadersToAdd[0].Value = "\xff" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			response := answer()
			tc.change(response)
			require.Equal(t, tc.here, simple(response))
			want, wantErr := proto.Marshal(response)
			got, gotErr := New().Marshal(response)
			require.Equal(t, wantErr == nil, gotErr == nil, "%v, not %v", gotErr, wantErr)
			if wantErr != nil {
				return
			}
			require.Equal(t, string(want), string(got.Materialize()))
			if tc.here {
				require.Equal(t, len(want), sizeOf(response))
			}
		})
	}
}

func TestOtherMessagesTakeTheUsualWay(t *testing.T) {
	raw, err := New().Marshal(&healthpb.HealthCheckRequest{Service: "x"})
	require.NoError(t, err)
	var got healthpb.HealthCheckRequest
	require.NoError(t, New().Unmarshal(raw, &got))
	require.Equal(t, "x", got.GetService())
	require.Equal(t, "proto", New().Name())
	_, err = New().Marshal((*rlsv3.RateLimitResponse)(nil))
	require.NoError(t, err)
}

func BenchmarkCodec(b *testing.B) {
	raw, err := proto.Marshal(usual())
	require.NoError(b, err)
	data, response := mem.BufferSlice{mem.SliceBuffer(raw)}, answer()
	for name, codec := range map[string]interface {
		Marshal(message any) (mem.BufferSlice, error)
		Unmarshal(data mem.BufferSlice, message any) error
	}{"here": New(), "usual": New().(codec).CodecV2} { //nolint:forcetypeassert // New's own
		b.Run("read/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := codec.Unmarshal(data, &rlsv3.RateLimitRequest{}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("write/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				written, err := codec.Marshal(response)
				if err != nil {
					b.Fatal(err)
				}
				written.Free()
			}
		})
	}
}
