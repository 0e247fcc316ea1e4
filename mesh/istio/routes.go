package istio

import (
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"

	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

// defaultTimeout is that of Weir's own target, for routes that name none.
const defaultTimeout = 15 * time.Second

// route makes the entries of a VirtualService that stand for one route, in order.
// All have the route's name, by which EnvoyFilters find them.
func (c *compiler) route(route *policy.Route) ([]*networking.HTTPRoute, bool) {
	before := len(c.problems.Errors())
	c.incomplete = false
	c.routeLimits(route)
	made := &networking.HTTPRoute{Name: route.ID, Match: matches(&route.Match, route.GRPC)}
	native := c.natives.decides(route)
	requestHeaders := route.RequestHeaders
	if native != nil {
		requestHeaders = native.headers(requestHeaders)
	}
	made.Headers = headers(requestHeaders, route.ResponseHeaders)
	entries := []*networking.HTTPRoute{made}
	switch {
	case route.Auth != nil && route.Auth.Refuse:
		made.DirectResponse = &networking.HTTPDirectResponse{Status: http.StatusServiceUnavailable}
	case route.Redirect != nil:
		entries = c.redirect(route, made)
	case !slices.ContainsFunc(route.Backends, func(b policy.WeightedBackend) bool { return b.Backend != "" }):
		made.DirectResponse = &networking.HTTPDirectResponse{Status: http.StatusInternalServerError}
		if route.GRPC {
			made.DirectResponse.Status = http.StatusBadGateway
		}
	default:
		c.forward(route, made)
	}
	if native != nil && route.Match.Path.Kind == policy.PathPrefix {
		entries = append(entries, canonicalOnly(route, made))
	}
	entries = append(entries, preflight(route, entries[0])...)
	return entries, len(c.problems.Errors()) == before && !c.incomplete
}

// routeLimits refuses what neither a VirtualService nor an EnvoyFilter says.
func (c *compiler) routeLimits(route *policy.Route) {
	for _, change := range []policy.HeaderChange{route.RequestHeaders, route.ResponseHeaders} {
		if repeats(change.Set) || repeats(change.Add) {
			c.refuse(route.Origin, "a header that is set or added twice; an Istio route has one value for each name")
		}
	}
	for i := range route.Backends {
		backend := &route.Backends[i]
		switch {
		case backend.Apart():
			c.refuse(route.Origin, "filters of a backendRef that rewrite, redirect or mirror; Istio does those for whole routes")
		case backend.Backend == "" && len(route.Backends) > 1:
			c.refuse(route.Origin, "a share of the requests has no backend; mend the reference")
		}
	}
	if len(route.Extensions) > 0 {
		for i := range route.Extensions {
			if route.Extensions[i].Backend != "" {
				c.to(route.Extensions[i].Backend, route.Extensions[i].Origin)
			}
		}
	}
}

// canonicalOnly leaves a route with the paths that are read in one way, as extauthz
// would, and answers the others with 400: what is to be guarded otherwise below the
// route could be asked for by another spelling.
func canonicalOnly(route *policy.Route, made *networking.HTTPRoute) *networking.HTTPRoute {
	others := &networking.HTTPRoute{Name: made.GetName(), Match: made.GetMatch(), DirectResponse: &networking.HTTPDirectResponse{Status: http.StatusBadRequest}}
	only := made.GetMatch()[0].DeepCopy()
	only.Uri = expression(within(route.Match.Path))
	made.Match = []*networking.HTTPMatchRequest{only}
	return others
}

func repeats(headers []policy.Header) bool {
	seen := map[string]bool{}
	for _, header := range headers {
		name := strings.ToLower(header.Name)
		if seen[name] {
			return true
		}
		seen[name] = true
	}
	return false
}

// matches are alternatives: a prefix of Istio's is one of characters, so that of
// segments is the path itself or what follows its slash.
func matches(match *policy.Match, grpc bool) []*networking.HTTPMatchRequest {
	var paths []*networking.StringMatch
	switch path := match.Path; {
	case path.Kind == policy.PathExact:
		paths = append(paths, exact(path.Value))
	case path.Kind == policy.PathRegex:
		paths = append(paths, expression(path.Value))
	case strings.Trim(path.Value, "/") == "":
		paths = append(paths, prefix("/"))
	default:
		trimmed := strings.TrimSuffix(path.Value, "/")
		paths = append(paths, exact(trimmed), prefix(trimmed+"/"))
	}
	made := make([]*networking.HTTPMatchRequest, len(paths))
	for i, path := range paths {
		request := &networking.HTTPMatchRequest{Uri: path, Headers: map[string]*networking.StringMatch{}, QueryParams: map[string]*networking.StringMatch{}}
		if match.Method != "" {
			request.Method = exact(match.Method)
		}
		for _, header := range match.Headers {
			if header.OfHost() { // In Istio it is no header.
				request.Authority = value(header.AnyPort())
				continue
			}
			request.Headers[header.Name] = value(header)
		}
		if grpc {
			request.Headers["content-type"] = prefix("application/grpc")
		}
		for _, parameter := range match.Query {
			request.QueryParams[parameter.Name] = value(parameter)
		}
		made[i] = request
	}
	return made
}

func exact(text string) *networking.StringMatch {
	return &networking.StringMatch{MatchType: &networking.StringMatch_Exact{Exact: text}}
}

func prefix(text string) *networking.StringMatch {
	return &networking.StringMatch{MatchType: &networking.StringMatch_Prefix{Prefix: text}}
}

func expression(text string) *networking.StringMatch {
	return &networking.StringMatch{MatchType: &networking.StringMatch_Regex{Regex: text}}
}

func value(match policy.ValueMatch) *networking.StringMatch {
	if match.Regex {
		return expression(match.Value)
	}
	return exact(match.Value)
}

// preflight lets browsers ask before requests of a method.
func preflight(route *policy.Route, made *networking.HTTPRoute) []*networking.HTTPRoute {
	method := route.Match.Method
	if route.GRPC {
		method = http.MethodPost
	}
	if route.CORS == nil || method == "" || method == http.MethodOptions {
		return nil
	}
	match := route.Match
	match.Method = http.MethodOptions
	match.Headers = []policy.ValueMatch{{Name: "access-control-request-method", Value: method}}
	asked := &networking.HTTPRoute{
		Name: route.ID, Match: matches(&match, false), Route: made.GetRoute(), Redirect: made.GetRedirect(),
		DirectResponse: made.GetDirectResponse(), Timeout: made.GetTimeout(), Retries: made.GetRetries(),
	}
	return []*networking.HTTPRoute{asked}
}

func headers(request, response policy.HeaderChange) *networking.Headers {
	operations := func(change policy.HeaderChange) *networking.Headers_HeaderOperations {
		if change.Empty() {
			return nil
		}
		made := &networking.Headers_HeaderOperations{Set: map[string]string{}, Add: map[string]string{}, Remove: change.Remove}
		for _, header := range change.Set {
			made.Set[header.Name] = strings.ReplaceAll(header.Value, "%", "%%")
		}
		for _, header := range change.Add {
			made.Add[header.Name] = strings.ReplaceAll(header.Value, "%", "%%")
		}
		return made
	}
	made := &networking.Headers{Request: operations(request), Response: operations(response)}
	if made.GetRequest() == nil && made.GetResponse() == nil {
		return nil
	}
	return made
}

// forward sends requests to backends.
func (c *compiler) forward(route *policy.Route, made *networking.HTTPRoute) {
	for i := range route.Backends {
		backend := &route.Backends[i]
		to, ok := c.to(backend.Backend, route.Origin)
		if !ok {
			c.incomplete = true
			continue
		}
		share := &networking.HTTPRouteDestination{
			Destination: to.destination(), Headers: headers(backend.RequestHeaders, backend.ResponseHeaders),
		}
		if len(route.Backends) > 1 {
			share.Weight = int32(backend.Weight) //nolint:gosec // at most a million
		}
		if backend.Host != "" {
			if share.Headers.GetRequest() == nil {
				share.Headers = &networking.Headers{Request: &networking.Headers_HeaderOperations{Set: map[string]string{}}, Response: share.Headers.GetResponse()}
			}
			share.Headers.Request.Set["Host"] = backend.Host
		}
		made.Route = append(made.Route, share)
	}
	for _, mirror := range route.Mirrors {
		to, ok := c.to(mirror.Backend, route.Origin)
		if !ok {
			c.incomplete = true
			continue
		}
		made.Mirrors = append(made.Mirrors, &networking.HTTPMirrorPolicy{
			Destination: to.destination(), Percentage: &networking.Percent{Value: 100 * float64(mirror.Numerator) / float64(mirror.Denominator)},
		})
	}
	made.Rewrite = rewrite(route)
	made.Timeout, made.Retries = timeout(route), c.retries(route)
}

// timeout is explicit, since Istio's default is none. gRPC calls bring their own.
func timeout(route *policy.Route) *durationpb.Duration {
	switch {
	case route.Timeout < 0:
		return durationpb.New(0)
	case route.Timeout > 0:
		return durationpb.New(route.Timeout)
	case route.GRPC:
		return nil
	}
	return durationpb.New(defaultTimeout)
}

// retries are explicit, since Istio by default repeats what a backend may have
// begun to serve.
func (c *compiler) retries(route *policy.Route) *networking.HTTPRetry {
	made := &networking.HTTPRetry{Attempts: 2, RetryOn: "connect-failure,refused-stream,reset-before-request"}
	if settings := route.Retry; settings != nil {
		made.Attempts = int32(settings.Attempts) //nolint:gosec // validated
		var on []string
		for _, condition := range settings.On {
			on = append(on, retryOn()[condition])
		}
		for _, code := range settings.Codes {
			on = append(on, strconv.Itoa(int(code)))
		}
		made.RetryOn = strings.Join(on, ",")
		if settings.Backoff > 0 {
			made.Backoff = durationpb.New(settings.Backoff)
		}
		if settings.Attempts == 0 {
			if route.BackendTimeout > 0 {
				c.refuse(route.Origin, "a timeout of each try on a route without retries; set timeouts.request")
			}
			return &networking.HTTPRetry{}
		}
	}
	if route.BackendTimeout > 0 {
		made.PerTryTimeout = durationpb.New(route.BackendTimeout)
	}
	return made
}

// retryOn are Envoy's names of failed tries.
func retryOn() map[v1alpha1.RetryOn]string {
	return map[v1alpha1.RetryOn]string{
		v1alpha1.RetryConnectFailure: "connect-failure", v1alpha1.RetryRefusedStream: "refused-stream",
		v1alpha1.RetryResetBeforeRequest: "reset-before-request", v1alpha1.RetryReset: "reset",
		v1alpha1.RetryGatewayError: "gateway-error", v1alpha1.RetryServerError: "5xx",
		v1alpha1.RetryGRPCUnavailable: "unavailable", v1alpha1.RetryGRPCCancelled: "cancelled",
		v1alpha1.RetryGRPCDeadlineExceeded: "deadline-exceeded", v1alpha1.RetryGRPCInternal: "internal",
		v1alpha1.RetryGRPCResourceExhausted: "resource-exhausted",
	}
}

// rewrite changes the path by an expression, which one entry with two matches needs.
func rewrite(route *policy.Route) *networking.HTTPRewrite {
	if route.Rewrite == nil {
		return nil
	}
	made := &networking.HTTPRewrite{Authority: route.Rewrite.Host}
	if path := route.Rewrite.Path; path != nil {
		made.UriRegexRewrite = replacePath(route.Match.Path, path)
	}
	return made
}

func replacePath(match policy.PathMatch, path *policy.PathChange) *networking.RegexRewrite {
	escaped := func(text string) string { return strings.ReplaceAll(text, `\`, `\\`) }
	if !path.IsPrefix {
		return &networking.RegexRewrite{Match: "^/.*$", Rewrite: escaped(path.Full)}
	}
	matched, replaced := strings.TrimSuffix(match.Value, "/"), strings.TrimSuffix(path.Prefix, "/")
	switch {
	case replaced == "":
		return &networking.RegexRewrite{Match: "^" + regexp.QuoteMeta(matched) + "/*", Rewrite: "/"}
	case matched == "":
		return &networking.RegexRewrite{Match: "^/", Rewrite: escaped(replaced) + "/"}
	}
	return &networking.RegexRewrite{Match: "^" + regexp.QuoteMeta(matched), Rewrite: escaped(replaced)}
}

// redirect answers by a Location. One that names the host of the request and no port
// must not name the request's port either, which Envoy keeps: requests that have one
// are told the well-known one.
func (c *compiler) redirect(route *policy.Route, made *networking.HTTPRoute) []*networking.HTTPRoute {
	all := c.redirects(route, made)
	if route.Redirect.Host != "" || c.lifted[route.ID].GetRedirect().GetPortRedirect() != 0 {
		return all
	}
	for _, plain := range all {
		if slices.ContainsFunc(plain.GetMatch(), func(m *networking.HTTPMatchRequest) bool { return m.GetAuthority() != nil }) {
			c.refuse(route.Origin, "a redirect without a hostname, on a match of the header Host")
			return all
		}
		ported := plain.DeepCopy()
		ported.Redirect.RedirectPort = &networking.HTTPRedirect_Port{Port: 80}
		if route.Redirect.Scheme == "https" {
			ported.Redirect.RedirectPort = &networking.HTTPRedirect_Port{Port: 443}
		}
		for _, match := range plain.GetMatch() {
			match.Authority = expression(`[^:]*|\[.*\]`)
		}
		all = append(all, ported)
	}
	return all
}

// redirects are the entries of a redirect: where a prefix is replaced, the path
// itself and what is below it have one each.
func (c *compiler) redirects(route *policy.Route, made *networking.HTTPRoute) []*networking.HTTPRoute {
	compiled := c.lifted[route.ID].GetRedirect()
	spec := &networking.HTTPRedirect{
		Authority: route.Redirect.Host, Scheme: compiled.GetSchemeRedirect(), Uri: compiled.GetPathRedirect(),
		RedirectCode: uint32(route.Redirect.Status), //nolint:gosec // validated
	}
	if port := compiled.GetPortRedirect(); port != 0 {
		spec.RedirectPort = &networking.HTTPRedirect_Port{Port: port}
	}
	made.Redirect = spec
	switch path := route.Redirect.Path; {
	case path == nil || !path.IsPrefix:
		return []*networking.HTTPRoute{made}
	case strings.TrimSuffix(path.Prefix, "/") == "" || len(made.GetMatch()) != 2:
		c.refuse(route.Origin, "a redirect that takes a prefix away or puts one before every path")
		return []*networking.HTTPRoute{made}
	}
	replaced := strings.TrimSuffix(route.Redirect.Path.Prefix, "/")
	below := &networking.HTTPRoute{Name: made.GetName(), Match: made.GetMatch()[1:], Headers: made.GetHeaders(), Redirect: &networking.HTTPRedirect{
		Authority: spec.GetAuthority(), Scheme: spec.GetScheme(), RedirectCode: spec.GetRedirectCode(), RedirectPort: spec.GetRedirectPort(), PrefixRewrite: replaced + "/",
	}}
	made.Match, spec.PrefixRewrite = made.GetMatch()[:1], replaced
	return []*networking.HTTPRoute{made, below}
}
