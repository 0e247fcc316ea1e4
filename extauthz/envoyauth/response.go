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

// Answer is what Envoy is told about one request. It is immutable, and holds
// nothing of the decision that could change.
type Answer struct {
	// set are headers of the service's request that replace the client's, remove
	// the names of those that go, added those added to the client's response.
	set    []extauthz.Header
	remove []string
	added  []extauthz.Header
	// denied is nil where the request may pass.
	denied *authv3.DeniedHttpResponse
	code   codes.Code
	reason string
	// metadata are the values of metadataNames.
	metadata [metadataCount]string
	// attributes of the consumer are metadata, too, with attributePrefix before
	// their names.
	attributes map[string]string
	// claims that limits read are, too, with claimPrefix before their paths.
	claims map[string]string
}

const (
	attributePrefix = "attribute."
	claimPrefix     = "claim."
)

func newAnswer(request *extauthz.Request, decision *extauthz.Decision) *Answer {
	answer := &Answer{metadata: metadata(decision), attributes: decision.Identity.Attributes, claims: decision.LimitClaims}
	if decision.Allowed {
		answer.allow(request, decision)
		return answer
	}
	answer.denied = refusal(request, decision)
	for _, header := range decision.ResponseHeaders {
		answer.denied.Headers = append(answer.denied.Headers, add(header))
	}
	answer.code, answer.reason = decision.Reason.Fault().Kind, string(decision.Reason)
	return answer
}

// Allowed reports whether the request may pass.
func (a *Answer) Allowed() bool { return a.denied == nil }

func (a *Answer) allow(request *extauthz.Request, decision *extauthz.Decision) {
	told := told(decision)
	a.set = make([]extauthz.Header, len(told), len(told)+len(decision.UpstreamHeaders)+1)
	for i, header := range told {
		a.set[i] = extauthz.Header{Name: header[0], Value: header[1]}
	}
	names := reserved()
	a.remove = make([]string, 0, len(names)+len(decision.CredentialHeaders)+2)
	for _, name := range names {
		if !a.sets(name) {
			a.remove = append(a.remove, name)
		}
	}
	a.remove = append(a.remove, decision.CredentialHeaders...)
	identities := len(a.set)
	if decision.CredentialCookie != nil {
		a.withoutCookies(request, decision.CredentialCookie)
	}
	for i := range request.Headers {
		name := request.Headers[i].Name
		if (looksReserved(name) || owned(decision.OwnedHeaders, name)) && !named(a.set[:identities], name) && !contains(a.remove, name) {
			a.remove = append(a.remove, name)
		}
	}
	a.upstream(decision.UpstreamHeaders)
	a.added = decision.ResponseHeaders
}

func (a *Answer) sets(name string) bool { return named(a.set, name) }

func named(headers []extauthz.Header, name string) bool {
	for i := range headers {
		if headers[i].Name == name {
			return true
		}
	}
	return false
}

// Response is the answer as Envoy's message.
func (a *Answer) Response() *authv3.CheckResponse {
	response := &authv3.CheckResponse{Status: &statuspb.Status{Code: int32(a.code), Message: a.reason}, DynamicMetadata: a.dynamicMetadata()}
	if a.denied != nil {
		response.HttpResponse = &authv3.CheckResponse_DeniedResponse{DeniedResponse: a.denied}
		return response
	}
	ok := &authv3.OkHttpResponse{HeadersToRemove: a.remove}
	for _, header := range a.set {
		ok.Headers = append(ok.Headers, overwrite(header.Name, header.Value))
	}
	for _, header := range a.added {
		ok.ResponseHeadersToAdd = append(ok.ResponseHeadersToAdd, add(header))
	}
	response.HttpResponse = &authv3.CheckResponse_OkResponse{OkResponse: ok}
	return response
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

// metadataCount is how many fields every answer's metadata has.
const metadataCount = 13

func metadataNames() [metadataCount]string {
	return [...]string{
		"decision", "decision_id", "reason", "policy", "route", "rule", "digest", "authenticator", "consumer", "tenant", "subject", "tier", "principal",
	}
}

// metadata describes the decision for Envoy's access log and for the filters
// after this one. It holds no secret, and every field in every answer; a
// consumer's attributes come beside it.
func metadata(decision *extauthz.Decision) [metadataCount]string {
	outcome := "deny"
	if decision.Allowed {
		outcome = "allow"
	}
	caller := &decision.Identity
	return [...]string{
		outcome, decision.ID, string(decision.Reason), decision.Policy, decision.Route, decision.Rule, decision.Digest, decision.Authenticator,
		caller.Consumer, caller.Tenant, caller.Subject, caller.Tier, caller.Principal(),
	}
}

func (a *Answer) dynamicMetadata() *structpb.Struct {
	fields := make(map[string]*structpb.Value, metadataCount)
	for i, name := range metadataNames() {
		fields[name] = structpb.NewStringValue(a.metadata[i])
	}
	for name, value := range a.attributes {
		fields[attributePrefix+name] = structpb.NewStringValue(value)
	}
	for path, value := range a.claims {
		fields[claimPrefix+path] = structpb.NewStringValue(value)
	}
	return &structpb.Struct{Fields: fields}
}
