package envoy

import (
	"cmp"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/ratelimit/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	grpcwebv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/kit/identity"
	"weir.dev/kit/rpcserver"
	"weir.dev/policy"
)

// extAuthzTimeout is how long a check may take where a policy doesn't say more.
const extAuthzTimeout = time.Second

// DefaultRateLimitTimeout is how long a request waits for ratelimitd.
const DefaultRateLimitTimeout = 100 * time.Millisecond

// Names of the HTTP filters.
const (
	filterHeaders     = "envoy.filters.http.header_mutation"
	filterSecurity    = "envoy.filters.http.header_mutation.security"
	filterCORS        = "envoy.filters.http.cors"
	filterLua         = "envoy.filters.http.lua"
	filterGRPCWeb     = "envoy.filters.http.grpc_web"
	filterExtAuthz    = "envoy.filters.http.ext_authz"
	filterLimitOpen   = "envoy.filters.http.ratelimit.open"
	filterLimitClosed = "envoy.filters.http.ratelimit.closed"
	filterTranscoder  = "envoy.filters.http.grpc_json_transcoder"
	filterRouter      = "envoy.filters.http.router"
)

// Stages keep limits that fail open apart from those that fail closed: the
// filter, not the route, says what an outage means.
const (
	stageOpen   = 0
	stageClosed = 1
)

// rateLimitDomain is the RLS domain of Weir's own rules.
const rateLimitDomain = "weir"

// bound is where a port is really bound.
func (c *compiler) bound(port *policy.Port) int32 {
	if mapped, ok := c.options.PortMap[port.Number]; ok {
		return mapped
	}
	return port.Number
}

// httpFilters are in the order in which a request meets them; a response meets
// them backwards.
func (c *compiler) httpFilters(port *policy.Port, chain *policy.Chain) []*hcmv3.HttpFilter {
	ofRoutes := c.routeFilters(chain)
	filters := []*hcmv3.HttpFilter{
		httpFilter(filterHeaders, &headermutationv3.HeaderMutation{Mutations: &headermutationv3.Mutations{
			RequestMutations: append(c.withoutShard(port, chain), sayClientAddress(chain)...),
			ResponseMutations: []*mutationv3.HeaderMutation{
				{Action: &mutationv3.HeaderMutation_Remove{Remove: rpcserver.ProblemTrailer}},
				removePrefix(identity.HeaderPrefix),
			},
		}}),
	}
	filters = append(filters, refuseParameters(chain)...)
	if hasSecurity(chain) {
		filters = append(filters, httpFilter(filterSecurity, &headermutationv3.HeaderMutation{
			Mutations: &headermutationv3.Mutations{ResponseMutations: securityMutations(chain.Security)},
		}))
	}
	filters = append(filters, ofRoutes[placeFirst]...)
	filters = append(filters, httpFilter(filterCORS, &corsv3.Cors{}))
	filters = append(filters, ofRoutes[placeREST]...)
	filters = append(filters, httpFilter(filterGRPCWeb, &grpcwebv3.GrpcWeb{}))
	if c.options.ExtAuthzAddress != "" {
		filters = append(filters, httpFilter(filterExtAuthz, &extauthzv3.ExtAuthz{
			Services:                       &extauthzv3.ExtAuthz_GrpcService{GrpcService: askAgain(grpcService(clusterExtAuthz, extAuthzTimeout))},
			TransportApiVersion:            corev3.ApiVersion_V3,
			FailureModeAllow:               false,
			StatusOnError:                  &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
			EncodeRawHeaders:               true,
			IncludePeerCertificate:         asksForCertificates(chain),
			ValidateMutations:              true,
			EnableDynamicMetadataIngestion: wrapperspb.Bool(true),
		}))
	}
	filters = append(filters, ofRoutes[placeQuotas]...)
	if c.options.RateLimitAddress != "" {
		limitTimeout := cmp.Or(c.options.RateLimitTimeout, DefaultRateLimitTimeout)
		filters = append(filters,
			httpFilter(filterLimitOpen, rateLimitFilter(stageOpen, limitTimeout)),
			httpFilter(filterLimitClosed, rateLimitFilter(stageClosed, limitTimeout)))
	}
	filters = append(filters, ofRoutes[placeLimits]...)
	filters = append(filters, c.extensionFilters(chain)...)
	filters = append(filters, ofRoutes[placeLast]...)
	return append(filters, httpFilter(filterRouter, &routerv3.Router{SuppressEnvoyHeaders: true}))
}

// asksForCertificates reports whether clients of a chain may have certificates.
func asksForCertificates(chain *policy.Chain) bool {
	return chain.TLS != nil && chain.TLS.Clients != nil
}

func httpFilter(name string, config proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(config)}}
}

func rateLimitFilter(stage uint32, timeout time.Duration) *ratelimitv3.RateLimit {
	return &ratelimitv3.RateLimit{
		Domain:                         rateLimitDomain,
		Stage:                          stage,
		Timeout:                        durationpb.New(timeout),
		FailureModeDeny:                stage == stageClosed,
		StatusOnError:                  &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		RateLimitedAsResourceExhausted: true,
		DisableXEnvoyRatelimitedHeader: true,
		RateLimitService: &ratelimitconfigv3.RateLimitServiceConfig{
			GrpcService:         askAgain(grpcService(clusterRateLimit, timeout)),
			TransportApiVersion: corev3.ApiVersion_V3,
		},
	}
}

func grpcService(cluster string, timeout time.Duration) *corev3.GrpcService {
	return &corev3.GrpcService{
		TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: cluster}},
		Timeout:         durationpb.New(timeout),
	}
}

// removePrefix removes every header whose name starts with prefix.
func removePrefix(prefix string) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_RemoveOnMatch_{
		RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{
			KeyMatcher: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}, IgnoreCase: true,
			},
		},
	}}
}

func (c *compiler) tracing() *hcmv3.HttpConnectionManager_Tracing {
	if c.options.OTLPAddress == "" {
		return nil
	}
	return &hcmv3.HttpConnectionManager_Tracing{
		SpawnUpstreamSpan: wrapperspb.Bool(true),
		Provider: &tracev3.Tracing_Http{
			Name: "envoy.tracers.opentelemetry",
			ConfigType: &tracev3.Tracing_Http_TypedConfig{TypedConfig: packed(&tracev3.OpenTelemetryConfig{
				GrpcService: grpcService(clusterOTLP, time.Second), ServiceName: "weir-ingress",
			})},
		},
	}
}

// accessLog writes one JSON line per request to standard output, the decision
// included. Query strings are left out: they carry secrets too often.
func (c *compiler) accessLog(port *policy.Port) *accesslogv3.AccessLog {
	fields := map[string]string{
		"time": "%START_TIME%", "log": "access", "request_id": "%REQ(X-REQUEST-ID)%", "trace_id": "%TRACE_ID%",
		"method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%", "host": "%REQ(X-ENVOY-ORIGINAL-HOST?:AUTHORITY)%",
		"path":     "%PATH(NQ:ORIG_OR_PATH)%",
		"protocol": "%PROTOCOL%", "status": "%RESPONSE_CODE%", "grpc_status": "%GRPC_STATUS%",
		"flags": "%RESPONSE_FLAGS%", "details": "%RESPONSE_CODE_DETAILS%",
		"bytes_received": "%BYTES_RECEIVED%", "bytes_sent": "%BYTES_SENT%", "duration_ms": "%DURATION%",
		"upstream": "%UPSTREAM_HOST%", "cluster": "%UPSTREAM_CLUSTER%", "route": "%ROUTE_NAME%",
		"client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "user_agent": "%REQ(USER-AGENT)%",
		"decision": authMetadata("decision"), "reason": authMetadata("reason"), "policy": authMetadata("policy"),
		"rule": authMetadata("rule"), "consumer": authMetadata("consumer"), "tenant": authMetadata("tenant"),
		"limit": "%DYNAMIC_METADATA(envoy.filters.http.ratelimit:limit)%",
		// For replaying requests: where they came in, in the policy's own terms.
		"port": itoa(int(port.Number)), "fleet": port.Fleet, "sni": "%REQUESTED_SERVER_NAME%",
	}
	return jsonLog(fields)
}

// streamAccessLog writes one line per connection that is passed on.
func streamAccessLog() *accesslogv3.AccessLog {
	return jsonLog(map[string]string{
		"time": "%START_TIME%", "log": "connection", "server_name": "%REQUESTED_SERVER_NAME%",
		"flags": "%RESPONSE_FLAGS%", "details": "%CONNECTION_TERMINATION_DETAILS%",
		"bytes_received": "%BYTES_RECEIVED%", "bytes_sent": "%BYTES_SENT%", "duration_ms": "%DURATION%",
		"upstream": "%UPSTREAM_HOST%", "cluster": "%UPSTREAM_CLUSTER%", "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
	})
}

func jsonLog(fields map[string]string) *accesslogv3.AccessLog {
	values := map[string]*structpb.Value{}
	for name, format := range fields {
		values[name] = structpb.NewStringValue(format)
	}
	return &accesslogv3.AccessLog{
		Name: "envoy.access_loggers.stdout",
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: packed(&streamv3.StdoutAccessLog{
			AccessLogFormat: &streamv3.StdoutAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
				Format:          &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: &structpb.Struct{Fields: values}},
				OmitEmptyValues: true,
			}},
		})},
	}
}

func authMetadata(field string) string {
	return "%DYNAMIC_METADATA(" + filterExtAuthz + ":" + field + ")%"
}
