package rlscodec_test

import (
	"fmt"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"weir.dev/ratelimit/rlscodec"
)

func TestAnAnswerIsWhatItsPartsAre(t *testing.T) {
	for descriptors := range 5 {
		for headers := range 5 {
			t.Run(fmt.Sprintf("%d descriptors, %d headers", descriptors, headers), func(t *testing.T) {
				answer := rlscodec.NewAnswer(descriptors)
				want := &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK}
				for i := range descriptors {
					status := &rlsv3.RateLimitResponse_DescriptorStatus{Code: rlsv3.RateLimitResponse_OK}
					want.Statuses = append(want.Statuses, status)
					if i%3 == 2 {
						continue // one without a limit
					}
					name, reset := fmt.Sprint("limit-", i), time.Duration(i+1)*1500*time.Millisecond
					answer.Limit(i).Name = name
					answer.ResetsIn(i, reset)
					status.CurrentLimit, status.DurationUntilReset = &rlsv3.RateLimitResponse_RateLimit{Name: name}, durationpb.New(reset)
				}
				for i := range headers {
					key, value := fmt.Sprint("key-", i), fmt.Sprint("value-", i)
					answer.Header(key, value)
					want.ResponseHeadersToAdd = append(want.ResponseHeadersToAdd, &corev3.HeaderValue{Key: key, Value: value})
				}
				require.True(t, proto.Equal(want, &answer.Response), "%s\nis not\n%s", &answer.Response, want)
			})
		}
	}
}

func TestAnAnswerOfFewPartsIsOneAllocation(t *testing.T) {
	for headers := range 4 {
		require.InDelta(t, 1, testing.AllocsPerRun(100, func() {
			answer := rlscodec.NewAnswer(2)
			for i := range answer.Response.Statuses {
				answer.Limit(i).Name = "limit"
				answer.ResetsIn(i, time.Second)
			}
			for range headers {
				answer.Header("key", "value")
			}
			kept = answer
		}), 0, "%d headers", headers)
	}
}

var kept *rlscodec.Answer
