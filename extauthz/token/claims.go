package token

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
)

// mapping names the claims that become the identity.
type mapping struct{ subject, tenant, scopes string }

func newMapping(source *rulesv1.ClaimMapping) mapping {
	m := mapping{subject: source.GetSubject(), tenant: source.GetTenant(), scopes: source.GetScopes()}
	if m.subject == "" {
		m.subject = "sub"
	}
	if m.scopes == "" {
		m.scopes = "scope"
	}
	return m
}

// token maps verified claims. A claim that is there in another shape than it
// must have is an error, never taken for absent.
func (m mapping) token(claims map[string]any) (*extauthz.Proof, error) {
	subject, err := text(claims, m.subject)
	if err != nil {
		return nil, err
	}
	if subject == "" {
		return nil, fmt.Errorf("claim %q, the subject, is absent or empty", m.subject)
	}
	token := &extauthz.Proof{Subject: subject}
	if m.tenant != "" {
		if token.Tenant, err = text(claims, m.tenant); err != nil {
			return nil, err
		}
	}
	if token.Scopes, err = scopes(claims, m.scopes); err != nil {
		return nil, err
	}
	if token.Claims, err = structpb.NewStruct(claims); err != nil {
		return nil, errors.New("the claims cannot be represented")
	}
	return token, nil
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
