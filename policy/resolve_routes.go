package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// ruleSource is one rule of a route object, of either kind.
type ruleSource struct {
	object *Object
	index  int
	name   string
	grpc   bool
	// matches and what they are called in the object
	matches []Match
	fill    func(*Route)
	refs    []gatewayv1.BackendRef
}

func (s *ruleSource) field() string { return fmt.Sprintf("spec.rules[%d]", s.index) }

// id names the rule: by its name where it has one, so that reordering does not
// change it.
func (s *ruleSource) id() string {
	// No name can hold "#", so that no rule is taken for another one.
	name := "#" + strconv.Itoa(s.index)
	if s.name != "" {
		name = s.name
	}
	return s.group() + "/" + name
}

func (s *ruleSource) group() string {
	return strings.ToLower(s.object.Ref.Kind) + "/" + s.object.Ref.Namespace + "/" + s.object.Ref.Name
}

// build makes the routes of one rule on one listener. open is set when nothing
// says who may call them.
func (r *resolver) build(rule *ruleSource, l *listener) (routes []Route, open bool) {
	base := Route{ID: rule.id() + "@" + l.id(), GRPC: rule.grpc}
	rule.fill(&base)
	if base.Redirect == nil {
		base.Backends = r.weighted(rule)
	}
	base.Auth, open = r.authFor(rule, l, base.ID)
	if base.CORS == nil {
		base.CORS = r.corsFor(rule, l)
	}
	base.Limits = r.limitsFor(rule, l)
	routes = make([]Route, len(rule.matches))
	for i, match := range rule.matches {
		routes[i] = base
		routes[i].Match = match
		routes[i].Origin = rule.object.Origin(fmt.Sprintf("%s.matches[%d]", rule.field(), i))
	}
	return routes, open && base.Redirect == nil
}

func (r *resolver) weighted(rule *ruleSource) []WeightedBackend {
	var backends []WeightedBackend
	for i, ref := range rule.refs {
		weight := uint32(1)
		if ref.Weight != nil {
			weight = uint32(*ref.Weight) //nolint:gosec // validated to be 0 to 1000000
		}
		if weight == 0 {
			continue
		}
		id := r.backendFor(rule, fmt.Sprintf("%s.backendRefs[%d]", rule.field(), i), ref)
		backends = append(backends, WeightedBackend{Backend: id, Weight: weight})
	}
	return backends
}

func httpRules(object *Object, spec *gatewayv1.HTTPRouteSpec) []*ruleSource {
	rules := make([]*ruleSource, len(spec.Rules))
	for i := range spec.Rules {
		rule := &spec.Rules[i]
		source := &ruleSource{object: object, index: i, matches: httpMatches(rule.Matches)}
		if rule.Name != nil {
			source.name = string(*rule.Name)
		}
		for _, ref := range rule.BackendRefs {
			source.refs = append(source.refs, ref.BackendRef)
		}
		source.fill = func(route *Route) {
			for i := range rule.Filters {
				applyHTTPFilter(route, &rule.Filters[i])
			}
			if rule.Timeouts != nil {
				route.Timeout = timeoutOf(rule.Timeouts.Request)
				route.BackendTimeout = timeoutOf(rule.Timeouts.BackendRequest)
			}
		}
		rules[i] = source
	}
	return rules
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
			match.Headers = append(match.Headers, ValueMatch{
				Name: strings.ToLower(string(header.Name)), Value: header.Value,
				Regex: header.Type != nil && *header.Type == gatewayv1.HeaderMatchRegularExpression,
			})
		}
		for _, parameter := range spec.QueryParams {
			match.Query = append(match.Query, ValueMatch{
				Name: string(parameter.Name), Value: parameter.Value,
				Regex: parameter.Type != nil && *parameter.Type == gatewayv1.QueryParamMatchRegularExpression,
			})
		}
		matches[i] = match
	}
	return matches
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

func grpcRules(object *Object, spec *gatewayv1.GRPCRouteSpec) []*ruleSource {
	rules := make([]*ruleSource, len(spec.Rules))
	for i := range spec.Rules {
		rule := &spec.Rules[i]
		source := &ruleSource{object: object, index: i, grpc: true, matches: grpcMatches(rule.Matches)}
		if rule.Name != nil {
			source.name = string(*rule.Name)
		}
		for _, ref := range rule.BackendRefs {
			source.refs = append(source.refs, ref.BackendRef)
		}
		source.fill = func(route *Route) {
			for _, filter := range rule.Filters {
				switch filter.Type {
				case gatewayv1.GRPCRouteFilterRequestHeaderModifier:
					route.RequestHeaders = headerChange(filter.RequestHeaderModifier)
				case gatewayv1.GRPCRouteFilterResponseHeaderModifier:
					route.ResponseHeaders = headerChange(filter.ResponseHeaderModifier)
				}
			}
		}
		rules[i] = source
	}
	return rules
}

func grpcMatches(specs []gatewayv1.GRPCRouteMatch) []Match {
	if len(specs) == 0 {
		return []Match{{Path: PathMatch{Kind: PathPrefix, Value: "/"}}}
	}
	matches := make([]Match, len(specs))
	for i, spec := range specs {
		match := Match{Path: grpcPath(spec.Method)}
		for _, header := range spec.Headers {
			match.Headers = append(match.Headers, ValueMatch{
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

// compareRoutes is the Gateway API's precedence of matches (HTTPRouteRule
// .matches): exact path, then the longer prefix, method, number of headers,
// number of query parameters, age, namespace and name, order in the object.
// Regular expressions, which the standard leaves open, stand between exact and
// prefix, the longer first. GRPCRoutes follow the same order.
func (r *resolver) compareRoutes(a, b Route) int {
	rank := map[PathKind]int{PathExact: 0, PathRegex: 1, PathPrefix: 2}
	methodRank := func(route Route) int {
		if route.Match.Method != "" {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(rank[a.Match.Path.Kind], rank[b.Match.Path.Kind]),
		-cmp.Compare(len(a.Match.Path.Value), len(b.Match.Path.Value)),
		cmp.Compare(methodRank(a), methodRank(b)),
		-cmp.Compare(len(a.Match.Headers), len(b.Match.Headers)),
		-cmp.Compare(len(a.Match.Query), len(b.Match.Query)),
		comparePrecedence(r.byRef[a.Origin.Object], r.byRef[b.Origin.Object]))
}

// dropShadowed removes routes that an identical match before them hides, and
// says so.
func (r *resolver) dropShadowed(routes []Route) []Route {
	kept := routes[:0:0]
	first := map[string]Route{}
	for _, route := range routes {
		key := fmt.Sprintf("%+v", route.Match)
		if winner, ok := first[key]; ok {
			if winner.Origin != route.Origin {
				object := r.byRef[route.Origin.Object]
				r.report(object.notice(CodeRouteConflict, route.Origin.Field, "never answers: "+winner.Origin.String()+" has the same match and comes first"))
			}
			continue
		}
		first[key] = route
		kept = append(kept, route)
	}
	return kept
}

// backendState is a Backend while resolving.
type backendState struct {
	backend *Backend
	used    bool
	// noREST says why requests of HTTPRoutes cannot be sent there.
	noREST string
}

// backendFor is the id of the Backend that a reference names, or "" when it
// does not resolve.
func (r *resolver) backendFor(rule *ruleSource, field string, ref gatewayv1.BackendRef) string {
	if ref.Namespace != nil && string(*ref.Namespace) != rule.object.Ref.Namespace {
		r.report(rule.object.problem(CodeRefNotPermitted, field+".namespace",
			fmt.Sprintf("refers to namespace %q; without a ReferenceGrant a route's backends are in its own namespace", string(*ref.Namespace))))
		return ""
	}
	id := rule.object.Ref.Namespace + "/" + string(ref.Name)
	state := r.resolveBackend(rule.object.Ref.Namespace, string(ref.Name))
	if state == nil {
		r.report(rule.object.problem(CodeRefNotFound, field+".name", fmt.Sprintf("there is no Backend %s; its share of requests is answered with 500", id)))
		return ""
	}
	if !rule.grpc && state.noREST != "" {
		r.report(rule.object.problem(CodeRefNotFound, field+".name", fmt.Sprintf("Backend %s cannot serve REST: %s; its share of requests is answered with 500", id, state.noREST)))
		return ""
	}
	state.used = true
	return id
}

func (r *resolver) resolveBackend(namespace, name string) *backendState {
	id := namespace + "/" + name
	if state, ok := r.backends[id]; ok {
		return state
	}
	object, ok := r.byRef[ObjectRef{Kind: v1alpha1.KindBackend, Namespace: namespace, Name: name}]
	if !ok {
		return nil
	}
	value, ok := object.Value.(*v1alpha1.Backend)
	if !ok {
		return nil
	}
	state := &backendState{backend: &Backend{
		ID: id, Protocol: cmp.Or(value.Spec.Protocol, v1alpha1.ProtocolHTTP), Endpoints: value.Spec.Endpoints, Origin: object.Origin(""),
	}}
	if tls := value.Spec.TLS; tls != nil {
		state.backend.SPIFFEID, state.backend.Hostname = tls.SPIFFEID, tls.Hostname
	}
	if spec := value.Spec.Transcoding; spec != nil {
		transcoding, err := r.transcoding(namespace, spec)
		if err != nil {
			state.noREST = err.Error()
			r.report(object.problem(CodeRefNotFound, "spec.transcoding.descriptorSetRef", err.Error()))
		}
		state.backend.Transcoding = transcoding
	}
	r.backends[id] = state
	return state
}

func (r *resolver) usedBackends() []Backend {
	var backends []Backend
	for _, id := range slices.Sorted(maps.Keys(r.backends)) {
		if r.backends[id].used {
			backends = append(backends, *r.backends[id].backend)
		}
	}
	return backends
}
