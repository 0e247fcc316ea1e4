package istio

import (
	"encoding/base64"
	"net/http"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/kit/fault"
)

// nativeReply is what a client is told when Istio refuses, in extauthz's words.
type nativeReply struct {
	// when is a CEL expression over Envoy's attributes.
	when   string
	status int
	kind   codes.Code
	reason string
	detail string
	// challenge is the value of WWW-Authenticate (RFC 6750 section 3), empty for none.
	challenge string
}

// refusedBy is where an AuthorizationPolicy refused.
func refusedBy(name string) string {
	return `response.code_details.startsWith("rbac_access_denied_matched_policy[") && response.code_details.contains("-policy[` + name + `]-")`
}

// refusedToken is where RequestAuthentication refused; Envoy says why in words.
func refusedToken(why string) string {
	return `response.code_details.startsWith("jwt_authn_access_denied{` + why + `")`
}

func unauthenticated(when, reason, detail string) nativeReply {
	return nativeReply{
		when: when, status: http.StatusUnauthorized, kind: codes.Unauthenticated, reason: reason, detail: detail,
		challenge: `Bearer realm="weir", error="invalid_token", error_description="` + detail + `"`,
	}
}

// refusals are those of extauthz (extauthz.Reason), in the order in which they are
// looked at.
func refusals() []nativeReply {
	const (
		audience = "the token is for another audience"
		issuer   = "the token's issuer is not accepted here"
		invalid  = "the token is not valid"
		scope    = "the request needs a scope that the caller does not have"
	)
	return []nativeReply{
		{when: refusedBy(nameCredentials), status: http.StatusUnauthorized, kind: codes.Unauthenticated, reason: "CREDENTIALS_MISSING", detail: "credentials are required", challenge: `Bearer realm="weir"`},
		unauthenticated(refusedBy(nameIssuer), "TOKEN_ISSUER_MISMATCH", issuer),
		unauthenticated(refusedBy(nameAudience), "TOKEN_AUDIENCE_MISMATCH", audience),
		unauthenticated(refusedBy(nameToken), "TOKEN_INVALID", invalid),
		{
			when: refusedBy(nameScope), status: http.StatusForbidden, kind: codes.PermissionDenied, reason: "INSUFFICIENT_SCOPE", detail: scope,
			challenge: `Bearer realm="weir", error="insufficient_scope", error_description="` + scope + `"`,
		},
		{when: refusedBy(nameRule), status: http.StatusForbidden, kind: codes.PermissionDenied, reason: "PERMISSION_DENIED", detail: "the caller may not do this"},
		unauthenticated(refusedToken("Jwt_is_expired"), "TOKEN_EXPIRED", "the token has expired"),
		unauthenticated(refusedToken("Jwt_not_yet_valid"), "TOKEN_NOT_YET_VALID", "the token is not valid yet"),
		unauthenticated(refusedToken("Audiences_in_Jwt_are_not_allowed"), "TOKEN_AUDIENCE_MISMATCH", audience),
		unauthenticated(refusedToken("Jwt_issuer_is_not_configured"), "TOKEN_ISSUER_MISMATCH", issuer),
		unauthenticated(refusedToken(""), "TOKEN_INVALID", invalid),
		{
			when: `response.code_details == "direct_response" && response.code == 400`, status: http.StatusBadRequest, kind: codes.InvalidArgument,
			reason: "PATH_NOT_CANONICAL", detail: "the path is not in canonical form; remove empty and dot segments, and escapes that are not needed",
		},
	}
}

// nativeReplies puts them before what the port answers by itself.
func nativeReplies(from *hcmv3.LocalReplyConfig) *hcmv3.LocalReplyConfig {
	made := &hcmv3.LocalReplyConfig{BodyFormat: from.GetBodyFormat()}
	for _, reply := range refusals() {
		made.Mappers = append(made.Mappers, reply.grpcMapper(), reply.httpMapper())
	}
	made.Mappers = append(made.Mappers, from.GetMappers()...)
	return made
}

func (r nativeReply) httpMapper() *hcmv3.ResponseMapper {
	body := map[string]*structpb.Value{}
	for name, value := range map[string]string{
		"type": fault.ProblemType(r.reason), "title": fault.StatusTitle(r.status), "status": "%RESPONSE_CODE%",
		"detail": r.detail, "code": r.reason, "requestId": "%REQ(X-REQUEST-ID)%",
	} {
		body[name] = structpb.NewStringValue(value)
	}
	return &hcmv3.ResponseMapper{
		Filter: celFilter(r.when), StatusCode: wrapperspb.UInt32(uint32(r.status)), //nolint:gosec // a status
		BodyFormatOverride: &corev3.SubstitutionFormatString{
			Format:      &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: &structpb.Struct{Fields: body}},
			ContentType: fault.ProblemContentType, OmitEmptyValues: true,
		},
		HeadersToAdd: r.headers(""),
	}
}

// grpcMapper is as that of Weir's own target: the message alone is the body, which
// Envoy moves to grpc-message, and the coded status is in the details.
func (r nativeReply) grpcMapper() *hcmv3.ResponseMapper {
	var details string
	status := fault.New(r.kind, r.reason, "%s", r.detail).GRPCStatus().Proto()
	if raw, err := (proto.MarshalOptions{Deterministic: true}).Marshal(status); err == nil {
		details = base64.RawStdEncoding.EncodeToString(raw)
	}
	isGRPC := &routev3.HeaderMatcher{Name: "content-type", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
		StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "application/grpc"}},
	}}
	return &hcmv3.ResponseMapper{
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{AndFilter: &accesslogv3.AndFilter{
			Filters: []*accesslogv3.AccessLogFilter{
				{FilterSpecifier: &accesslogv3.AccessLogFilter_HeaderFilter{HeaderFilter: &accesslogv3.HeaderFilter{Header: isGRPC}}},
				celFilter(r.when),
			},
		}}},
		StatusCode: wrapperspb.UInt32(uint32(r.status)), //nolint:gosec // a status
		BodyFormatOverride: &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{
			TextFormatSource: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: r.detail}},
		}},
		HeadersToAdd: r.headers(details),
	}
}

func (r nativeReply) headers(details string) []*corev3.HeaderValueOption {
	var options []*corev3.HeaderValueOption
	for _, header := range []*corev3.HeaderValue{{Key: "www-authenticate", Value: r.challenge}, {Key: "grpc-status-details-bin", Value: details}} {
		if header.GetValue() != "" {
			options = append(options, &corev3.HeaderValueOption{Header: header, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD})
		}
	}
	return options
}

func celFilter(expression string) *accesslogv3.AccessLogFilter {
	config := &anypb.Any{}
	if err := config.MarshalFrom(&celv3.ExpressionFilter{Expression: expression}); err != nil {
		return nil // a message of our own always marshals
	}
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{ExtensionFilter: &accesslogv3.ExtensionFilter{
		Name:       "envoy.access_loggers.extension_filters.cel",
		ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: config},
	}}}
}
