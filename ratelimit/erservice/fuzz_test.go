package erservice_test

import (
	"testing"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"weir.dev/ratelimit/erconfig"
	"weir.dev/ratelimit/erservice"
	"weir.dev/ratelimit/store/memory"
)

type silent struct{}

func (silent) Limited(string, uint64, erservice.Outcome) {}
func (silent) UnknownDomain(string)                      {}
func (silent) Failed(bool)                               {}
func (silent) ShadowedAll()                              {}

// No request breaks the service: it is answered with a status for each
// descriptor, or with an error. Overrides with a unit that there is not are the
// second seed.
func FuzzRequest(f *testing.F) {
	for _, text := range []string{
		`{"domain":"d","descriptors":[{"entries":[{"key":"k","value":"v"}]}],"hitsAddend":4294967295}`,
		`{"domain":"d","descriptors":[{"entries":[{"key":"k"}],"limit":{"requestsPerUnit":1,"unit":"UNKNOWN"}}]}`,
		`{"domain":"d","descriptors":[{"entries":[{"key":"k"}],"limit":{"requestsPerUnit":1,"unit":99},"hitsAddend":"18446744073709551615"},{}]}`,
		`{"domain":"x","descriptors":[{"isNegativeHits":true}]}`,
	} {
		request := &rlsv3.RateLimitRequest{}
		require.NoError(f, protojson.Unmarshal([]byte(text), request))
		raw, err := proto.Marshal(request)
		require.NoError(f, err)
		f.Add(raw)
	}
	config, err := erconfig.Load([]erconfig.File{{Name: "d", Content: []byte(`
domain: d
descriptors:
- {key: k, value: v*, share_threshold: true, metadata: {a: 1}, rate_limit: {unit: second, requests_per_unit: 1, name: a}}
- {key: k, quota_mode: true, detailed_metric: true, rate_limit: {unlimited: true, replaces: [{name: a}]}}
`)}}, erconfig.Options{})
	require.NoError(f, err)
	store, err := memory.New(memory.Options{MaxKeys: memory.MinKeys})
	require.NoError(f, err)
	service := erservice.New(store, silent{}, erservice.Options{
		Metadata: true, NearLimit: 0.8, Headers: &erservice.Headers{Limit: "l", Remaining: "r", Reset: "s"},
	})
	service.SetConfig(config)
	f.Fuzz(func(t *testing.T, raw []byte) {
		request := &rlsv3.RateLimitRequest{}
		if proto.Unmarshal(raw, request) != nil {
			return
		}
		answer, err := service.ShouldRateLimit(t.Context(), request)
		if err == nil {
			require.Len(t, answer.GetStatuses(), len(request.GetDescriptors()))
			_, err = proto.Marshal(answer)
			require.NoError(t, err)
		}
	})
}
