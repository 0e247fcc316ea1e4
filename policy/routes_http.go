package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

func httpRules(object *Object, spec *gatewayv1.HTTPRouteSpec) []*ruleSource {
	rules := make([]*ruleSource, len(spec.Rules))
	for i := range spec.Rules {
		rule := &spec.Rules[i]
		source := &ruleSource{object: object, index: i, matches: httpMatches(rule.Matches), persistence: rule.SessionPersistence, spec: rule, hostnames: spec.Hostnames}
		if rule.Name != nil {
			source.name = string(*rule.Name)
		}
		for j := range rule.BackendRefs {
			ref := &rule.BackendRefs[j]
			var part Route
			var mirrors []*gatewayv1.HTTPRequestMirrorFilter
			for k := range ref.Filters {
				applyHTTPFilter(&part, &ref.Filters[k])
				mirrors = append(mirrors, ref.Filters[k].RequestMirror)
			}
			source.addRef(&ref.BackendRef, j, &part, mirrors)
		}
		for j := range rule.Filters {
			source.addMirror(rule.Filters[j].RequestMirror, j)
		}
		source.fill = func(route *Route) {
			for i := range rule.Filters {
				applyHTTPFilter(route, &rule.Filters[i])
			}
			if rule.Timeouts != nil {
				route.Timeout = timeoutOf(rule.Timeouts.Request)
				route.BackendTimeout = timeoutOf(rule.Timeouts.BackendRequest)
			}
			route.Retry = retryOf(rule.Retry)
		}
		rules[i] = source
	}
	return rules
}

// addRef adds a backendRef with what its filters, of which mirrors has one per
// filter, nil for others, say.
func (s *ruleSource) addRef(ref *gatewayv1.BackendRef, index int, part *Route, mirrors []*gatewayv1.HTTPRequestMirrorFilter) {
	use := backendUse{
		field: fmt.Sprintf("%s.backendRefs[%d]", s.field(), index), ref: ref.BackendObjectReference, weight: ref.Weight,
		change: WeightedBackend{RequestHeaders: part.RequestHeaders, ResponseHeaders: part.ResponseHeaders, Redirect: part.Redirect},
	}
	if part.Rewrite != nil {
		use.change.Host, use.change.Path = part.Rewrite.Host, part.Rewrite.Path
	}
	for i, filter := range mirrors {
		if filter != nil {
			use.mirrors = append(use.mirrors, mirrorUse{field: fmt.Sprintf("%s.filters[%d].requestMirror.backendRef", use.field, i), filter: filter})
		}
	}
	s.refs = append(s.refs, use)
}

func (s *ruleSource) addMirror(filter *gatewayv1.HTTPRequestMirrorFilter, index int) {
	if filter != nil {
		s.mirrors = append(s.mirrors, mirrorUse{field: fmt.Sprintf("%s.filters[%d].requestMirror.backendRef", s.field(), index), filter: filter})
	}
}

// retryOf is a route's own retry. With a retry stanza connection errors are
// retried, too (HTTPRouteRetry).
func retryOf(spec *gatewayv1.HTTPRouteRetry) *Retry {
	if spec == nil {
		return nil
	}
	retry := &Retry{Attempts: defaultRetries, On: append(safeRetries(), v1alpha1.RetryReset), Backoff: durationOr(spec.Backoff, 0)}
	if spec.Attempts != nil {
		retry.Attempts = uint32(*spec.Attempts) //nolint:gosec // validated to be 1 to 10
	}
	for _, code := range spec.Codes {
		retry.Codes = append(retry.Codes, int32(code)) //nolint:gosec // validated to be 400 to 599
	}
	return retry
}

// session is the session persistence of a match. A cookie is for the path that
// the match takes (GEP-1619, "Path").
func (s *ruleSource) session(match Match) *Session {
	spec := s.persistence
	if spec == nil {
		return nil
	}
	session := &Session{
		Header: spec.Type != nil && *spec.Type == gatewayv1.HeaderBasedSessionPersistence,
		Name:   "weir-session-" + digestOf(s.id()), Path: "/",
	}
	if spec.SessionName != nil && *spec.SessionName != "" {
		session.Name = *spec.SessionName
	}
	if match.Path.Kind != PathRegex && match.RPC == "" {
		session.Path = match.Path.Value
	}
	if session.Header {
		session.Path = ""
	} else if spec.CookieConfig != nil && spec.CookieConfig.LifetimeType != nil && *spec.CookieConfig.LifetimeType == gatewayv1.PermanentCookieLifetimeType {
		session.Lifetime = durationOr(spec.AbsoluteTimeout, 0)
	}
	return session
}

// timeoutOf is a timeout as the Plan has it: "0s" is none (GEP-1742), absence is
// the target's default.
func timeoutOf(value *gatewayv1.Duration) time.Duration {
	if value == nil {
		return 0
	}
	if timeout := durationOr(value, 0); timeout > 0 {
		return timeout
	}
	return NoTimeout
}

func httpMatches(specs []gatewayv1.HTTPRouteMatch) []Match {
	if len(specs) == 0 {
		return []Match{{Path: PathMatch{Kind: PathPrefix, Value: "/"}}}
	}
	matches := make([]Match, len(specs))
	for i, spec := range specs {
		match := Match{Path: PathMatch{Kind: PathPrefix, Value: "/"}}
		if spec.Path != nil {
			if spec.Path.Type != nil {
				match.Path.Kind = PathKind(*spec.Path.Type)
			}
			if spec.Path.Value != nil {
				match.Path.Value = *spec.Path.Value
			}
		}
		if spec.Method != nil {
			match.Method = string(*spec.Method)
		}
		for _, header := range spec.Headers {
			match.addHeader(ValueMatch{
				Name: strings.ToLower(string(header.Name)), Value: header.Value,
				Regex: header.Type != nil && *header.Type == gatewayv1.HeaderMatchRegularExpression,
			})
		}
		for _, parameter := range spec.QueryParams {
			match.addQuery(ValueMatch{
				Name: string(parameter.Name), Value: parameter.Value,
				Regex: parameter.Type != nil && *parameter.Type == gatewayv1.QueryParamMatchRegularExpression,
			})
		}
		matches[i] = match
	}
	return matches
}

// addHeader leaves out what names a header again: only the first counts
// (HTTPHeaderMatch, name; GRPCHeaderMatch, name).
func (m *Match) addHeader(value ValueMatch) {
	if !slices.ContainsFunc(m.Headers, func(other ValueMatch) bool { return other.Name == value.Name }) {
		m.Headers = append(m.Headers, value)
	}
}

// addQuery does the same for parameters (HTTPQueryParamMatch, name).
func (m *Match) addQuery(value ValueMatch) {
	if !slices.ContainsFunc(m.Query, func(other ValueMatch) bool { return other.Name == value.Name }) {
		m.Query = append(m.Query, value)
	}
}

func applyHTTPFilter(route *Route, filter *gatewayv1.HTTPRouteFilter) {
	switch filter.Type {
	case gatewayv1.HTTPRouteFilterRequestHeaderModifier:
		route.RequestHeaders = headerChange(filter.RequestHeaderModifier)
	case gatewayv1.HTTPRouteFilterResponseHeaderModifier:
		route.ResponseHeaders = headerChange(filter.ResponseHeaderModifier)
	case gatewayv1.HTTPRouteFilterRequestRedirect:
		spec := filter.RequestRedirect
		redirect := &Redirect{Status: 302, Path: pathChange(spec.Path)}
		if spec.Scheme != nil {
			redirect.Scheme = *spec.Scheme
		}
		if spec.Hostname != nil {
			redirect.Host = string(*spec.Hostname)
		}
		if spec.Port != nil {
			redirect.Port = *spec.Port
		}
		if spec.StatusCode != nil {
			redirect.Status = *spec.StatusCode
		}
		route.Redirect = redirect
	case gatewayv1.HTTPRouteFilterURLRewrite:
		rewrite := &Rewrite{Path: pathChange(filter.URLRewrite.Path)}
		if filter.URLRewrite.Hostname != nil {
			rewrite.Host = string(*filter.URLRewrite.Hostname)
		}
		route.Rewrite = rewrite
	case gatewayv1.HTTPRouteFilterCORS:
		route.CORS = corsOf(filter.CORS)
	}
}

func headerChange(spec *gatewayv1.HTTPHeaderFilter) HeaderChange {
	change := HeaderChange{Remove: spec.Remove}
	for _, header := range spec.Set {
		change.Set = append(change.Set, Header{string(header.Name), header.Value})
	}
	for _, header := range spec.Add {
		change.Add = append(change.Add, Header{string(header.Name), header.Value})
	}
	return change
}

func pathChange(spec *gatewayv1.HTTPPathModifier) *PathChange {
	switch {
	case spec == nil:
		return nil
	case spec.Type == gatewayv1.FullPathHTTPPathModifier && spec.ReplaceFullPath != nil:
		return &PathChange{Full: *spec.ReplaceFullPath}
	case spec.ReplacePrefixMatch != nil:
		return &PathChange{Prefix: *spec.ReplacePrefixMatch, IsPrefix: true}
	default:
		return nil
	}
}

func corsOf(spec *gatewayv1.HTTPCORSFilter) *CORS {
	cors := &CORS{
		AllowCredentials: spec.AllowCredentials != nil && *spec.AllowCredentials,
		MaxAge:           time.Duration(cmp.Or(spec.MaxAge, 5)) * time.Second,
	}
	for _, origin := range spec.AllowOrigins {
		cors.AllowOrigins = append(cors.AllowOrigins, string(origin))
	}
	for _, method := range spec.AllowMethods {
		cors.AllowMethods = append(cors.AllowMethods, string(method))
	}
	for _, name := range spec.AllowHeaders {
		cors.AllowHeaders = append(cors.AllowHeaders, string(name))
	}
	for _, name := range spec.ExposeHeaders {
		cors.ExposeHeaders = append(cors.ExposeHeaders, string(name))
	}
	return cors
}
