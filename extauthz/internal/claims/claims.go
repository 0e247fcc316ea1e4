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

// Proof maps verified claims of an issuer. A claim that is there in another shape
// than it must have is an error, never taken for absent. Errors hold names of
// claims, not their values.
func (m Mapping) Proof(issuer string, claims map[string]any) (*extauthz.Proof, error) {
	subject, err := text(claims, m.subject)
	if err != nil {
		return nil, err
	}
	if subject == "" {
		return nil, fmt.Errorf("claim %q, the subject, is absent or empty", m.subject)
	}
	proof := &extauthz.Proof{Issuer: issuer, Subject: subject}
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
	if proof.Claims, err = structpb.NewStruct(claims); err != nil {
		return nil, errors.New("the claims cannot be represented")
	}
	return proof, nil
}

// find looks a claim up by its whole name first, because names such as
// "https://example.com/tenant" hold dots, then as a path into nested objects.
func find(claims map[string]any, name string) any {
	if value, ok := claims[name]; ok {
		return value
	}
	for {
		head, rest, more := strings.Cut(name, ".")
		if !more {
			return claims[name]
		}
		nested, ok := claims[head].(map[string]any)
		if !ok {
			return nil
		}
		claims, name = nested, rest
	}
}

func text(claims map[string]any, name string) (string, error) {
	switch value := find(claims, name).(type) {
	case nil:
		return "", nil
	case string:
		return value, nil
	default:
		return "", fmt.Errorf("claim %q is not a string", name)
	}
}

func scopes(claims map[string]any, name string) ([]string, error) {
	var list []string
	switch value := find(claims, name).(type) {
	case nil:
	case string:
		list = strings.Fields(value)
	case []any:
		for _, element := range value {
			scope, ok := element.(string)
			if !ok {
				return nil, fmt.Errorf("claim %q holds something that is not a string", name)
			}
			list = append(list, scope)
		}
	default:
		return nil, fmt.Errorf("claim %q is neither a string nor a list", name)
	}
	return list, nil
}
