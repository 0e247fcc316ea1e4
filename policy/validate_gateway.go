package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// maxRouteTimeout bounds a route's timeouts.
const maxRouteTimeout = time.Hour

func (c *checker) common(hostnames []gatewayv1.Hostname, parents []gatewayv1.ParentReference, rules int) {
	c.count("spec.parentRefs", len(parents), 1, 32)
	for i, parent := range parents {
		field := fmt.Sprintf("spec.parentRefs[%d]", i)
		if (parent.Kind != nil && !holdsListeners(*parent.Kind)) || (parent.Group != nil && *parent.Group != gatewayv1.GroupName) {
			c.fail(CodeUnsupported, field+".kind", "only Gateways and ListenerSets of group %s can be parents", gatewayv1.GroupName)
		}
		if parent.Name == "" {
			c.required(field + ".name")
		}
	}
	c.count("spec.hostnames", len(hostnames), 0, 64)
	for i, name := range hostnames {
		c.hostname(fmt.Sprintf("spec.hostnames[%d]", i), string(name), true)
	}
	c.count("spec.rules", rules, 1, 64)
}

// ruleNames checks the names that rules have: they are how policies and route ids
// refer to them.
func (c *checker) ruleNames(count int, name func(int) *gatewayv1.SectionName) {
	seen := map[gatewayv1.SectionName]bool{}
	for i := range count {
		given := name(i)
		if given == nil {
			continue
		}
		field := fmt.Sprintf("spec.rules[%d].name", i)
		if errs := validation.IsDNS1123Subdomain(string(*given)); len(errs) > 0 {
			c.fail(CodeInvalid, field, "%q: %s", string(*given), errs[0])
		}
		if seen[*given] {
			c.fail(CodeDuplicateName, field, "%q is there twice", string(*given))
		}
		seen[*given] = true
	}
}

func (c *checker) httpRoute(spec *gatewayv1.HTTPRouteSpec) {
	c.common(spec.Hostnames, spec.ParentRefs, len(spec.Rules))
	c.defaults(string(spec.UseDefaultGateways), "spec.useDefaultGateways")
	c.ruleNames(len(spec.Rules), func(i int) *gatewayv1.SectionName { return spec.Rules[i].Name })
	for i := range spec.Rules {
		field := fmt.Sprintf("spec.rules[%d]", i)
		rule := &spec.Rules[i]
		c.retry(field+".retry", rule.Retry)
		c.sessionPersistence(field+".sessionPersistence", rule.SessionPersistence, len(rule.BackendRefs))
		c.count(field+".matches", len(rule.Matches), 0, 64)
		for j := range rule.Matches {
			c.httpMatch(fmt.Sprintf("%s.matches[%d]", field, j), &rule.Matches[j])
		}
		c.httpFilters(field, rule)
		c.count(field+".backendRefs", len(rule.BackendRefs), 0, 16)
		for j := range rule.BackendRefs {
			part := fmt.Sprintf("%s.backendRefs[%d]", field, j)
			c.httpBackendFilters(part+".filters", rule.BackendRefs[j].Filters, rewritesPath(rule.Filters))
			c.backendRef(part, &rule.BackendRefs[j].BackendRef)
		}
		c.routeTimeouts(field+".timeouts", rule.Timeouts)
	}
}

func (c *checker) httpMatch(field string, match *gatewayv1.HTTPRouteMatch) {
	if path := match.Path; path != nil && path.Value != nil {
		kind, value := gatewayv1.PathMatchPathPrefix, *path.Value
		if path.Type != nil {
			kind = *path.Type
		}
		oneOf(c, field+".path.type", kind, false, gatewayv1.PathMatchExact, gatewayv1.PathMatchPathPrefix, gatewayv1.PathMatchRegularExpression)
		if kind == gatewayv1.PathMatchRegularExpression {
			c.regex(field+".path.value", value)
		} else {
			c.path(field+".path.value", value)
		}
	}
	c.count(field+".headers", len(match.Headers), 0, 16)
	for i, header := range match.Headers {
		part := fmt.Sprintf("%s.headers[%d]", field, i)
		c.header(part+".name", string(header.Name))
		c.matchValue(part, (*string)(header.Type), header.Value)
	}
	c.count(field+".queryParams", len(match.QueryParams), 0, 16)
	for i, parameter := range match.QueryParams {
		part := fmt.Sprintf("%s.queryParams[%d]", field, i)
		c.text(part+".name", string(parameter.Name), true, 256)
		c.matchValue(part, (*string)(parameter.Type), parameter.Value)
	}
	if match.Method != nil {
		oneOf(c, field+".method", *match.Method, false, gatewayv1.HTTPMethodGet, gatewayv1.HTTPMethodHead, gatewayv1.HTTPMethodPost,
			gatewayv1.HTTPMethodPut, gatewayv1.HTTPMethodDelete, gatewayv1.HTTPMethodConnect, gatewayv1.HTTPMethodOptions,
			gatewayv1.HTTPMethodTrace, gatewayv1.HTTPMethodPatch)
	}
}

func (c *checker) matchValue(field string, kind *string, value string) {
	c.text(field+".value", value, true, 4096)
	if kind == nil || *kind == "Exact" {
		return
	}
	if *kind != "RegularExpression" {
		c.fail(CodeInvalid, field+".type", "%q is not one of Exact, RegularExpression", *kind)
		return
	}
	c.regex(field+".value", value)
}

func (c *checker) path(field, path string) {
	switch {
	case !strings.HasPrefix(path, "/"):
		c.fail(CodeInvalid, field, "%q does not start with /", path)
	case len(path) > 1024:
		c.fail(CodeTooMany, field, "has %d bytes; the most is 1024", len(path))
	case strings.ContainsAny(path, "#?") || strings.Contains(path, "//") || strings.Contains(path+"/", "/./") || strings.Contains(path+"/", "/../") ||
		strings.Contains(strings.ToLower(path), "%2f"):
		c.fail(CodeInvalid, field, "%q can never match: requests are matched by their canonical path without query", path)
	}
}

func (c *checker) httpFilters(field string, rule *gatewayv1.HTTPRouteRule) {
	c.count(field+".filters", len(rule.Filters), 0, 16)
	seen := map[gatewayv1.HTTPRouteFilterType]bool{}
	for i := range rule.Filters {
		filter := &rule.Filters[i]
		part := fmt.Sprintf("%s.filters[%d]", field, i)
		if seen[filter.Type] && filter.Type != gatewayv1.HTTPRouteFilterRequestMirror {
			c.fail(CodeDuplicateName, part+".type", "%s is there twice", filter.Type)
		}
		seen[filter.Type] = true
		c.httpFilter(part, filter)
	}
	if replacesPrefix(rule) && slices.ContainsFunc(rule.Matches, func(m gatewayv1.HTTPRouteMatch) bool {
		return m.Path != nil && m.Path.Type != nil && *m.Path.Type != gatewayv1.PathMatchPathPrefix
	}) {
		c.fail(CodeInvalid, field+".filters", "ReplacePrefixMatch needs matches of type PathPrefix only")
	}
	if seen[gatewayv1.HTTPRouteFilterRequestRedirect] && (len(rule.BackendRefs) > 0 || seen[gatewayv1.HTTPRouteFilterURLRewrite]) {
		c.fail(CodeInvalid, field+".filters", "a RequestRedirect goes with neither backendRefs nor URLRewrite")
	}
}

func rewritesPath(filters []gatewayv1.HTTPRouteFilter) bool {
	return slices.ContainsFunc(filters, func(f gatewayv1.HTTPRouteFilter) bool { return f.URLRewrite != nil && f.URLRewrite.Path != nil })
}

// replacesPrefix reports whether a filter of the rule, or of a backendRef of it,
// replaces the matched prefix.
func replacesPrefix(rule *gatewayv1.HTTPRouteRule) bool {
	filters := slices.Clone(rule.Filters)
	for i := range rule.BackendRefs {
		filters = append(filters, rule.BackendRefs[i].Filters...)
	}
	return slices.ContainsFunc(filters, func(filter gatewayv1.HTTPRouteFilter) bool {
		var path *gatewayv1.HTTPPathModifier
		switch {
		case filter.URLRewrite != nil:
			path = filter.URLRewrite.Path
		case filter.RequestRedirect != nil:
			path = filter.RequestRedirect.Path
		}
		return path != nil && path.Type == gatewayv1.PrefixMatchHTTPPathModifier
	})
}

func (c *checker) httpFilter(field string, filter *gatewayv1.HTTPRouteFilter) {
	missing := func(set bool, name string) bool {
		if !set {
			c.required(field + "." + name)
		}
		return !set
	}
	switch filter.Type {
	case gatewayv1.HTTPRouteFilterRequestHeaderModifier:
		if !missing(filter.RequestHeaderModifier != nil, "requestHeaderModifier") {
			c.headerModifier(field+".requestHeaderModifier", filter.RequestHeaderModifier)
		}
	case gatewayv1.HTTPRouteFilterResponseHeaderModifier:
		if !missing(filter.ResponseHeaderModifier != nil, "responseHeaderModifier") {
			c.headerModifier(field+".responseHeaderModifier", filter.ResponseHeaderModifier)
		}
	case gatewayv1.HTTPRouteFilterRequestRedirect:
		if !missing(filter.RequestRedirect != nil, "requestRedirect") {
			c.redirect(field+".requestRedirect", filter.RequestRedirect)
		}
	case gatewayv1.HTTPRouteFilterURLRewrite:
		if !missing(filter.URLRewrite != nil, "urlRewrite") {
			c.pathModifier(field+".urlRewrite.path", filter.URLRewrite.Path)
			if filter.URLRewrite.Hostname != nil {
				c.hostname(field+".urlRewrite.hostname", string(*filter.URLRewrite.Hostname), false)
			}
		}
	case gatewayv1.HTTPRouteFilterRequestMirror:
		if !missing(filter.RequestMirror != nil, "requestMirror") {
			c.mirror(field+".requestMirror", filter.RequestMirror)
		}
	case gatewayv1.HTTPRouteFilterCORS:
		if !missing(filter.CORS != nil, "cors") {
			c.cors(field+".cors", filter.CORS)
		}
	default:
		c.otherFilter(field, string(filter.Type))
	}
}

func (c *checker) headerModifier(field string, modifier *gatewayv1.HTTPHeaderFilter) {
	changes := map[string][]gatewayv1.HTTPHeader{"set": modifier.Set, "add": modifier.Add}
	for _, list := range slices.Sorted(maps.Keys(changes)) {
		headers := changes[list]
		for i, header := range headers {
			part := fmt.Sprintf("%s.%s[%d]", field, list, i)
			c.header(part+".name", string(header.Name))
			c.text(part+".value", header.Value, true, 4096)
		}
	}
	for i, name := range modifier.Remove {
		c.header(fmt.Sprintf("%s.remove[%d]", field, i), name)
	}
}

func (c *checker) redirect(field string, redirect *gatewayv1.HTTPRequestRedirectFilter) {
	if redirect.Scheme != nil {
		oneOf(c, field+".scheme", *redirect.Scheme, false, "http", "https")
	}
	if redirect.Hostname != nil {
		c.hostname(field+".hostname", string(*redirect.Hostname), false)
	}
	if redirect.Port != nil {
		c.port(field+".port", *redirect.Port)
	}
	if status := redirect.StatusCode; status != nil {
		switch *status {
		case 301, 302, 303, 307, 308:
		default:
			c.fail(CodeInvalid, field+".statusCode", "%d is not one of 301, 302, 303, 307, 308", *status)
		}
	}
	c.pathModifier(field+".path", redirect.Path)
}

func (c *checker) pathModifier(field string, modifier *gatewayv1.HTTPPathModifier) {
	if modifier == nil {
		return
	}
	oneOf(c, field+".type", modifier.Type, false, gatewayv1.FullPathHTTPPathModifier, gatewayv1.PrefixMatchHTTPPathModifier)
	if modifier.Type == gatewayv1.FullPathHTTPPathModifier && modifier.ReplaceFullPath == nil {
		c.required(field + ".replaceFullPath")
	}
	if modifier.Type == gatewayv1.PrefixMatchHTTPPathModifier && modifier.ReplacePrefixMatch == nil {
		c.required(field + ".replacePrefixMatch")
	}
}

func (c *checker) grpcRoute(spec *gatewayv1.GRPCRouteSpec) {
	c.common(spec.Hostnames, spec.ParentRefs, len(spec.Rules))
	c.defaults(string(spec.UseDefaultGateways), "spec.useDefaultGateways")
	c.ruleNames(len(spec.Rules), func(i int) *gatewayv1.SectionName { return spec.Rules[i].Name })
	for i := range spec.Rules {
		field := fmt.Sprintf("spec.rules[%d]", i)
		rule := &spec.Rules[i]
		c.sessionPersistence(field+".sessionPersistence", rule.SessionPersistence, len(rule.BackendRefs))
		c.count(field+".matches", len(rule.Matches), 0, 64)
		for j := range rule.Matches {
			c.grpcMatch(fmt.Sprintf("%s.matches[%d]", field, j), &rule.Matches[j])
		}
		for j := range rule.Filters {
			c.grpcFilter(fmt.Sprintf("%s.filters[%d]", field, j), &rule.Filters[j])
		}
		c.count(field+".backendRefs", len(rule.BackendRefs), 0, 16)
		for j := range rule.BackendRefs {
			part := fmt.Sprintf("%s.backendRefs[%d]", field, j)
			for k := range rule.BackendRefs[j].Filters {
				c.grpcFilter(fmt.Sprintf("%s.filters[%d]", part, k), &rule.BackendRefs[j].Filters[k])
			}
			c.backendRef(part, &rule.BackendRefs[j].BackendRef)
		}
	}
}

func (c *checker) grpcMatch(field string, match *gatewayv1.GRPCRouteMatch) {
	if method := match.Method; method != nil {
		if (method.Service == nil || *method.Service == "") && (method.Method == nil || *method.Method == "") {
			c.fail(CodeRequired, field+".method", "needs a service or a method")
		}
		names := map[string]*string{"service": method.Service, "method": method.Method}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			value := names[name]
			if value == nil {
				continue
			}
			part := field + ".method." + name
			if method.Type != nil && *method.Type == gatewayv1.GRPCMethodMatchRegularExpression {
				c.regex(part, *value)
			} else if strings.ContainsAny(*value, "/ ?#") {
				c.fail(CodeInvalid, part, "%q is not a protobuf name", *value)
			}
		}
	}
	for i, header := range match.Headers {
		part := fmt.Sprintf("%s.headers[%d]", field, i)
		c.header(part+".name", string(header.Name))
		c.matchValue(part, (*string)(header.Type), header.Value)
	}
}

func (c *checker) grpcFilter(field string, filter *gatewayv1.GRPCRouteFilter) {
	missing := func(name string) { c.required(field + "." + name) }
	switch filter.Type {
	case gatewayv1.GRPCRouteFilterRequestHeaderModifier:
		if filter.RequestHeaderModifier == nil {
			missing("requestHeaderModifier")
			return
		}
		c.headerModifier(field+".requestHeaderModifier", filter.RequestHeaderModifier)
	case gatewayv1.GRPCRouteFilterResponseHeaderModifier:
		if filter.ResponseHeaderModifier == nil {
			missing("responseHeaderModifier")
			return
		}
		c.headerModifier(field+".responseHeaderModifier", filter.ResponseHeaderModifier)
	case gatewayv1.GRPCRouteFilterRequestMirror:
		if filter.RequestMirror == nil {
			missing("requestMirror")
			return
		}
		c.mirror(field+".requestMirror", filter.RequestMirror)
	default:
		c.otherFilter(field, string(filter.Type))
	}
}
