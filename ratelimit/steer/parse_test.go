package steer_test

import (
	"testing"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
)

func parse(t *testing.T, body string) *rlsv3.RateLimitRequest {
	request := &rlsv3.RateLimitRequest{}
	require.NoError(t, protojson.Unmarshal([]byte(body), request))
	return request
}
