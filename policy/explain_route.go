package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy/v1alpha1"
)

// AuthExplanation is who may call a route.
type AuthExplanation struct {
	Policy Origin `json:"policy"`
	// Refuses is set when nobody may, because the policy is broken.
	Refuses bool `json:"refuses,omitempty"`
	// Ways to authenticate, tried in order.
	Ways []AuthWay `json:"ways,omitempty"`
	// LeftOut are ways that are broken: nobody comes in by them.
	LeftOut []LeftOut `json:"leftOut,omitempty"`
	// Rules decide about an identified caller: the first that holds.
	Rules []AuthRule `json:"rules,omitempty"`
	// Otherwise is what happens when no rule holds: Allow or Deny.
	Otherwise string `json:"otherwise,omitempty"`
	// Audit is what the audit log gets: required, bestEffort, or nothing.
	Audit string `json:"audit,omitempty"`
	// Candidates are compared with this and not in force.
	Candidates []AuthCandidate `json:"candidates,omitempty"`
	// Reads are what rules ask beside the request, in words; Upstream is what the
	// service is told when it is not the identity headers alone.
	Reads    []string `json:"reads,omitempty"`
	Upstream []string `json:"upstream,omitempty"`
}

// AuthWay is one accepted way.
type AuthWay struct {
	Name string `json:"name"`
	// Method is apiKey, jwt or anonymous.
	Method string `json:"method"`
	Detail string `json:"detail,omitempty"`
}

// AuthRule is one authorization rule.
type AuthRule struct {
	Name   string `json:"name"`
	Effect string `json:"effect"`
	// When is empty for a rule that always holds.
	When string `json:"when,omitempty"`
	// Requires is what the caller has to have, in words.
	Requires []string `json:"requires,omitempty"`
}

// LimitExplanation is one rate limit on a route.
type LimitExplanation struct {
	Rule   string `json:"rule"`
	Policy Origin `json:"policy"`
	// Limit is in words, such as "100 requests a minute".
	Limit string `json:"limit"`
	// By is what is counted separately; empty counts all requests together.
	By          []string `json:"by,omitempty"`
	Tiers       []string `json:"tiers,omitempty"`
	FailureMode string   `json:"failureMode,omitempty"`
	Shadow      bool     `json:"shadow,omitempty"`
}

// Destination is where a request goes.
type Destination struct {
	// Action is "forward", "redirect" or "answer".
	Action string `json:"action"`
	// Status of an answer or redirect.
	Status int `json:"status,omitempty"`
	// Reason of an answer.
	Reason string `json:"reason,omitempty"`
	// Location of a redirect, as far as the request tells.
	Location string               `json:"location,omitempty"`
	Backends []BackendExplanation `json:"backends,omitempty"`
	// Host and Path are what the backend is sent, when rewritten.
	Host           string `json:"host,omitempty"`
	Path           string `json:"path,omitempty"`
	Timeout        string `json:"timeout,omitempty"`
	BackendTimeout string `json:"backendTimeout,omitempty"`
}

// BackendExplanation is one backend and its share.
type BackendExplanation struct {
	// Backend is empty for one that does not resolve.
	Backend string `json:"backend"`
	// Percent of the requests.
	Percent   float64  `json:"percent"`
	Protocol  string   `json:"protocol,omitempty"`
	Endpoints []string `json:"endpoints,omitempty"`
	TLS       string   `json:"tls,omitempty"`
	// Changes are what is done with this share alone, each a clause about it.
	Changes []string `json:"changes,omitempty"`
	Origin  *Origin  `json:"origin,omitempty"`
}

func (e *explainer) explainRoute(route *Route) {
	e.out.Policies = explainPolicies(slices.Concat(route.Policies, e.chain.Policies))
	e.out.Authentication = e.explainAuth(route)
	for i := range route.Limits {
		e.out.Limits = append(e.out.Limits, e.explainLimit(&route.Limits[i]))
	}
	if e.match.isPreflight(route) && len(e.match.headers["origin"]) > 0 {
		e.note("a preflight request is answered at the edge from the CORS settings, without authentication and limits")
	}
	e.out.Destination = e.destination(route)
	e.out.Settings = append(otherSettings(route), chainSettings(e.chain)...)
}

func explainPolicies(uses []PolicyUse) []PolicyExplanation {
	var policies []PolicyExplanation
	for _, use := range uses {
		policies = append(policies, PolicyExplanation{
			Policy: use.Policy, Level: use.Level, Overrides: use.Overrides, Effect: string(use.Effect), By: use.By, Reason: use.Reason,
		})
	}
	return policies
}

func (e *explainer) explainAuth(route *Route) *AuthExplanation {
	if route.Auth == nil {
		e.note("no AuthPolicy asks for anything here: anyone may call")
		return nil
	}
	out := &AuthExplanation{
		Policy: route.Auth.Origin, Refuses: route.Auth.Refuse, Audit: string(route.Auth.Audit), Candidates: route.Auth.Candidates,
		LeftOut: route.Auth.LeftOut,
	}
	rules := e.authRoute(route.Auth.RouteID)
	if rules == nil {
		return out
	}
	for _, way := range rules.GetAuthenticators() {
		out.Ways = append(out.Ways, explainWay(way))
	}
	for _, rule := range rules.GetRules() {
		out.Rules = append(out.Rules, explainRule(rule))
	}
	out.Reads, out.Upstream = explainReads(rules), explainUpstream(rules.GetUpstream())
	out.Otherwise = string(v1alpha1.EffectAllow)
	if slices.ContainsFunc(out.Rules, func(r AuthRule) bool { return r.Effect == string(v1alpha1.EffectAllow) }) {
		out.Otherwise = string(v1alpha1.EffectDeny)
	}
	return out
}

func explainRule(rule *rulesv1.AuthorizationRule) AuthRule {
	out := AuthRule{Name: rule.GetName(), Effect: string(v1alpha1.EffectDeny), When: rule.GetExpression()}
	switch rule.GetEffect() {
	case rulesv1.AuthorizationRule_EFFECT_ALLOW:
		out.Effect = string(v1alpha1.EffectAllow)
	case rulesv1.AuthorizationRule_EFFECT_REQUIRE:
		out.Effect = string(v1alpha1.EffectRequire)
	}
	out.Requires = explainRequirements(rule.GetRequirements())
	return out
}

func (e *explainer) authRoute(id string) *authRoute {
	i, ok := slices.BinarySearchFunc(e.plan.AuthRoutes, id, func(r *authRoute, id string) int { return cmp.Compare(r.GetRouteId(), id) })
	if !ok {
		return nil
	}
	return e.plan.AuthRoutes[i]
}

func explainWay(way *rulesv1.Authenticator) AuthWay {
	out := AuthWay{Name: way.GetName()}
	switch method := way.GetMethod().(type) {
	case *rulesv1.Authenticator_ApiKey:
		out.Method, out.Detail = "apiKey", "a Consumer's key in header "+method.ApiKey.GetHeader()
	case *rulesv1.Authenticator_Jwt:
		out.Method, out.Detail = "jwt", explainJWT(method.Jwt)
	case *rulesv1.Authenticator_Introspection:
		out.Method, out.Detail = "introspection", explainIntrospection(method.Introspection)
	case *rulesv1.Authenticator_Kubernetes:
		out.Method, out.Detail = "kubernetes", explainKubernetes(method.Kubernetes)
	case *rulesv1.Authenticator_Login:
		out.Method, out.Detail = "login", explainLogin(method.Login)
	case *rulesv1.Authenticator_Anonymous:
		out.Method, out.Detail = "anonymous", "callers without credentials"
	default:
		explainProof(&out, way)
	}
	explainConstraint(&out, way.GetSenderConstraint())
	if way.GetFailureMode() == rulesv1.Authenticator_FAILURE_MODE_NEXT {
		out.Detail += "; when nobody can be asked, the next way decides"
	}
	return out
}

func (e *explainer) explainLimit(limit *Limit) LimitExplanation {
	out := LimitExplanation{Rule: limit.Rule, Policy: limit.Origin, FailureMode: string(limit.FailureMode)}
	for _, by := range limit.By {
		text := string(by.Type)
		switch by.Type {
		case v1alpha1.CountByHeader:
			text += " " + by.Header
		case v1alpha1.CountByRoute:
			text += " (" + limit.Group + ")"
		}
		out.By = append(out.By, text)
	}
	i, ok := slices.BinarySearchFunc(e.plan.RateLimits, limit.Rule, func(r *limitRule, id string) int { return cmp.Compare(r.GetId(), id) })
	if !ok {
		return out
	}
	rule := e.plan.RateLimits[i]
	out.Limit, out.Shadow = limitText(rule.GetRequests(), rule.GetBurst(), rule)+limitDetails(limit, rule), rule.GetShadow()
	for name, tier := range rule.GetTiers() {
		out.Tiers = append(out.Tiers, name+": "+tierText(tier, rule))
	}
	slices.Sort(out.Tiers)
	return out
}

// shortDuration is 1m for 1m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func (e *explainer) destination(route *Route) *Destination {
	out := &Destination{}
	switch {
	case route.Auth != nil && route.Auth.Refuse:
		out.Action, out.Status, out.Reason = "answer", 503, "the AuthPolicy is broken, so every request is refused"
		return out
	case route.Redirect != nil:
		out.Action, out.Status, out.Location = "redirect", route.Redirect.Status, e.location(route)
		return out
	case !slices.ContainsFunc(route.Backends, func(b WeightedBackend) bool { return b.Backend != "" }):
		out.Action, out.Status, out.Reason = "answer", 500, "no backend of the rule resolves"
		return out
	}
	out.Action = "forward"
	out.Backends = e.backends(route.Backends)
	for i := range route.Backends {
		out.Backends[i].Changes = e.changes(route, &route.Backends[i])
	}
	if rewrite := route.Rewrite; rewrite != nil {
		out.Host = rewrite.Host
		if rewrite.Path != nil {
			out.Path = changePath(e.match.path, route.Match.Path, rewrite.Path)
		}
	}
	out.Timeout, out.BackendTimeout = timeoutText(route.Timeout), timeoutText(route.BackendTimeout)
	return out
}

func timeoutText(timeout time.Duration) string {
	switch {
	case timeout == 0:
		return ""
	case timeout < 0:
		return "none"
	default:
		return shortDuration(timeout)
	}
}

func (e *explainer) backends(shares []WeightedBackend) []BackendExplanation {
	total := uint64(0)
	for _, share := range shares {
		total += uint64(share.Weight)
	}
	var out []BackendExplanation
	for _, share := range shares {
		backend := BackendExplanation{Backend: share.Backend, Percent: 100}
		if total > 0 {
			backend.Percent = float64(share.Weight) * 100 / float64(total)
		}
		i, ok := slices.BinarySearchFunc(e.plan.Backends, share.Backend, func(b Backend, id string) int { return cmp.Compare(b.ID, id) })
		if ok {
			e.fillBackend(&backend, &e.plan.Backends[i])
		}
		out = append(out, backend)
	}
	return out
}

// changes say what is done with a backend's share alone.
func (e *explainer) changes(route *Route, share *WeightedBackend) []string {
	var out []string
	if share.Backend == "" {
		return nil
	}
	if share.Redirect != nil {
		alone := *route
		alone.Redirect = share.Redirect
		return []string{fmt.Sprintf("is redirected with %d to %s", share.Redirect.Status, e.location(&alone))}
	}
	if share.Host != "" {
		out = append(out, "is sent with host "+share.Host)
	}
	if share.Path != nil {
		out = append(out, "is sent with path "+changePath(e.match.path, route.Match.Path, share.Path))
	}
	for _, mirror := range share.Mirrors {
		out = append(out, fmt.Sprintf("%g %% of it is copied to %s", float64(mirror.Numerator)*100/float64(mirror.Denominator), mirror.Backend))
	}
	return out
}

// maxEndpoints bounds what is listed of one backend.
const maxEndpoints = 8

func (e *explainer) fillBackend(out *BackendExplanation, backend *Backend) {
	origin := backend.Origin
	out.Origin, out.Protocol = &origin, string(backend.Protocol)
	for i, endpoint := range backend.Endpoints {
		if i == maxEndpoints {
			out.Endpoints = append(out.Endpoints, fmt.Sprintf("and %d more", len(backend.Endpoints)-i))
			break
		}
		out.Endpoints = append(out.Endpoints, endpoint.describe())
	}
	if backend.TLS != nil {
		out.TLS = backend.TLS.describe()
	}
}

// changePath is what a rewrite makes of a path.
func changePath(path string, match PathMatch, change *PathChange) string {
	if !change.IsPrefix {
		return change.Full
	}
	rest := strings.TrimPrefix(strings.TrimPrefix(path, strings.TrimSuffix(match.Value, "/")), "/")
	replaced := strings.TrimSuffix(change.Prefix, "/")
	if rest == "" && !strings.HasSuffix(path, "/") {
		return cmp.Or(replaced, "/")
	}
	return replaced + "/" + rest
}

// location is where a redirect points, with the request's own parts where the
// redirect names none.
func (e *explainer) location(route *Route) string {
	redirect := route.Redirect
	scheme := cmp.Or(redirect.Scheme, e.out.Request.Scheme, "http")
	path := e.match.path
	if redirect.Path != nil {
		path = changePath(path, route.Match.Path, redirect.Path)
	}
	port := redirect.Port
	if port == 0 && redirect.Scheme == "" {
		port = e.port.Number
	}
	host := cmp.Or(redirect.Host, e.out.Request.Host)
	if port != 0 && port != wellKnownPort(scheme) {
		host = fmt.Sprintf("%s:%d", host, port)
	}
	if e.out.Request.Query != "" {
		path += "?" + e.out.Request.Query
	}
	return scheme + "://" + host + path
}

// otherSettings are a route's properties that have no place of their own in an
// Explanation, whatever they are.
func otherSettings(route *Route) []Setting {
	rest := *route
	rest.ID, rest.Match, rest.Origin, rest.Policies, rest.Auth, rest.Limits = "", Match{}, Origin{}, nil, nil, nil
	rest.Backends, rest.Redirect, rest.Rewrite, rest.Timeout, rest.BackendTimeout, rest.GRPC = nil, nil, nil, 0, 0, false
	var settings []Setting
	for _, leaf := range flatten(redact("", treeOf(rest))) {
		settings = append(settings, Setting{Path: leaf.path, Value: leaf.value})
	}
	return settings
}

// chainSettings are what a connection's policies say, where they say anything.
func chainSettings(chain *Chain) []Setting {
	bare := Chain{TLS: chain.TLS, Security: chain.Security}
	tree, _ := redact("", treeOf(bare)).(map[string]any)
	if tree == nil {
		tree = map[string]any{}
	}
	var settings []Setting
	for _, leaf := range flatten(tree) {
		if leaf.path == "" { // nothing is said
			continue
		}
		settings = append(settings, Setting{Path: "listener." + leaf.path, Value: leaf.value})
	}
	if chain.Edge == nil {
		return settings
	}
	for _, field := range compareTrees(treeOf(DefaultEdge()), treeOf(*chain.Edge)) {
		settings = append(settings, Setting{Path: "listener.edge." + field.Path, Value: cmp.Or(field.New, "off")})
	}
	return settings
}
