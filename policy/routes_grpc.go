package policy

import (
	"cmp"
	"regexp"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func grpcRules(object *Object, spec *gatewayv1.GRPCRouteSpec) []*ruleSource {
	rules := make([]*ruleSource, len(spec.Rules))
	for i := range spec.Rules {
		rule := &spec.Rules[i]
		source := &ruleSource{object: object, index: i, grpc: true, matches: grpcMatches(rule.Matches), persistence: rule.SessionPersistence, spec: rule, hostnames: spec.Hostnames}
		if rule.Name != nil {
			source.name = string(*rule.Name)
		}
		for j := range rule.BackendRefs {
			ref := &rule.BackendRefs[j]
			var part Route
			applyGRPCFilters(&part, ref.Filters)
			var mirrors []*gatewayv1.HTTPRequestMirrorFilter
			for k := range ref.Filters {
				mirrors = append(mirrors, ref.Filters[k].RequestMirror)
			}
			source.addRef(&ref.BackendRef, j, &part, mirrors)
		}
		for j := range rule.Filters {
			source.addMirror(rule.Filters[j].RequestMirror, j)
		}
		source.fill = func(route *Route) { applyGRPCFilters(route, rule.Filters) }
		rules[i] = source
	}
	return rules
}

func applyGRPCFilters(route *Route, filters []gatewayv1.GRPCRouteFilter) {
	for i := range filters {
		switch filter := &filters[i]; filter.Type {
		case gatewayv1.GRPCRouteFilterRequestHeaderModifier:
			route.RequestHeaders = headerChange(filter.RequestHeaderModifier)
		case gatewayv1.GRPCRouteFilterResponseHeaderModifier:
			route.ResponseHeaders = headerChange(filter.ResponseHeaderModifier)
		}
	}
}

func grpcMatches(specs []gatewayv1.GRPCRouteMatch) []Match {
	if len(specs) == 0 {
		return []Match{{Path: PathMatch{Kind: PathPrefix, Value: "/"}}}
	}
	matches := make([]Match, len(specs))
	for i, spec := range specs {
		match := Match{Path: grpcPath(spec.Method)}
		if method := spec.Method; match.Path.Kind == PathRegex && (method.Type == nil || *method.Type == gatewayv1.GRPCMethodMatchExact) {
			match.RPC = *method.Method
			match.Path.Value = "/[^/]+/" + regexp.QuoteMeta(match.RPC)
		}
		for _, header := range spec.Headers {
			match.addHeader(ValueMatch{
				Name: strings.ToLower(string(header.Name)), Value: header.Value,
				Regex: header.Type != nil && *header.Type == gatewayv1.GRPCHeaderMatchRegularExpression,
			})
		}
		matches[i] = match
	}
	return matches
}

func grpcPath(method *gatewayv1.GRPCMethodMatch) PathMatch {
	if method == nil {
		return PathMatch{Kind: PathPrefix, Value: "/"}
	}
	service, name := "", ""
	if method.Service != nil {
		service = *method.Service
	}
	if method.Method != nil {
		name = *method.Method
	}
	regex := method.Type != nil && *method.Type == gatewayv1.GRPCMethodMatchRegularExpression
	switch {
	case regex || service == "":
		return PathMatch{Kind: PathRegex, Value: "/" + cmp.Or(service, "[^/]+") + "/" + cmp.Or(name, "[^/]+")}
	case name == "":
		return PathMatch{Kind: PathPrefix, Value: "/" + service}
	default:
		return PathMatch{Kind: PathExact, Value: "/" + service + "/" + name}
	}
}
