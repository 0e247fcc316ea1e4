package extauthz

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/identity"
)

// upstream is what the service of a route is told; compiled.
type upstream struct {
	// identity are the names of identity headers that are set.
	identity []string
	claims   []claimHeader
	// announcer is nil when there is nothing else to tell.
	announcer Announcer
	// owned are the names of all headers that are set beside the identity
	// headers; the client's own are removed.
	owned []string
}

type claimHeader struct{ path, header string }

const maxClaimHeaders = 32

// upstream compiles what a route's service is told.
func (c *Compiler) upstream(r *route, source *rulesv1.Upstream) error {
	if source == nil {
		return nil
	}
	compiled := &upstream{}
	var errs []error
	for i, name := range source.GetIdentityHeaders() {
		if !slices.Contains([]string{"consumer", "subject", "tenant", "tier", "scopes", "authenticator"}, name) {
			errs = append(errs, fmt.Errorf("upstream.identity_headers[%d]: %q is not an identity header", i, name))
		}
		compiled.identity = append(compiled.identity, identity.HeaderPrefix+name)
	}
	if n := len(source.GetClaimHeaders()); n > maxClaimHeaders {
		return fmt.Errorf("upstream.claim_headers: %d are too many; the most is %d", n, maxClaimHeaders)
	}
	for i, header := range source.GetClaimHeaders() {
		name := header.GetHeader()
		if err := OwnHeader(name); err != nil || header.GetClaim() == "" || slices.Contains(compiled.owned, name) {
			errs = append(errs, fmt.Errorf("upstream.claim_headers[%d]: %q from claim %q: %w", i, name, header.GetClaim(), errors.Join(err, errClaimHeader)))
		}
		compiled.claims = append(compiled.claims, claimHeader{header.GetClaim(), name})
		compiled.owned = append(compiled.owned, name)
	}
	if source.GetAssertion() != nil || source.GetExchange() != nil {
		if c.extensions.Upstream == nil {
			return errors.Join(append(errs, errors.New("upstream: this server makes no assertions"))...)
		}
		announcer, err := c.extensions.Upstream(source)
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("upstream.%w", err))...)
		}
		compiled.announcer = announcer
		compiled.owned = append(compiled.owned, announcer.Names()...)
	}
	r.upstream = compiled
	return errors.Join(errs...)
}

var errClaimHeader = errors.New("a claim and a header of its own are required")

// OwnHeader reports why a header cannot be one that only we set for the service;
// nil when it can.
func OwnHeader(name string) error {
	switch {
	case !headerName(name):
		return errors.New("is not a lower-case header name")
	case strings.HasPrefix(name, identity.HeaderPrefix) && name != "x-weir-assertion":
		return errors.New("is an identity header")
	}
	switch name {
	case headerAuthorization, "host", "connection", "content-length", "content-type", "content-encoding", "transfer-encoding", "te", "trailer", "upgrade",
		"cookie", "set-cookie", "x-request-id", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-client-cert", "traceparent", "tracestate":
		return errors.New("is the protocol's")
	}
	return nil
}

// announce adds what the service is told of an allowed caller, or denies when
// that cannot be had.
func (a *attempt) announce(decision *Decision) {
	told := a.route.upstream
	decision.IdentityHeaders, decision.OwnedHeaders = told.identity, told.owned
	if decision.IdentityHeaders == nil {
		decision.IdentityHeaders = []string{}
	}
	headers := slices.Clone(decision.UpstreamHeaders)
	for _, mapped := range told.claims {
		value, ok := claimText(claim(decision.Identity.Claims, mapped.path))
		if !ok {
			continue
		}
		if !ValidHeaderValue(value) {
			*decision = decision.deny(ReasonIdentityInvalid, fmt.Errorf("claim %q cannot be the value of header %q", mapped.path, mapped.header))
			return
		}
		headers = append(headers, Header{Name: mapped.header, Value: value})
	}
	if told.announcer != nil {
		more, err := told.announcer.Headers(a.ctx, a.call.Now, a.request, decision)
		if err != nil {
			known := refusal(err)
			*decision = decision.deny(known.Reason, err)
			decision.Challenge = known.Challenge
			return
		}
		headers = append(headers, more...)
	}
	decision.UpstreamHeaders = headers
}

// claimText is the header's text of a claim; ok is false where there is none. A
// list is joined by commas where no element has one.
func claimText(value *structpb.Value) (text string, ok bool) {
	switch kind := value.GetKind().(type) {
	case *structpb.Value_StringValue:
		return kind.StringValue, kind.StringValue != ""
	case *structpb.Value_BoolValue:
		return fmt.Sprint(kind.BoolValue), true
	case *structpb.Value_NumberValue:
		raw, err := value.MarshalJSON()
		return string(raw), err == nil
	case *structpb.Value_ListValue:
		var parts []string
		for _, element := range kind.ListValue.GetValues() {
			part, isText := element.GetKind().(*structpb.Value_StringValue)
			if !isText || strings.ContainsAny(part.StringValue, ", ") {
				return "", false
			}
			parts = append(parts, part.StringValue)
		}
		return strings.Join(parts, ","), len(parts) > 0
	}
	return "", false
}
