package policy

import (
	"fmt"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// routeMatch is an entry of an extension's when as a route would have it, so that
// the same values are good in both.
func routeMatch(entry *v1alpha1.ExtensionMatch) gatewayv1.HTTPRouteMatch {
	var match gatewayv1.HTTPRouteMatch
	if path := entry.Path; path != nil {
		match.Path = &gatewayv1.HTTPPathMatch{Value: &path.Value}
		if path.Type != "" {
			match.Path.Type = &path.Type
		}
	}
	if entry.Method != "" {
		method := gatewayv1.HTTPMethod(entry.Method)
		match.Method = &method
	}
	for _, header := range entry.Headers {
		value := gatewayv1.HTTPHeaderMatch{Name: gatewayv1.HTTPHeaderName(header.Name), Value: header.Value}
		if kind := gatewayv1.HeaderMatchType(header.Type); kind != "" {
			value.Type = &kind
		}
		match.Headers = append(match.Headers, value)
	}
	for _, parameter := range entry.QueryParams {
		value := gatewayv1.HTTPQueryParamMatch{Name: gatewayv1.HTTPHeaderName(parameter.Name), Value: parameter.Value}
		if kind := gatewayv1.QueryParamMatchType(parameter.Type); kind != "" {
			value.Type = &kind
		}
		match.QueryParams = append(match.QueryParams, value)
	}
	return match
}

func extensionMatches(entries []v1alpha1.ExtensionMatch) []Match {
	if len(entries) == 0 {
		return nil
	}
	matches := make([]gatewayv1.HTTPRouteMatch, len(entries))
	for i := range entries {
		matches[i] = routeMatch(&entries[i])
	}
	return httpMatches(matches)
}

func (c *checker) extensionMatches(field string, entries []v1alpha1.ExtensionMatch) {
	c.count(field, len(entries), 0, 8)
	for i := range entries {
		part, entry := fmt.Sprintf("%s[%d]", field, i), &entries[i]
		if entry.Path == nil && entry.Method == "" && len(entry.Headers)+len(entry.QueryParams) == 0 {
			c.fail(CodeRequired, part, "says nothing: set path, method, headers or queryParams")
		}
		if entry.Path != nil && entry.Path.Value == "" {
			c.required(part + ".path.value")
		}
		match := routeMatch(entry)
		c.httpMatch(part, &match)
		c.distinctNames(part+".headers", entry.Headers, true)
		c.distinctNames(part+".queryParams", entry.QueryParams, false)
	}
}

// distinctNames reports values that are compared twice: one of them would not
// count.
func (c *checker) distinctNames(field string, values []v1alpha1.ExtensionValueMatch, fold bool) {
	seen := map[string]bool{}
	for i, value := range values {
		name := value.Name
		if fold {
			name = strings.ToLower(name)
		}
		if seen[name] {
			c.fail(CodeDuplicateName, fmt.Sprintf("%s[%d].name", field, i), "%q is there twice", value.Name)
		}
		seen[name] = true
	}
}
