// Package claims makes identities of claims, wherever those come from: a signed
// token, an introspection's answer, a review. It verifies nothing.
package claims

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
)

// Mapping names the claims that become the identity.
type Mapping struct{ subject, tenant, scopes, client string }

// NewMapping reads a mapping; nil is the usual one.
func NewMapping(source *rulesv1.ClaimMapping) Mapping {
	m := Mapping{subject: source.GetSubject(), tenant: source.GetTenant(), scopes: source.GetScopes(), client: source.GetClient()}
	if m.subject == "" {
		m.subject = "sub"
	}
	if m.scopes == "" {
		m.scopes = "scope"
	}
	return m
}

// Proof maps verified claims of an issuer, as FromStruct does.
func (m Mapping) Proof(issuer string, claims map[string]any) (*extauthz.Proof, error) {
	all, err := structpb.NewStruct(claims)
	if err != nil {
		return nil, errors.New("the claims cannot be represented")
	}
	return m.FromStruct(issuer, all)
}

// FromStruct maps verified claims of an issuer, which become the proof's: they are
// not to be changed any more. A claim that is there in another shape than it must
// have is an error, never taken for absent. Errors hold names of claims, not their
// values.
func (m Mapping) FromStruct(issuer string, claims *structpb.Struct) (*extauthz.Proof, error) {
	subject, err := text(claims, m.subject)
	if err != nil {
		return nil, err
	}
	if subject == "" {
		return nil, fmt.Errorf("claim %q, the subject, is absent or empty", m.subject)
	}
	proof := &extauthz.Proof{Issuer: issuer, Subject: subject, Claims: claims}
	if m.tenant != "" {
		if proof.Tenant, err = text(claims, m.tenant); err != nil {
			return nil, err
		}
	}
	if m.client != "" {
		if proof.Client, err = text(claims, m.client); err != nil {
			return nil, err
		}
	}
	if proof.Scopes, err = scopes(claims, m.scopes); err != nil {
		return nil, err
	}
	return proof, nil
}

// find looks a claim up by its whole name first, because names such as
// "https://example.com/tenant" hold dots, then as a path into nested objects.
func find(claims *structpb.Struct, name string) *structpb.Value {
	fields := claims.GetFields()
	if value, ok := fields[name]; ok {
		return value
	}
	for {
		head, rest, more := strings.Cut(name, ".")
		if !more {
			return fields[name]
		}
		nested, ok := fields[head].GetKind().(*structpb.Value_StructValue)
		if !ok {
			return nil
		}
		fields, name = nested.StructValue.GetFields(), rest
	}
}

func text(claims *structpb.Struct, name string) (string, error) {
	switch value := find(claims, name).GetKind().(type) {
	case nil, *structpb.Value_NullValue:
		return "", nil
	case *structpb.Value_StringValue:
		return value.StringValue, nil
	default:
		return "", fmt.Errorf("claim %q is not a string", name)
	}
}

func scopes(claims *structpb.Struct, name string) ([]string, error) {
	switch value := find(claims, name).GetKind().(type) {
	case nil, *structpb.Value_NullValue:
		return nil, nil
	case *structpb.Value_StringValue:
		return strings.Fields(value.StringValue), nil
	case *structpb.Value_ListValue:
		var list []string
		for _, element := range value.ListValue.GetValues() {
			scope, ok := element.GetKind().(*structpb.Value_StringValue)
			if !ok {
				return nil, fmt.Errorf("claim %q holds something that is not a string", name)
			}
			list = append(list, scope.StringValue)
		}
		return list, nil
	default:
		return nil, fmt.Errorf("claim %q is neither a string nor a list", name)
	}
}
