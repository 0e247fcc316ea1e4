package envoy

import (
	_ "embed" // problem.lua
	"regexp"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	transcoderv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_json_transcoder/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/kit/fault"
	"weir.dev/policy"
)

// contextRoute is the context extension by which extauthz knows the route.
const contextRoute = "weir.route"

// perFilter compiles what the filters do differently on this route.
func (c *compiler) perFilter(route *policy.Route) map[string]*anypb.Any {
	configs := map[string]*anypb.Any{}
	if c.options.ExtAuthzAddress != "" {
		configs[filterExtAuthz] = packed(extAuthzPerRoute(route))
	}
	extensionsOn(route, configs)
	if route.CORS != nil {
		configs[filterCORS] = packed(corsPolicy(route.CORS))
	}
	if route.Security != nil { // the route's in the place of the chain's
		configs[filterSecurity] = packed(&routev3.FilterConfig{Disabled: true})
		configs[filterHeaders] = packed(&headermutationv3.HeaderMutationPerRoute{
			Mutations: &headermutationv3.Mutations{ResponseMutations: securityMutations(route.Security)},
		})
	}
	c.routeConfigs(route, configs)
	return configs
}

func extAuthzPerRoute(route *policy.Route) *extauthzv3.ExtAuthzPerRoute {
	if route.Auth == nil || route.Auth.Refuse {
		return &extauthzv3.ExtAuthzPerRoute{Override: &extauthzv3.ExtAuthzPerRoute_Disabled{Disabled: true}}
	}
	settings := &extauthzv3.CheckSettings{ContextExtensions: map[string]string{contextRoute: route.Auth.RouteID}}
	if route.Auth.BodyBytes > 0 {
		settings.WithRequestBody = &extauthzv3.BufferSettings{MaxRequestBytes: route.Auth.BodyBytes, PackAsBytes: true}
	}
	if route.Auth.CheckTimeout > 0 {
		settings.ServiceOverride = &extauthzv3.CheckSettings_GrpcService{GrpcService: askAgain(grpcService(clusterExtAuthz, route.Auth.CheckTimeout))}
	}
	return &extauthzv3.ExtAuthzPerRoute{Override: &extauthzv3.ExtAuthzPerRoute_CheckSettings{CheckSettings: settings}}
}

// transcoding turns REST into gRPC. While a request is checked as much of its body
// arrives as is buffered, and one more read of as much, all of which then comes to
// the filter as one piece: of a stream, whose messages are passed on one by one, that
// must not be too large.
func transcoding(settings *policy.Transcoding, buffered uint32) *transcoderv3.GrpcJsonTranscoder {
	most := settings.MaxRequestBytes
	if settings.Streams {
		most = max(most, 2*buffered)
	}
	return &transcoderv3.GrpcJsonTranscoder{
		DescriptorSet: &transcoderv3.GrpcJsonTranscoder_ProtoDescriptorBin{ProtoDescriptorBin: settings.DescriptorSet},
		Services:      settings.Services,
		// The route, its rules and limits are those of the REST path.
		MatchIncomingRequestRoute: true,
		QueryParamUnescapePlus:    true,
		UrlUnescapeSpec:           transcoderv3.GrpcJsonTranscoder_ALL_CHARACTERS_EXCEPT_RESERVED,
		MaxRequestBodySize:        wrapperspb.UInt32(most),
		PrintOptions:              &transcoderv3.GrpcJsonTranscoder_PrintOptions{AlwaysPrintPrimitiveFields: true},
		RequestValidationOptions: &transcoderv3.GrpcJsonTranscoder_RequestValidationOptions{
			RejectUnknownMethod: true, RejectUnknownQueryParameters: true, RejectBindingBodyFieldCollisions: true,
		},
	}
}

func corsPolicy(cors *policy.CORS) *corsv3.CorsPolicy {
	compiled := &corsv3.CorsPolicy{
		AllowMethods:                 listed(cors.AllowMethods),
		AllowHeaders:                 listed(cors.AllowHeaders),
		ExposeHeaders:                strings.Join(cors.ExposeHeaders, ", "),
		MaxAge:                       itoa(int(cors.MaxAge.Seconds())),
		AllowCredentials:             wrapperspb.Bool(cors.AllowCredentials),
		ForwardNotMatchingPreflights: wrapperspb.Bool(false),
	}
	for _, origin := range cors.AllowOrigins {
		compiled.AllowOriginStringMatch = append(compiled.AllowOriginStringMatch, originMatch(origin))
	}
	return compiled
}

// listed is a list of names. Of "*" alone Envoy makes the name that was asked for,
// which browsers take with credentials, too.
func listed(names []string) string {
	if slices.Contains(names, "*") {
		return "*"
	}
	return strings.Join(names, ", ")
}

// originMatch turns a wildcard origin into an expression: "*." stands for one
// or more labels, ":*" for any port.
func originMatch(origin string) *matcherv3.StringMatcher {
	if !strings.Contains(origin, "*") {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: origin}}
	}
	if origin == "*" {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: regex(".+")}}
	}
	pattern := regexp.QuoteMeta(origin)
	pattern = strings.Replace(pattern, `://\*\.`, `://([A-Za-z0-9-]+\.)+`, 1)
	if head, ok := strings.CutSuffix(pattern, `:\*`); ok {
		pattern = head + `(:[0-9]{1,5})?`
	}
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: regex(pattern)}}
}

//go:embed problem.lua
var problemLua string

// problemFormat is a JSON body of RFC 9457. Values may hold Envoy's command
// operators, which it escapes.
func problemFormat(fields map[string]string) *corev3.SubstitutionFormatString {
	values := map[string]*structpb.Value{}
	for name, value := range fields {
		values[name] = structpb.NewStringValue(value)
	}
	return &corev3.SubstitutionFormatString{
		Format:          &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: &structpb.Struct{Fields: values}},
		ContentType:     fault.ProblemContentType,
		OmitEmptyValues: true,
	}
}

func metadataKey(filter, field string) *metadatav3.MetadataKey {
	return &metadatav3.MetadataKey{Key: filter, Path: []*metadatav3.MetadataKey_PathSegment{
		{Segment: &metadatav3.MetadataKey_PathSegment_Key{Key: field}},
	}}
}
