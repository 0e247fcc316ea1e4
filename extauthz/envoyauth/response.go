package envoyauth

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"weir.dev/extauthz"
	"weir.dev/kit/fault"
	"weir.dev/kit/identity"
)

// reserved are the identity headers in the order of identity.Identity.Headers.
func reserved() [6]string {
	return [...]string{
		identity.HeaderConsumer, identity.HeaderSubject, identity.HeaderTenant,
		identity.HeaderTier, identity.HeaderScopes, identity.HeaderAuthenticator,
	}
}

// toResponse writes a decision as Envoy's answer.
func toResponse(request *extauthz.Request, decision *extauthz.Decision) *authv3.CheckResponse {
	if decision.Allowed {
		return allowed(request, decision)
	}
	return denied(request, decision)
}

func allowed(request *extauthz.Request, decision *extauthz.Decision) *authv3.CheckResponse {
	ok := &authv3.OkHttpResponse{HeadersToRemove: make([]string, 0, 8)}
	set := told(decision)
	ok.Headers = make([]*corev3.HeaderValueOption, 0, len(set))
	for _, header := range set {
		ok.Headers = append(ok.Headers, overwrite(header[0], header[1]))
	}
	isSet := func(name string) bool {
		for _, header := range set {
			if header[0] == name {
				return true
			}
		}
		return false
	}
	for _, name := range reserved() {
		if !isSet(name) {
			ok.HeadersToRemove = append(ok.HeadersToRemove, name)
		}
	}
	ok.HeadersToRemove = append(ok.HeadersToRemove, decision.CredentialHeaders...)
	if decision.CredentialCookie != nil {
		withoutCookies(ok, request, decision.CredentialCookie)
	}
	for i := range request.Headers {
		name := request.Headers[i].Name
		if (looksReserved(name) || owned(decision.OwnedHeaders, name)) && !isSet(name) && !contains(ok.HeadersToRemove, name) {
			ok.HeadersToRemove = append(ok.HeadersToRemove, name)
		}
	}
	upstream(ok, decision.UpstreamHeaders)
	for _, header := range decision.ResponseHeaders {
		ok.ResponseHeadersToAdd = append(ok.ResponseHeadersToAdd, add(header))
	}
	return &authv3.CheckResponse{
		Status:          &statuspb.Status{Code: int32(codes.OK)},
		HttpResponse:    &authv3.CheckResponse_OkResponse{OkResponse: ok},
		DynamicMetadata: metadata(decision),
	}
}

// looksReserved also finds the spelling with underscores, which some servers
// read as dashes.
func looksReserved(name string) bool {
	if len(name) < len(identity.HeaderPrefix) || name[0] != 'x' {
		return false
	}
	return strings.HasPrefix(name, identity.HeaderPrefix) ||
		strings.HasPrefix(strings.ReplaceAll(name, "_", "-"), identity.HeaderPrefix)
}

func contains(list []string, wanted string) bool {
	for _, element := range list {
		if element == wanted {
			return true
		}
	}
	return false
}

func overwrite(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// add keeps what is there: there may be several cookies to set.
func add(header extauthz.Header) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: header.Name, Value: header.Value},
		AppendAction: corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD,
	}
}

func denied(request *extauthz.Request, decision *extauthz.Decision) *authv3.CheckResponse {
	response := refusal(request, decision)
	for _, header := range decision.ResponseHeaders {
		response.Headers = append(response.Headers, add(header))
	}
	return &authv3.CheckResponse{
		Status:          &statuspb.Status{Code: int32(decision.Reason.Fault().Kind), Message: string(decision.Reason)},
		HttpResponse:    &authv3.CheckResponse_DeniedResponse{DeniedResponse: response},
		DynamicMetadata: metadata(decision),
	}
}

func refusal(request *extauthz.Request, decision *extauthz.Decision) *authv3.DeniedHttpResponse {
	if own := decision.Answer; own != nil {
		response := &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode(own.Status)}, Body: own.Body,
		}
		for _, header := range own.Headers {
			response.Headers = append(response.Headers, add(header))
		}
		return response
	}
	answer := decision.Reason.Fault()
	httpStatus := fault.HTTPStatus(answer.Kind)
	response := &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode(httpStatus)}}
	if decision.Challenge != "" {
		response.Headers = append(response.Headers, overwrite("www-authenticate", decision.Challenge))
	}
	if request.GRPC {
		response.Body = answer.Message
		// Envoy derives grpc-status from the HTTP status, which loses the
		// difference between, say, INVALID_ARGUMENT and INTERNAL.
		response.Headers = append(response.Headers, overwrite("grpc-status", strconv.Itoa(int(answer.Kind))))
		if details, err := proto.Marshal(answer.StatusFor(request.ID).Proto()); err == nil {
			response.Headers = append(response.Headers, overwrite("grpc-status-details-bin", base64.RawStdEncoding.EncodeToString(details)))
		}
	} else {
		response.Body = problemBody(answer.Problem(request.ID))
		response.Headers = append(response.Headers, overwrite("content-type", fault.ProblemContentType))
	}
	return response
}

func problemBody(problem fault.Problem) string {
	raw, err := json.Marshal(problem)
	if err != nil { // strings and a number always marshal
		return problem.ASCII()
	}
	return string(raw)
}

// metadata describes the decision for Envoy's access log and for the filters
// after this one. It holds no secret, and every field in every answer.
func metadata(decision *extauthz.Decision) *structpb.Struct {
	outcome := "deny"
	if decision.Allowed {
		outcome = "allow"
	}
	caller := &decision.Identity
	fields := [...][2]string{
		{"decision", outcome},
		{"decision_id", decision.ID},
		{"reason", string(decision.Reason)},
		{"policy", decision.Policy},
		{"route", decision.Route},
		{"rule", decision.Rule},
		{"digest", decision.Digest},
		{"authenticator", decision.Authenticator},
		{"consumer", caller.Consumer},
		{"tenant", caller.Tenant},
		{"subject", caller.Subject},
		{"tier", caller.Tier},
		{"principal", caller.Principal()},
	}
	values := make([]structpb.Value, len(fields))
	texts := make([]structpb.Value_StringValue, len(fields))
	all := make(map[string]*structpb.Value, len(fields))
	for i, field := range fields {
		texts[i].StringValue = field[1]
		values[i].Kind = &texts[i]
		all[field[0]] = &values[i]
	}
	if len(caller.Attributes) > 0 {
		attributes := make(map[string]*structpb.Value, len(caller.Attributes))
		for name, value := range caller.Attributes {
			attributes[name] = structpb.NewStringValue(value)
		}
		all["attributes"] = structpb.NewStructValue(&structpb.Struct{Fields: attributes})
	}
	return &structpb.Struct{Fields: all}
}
