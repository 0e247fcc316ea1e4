package envoy

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// askedAgain is what of Weir's own servers is asked again: what surely was not sent.
// A check may use up a proof, a login's code or a refresh token, and a limit counts,
// so what was lost with its answer is not asked twice; nor is a server that sheds
// load (its answer is UNAVAILABLE).
const askedAgain = "connect-failure,refused-stream,reset-before-request"

// previousHosts is what passes over hosts that were tried.
const previousHosts = "envoy.retry_host_predicates.previous_hosts"

// hostAttempts is how often another server is looked for: of two, each look finds
// the one that was tried already by a half.
const hostAttempts = 16

// againWithin is nothing that is waited for between two tries, of which the second
// begins after 5 to 15 ms: Envoy takes the longest interval for the timeout of each
// try, too (convertCoreToRouteRetryPolicy), and ignores one above that of the whole.
const againWithin = time.Minute

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
			BaseInterval: durationpb.New(5 * time.Millisecond), MaxInterval: durationpb.New(againWithin),
		},
		RetryHostPredicate: []*corev3.RetryPolicy_RetryHostPredicate{{
			Name:       previousHosts,
			ConfigType: &corev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: packed(&previoushostsv3.PreviousHostsPredicate{})},
		}},
		HostSelectionRetryMaxAttempts: hostAttempts,
	}
	return service
}
