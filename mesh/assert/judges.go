package assert

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// standIn begins the modulus of the key that istiod hands out while it cannot fetch an
// issuer's (pilot/pkg/model.PublicOnlyJwks): nobody can sign by it.
const standIn = "0xObjM0UvS_oaazjpEYlAbwctEJ4L8pH3OuTb7qth7gUwqet"

// Judges says what the connection managers of a port lack of the objects by which
// requests are judged, one line each: RequestAuthentications with their keys, and
// AuthorizationPolicies that refuse, or ask extauthz, by as many rules. Other objects are
// passed over, and so is a port that is not served.
func (p *Proxy) Judges(port int32, objects []*unstructured.Unstructured) []string {
	return p.each(port, objects, judged)
}

// Rivals says of which issuers of RequestAuthentications others give keys, too, on a
// port, one line each: a token would be good by either.
func (p *Proxy) Rivals(port int32, objects []*unstructured.Unstructured) []string {
	return p.each(port, objects, rivals)
}

// each are the lines that say has of a port's connection managers and objects.
func (p *Proxy) each(port int32, objects []*unstructured.Unstructured, has func(filters []any, object *unstructured.Unstructured) []string) []string {
	found := map[string]bool{}
	for _, listener := range p.listeners {
		if at(listener, "address", "socket_address", "port_value") != float64(port) {
			continue
		}
		for _, chain := range list(at(listener, "filter_chains")) {
			for _, filter := range list(at(chain, "filters")) {
				if filters := list(at(filter, "typed_config", "http_filters")); len(filters) > 0 {
					for _, object := range objects {
						for _, line := range has(filters, object) {
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
func judged(filters []any, object *unstructured.Unstructured) []string {
	switch object.GetKind() {
	case "RequestAuthentication":
		return unknown(filters, object)
	case "AuthorizationPolicy":
		switch action, _, _ := unstructured.NestedString(object.Object, "spec", "action"); action {
		case "DENY":
			return unruled(filters, object, "rules", "refuse")
		case "CUSTOM":
			return unruled(filters, object, "shadow_rules", "ask extauthz")
		}
	}
	return nil
}

// issuers are the keys of each issuer that a connection manager takes tokens of.
func issuers(filters []any) map[string][]string {
	found := map[string][]string{}
	for _, filter := range ofType(filters, "jwt_authn.v3.JwtAuthentication") {
		providers, _ := at(filter, "typed_config", "providers").(map[string]any)
		for _, provider := range providers {
			issuer, _ := at(provider, "issuer").(string)
			keys, _ := at(provider, "local_jwks", "inline_string").(string)
			found[issuer] = append(found[issuer], keys)
		}
	}
	return found
}

// rivals are the issuers of a RequestAuthentication of which others give keys, too.
func rivals(filters []any, object *unstructured.Unstructured) (lines []string) {
	if object.GetKind() != "RequestAuthentication" {
		return nil
	}
	found := issuers(filters)
	rules, _, _ := unstructured.NestedSlice(object.Object, "spec", "jwtRules")
	for _, rule := range rules {
		if issuer, _ := at(rule, "issuer").(string); len(found[issuer]) > 1 {
			lines = append(lines, fmt.Sprintf("takes tokens of issuer %q by a RequestAuthentication of others, too: its keys are as good as the policy's", issuer))
		}
	}
	return lines
}

// unknown are the issuers of a RequestAuthentication that are not known, or by no keys
// of theirs.
func unknown(filters []any, object *unstructured.Unstructured) (lines []string) {
	of := object.GetNamespace() + "/" + object.GetName()
	found := issuers(filters)
	rules, _, _ := unstructured.NestedSlice(object.Object, "spec", "jwtRules")
	for _, rule := range rules {
		issuer, _ := at(rule, "issuer").(string)
		inline, _ := at(rule, "jwks").(string)
		uri, _ := at(rule, "jwksUri").(string)
		switch keys := found[issuer]; {
		case len(keys) == 0:
			lines = append(lines, fmt.Sprintf("does not know the issuer %q of RequestAuthentication %s", issuer, of))
		case inline != "" && !slices.Contains(keys, inline):
			lines = append(lines, fmt.Sprintf("has other keys of issuer %q than RequestAuthentication %s", issuer, of))
		case inline == "" && len(keys) == 1 && strings.Contains(keys[0], standIn):
			lines = append(lines, fmt.Sprintf("has no keys of issuer %q yet, so every token is refused: istiod cannot fetch %s; look at its log", issuer, uri))
		}
	}
	return lines
}

// unruled are the rules of an AuthorizationPolicy that no RBAC filter has in a list.
func unruled(filters []any, object *unstructured.Unstructured, in, does string) (lines []string) {
	has := map[string]bool{}
	for _, filter := range ofType(filters, "rbac.v3.RBAC") {
		if action, _ := at(filter, "typed_config", in, "action").(string); action != "DENY" {
			continue
		}
		policies, _ := at(filter, "typed_config", in, "policies").(map[string]any)
		for name := range policies {
			// One that asks has the provider's name before it.
			if i := strings.Index(name, "ns["); i >= 0 {
				has[name[i:]] = true
			}
		}
	}
	rules, _, _ := unstructured.NestedSlice(object.Object, "spec", "rules")
	for i := range rules {
		// As istiod names them (pilot/pkg/security/authz/builder).
		if !has[fmt.Sprintf("ns[%s]-policy[%s]-rule[%d]", object.GetNamespace(), object.GetName(), i)] {
			lines = append(lines, fmt.Sprintf("does not %s by rule %d of AuthorizationPolicy %s/%s", does, i, object.GetNamespace(), object.GetName()))
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
