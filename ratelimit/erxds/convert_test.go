package erxds_test

import (
	"testing"

	rlsconfv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"weir.dev/ratelimit/erconfig"
	"weir.dev/ratelimit/erxds"
)

func TestDeepNestingIsRefused(t *testing.T) {
	message := &rlsconfv3.RateLimitConfig{Name: "n", Domain: "d"}
	at := &rlsconfv3.RateLimitDescriptor{Key: "k"}
	message.Descriptors = []*rlsconfv3.RateLimitDescriptor{at}
	for range 40 {
		next := &rlsconfv3.RateLimitDescriptor{Key: "k"}
		at.Descriptors = []*rlsconfv3.RateLimitDescriptor{next}
		at = next
	}
	packed, err := anypb.New(message)
	require.NoError(t, err)
	_, err = erxds.Files([]*anypb.Any{packed})
	require.ErrorContains(t, err, "deeper than 16")
}

// No resource breaks the reader: what it makes of one is read or refused.
func FuzzResource(f *testing.F) {
	seed, err := proto.Marshal(&rlsconfv3.RateLimitConfig{Name: "n", Domain: "d", Descriptors: []*rlsconfv3.RateLimitDescriptor{
		{Key: "k", Value: "v*", RateLimit: &rlsconfv3.RateLimitPolicy{Unit: 3, RequestsPerUnit: 1, Replaces: []*rlsconfv3.RateLimitReplace{{Name: "x"}}}},
	}})
	require.NoError(f, err)
	f.Add(seed)
	f.Add([]byte("\x0a\x01\xff"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		files, err := erxds.Files([]*anypb.Any{{TypeUrl: erxds.TypeURL, Value: raw}, nil})
		require.Error(t, err, "the second is none")
		if len(files) > 0 {
			config, err := erconfig.Load(files, erconfig.Options{})
			require.True(t, (config == nil) == (err != nil))
		}
	})
}
