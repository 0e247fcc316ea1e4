package extauthz

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"weir.dev/kit/authzexpr"
	"weir.dev/kit/identity"
)

// input is what the route's expressions are evaluated over.
func (a *attempt) input(decision *Decision, view view) (*authzexpr.Input, error) {
	caller := &decision.Identity
	input := &authzexpr.Input{
		Request: authzexpr.Request{
			Method: a.request.Method, Path: view.path, RawQuery: strings.ToValidUTF8(view.query, "\uFFFD"),
			Host: view.host, Protocol: a.request.Protocol, Size: a.request.Size, Headers: (*visible)(a),
		},
		Identity: authzexpr.Identity{
			Consumer: caller.Consumer, Subject: caller.Subject, Tenant: caller.Tenant, Tier: caller.Tier,
			Scopes: caller.Scopes, Authenticator: caller.Authenticator, Issuer: caller.Issuer, Claims: caller.Claims,
			Certificate: caller.Certificate,
		},
		Route:  a.route.attributes,
		Source: a.source(decision),
		Time:   a.call.Now,
	}
	if caller.Consumer != "" {
		input.Consumer = authzexpr.Consumer{Name: caller.Consumer, Tenant: caller.Tenant, Tier: caller.Tier}
	}
	if a.route.readsRoles {
		input.Identity.Roles = roles(caller.Claims, a.route.roleClaims)
	}
	if a.route.body != nil {
		body, err := a.route.body.read(a.request, view.path)
		if err != nil {
			return nil, err
		}
		input.Request.Body = body
	}
	if err := input.Check(); err != nil {
		return nil, Refuse(ReasonRequestInvalid, fmt.Errorf("%w: %w", errInputBounds, err))
	}
	return input, nil
}

// source is who calls, as rules see it. The port is the peer's, so it goes with
// the peer's address alone.
func (a *attempt) source(decision *Decision) authzexpr.Source {
	source := authzexpr.Source{Address: decision.Client, Principal: a.request.SourcePrincipal}
	if !a.route.behindProxies {
		source.Port = int64(a.request.SourcePort)
	}
	return source
}

// clientOf is the address of the client on a route.
func clientOf(route *route, request *Request) string {
	if !route.behindProxies {
		return request.Source
	}
	if address, presence := request.Credential(identity.HeaderClientAddress); presence == Present {
		return address
	}
	return ""
}

// visible are the headers that a rule may look at: those without credentials
// and without what only the edge may set.
type visible attempt

// Lookup implements authzexpr.Values.
func (v *visible) Lookup(name string) (value string, count int) {
	if (*attempt)(v).hidden(name) {
		return "", 0
	}
	for i := range v.request.Headers {
		if v.request.Headers[i].Name != name {
			continue
		}
		if count++; count == 1 {
			value = strings.ToValidUTF8(v.request.Headers[i].Value, "\uFFFD")
		}
	}
	return value, count
}

// All implements authzexpr.Values.
func (v *visible) All() map[string][]string {
	all := make(map[string][]string, len(v.request.Headers))
	for i := range v.request.Headers {
		header := &v.request.Headers[i]
		if (*attempt)(v).hidden(header.Name) {
			continue
		}
		all[header.Name] = append(all[header.Name], strings.ToValidUTF8(header.Value, "\uFFFD"))
	}
	return all
}

func (a *attempt) hidden(name string) bool {
	switch name {
	case "", headerAuthorization, "proxy-authorization", "cookie", "set-cookie":
		return true
	}
	if name[0] == ':' || strings.HasPrefix(name, identity.HeaderPrefix) {
		return true
	}
	for _, credential := range a.route.credentialHeaders {
		if name == credential {
			return true
		}
	}
	return false
}

// claim is the value at a path whose dots reach into objects, nil without one. A
// name that has dots itself, such as a URL, is found whole.
func claim(claims *structpb.Struct, path string) *structpb.Value {
	fields := claims.GetFields()
	if value, ok := fields[path]; ok {
		return value
	}
	for {
		name, rest, nested := strings.Cut(path, ".")
		value := fields[name]
		if !nested || value == nil {
			return value
		}
		fields, path = value.GetStructValue().GetFields(), rest
	}
}

// limitClaims are the claims at the paths that are texts, numbers and truth
// values, by path.
func limitClaims(claims *structpb.Struct, paths []string) (found map[string]string) {
	for _, path := range paths {
		value := claim(claims, path)
		if _, list := value.GetKind().(*structpb.Value_ListValue); list {
			continue
		}
		if text, ok := claimText(value); ok && len(text) <= maxLimitClaimBytes {
			if found == nil {
				found = make(map[string]string, len(paths))
			}
			found[path] = text
		}
	}
	return found
}

// maxLimitClaimBytes bounds a claim that limits read.
const maxLimitClaimBytes = 256

// roles are the texts that are found at the paths: a text is one role, a list
// several.
func roles(claims *structpb.Struct, paths []string) []string {
	var found []string
	for _, path := range paths {
		switch value := claim(claims, path).GetKind().(type) {
		case *structpb.Value_StringValue:
			found = append(found, value.StringValue)
		case *structpb.Value_ListValue:
			for _, element := range value.ListValue.GetValues() {
				if text, ok := element.GetKind().(*structpb.Value_StringValue); ok {
					found = append(found, text.StringValue)
				}
			}
		}
	}
	return found
}
