package envoy

import (
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

// defaultTimeout of an HTTP exchange whose route names none; it is Envoy's too.
// gRPC calls bring their own deadline and have no other.
const defaultTimeout = 15 * time.Second

// clusterUnresolved stands in for a Backend that does not exist, within a
// weighted choice; routes that have nothing else answer directly.
const clusterUnresolved = "weir/unresolved"

// unresolved answers for a route none of whose backends can be used: with 500,
// or for gRPC with what becomes UNAVAILABLE (GRPCRouteRule.backendRefs).
func unresolved(route *policy.Route) *routev3.Route_DirectResponse {
	if route.GRPC {
		return directResponse(502)
	}
	return directResponse(500)
}

func (c *compiler) action(route *policy.Route) *routev3.RouteAction {
	action := &routev3.RouteAction{RateLimits: rateLimits(route), RetryPolicy: retry(route)}
	if route.Timeout != 0 && route.Timeout != defaultTimeout {
		action.Timeout = durationpb.New(max(route.Timeout, 0)) // Envoy's 0 is none, too
	}
	if route.GRPC {
		if route.Timeout == 0 {
			action.Timeout = durationpb.New(0)
		}
		action.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{GrpcTimeoutHeaderMax: durationpb.New(0)}
	}
	if route.StreamIdle != 0 {
		action.IdleTimeout = durationpb.New(max(route.StreamIdle, 0))
	}
	if route.WebSocket {
		action.UpgradeConfigs = []*routev3.RouteAction_UpgradeConfig{{UpgradeType: "websocket"}}
		if route.Timeout == 0 { // What is said over a connection has no end to wait for.
			action.Timeout = durationpb.New(0)
		}
	}
	clusters(action, route)
	for _, mirror := range route.Mirrors {
		action.RequestMirrorPolicies = append(action.RequestMirrorPolicies, mirrorPolicy(mirror))
	}
	if rewrite := route.Rewrite; rewrite != nil {
		if rewrite.Host != "" {
			action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: rewrite.Host}
		}
		rewritePath(action, route)
	}
	if route.Traffic != nil {
		for _, by := range route.Traffic.HashBy {
			action.HashPolicy = append(action.HashPolicy, hashPolicy(by))
		}
	}
	return action
}

// clusters says where a route's requests go.
func clusters(action *routev3.RouteAction, route *policy.Route) {
	if len(route.Backends) == 1 && plain(&route.Backends[0]) {
		action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: clusterName(route.Backends[0].Backend)}
		return
	}
	weighted := &routev3.WeightedCluster{}
	for i := range route.Backends {
		weighted.Clusters = append(weighted.Clusters, clusterWeight(&route.Backends[i]))
	}
	action.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: weighted}
	if slices.ContainsFunc(route.Backends, func(b policy.WeightedBackend) bool { return b.Backend == "" }) {
		action.ClusterNotFoundResponseCode = routev3.RouteAction_INTERNAL_SERVER_ERROR
		if route.GRPC {
			action.ClusterNotFoundResponseCode = routev3.RouteAction_SERVICE_UNAVAILABLE
		}
	}
}

func plain(backend *policy.WeightedBackend) bool {
	return backend.Backend != "" && backend.RequestHeaders.Empty() && backend.ResponseHeaders.Empty() && backend.Host == ""
}

func clusterWeight(backend *policy.WeightedBackend) *routev3.WeightedCluster_ClusterWeight {
	name := clusterUnresolved
	if backend.Backend != "" {
		name = clusterName(backend.Backend)
	}
	weight := &routev3.WeightedCluster_ClusterWeight{
		Name: name, Weight: wrapperspb.UInt32(backend.Weight),
		RequestHeadersToAdd: headerOptions(backend.RequestHeaders), RequestHeadersToRemove: backend.RequestHeaders.Remove,
		ResponseHeadersToAdd: headerOptions(backend.ResponseHeaders), ResponseHeadersToRemove: backend.ResponseHeaders.Remove,
	}
	if backend.Host != "" {
		weight.HostRewriteSpecifier = &routev3.WeightedCluster_ClusterWeight_HostRewriteLiteral{HostRewriteLiteral: backend.Host}
	}
	return weight
}

// mirrorPolicy copies requests. Envoy counts in millionths, and so finer than
// any fraction that matters.
func mirrorPolicy(mirror policy.Mirror) *routev3.RouteAction_RequestMirrorPolicy {
	compiled := &routev3.RouteAction_RequestMirrorPolicy{
		Cluster: clusterName(mirror.Backend), DisableShadowHostSuffixAppend: true,
	}
	if mirror.Numerator == mirror.Denominator {
		return compiled
	}
	fraction := &typev3.FractionalPercent{Numerator: mirror.Numerator}
	if mirror.Denominator != 100 {
		fraction.Numerator = uint32(uint64(mirror.Numerator) * 1_000_000 / uint64(mirror.Denominator)) //nolint:gosec // at most a million
		fraction.Denominator = typev3.FractionalPercent_MILLION
	}
	compiled.RuntimeFraction = &corev3.RuntimeFractionalPercent{DefaultValue: fraction}
	return compiled
}

// defaultRetry is that of routes that say nothing: only tries that the backend
// cannot have begun to serve are repeated. It stands at the virtual host.
func defaultRetry() *routev3.RetryPolicy {
	return elsewhere(&routev3.RetryPolicy{RetryOn: "connect-failure,refused-stream,reset-before-request", NumRetries: wrapperspb.UInt32(2)})
}

// elsewhere has tries go to endpoints that have not been tried, where there are
// others: of two, of which one has gone, every other try would be lost otherwise.
func elsewhere(retry *routev3.RetryPolicy) *routev3.RetryPolicy {
	retry.RetryHostPredicate = []*routev3.RetryPolicy_RetryHostPredicate{{
		Name:       previousHosts,
		ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: packed(&previoushostsv3.PreviousHostsPredicate{})},
	}}
	retry.HostSelectionRetryMaxAttempts = hostAttempts
	return retry
}

// retry is a route's own retry policy, or nil for the virtual host's.
func retry(route *policy.Route) *routev3.RetryPolicy {
	var compiled *routev3.RetryPolicy
	switch settings := route.Retry; {
	case settings == nil && route.BackendTimeout <= 0:
		return nil
	case settings == nil:
		compiled = defaultRetry()
	case settings.Attempts == 0:
		compiled = &routev3.RetryPolicy{}
	default:
		compiled = elsewhere(&routev3.RetryPolicy{NumRetries: wrapperspb.UInt32(settings.Attempts)})
		on := make([]string, 0, len(settings.On)+1)
		for _, condition := range settings.On {
			on = append(on, retryOn()[condition])
		}
		if len(settings.Codes) > 0 {
			on = append(on, "retriable-status-codes")
			for _, code := range settings.Codes {
				compiled.RetriableStatusCodes = append(compiled.RetriableStatusCodes, uint32(code)) //nolint:gosec // validated
			}
		}
		compiled.RetryOn = strings.Join(on, ",")
		if settings.Backoff > 0 {
			compiled.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{
				BaseInterval: durationpb.New(settings.Backoff), MaxInterval: durationpb.New(10 * settings.Backoff),
			}
		}
	}
	if route.BackendTimeout > 0 {
		compiled.PerTryTimeout = durationpb.New(route.BackendTimeout)
	}
	return compiled
}

// retryOn are Envoy's names of failed tries.
func retryOn() map[v1alpha1.RetryOn]string {
	return map[v1alpha1.RetryOn]string{
		v1alpha1.RetryConnectFailure: "connect-failure", v1alpha1.RetryRefusedStream: "refused-stream",
		v1alpha1.RetryResetBeforeRequest: "reset-before-request", v1alpha1.RetryReset: "reset",
		v1alpha1.RetryGatewayError: "gateway-error", v1alpha1.RetryServerError: "5xx",
		v1alpha1.RetryGRPCUnavailable: "unavailable", v1alpha1.RetryGRPCCancelled: "cancelled",
		v1alpha1.RetryGRPCDeadlineExceeded: "deadline-exceeded", v1alpha1.RetryGRPCInternal: "internal",
		v1alpha1.RetryGRPCResourceExhausted: "resource-exhausted",
	}
}

// hashPolicy is one source of the hash; the first that yields one ends the list.
func hashPolicy(by v1alpha1.HashBy) *routev3.RouteAction_HashPolicy {
	compiled := &routev3.RouteAction_HashPolicy{Terminal: true}
	switch by.Type {
	case v1alpha1.HashByHeader:
		compiled.PolicySpecifier = &routev3.RouteAction_HashPolicy_Header_{
			Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: by.Name},
		}
		if (policy.ValueMatch{Name: by.Name}).OfHost() { // without what the client may write behind it
			compiled.GetHeader().RegexRewrite = &matcherv3.RegexMatchAndSubstitute{Pattern: regex(`^(.*?)\.?(?::[^:\]]*)?$`), Substitution: `\1`}
		}
	case v1alpha1.HashByCookie:
		cookie := &routev3.RouteAction_HashPolicy_Cookie{Name: by.Name}
		if by.TTL != nil {
			cookie.Ttl, cookie.Path = duration(by.TTL, 0), "/"
		}
		compiled.PolicySpecifier = &routev3.RouteAction_HashPolicy_Cookie_{Cookie: cookie}
	default:
		compiled.PolicySpecifier = &routev3.RouteAction_HashPolicy_ConnectionProperties_{
			ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true},
		}
	}
	return compiled
}
