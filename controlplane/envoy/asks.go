package envoy

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// askedAgain is what of Weir's own servers is asked again: what could not be sent,
// and what was lost with its connection. A server that sheds load is not (its
// answer is UNAVAILABLE). A check decides and changes nothing; a limit may have
// been counted by the one that went, so it is counted twice rather than not.
const askedAgain = "connect-failure,refused-stream,reset"

// previousHosts is what passes over hosts that were tried.
const previousHosts = "envoy.retry_host_predicates.previous_hosts"

// hostAttempts is how often another server is looked for: of two, each look finds
// the one that was tried already by a half.
const hostAttempts = 16

// ownConnectTimeout is for Weir's own servers. It leaves time to ask another one
// within extAuthzTimeout.
const ownConnectTimeout = 400 * time.Millisecond

// askAgain has a server of the cluster that can't be reached stand back for
// another one (core.v3.RetryPolicy): one that has just gone is still known for as
// long as its name is not looked up again.
func askAgain(service *corev3.GrpcService) *corev3.GrpcService {
	service.RetryPolicy = &corev3.RetryPolicy{
		RetryOn:    askedAgain,
		NumRetries: wrapperspb.UInt32(2),
		RetryBackOff: &corev3.BackoffStrategy{
			BaseInterval: durationpb.New(5 * time.Millisecond), MaxInterval: durationpb.New(20 * time.Millisecond),
		},
		RetryHostPredicate: []*corev3.RetryPolicy_RetryHostPredicate{{
			Name:       previousHosts,
			ConfigType: &corev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: packed(&previoushostsv3.PreviousHostsPredicate{})},
		}},
		HostSelectionRetryMaxAttempts: hostAttempts,
	}
	return service
}
