package assert

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Judges says what the connection managers of a port lack of the objects by which
// Istio decides by itself, RequestAuthentications and AuthorizationPolicies that
// refuse, one line each, and which issuers of theirs others give keys of, too: a token
// would be good by either. Other objects are passed over.
func (p *Proxy) Judges(port int32, objects []*unstructured.Unstructured) []string {
	found := map[string]bool{}
	for _, listener := range p.listeners {
		if at(listener, "address", "socket_address", "port_value") != float64(port) {
			continue
		}
		for _, chain := range list(at(listener, "filter_chains")) {
			for _, filter := range list(at(chain, "filters")) {
				if filters := list(at(filter, "typed_config", "http_filters")); len(filters) > 0 {
					for _, object := range objects {
						for _, line := range judged(filters, object) {
							found[fmt.Sprintf("port %d %s", port, line)] = true
						}
					}
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// judged compares the filters of a connection manager with an object.
func judged(filters []any, object *unstructured.Unstructured) (lines []string) {
	switch object.GetKind() {
	case "RequestAuthentication":
		issuers := map[string]int{}
		for _, filter := range ofType(filters, "jwt_authn.v3.JwtAuthentication") {
			providers, _ := at(filter, "typed_config", "providers").(map[string]any)
			for _, provider := range providers {
				issuer, _ := at(provider, "issuer").(string)
				issuers[issuer]++
			}
		}
		rules, _, _ := unstructured.NestedSlice(object.Object, "spec", "jwtRules")
		for _, rule := range rules {
			issuer, _ := at(rule, "issuer").(string)
			switch issuers[issuer] {
			case 0:
				lines = append(lines, fmt.Sprintf("does not know the issuer %q of RequestAuthentication %s/%s", issuer, object.GetNamespace(), object.GetName()))
			case 1:
			default:
				lines = append(lines, fmt.Sprintf("takes tokens of issuer %q by a RequestAuthentication of others, too: its keys are as good as the policy's", issuer))
			}
		}
	case "AuthorizationPolicy":
		if action, _, _ := unstructured.NestedString(object.Object, "spec", "action"); action != "DENY" {
			return nil
		}
		has := map[string]bool{}
		for _, filter := range ofType(filters, "rbac.v3.RBAC") {
			if refuses, _ := at(filter, "typed_config", "rules", "action").(string); refuses != "DENY" {
				continue
			}
			policies, _ := at(filter, "typed_config", "rules", "policies").(map[string]any)
			for name := range policies {
				has[name] = true
			}
		}
		rules, _, _ := unstructured.NestedSlice(object.Object, "spec", "rules")
		for i := range rules {
			// As istiod names them (pilot/pkg/security/authz/builder).
			if !has[fmt.Sprintf("ns[%s]-policy[%s]-rule[%d]", object.GetNamespace(), object.GetName(), i)] {
				lines = append(lines, fmt.Sprintf("does not refuse by rule %d of AuthorizationPolicy %s/%s", i, object.GetNamespace(), object.GetName()))
			}
		}
	}
	return lines
}

func ofType(filters []any, suffix string) []any {
	return slices.DeleteFunc(slices.Clone(filters), func(filter any) bool {
		name, _ := at(filter, "typed_config", "@type").(string)
		return !strings.HasSuffix(name, suffix)
	})
}
