package envoyrls_test

import (
	"testing"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// No request breaks the service: it is answered with a status for each
// descriptor, or with an error.
func FuzzRequest(f *testing.F) {
	costly := descriptor("ns/policy/burst", "tier", "gold", "weir.cost", "-1", "weir.ticket", "..", "weir.requests", "99999999999", "weir.class", "x")
	costly.HitsAddend = wrapperspb.UInt64(1 << 63)
	override := descriptor("ns/policy/per-consumer", "consumer", "x")
	override.Limit = &ratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1}
	for _, seed := range []*rlsv3.RateLimitRequest{request(costly), request(override, override), request(&ratelimitv3.RateLimitDescriptor{}), {}} {
		raw, err := proto.Marshal(seed)
		require.NoError(f, err)
		f.Add(raw)
	}
	server := newServer(f, nil)
	f.Fuzz(func(t *testing.T, raw []byte) {
		request := &rlsv3.RateLimitRequest{}
		if proto.Unmarshal(raw, request) != nil {
			return
		}
		answer, err := server.ShouldRateLimit(t.Context(), request)
		if err == nil {
			require.Len(t, answer.GetStatuses(), len(request.GetDescriptors()))
			_, err = proto.Marshal(answer)
			require.NoError(t, err)
		}
	})
}
