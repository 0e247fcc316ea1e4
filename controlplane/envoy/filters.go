package envoy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	brotliv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/brotli/compressor/v3"
	gzipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/gzip/compressor/v3"
	zstdv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/zstd/compressor/v3"
	commonfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	adaptivev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/adaptive_concurrency/v3"
	admissionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/admission_control/v3"
	bodyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/body_size_limit/v3"
	compressorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/compressor/v3"
	customv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/custom_response/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	headertometadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_to_metadata/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	setfilterstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	sessionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	localv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/custom_response/local_response_policy/v3"
	cookiev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/cookie/v3"
	headerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/header/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/type/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

// Names of the HTTP filters that a chain has only where a route of it needs
// them. What follows a slash tells instances apart.
const (
	filterRest       = "envoy.filters.http.header_mutation/rest"
	filterCompressor = "envoy.filters.http.compressor"
	filterFault      = "envoy.filters.http.fault"
	filterBodySize   = "envoy.filters.http.body_size_limit"
	filterAdmission  = "envoy.filters.http.admission_control"
	filterAdaptive   = "envoy.filters.http.adaptive_concurrency"
	filterResponse   = "envoy.filters.http.custom_response"
	filterSession    = "envoy.filters.http.stateful_session"
	filterCosts      = "envoy.filters.http.header_to_metadata"
	filterJSONCosts  = "envoy.filters.http.json_to_metadata"
	filterEventCosts = "envoy.filters.http.sse_to_metadata"
)

// place is where in the chain a filter of the routes stands.
type place int

// Places, in the order in which a request meets them. A response meets them
// backwards: it is compressed after everything that may change its body.
const (
	placeFirst  place = iota // before CORS
	placeREST                // before gRPC-web
	placeQuotas              // after authorization, before limits
	placeLimits              // after authorization and limits
	placeLast                // before the router
)

// routeFilter is a filter that some routes of a chain need.
type routeFilter struct {
	place place
	// rank orders the filters of a place.
	rank   int
	filter *hcmv3.HttpFilter
}

// routeFilters are the filters that the routes of a chain need, by place. They
// do nothing on the other routes.
func (c *compiler) routeFilters(chain *policy.Chain) map[place][]*hcmv3.HttpFilter {
	needed := map[string]routeFilter{}
	for i := range chain.Hosts {
		for j := range chain.Hosts[i].Routes {
			c.needs(chain, &chain.Hosts[i].Routes[j], needed)
		}
	}
	byPlace := map[place][]*hcmv3.HttpFilter{}
	names := slices.SortedFunc(maps.Keys(needed), func(a, b string) int {
		if needed[a].rank != needed[b].rank {
			return needed[a].rank - needed[b].rank
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		byPlace[needed[name].place] = append(byPlace[needed[name].place], needed[name].filter)
	}
	return byPlace
}

// needs adds the filters that a route of a chain needs.
func (c *compiler) needs(chain *policy.Chain, route *policy.Route, needed map[string]routeFilter) {
	add := func(place place, rank int, name string, config func() proto.Message, disabled bool) {
		if _, ok := needed[name]; !ok {
			filter := httpFilter(name, config())
			filter.Disabled = disabled
			needed[name] = routeFilter{place, rank, filter}
		}
	}
	if name, backend := c.transcoder(route); backend != nil {
		add(placeFirst, 0, filterRest, func() proto.Message { return withoutGRPC() }, true)
		add(placeREST, 0, filterLua, func() proto.Message { return problemResponses() }, true)
		add(placeLast, 9, name, func() proto.Message { return transcoding(backend.Transcoding, chain.Settings().BufferKiB<<10) }, true)
	}
	if route.Session != nil {
		add(placeLast, 8, filterSession, func() proto.Message { return &sessionv3.StatefulSession{} }, false)
	}
	if c.options.RateLimitAddress != "" {
		limitsNeed(route, add)
	}
	traffic := route.Traffic
	if traffic == nil {
		return
	}
	if traffic.Fault != nil {
		add(placeLimits, 0, filterFault, func() proto.Message { return &faultv3.HTTPFault{} }, false)
	}
	if traffic.MaxRequestBytes > 0 {
		add(placeLimits, 1, bodySizeName(traffic), func() proto.Message {
			return &bodyv3.BodySizeLimit{MaxRequestBytes: wrapperspb.UInt64(uint64(traffic.MaxRequestBytes))} //nolint:gosec // validated to be positive
		}, true)
	}
	if traffic.Admission != nil {
		add(placeLimits, 2, instance(filterAdmission, traffic.Admission), func() proto.Message { return admission(traffic.Admission) }, true)
	}
	if traffic.Adaptive != nil {
		add(placeLimits, 3, instance(filterAdaptive, traffic.Adaptive), func() proto.Message { return adaptive(traffic.Adaptive) }, true)
	}
	if traffic.Response != nil {
		add(placeLimits, 4, filterResponse, func() proto.Message { return &customv3.CustomResponse{} }, false)
	}
	if traffic.Compression != nil {
		// A filter leaves alone what an earlier one compressed, and a response meets
		// them backwards.
		algorithms := compressions(traffic.Compression)
		for i, algorithm := range algorithms {
			add(placeFirst, len(algorithms)-i, compressorName(traffic.Compression, algorithm), func() proto.Message {
				return compressor(traffic.Compression, algorithm, i == 0)
			}, true)
		}
	}
}

// limitsNeed adds what a route's limits need beside the filter that asks for them.
func limitsNeed(route *policy.Route, add func(place, int, string, func() proto.Message, bool)) {
	if costHeaders(route) != nil {
		add(placeLimits, 5, filterCosts, func() proto.Message { return &headertometadatav3.Config{} }, false)
	}
	if fields := costFields(route); fields != nil {
		add(placeLimits, 6, instance(filterJSONCosts, fields), func() proto.Message { return jsonCosts(fields) }, true)
		add(placeLimits, 7, instance(filterEventCosts, fields), func() proto.Message { return eventCosts(fields) }, true)
	}
	limits := quotas(route)
	if len(limits) > 0 {
		add(placeQuotas, 0, filterQuotaValues, func() proto.Message { return &setfilterstatev3.Config{} }, false)
	}
	for n, limit := range limits {
		name, config := quotaFilter(n, limit)
		add(placeQuotas, 1+n, name, func() proto.Message { return config }, true)
	}
}

// limitConfigs adds what those filters do on a route.
func limitConfigs(route *policy.Route, configs map[string]*anypb.Any) {
	if headers := costHeaders(route); headers != nil {
		configs[filterCosts] = packed(headers)
	}
	if fields := costFields(route); fields != nil {
		configs[instance(filterJSONCosts, fields)], configs[instance(filterEventCosts, fields)] = enabled(), enabled()
	}
	limits := quotas(route)
	if len(limits) > 0 {
		configs[filterQuotaValues] = packed(quotaValues(limits))
	}
	for n, limit := range limits {
		name, _ := quotaFilter(n, limit)
		configs[name] = enabled()
	}
}

// enabled is the per-route configuration that switches on a filter which is
// disabled in the chain.
func enabled() *anypb.Any { return packed(&routev3.FilterConfig{Config: &anypb.Any{}}) }

// routeConfigs adds what the filters of needs do on a route.
func (c *compiler) routeConfigs(route *policy.Route, configs map[string]*anypb.Any) {
	on := enabled()
	if name, backend := c.transcoder(route); backend != nil {
		configs[filterRest], configs[filterLua], configs[name] = on, on, on
	}
	if route.Session != nil {
		configs[filterSession] = packed(session(route.Session))
	}
	if c.options.RateLimitAddress != "" {
		limitConfigs(route, configs)
	}
	traffic := route.Traffic
	if traffic == nil {
		return
	}
	if traffic.Fault != nil {
		configs[filterFault] = packed(faultInjection(traffic.Fault))
	}
	if traffic.MaxRequestBytes > 0 {
		configs[bodySizeName(traffic)] = on
	}
	if traffic.Admission != nil {
		configs[instance(filterAdmission, traffic.Admission)] = on
	}
	if traffic.Adaptive != nil {
		configs[instance(filterAdaptive, traffic.Adaptive)] = on
	}
	if traffic.Response != nil {
		configs[filterResponse] = packed(fallbackResponse(traffic.Response))
	}
	if traffic.Compression != nil {
		for _, algorithm := range compressions(traffic.Compression) {
			configs[compressorName(traffic.Compression, algorithm)] = on
		}
	}
}

// instance names a filter by its settings, so that routes with equal ones share
// it.
func instance(name string, settings any) string {
	raw, err := json.Marshal(settings)
	if err != nil { // plain data always marshals
		return name
	}
	sum := sha256.Sum256(raw)
	return name + "/" + hex.EncodeToString(sum[:4])
}

func bodySizeName(traffic *policy.Traffic) string {
	return filterBodySize + "/" + itoa(int(traffic.MaxRequestBytes))
}

func compressorName(settings *v1alpha1.Compression, algorithm v1alpha1.CompressionAlgorithm) string {
	return instance(filterCompressor, settings) + "/" + strings.ToLower(string(algorithm))
}

// transcoder is the backend by which a route's REST requests are transcoded, if
// any, with the name of the filter that does it. An HTTPRoute's backends share
// one descriptor set.
func (c *compiler) transcoder(route *policy.Route) (string, *policy.Backend) {
	if route.GRPC || !c.transcodes {
		return "", nil
	}
	for _, weighted := range route.Backends {
		if backend := c.backends[weighted.Backend]; backend != nil && backend.Transcoding != nil {
			return filterTranscoder + "/" + baseID(backend.ID), backend
		}
	}
	return "", nil
}

// problemResponses turns a service's gRPC error into RFC 9457 problem details
// for REST clients.
func problemResponses() *luav3.Lua {
	return &luav3.Lua{DefaultSourceCode: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: problemLua}}}
}

// withoutGRPC takes the gRPC status, which is in the HTTP status and the body,
// out of REST answers.
func withoutGRPC() *headermutationv3.HeaderMutation {
	var mutations []*mutationv3.HeaderMutation
	for _, name := range []string{"grpc-status", "grpc-message", "grpc-status-details-bin"} {
		mutations = append(mutations, &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Remove{Remove: name}})
	}
	return &headermutationv3.HeaderMutation{Mutations: &headermutationv3.Mutations{ResponseMutations: mutations}}
}

func session(settings *policy.Session) *sessionv3.StatefulSessionPerRoute {
	state := &corev3.TypedExtensionConfig{
		Name:        "envoy.http.stateful_session.header",
		TypedConfig: packed(&headerv3.HeaderBasedSessionState{Name: settings.Name}),
	}
	if !settings.Header {
		cookie := &httpv3.Cookie{
			Name: settings.Name, Path: settings.Path,
			Attributes: []*httpv3.CookieAttribute{{Name: "HttpOnly"}, {Name: "SameSite", Value: "Lax"}},
		}
		if settings.Lifetime > 0 {
			cookie.Ttl = durationpb.New(settings.Lifetime)
		}
		state = &corev3.TypedExtensionConfig{
			Name:        "envoy.http.stateful_session.cookie",
			TypedConfig: packed(&cookiev3.CookieBasedSessionState{Cookie: cookie}),
		}
	}
	return &sessionv3.StatefulSessionPerRoute{Override: &sessionv3.StatefulSessionPerRoute_StatefulSession{
		StatefulSession: &sessionv3.StatefulSession{SessionState: state},
	}}
}

func faultInjection(settings *v1alpha1.Fault) *faultv3.HTTPFault {
	compiled := &faultv3.HTTPFault{}
	if delay := settings.Delay; delay != nil {
		compiled.Delay = &commonfaultv3.FaultDelay{
			FaultDelaySecifier: &commonfaultv3.FaultDelay_FixedDelay{FixedDelay: duration(&delay.Duration, 0)},
			Percentage:         percentage(delay.Percent),
		}
	}
	if abort := settings.Abort; abort != nil {
		compiled.Abort = &faultv3.FaultAbort{Percentage: percentage(abort.Percent)}
		if abort.GRPCStatus != nil {
			compiled.Abort.ErrorType = &faultv3.FaultAbort_GrpcStatus{GrpcStatus: uint32(*abort.GRPCStatus)} //nolint:gosec // validated
		} else {
			compiled.Abort.ErrorType = &faultv3.FaultAbort_HttpStatus{HttpStatus: uint32(or(abort.Status, 503))} //nolint:gosec // validated
		}
	}
	return compiled
}

func percentage(percent *int32) *typev3.FractionalPercent {
	return &typev3.FractionalPercent{Numerator: uint32(or(percent, 100))} //nolint:gosec // validated
}

func admission(settings *v1alpha1.AdmissionControl) *admissionv3.AdmissionControl {
	runtimePercent := func(value *int32, otherwise int32, key string) *corev3.RuntimePercent {
		return &corev3.RuntimePercent{DefaultValue: &typev3.Percent{Value: float64(or(value, otherwise))}, RuntimeKey: key}
	}
	return &admissionv3.AdmissionControl{
		SamplingWindow: duration(settings.Window, 30*time.Second),
		SrThreshold:    runtimePercent(settings.SuccessPercent, 95, "weir.admission.success"),
		RpsThreshold: &corev3.RuntimeUInt32{
			DefaultValue: uint32(or(settings.MinRequestsPerSecond, 0)), RuntimeKey: "weir.admission.rps", //nolint:gosec // validated
		},
		MaxRejectionProbability: runtimePercent(settings.MaxRejectionPercent, 80, "weir.admission.rejection"),
		EvaluationCriteria: &admissionv3.AdmissionControl_SuccessCriteria_{SuccessCriteria: &admissionv3.AdmissionControl_SuccessCriteria{
			HttpCriteria: &admissionv3.AdmissionControl_SuccessCriteria_HttpCriteria{
				HttpSuccessStatus: []*typev3.Int32Range{{Start: 100, End: 500}},
			},
			// What is not the backend's own failure: all but UNKNOWN, DEADLINE_EXCEEDED,
			// RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE and DATA_LOSS.
			GrpcCriteria: &admissionv3.AdmissionControl_SuccessCriteria_GrpcCriteria{
				GrpcSuccessStatus: []uint32{0, 1, 3, 5, 6, 7, 9, 10, 11, 12, 16},
			},
		}},
	}
}

func adaptive(settings *v1alpha1.AdaptiveConcurrency) *adaptivev3.AdaptiveConcurrency {
	return &adaptivev3.AdaptiveConcurrency{
		ConcurrencyControllerConfig: &adaptivev3.AdaptiveConcurrency_GradientControllerConfig{
			GradientControllerConfig: &adaptivev3.GradientControllerConfig{
				SampleAggregatePercentile: &typev3.Percent{Value: float64(or(settings.Percentile, 90))},
				ConcurrencyLimitParams: &adaptivev3.GradientControllerConfig_ConcurrencyLimitCalculationParams{
					MaxConcurrencyLimit:       wrapperspb.UInt32(uint32(or(settings.MaxConcurrency, 1000))), //nolint:gosec // validated
					ConcurrencyUpdateInterval: duration(settings.UpdateInterval, 100*time.Millisecond),
				},
				MinRttCalcParams: &adaptivev3.GradientControllerConfig_MinimumRTTCalculationParams{
					Interval: duration(settings.MinRTTInterval, time.Minute), RequestCount: wrapperspb.UInt32(50),
				},
			},
		},
	}
}

func compressions(settings *v1alpha1.Compression) []v1alpha1.CompressionAlgorithm {
	if len(settings.Algorithms) > 0 {
		return settings.Algorithms
	}
	return []v1alpha1.CompressionAlgorithm{v1alpha1.CompressBrotli, v1alpha1.CompressZstd, v1alpha1.CompressGzip}
}

// compressor offers one algorithm. The first is preferred where the client says
// that it likes several equally.
func compressor(settings *v1alpha1.Compression, algorithm v1alpha1.CompressionAlgorithm, first bool) *compressorv3.Compressor {
	types := settings.ContentTypes
	if len(types) == 0 {
		types = []string{
			"application/javascript", "application/json", "application/problem+json", "application/wasm", "application/xml",
			"application/xhtml+xml", "image/svg+xml", "text/css", "text/html", "text/javascript", "text/plain", "text/xml",
		}
	}
	matchers := make([]*matcherv3.StringMatcher, len(types))
	for i, name := range types {
		// Parameters such as the character set may follow.
		matchers[i] = &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: name}, IgnoreCase: true}
	}
	libraries := map[v1alpha1.CompressionAlgorithm]proto.Message{
		v1alpha1.CompressGzip: &gzipv3.Gzip{}, v1alpha1.CompressBrotli: &brotliv3.Brotli{}, v1alpha1.CompressZstd: &zstdv3.Zstd{},
	}
	name := strings.ToLower(string(algorithm))
	return &compressorv3.Compressor{
		CompressorLibrary: &corev3.TypedExtensionConfig{
			Name: "envoy.compression." + name + ".compressor", TypedConfig: packed(libraries[algorithm]),
		},
		ChooseFirst: first,
		ResponseDirectionConfig: &compressorv3.Compressor_ResponseDirectionConfig{
			CommonConfig: &compressorv3.Compressor_CommonDirectionConfig{
				MinContentLength: wrapperspb.UInt32(uint32(or(settings.MinBytes, 1024))), ContentTypeMatcher: matchers, //nolint:gosec // validated
			},
			WeakenEtagOnCompress: true,
		},
	}
}

// fallbackResponse replaces answers by their status.
func fallbackResponse(settings *v1alpha1.FallbackResponse) *customv3.CustomResponse {
	replacement := &localv3.LocalResponsePolicy{
		Body: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: settings.Body}},
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{{
			Header:       &corev3.HeaderValue{Key: "content-type", Value: contentType(settings)},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}},
	}
	if settings.Status != nil {
		replacement.StatusCode = wrapperspb.UInt32(uint32(*settings.Status)) //nolint:gosec // validated
	}
	statuses := settings.Statuses
	if len(statuses) == 0 {
		statuses = []int32{502, 503, 504}
	}
	actions := map[string]*xdsmatcherv3.Matcher_OnMatch{}
	for _, status := range statuses {
		actions[itoa(int(status))] = &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
			Action: &xdscorev3.TypedExtensionConfig{Name: "fallback", TypedConfig: packed(replacement)},
		}}
	}
	return &customv3.CustomResponse{CustomResponseMatcher: &xdsmatcherv3.Matcher{
		MatcherType: &xdsmatcherv3.Matcher_MatcherTree_{MatcherTree: &xdsmatcherv3.Matcher_MatcherTree{
			Input: &xdscorev3.TypedExtensionConfig{Name: "status", TypedConfig: packed(&matcherv3.HttpResponseStatusCodeMatchInput{})},
			TreeType: &xdsmatcherv3.Matcher_MatcherTree_ExactMatchMap{
				ExactMatchMap: &xdsmatcherv3.Matcher_MatcherTree_MatchMap{Map: actions},
			},
		}},
	}}
}

func contentType(settings *v1alpha1.FallbackResponse) string {
	if settings.ContentType != "" {
		return settings.ContentType
	}
	return "text/plain"
}
