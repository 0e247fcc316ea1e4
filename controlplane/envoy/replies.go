package envoy

import (
	"encoding/base64"
	"maps"
	"strconv"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/kit/fault"
)

func itoa(n int) string { return strconv.Itoa(n) }

// reply is an answer that Envoy itself gives: when it applies, and what the
// client is told.
type reply struct {
	// when is a CEL expression over Envoy's attributes.
	when   string
	status uint32
	kind   codes.Code
	reason string
	detail string
	// headers are added to the answer.
	headers map[string]string
	// members are added to the body of HTTP. Values may hold Envoy's command
	// operators, and are left out where those have nothing.
	members map[string]string
	// replaces says that Envoy's own status may be another one.
	replaces bool
}

// replaced is the status to give instead of Envoy's, or nil.
func (r reply) replaced() *wrapperspb.UInt32Value {
	if !r.replaces {
		return nil
	}
	return wrapperspb.UInt32(r.status)
}

// replies, in order: the first that applies is used. What extauthz denied
// brings its own body and is not listed.
func replies() []reply {
	unavailable := "the service did not answer; try again"
	return []reply{
		{when: `response.code_details == "ext_authz_error"`, status: 503, kind: codes.Unavailable, reason: "AUTHORIZATION_UNAVAILABLE", detail: "the request could not be authorized; try again", headers: map[string]string{"retry-after": "1"}},
		{when: `response.code_details.startsWith("ext_proc_error")`, status: 503, kind: codes.Unavailable, reason: "EXTENSION_UNAVAILABLE", detail: "a step of the request's processing did not answer; try again", headers: map[string]string{"retry-after": "1"}, replaces: true},
		{when: `response.code_details == "overload"`, status: 503, kind: codes.Unavailable, reason: "OVERLOADED", detail: "the edge is short of memory; try again", headers: map[string]string{"retry-after": "1"}},
		{when: `response.code_details == "rate_limiter_error"`, status: 503, kind: codes.Unavailable, reason: "RATE_LIMIT_UNAVAILABLE", detail: "the request could not be counted; try again", headers: map[string]string{"retry-after": "1"}},
		{when: `response.code_details == "request_rate_limited"`, status: 429, kind: codes.ResourceExhausted, reason: "RATE_LIMITED", detail: "too many requests; wait as long as Retry-After says", members: map[string]string{
			// Named as in draft-ietf-httpapi-ratelimit-headers-10 section 6.1.
			"violated-policies": "%DYNAMIC_METADATA(envoy.filters.http.ratelimit:violated)%",
		}},
		{when: `response.code_details == "rate_limited_by_quota"`, status: 429, kind: codes.ResourceExhausted, reason: "RATE_LIMITED", detail: "too many requests; wait as long as Retry-After says", headers: map[string]string{"retry-after": quotaRetryAfter}},
		{when: `response.code_details == "` + parametersRefused + `"`, status: 400, kind: codes.InvalidArgument, reason: "PATH_NOT_CANONICAL", detail: "the path has a parameter (;), which is not accepted here", replaces: true},
		{when: `response.code_details == "route_not_found"`, status: 404, kind: codes.Unimplemented, reason: "ROUTE_NOT_FOUND", detail: "nothing is served at this host and path"},
		{when: `response.code == 421`, status: 421, kind: codes.FailedPrecondition, reason: "MISDIRECTED_REQUEST", detail: "this connection is for other host names; open one for this name"},
		{when: `response.code_details == "direct_response" && response.code == 503`, status: 503, kind: codes.Unavailable, reason: "POLICY_BROKEN", detail: "the policy of this route is being mended; try again later"},
		{when: `response.code_details == "direct_response" && response.code == 500`, status: 500, kind: codes.Internal, reason: "BACKEND_UNRESOLVED", detail: "the route has no backend"},
		{when: `response.code_details == "direct_response" && response.code == 502`, status: 502, kind: codes.Unavailable, reason: "BACKEND_UNRESOLVED", detail: "the route has no backend"},
		{when: `response.code_details == "cluster_not_found" && response.code == 503`, status: 503, kind: codes.Unavailable, reason: "BACKEND_UNRESOLVED", detail: "the route has no backend"},
		{when: `response.code_details == "cluster_not_found"`, status: 500, kind: codes.Internal, reason: "BACKEND_UNRESOLVED", detail: "the route has no backend"},
		{when: `response.code == 413`, status: 413, kind: codes.ResourceExhausted, reason: "PAYLOAD_TOO_LARGE", detail: "the request body is larger than this route accepts"},
		{when: `response.code == 431`, status: 431, kind: codes.ResourceExhausted, reason: "HEADERS_TOO_LARGE", detail: "the request headers are larger than the edge accepts"},
		{when: `response.code == 408`, status: 408, kind: codes.DeadlineExceeded, reason: "REQUEST_TIMEOUT", detail: "the request did not arrive in time"},
		{when: `response.code == 415`, status: 415, kind: codes.InvalidArgument, reason: "UNSUPPORTED_MEDIA_TYPE", detail: "the request's content type is not accepted here"},
		{when: `response.code == 504`, status: 504, kind: codes.DeadlineExceeded, reason: "UPSTREAM_TIMEOUT", detail: "the service did not answer in time"},
		{when: `response.code == 502`, status: 502, kind: codes.Unavailable, reason: "UPSTREAM_INVALID_RESPONSE", detail: "the service gave an answer that cannot be passed on"},
		{when: `response.code == 503`, status: 503, kind: codes.Unavailable, reason: "UPSTREAM_UNAVAILABLE", detail: unavailable},
		{when: `response.code == 404`, status: 404, kind: codes.NotFound, reason: "NOT_FOUND", detail: "nothing is served for this method and path"},
		{when: `response.code == 426`, status: 426, kind: codes.Unimplemented, reason: "UPGRADE_REQUIRED", detail: "speak HTTP/1.1 or HTTP/2"},
		{when: `response.code == 501`, status: 501, kind: codes.Unimplemented, reason: "NOT_IMPLEMENTED", detail: "the request asks for something that the edge does not implement"},
		{when: `response.code == 403`, status: 403, kind: codes.PermissionDenied, reason: "UPGRADE_REFUSED", detail: "the route takes no upgrade of the connection"},
		{when: `response.code == 405`, status: 405, kind: codes.Unimplemented, reason: "METHOD_NOT_ALLOWED", detail: "the method is not served at this path"},
		// What the transcoder says repeats what was sent, secrets included: problem.lua takes
		// it out and names the field where it can. Where the script isn't run, as on foreign
		// routes of an Istio gateway, nothing is repeated.
		{when: `response.code_details.startsWith("early_grpc_json_transcode_failure") && response.code == 400 && "weir" in metadata.filter_metadata`, status: 400, kind: codes.InvalidArgument, reason: "BAD_REQUEST", detail: "a query parameter or a part of the path is not known or has a value of the wrong type", members: fromTranscoder()},
		{when: `response.code_details.startsWith("grpc_json_transcode_failure") && response.code == 400 && "weir" in metadata.filter_metadata`, status: 400, kind: codes.InvalidArgument, reason: "BAD_REQUEST", detail: "the body is not JSON, or a field in it has a value of the wrong type", members: fromTranscoder()},
		{when: `response.code == 400`, status: 400, kind: codes.InvalidArgument, reason: "BAD_REQUEST", detail: "the request is malformed"},
	}
}

// fromTranscoder is a member that problem.lua reads and takes out again.
func fromTranscoder() map[string]string { return map[string]string{"transcoder": "%LOCAL_REPLY_BODY%"} }

// localReplies renders the answers: problem details for HTTP, status details
// for gRPC.
func localReplies() *hcmv3.LocalReplyConfig {
	config := &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{
		// What extauthz denied and extensions answer brings its own body.
		{Filter: celFilter(`response.code_details == "ext_authz_denied"`)},
		{Filter: celFilter(answeredByExtension)},
	}}
	for _, own := range replies() {
		config.Mappers = append(config.Mappers, own.grpcMapper(), own.httpMapper())
	}
	return config
}

func (r reply) httpMapper() *hcmv3.ResponseMapper {
	body := map[string]string{
		"type": fault.ProblemType(r.reason), "title": fault.StatusTitle(int(r.status)), "status": "%RESPONSE_CODE%",
		"detail": r.detail, "code": r.reason, "requestId": "%REQ(X-REQUEST-ID)%",
	}
	maps.Copy(body, r.members)
	return &hcmv3.ResponseMapper{
		Filter: celFilter(r.when), StatusCode: r.replaced(),
		BodyFormatOverride: problemFormat(body),
		HeadersToAdd:       addHeaders(r.headers),
	}
}

// grpcMapper gives the message alone as the body, which Envoy moves to
// grpc-message, and the coded status as details.
func (r reply) grpcMapper() *hcmv3.ResponseMapper {
	headers := map[string]string{}
	for name, value := range r.headers {
		headers[name] = value
	}
	status := fault.New(r.kind, r.reason, "%s", r.detail).GRPCStatus().Proto()
	if raw, err := (proto.MarshalOptions{Deterministic: true}).Marshal(status); err == nil {
		headers["grpc-status-details-bin"] = base64.RawStdEncoding.EncodeToString(raw)
	}
	return &hcmv3.ResponseMapper{
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{
			AndFilter: &accesslogv3.AndFilter{Filters: []*accesslogv3.AccessLogFilter{
				requestHeader(&routev3.HeaderMatcher{
					Name: "content-type",
					HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
						MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "application/grpc"},
					}},
				}),
				// A REST request looks like gRPC once it was transcoded.
				requestHeader(&routev3.HeaderMatcher{
					Name:                 "x-envoy-original-method",
					HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: false},
				}),
				celFilter(r.when),
			}},
		}},
		StatusCode: r.replaced(), // of gRPC-web, which may not be taken for gRPC yet
		BodyFormatOverride: &corev3.SubstitutionFormatString{
			Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
				Specifier: &corev3.DataSource_InlineString{InlineString: r.detail},
			}},
		},
		HeadersToAdd: addHeaders(headers),
	}
}

func requestHeader(match *routev3.HeaderMatcher) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_HeaderFilter{
		HeaderFilter: &accesslogv3.HeaderFilter{Header: match},
	}}
}

func celFilter(expression string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{
		ExtensionFilter: &accesslogv3.ExtensionFilter{
			Name:       "envoy.access_loggers.extension_filters.cel",
			ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: packed(&celv3.ExpressionFilter{Expression: expression})},
		},
	}}
}

func addHeaders(headers map[string]string) []*corev3.HeaderValueOption {
	var options []*corev3.HeaderValueOption
	for _, name := range []string{"retry-after", "grpc-status-details-bin"} {
		if value, ok := headers[name]; ok {
			options = append(options, &corev3.HeaderValueOption{
				Header: &corev3.HeaderValue{Key: name, Value: value}, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
			})
		}
	}
	return options
}
