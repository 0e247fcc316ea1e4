package envoy

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"weir.dev/kit/rpcserver"
	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

func (c *compiler) routes(port *policy.Port, chain *policy.Chain) (*routev3.RouteConfiguration, error) {
	config := &routev3.RouteConfiguration{
		Name: chainName(port, chain),
		// A prefix or header that a client sends twice is matched as a list.
		MostSpecificHeaderMutationsWins: true,
		// Services are told the port that a client wrote; who is served does not
		// depend on it.
		IgnorePortInHostMatching: true,
	}
	for i := range chain.Hosts {
		host := &chain.Hosts[i]
		virtual := &routev3.VirtualHost{Name: host.Name, Domains: []string{host.Name}, RetryPolicy: defaultRetry()}
		if host.Misdirected {
			virtual.Routes = []*routev3.Route{c.misdirected()}
		}
		for j := range host.Routes {
			virtual.Routes = append(virtual.Routes, c.route(port, host.Name, &host.Routes[j])...)
		}
		config.VirtualHosts = append(config.VirtualHosts, virtual)
	}
	if chain.TLS.Offers(v1alpha1.HTTP3) {
		config.ResponseHeadersToAdd = append(config.ResponseHeadersToAdd, altService(c.bound(port)))
	}
	return config, nil
}

// misdirected sends a client away from a connection that is for other names.
func (c *compiler) misdirected() *routev3.Route {
	route := &routev3.Route{
		Name:   "misdirected",
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: directResponse(http.StatusMisdirectedRequest),
	}
	if c.options.ExtAuthzAddress != "" { // It is asked about routes of policy only.
		route.TypedPerFilterConfig = map[string]*anypb.Any{filterExtAuthz: packed(extAuthzPerRoute(&policy.Route{}))}
	}
	return route
}

// altServiceSeconds is how long a client remembers that a port speaks HTTP/3.
const altServiceSeconds = 86400

// altService tells clients of HTTP/3 (RFC 7838, RFC 9114 section 3.1.1).
func altService(port int32) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: "alt-svc", Value: fmt.Sprintf(`h3=":%d"; ma=%d`, port, altServiceSeconds)},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// route compiles one route of a virtual host; a route limited to a method, as gRPC is, gets a
// second one for the preflight requests of browsers.
func (c *compiler) route(port *policy.Port, host string, route *policy.Route) []*routev3.Route {
	compiled := &routev3.Route{
		Name:                 route.ID,
		Match:                routeMatch(&route.Match),
		TypedPerFilterConfig: c.perFilter(route),
	}
	if route.GRPC {
		compiled.Match.Headers = append(compiled.GetMatch().GetHeaders(), &routev3.HeaderMatcher{
			Name: "content-type",
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "application/grpc"},
			}},
		})
	}
	headerMutations(compiled, route)
	switch {
	case route.Auth != nil && (route.Auth.Refuse || c.options.ExtAuthzAddress == ""), // nobody could say yes
		lacksExtension(route):
		compiled.Action = directResponse(503)
	case route.Redirect != nil:
		compiled.Action = c.redirect(port, route)
		return append(withoutPort(host, compiled), preflight(route, compiled)...)
	case !slices.ContainsFunc(route.Backends, func(b policy.WeightedBackend) bool { return b.Backend != "" }):
		compiled.Action = unresolved(route)
	default:
		compiled.Action = &routev3.Route_Route{Route: c.action(route)}
		if slices.ContainsFunc(route.Backends, func(b policy.WeightedBackend) bool { return b.Apart() }) {
			return append(c.shares(port, route, compiled), preflight(route, compiled)...)
		}
	}
	return append([]*routev3.Route{compiled}, preflight(route, compiled)...)
}

// preflight is a route for what browsers ask before requests of a method, where
// that is not the route's own match.
func preflight(route *policy.Route, compiled *routev3.Route) []*routev3.Route {
	method := route.Match.Method
	if route.GRPC {
		method = http.MethodPost
	}
	if route.CORS == nil || method == "" || method == http.MethodOptions {
		return nil
	}
	asked := &routev3.Route{
		Name: route.ID, Action: compiled.GetAction(), TypedPerFilterConfig: compiled.GetTypedPerFilterConfig(),
	}
	match := route.Match
	match.Method = http.MethodOptions
	match.Headers = []policy.ValueMatch{{Name: "access-control-request-method", Value: method}}
	asked.Match = routeMatch(&match)
	return []*routev3.Route{asked}
}

func routeMatch(match *policy.Match) *routev3.RouteMatch {
	compiled := &routev3.RouteMatch{}
	switch path := match.Path; {
	case path.Kind == policy.PathExact:
		compiled.PathSpecifier = &routev3.RouteMatch_Path{Path: path.Value}
	case path.Kind == policy.PathRegex:
		compiled.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: regex(path.Value)}
	case strings.Trim(path.Value, "/") == "":
		compiled.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
	default:
		compiled.PathSpecifier = &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: strings.TrimSuffix(path.Value, "/")}
	}
	if match.Method != "" {
		compiled.Headers = append(compiled.Headers, headerMatch(policy.ValueMatch{Name: ":method", Value: match.Method}))
	}
	for _, header := range match.Headers {
		compiled.Headers = append(compiled.Headers, headerMatch(header))
	}
	for _, parameter := range match.Query {
		compiled.QueryParameters = append(compiled.QueryParameters, &routev3.QueryParameterMatcher{
			Name:                         parameter.Name,
			QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_StringMatch{StringMatch: stringMatch(parameter)},
		})
	}
	return compiled
}

func headerMatch(match policy.ValueMatch) *routev3.HeaderMatcher {
	match = match.AnyPort()
	return &routev3.HeaderMatcher{
		Name:                 match.Name,
		HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: stringMatch(match)},
	}
}

func stringMatch(match policy.ValueMatch) *matcherv3.StringMatcher {
	if match.Regex {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: regex(match.Value)}}
	}
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: match.Value}}
}

func regex(pattern string) *matcherv3.RegexMatcher { return &matcherv3.RegexMatcher{Regex: pattern} }

// rewritePath handles the two ways of the Gateway API.
func rewritePath(action *routev3.RouteAction, route *policy.Route) {
	path := route.Rewrite.Path
	switch {
	case path == nil:
	case !path.IsPrefix:
		action.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{Pattern: regex("^/.*$"), Substitution: escapeSubstitution(path.Full)}
	default:
		action.PrefixRewrite, action.RegexRewrite = replacePrefix(route.Match.Path, path.Prefix)
	}
}

// replacePrefix puts another prefix in the place of the one that matched. Envoy
// replaces text, the Gateway API whole segments: "/" or "" for "/v1" would leave
// "//users" or nothing, so an expression takes the slash along, and for "/"
// itself the new prefix needs one.
func replacePrefix(match policy.PathMatch, by string) (prefix string, rewrite *matcherv3.RegexMatchAndSubstitute) {
	matched, replaced := strings.Trim(match.Value, "/"), strings.TrimSuffix(by, "/")
	switch {
	case replaced == "" && matched == "":
		return "", nil
	case replaced == "":
		pattern := "^" + regexp.QuoteMeta(strings.TrimSuffix(match.Value, "/")) + "/*"
		return "", &matcherv3.RegexMatchAndSubstitute{Pattern: regex(pattern), Substitution: "/"}
	case matched == "":
		return replaced + "/", nil
	default:
		return replaced, nil
	}
}

// escapeSubstitution keeps backslashes of a literal from being read as
// references to groups.
func escapeSubstitution(text string) string { return strings.ReplaceAll(text, `\`, `\\`) }

func (c *compiler) redirect(port *policy.Port, route *policy.Route) *routev3.Route_Redirect {
	codes := map[int]routev3.RedirectAction_RedirectResponseCode{
		301: routev3.RedirectAction_MOVED_PERMANENTLY, 302: routev3.RedirectAction_FOUND, 303: routev3.RedirectAction_SEE_OTHER,
		307: routev3.RedirectAction_TEMPORARY_REDIRECT, 308: routev3.RedirectAction_PERMANENT_REDIRECT,
	}
	spec := route.Redirect
	action := &routev3.RedirectAction{
		HostRedirect: spec.Host, PortRedirect: uint32(c.redirectPort(port, spec)), ResponseCode: codes[spec.Status], //nolint:gosec // validated port
	}
	if spec.Scheme != "" {
		action.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: spec.Scheme}
	}
	switch {
	case spec.Path == nil:
	case !spec.Path.IsPrefix:
		action.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: spec.Path.Full}
	default:
		prefix, rewrite := replacePrefix(route.Match.Path, spec.Path.Prefix)
		switch {
		case rewrite != nil:
			action.PathRewriteSpecifier = &routev3.RedirectAction_RegexRewrite{RegexRewrite: rewrite}
		case prefix != "":
			action.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: prefix}
		}
	}
	return &routev3.Route_Redirect{Redirect: action}
}

// redirectPort is what the Location names, 0 for none: the port asked for, that
// of the scheme asked for, or that of the listener (HTTPRequestRedirectFilter,
// port); the well-known one of the scheme is not named. The request's own port
// is the client's to write.
func (c *compiler) redirectPort(port *policy.Port, spec *policy.Redirect) int32 {
	number := spec.Port
	if number == 0 && spec.Scheme == "" {
		number = c.bound(port)
	}
	if (number == 443 && spec.Scheme == "https") || (number == 80 && spec.Scheme != "https") {
		return 0
	}
	return number
}

// withoutPort sees to it that a Location which names the host of the request and
// no port does not name that of the request either, which Envoy keeps: it names
// the virtual host, or, for one of many names, the well-known port where the
// client wrote any.
func withoutPort(host string, redirect *routev3.Route) []*routev3.Route {
	action := redirect.GetRedirect()
	if action.GetHostRedirect() != "" || action.GetPortRedirect() != 0 {
		return []*routev3.Route{redirect}
	}
	if !strings.HasPrefix(host, "*") {
		action.HostRedirect = host
		return []*routev3.Route{redirect}
	}
	ported, _ := proto.Clone(redirect).(*routev3.Route)
	ported.GetRedirect().PortRedirect = 80
	if action.GetSchemeRedirect() == "https" {
		ported.GetRedirect().PortRedirect = 443
	}
	redirect.Match.Headers = append(redirect.GetMatch().GetHeaders(), &routev3.HeaderMatcher{
		Name:                 headerAuthority,
		HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: stringMatch(policy.ValueMatch{Value: `[^:]*|\[.*\]`, Regex: true})},
	})
	return []*routev3.Route{redirect, ported}
}

func directResponse(status uint32) *routev3.Route_DirectResponse {
	return &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: status}}
}

func headerMutations(compiled *routev3.Route, route *policy.Route) {
	compiled.RequestHeadersToAdd = headerOptions(route.RequestHeaders)
	compiled.RequestHeadersToRemove = route.RequestHeaders.Remove
	if costFields(route) != nil { // What is compressed can't be read.
		compiled.RequestHeadersToRemove = append(slices.Clone(compiled.GetRequestHeadersToRemove()), "accept-encoding")
	}
	compiled.ResponseHeadersToAdd = headerOptions(route.ResponseHeaders)
	compiled.ResponseHeadersToRemove = route.ResponseHeaders.Remove
	if route.GRPC {
		// gRPC clients get the same content as status details.
		compiled.ResponseHeadersToRemove = append(slices.Clone(route.ResponseHeaders.Remove), rpcserver.ProblemTrailer)
	}
}

func headerOptions(change policy.HeaderChange) []*corev3.HeaderValueOption {
	var options []*corev3.HeaderValueOption
	add := func(headers []policy.Header, action corev3.HeaderValueOption_HeaderAppendAction) {
		for _, header := range headers {
			options = append(options, &corev3.HeaderValueOption{
				// A percent sign would start one of Envoy's substitutions.
				Header:       &corev3.HeaderValue{Key: header.Name, Value: strings.ReplaceAll(header.Value, "%", "%%")},
				AppendAction: action,
			})
		}
	}
	add(change.Set, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
	add(change.Add, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
	return options
}
