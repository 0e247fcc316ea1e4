package policy

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Parts of a match, in the order in which Explain compares them.
const (
	partPath        = "path"
	partMethod      = "method"
	partHeader      = "header"
	partQuery       = "query"
	partContentType = "content-type"
)

// matchRequest is a request in the form that matches compare.
type matchRequest struct {
	method, path string
	// headers by lower-case name; of several with one name each is compared.
	headers map[string][]string
	// query holds the first value of each parameter as it is sent: Envoy does not
	// decode it for matching.
	query map[string]string
}

func newMatchRequest(method, path, query string, headers []Header) matchRequest {
	request := matchRequest{method: method, path: path, headers: map[string][]string{}, query: map[string]string{}}
	for _, header := range headers {
		name := strings.ToLower(header.Name)
		request.headers[name] = append(request.headers[name], strings.TrimSpace(header.Value))
	}
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		if _, ok := request.query[name]; !ok {
			request.query[name] = value
		}
	}
	return request
}

// reservedHeader reports whether the edge removes a client's header (kit/identity
// has the prefix).
func reservedHeader(lower string) bool { return strings.HasPrefix(lower, "x-weir-") }

// compare returns the first part of the route's match that does not hold, and
// why; part is empty when all hold. preflight is set when it is the browser's
// preflight request for the route that matches.
func (r *matchRequest) compare(route *Route) (part, reason string, preflight bool) {
	if ok, why := r.comparePath(route.Match.Path); !ok {
		return partPath, why, false
	}
	part, reason = r.compareRest(route)
	if part == "" {
		return "", "", false
	}
	if r.isPreflight(route) {
		return "", "", true
	}
	return part, reason, false
}

func (r *matchRequest) compareRest(route *Route) (part, reason string) {
	match := &route.Match
	if match.Method != "" && match.Method != r.method {
		return partMethod, fmt.Sprintf("the method is %s, not %s", r.method, match.Method)
	}
	for _, header := range match.Headers {
		values := r.headers[header.Name]
		if header.OfHost() {
			values = r.headers["host"]
		}
		switch {
		case len(values) == 0:
			return partHeader, fmt.Sprintf("the request has no header %s", header.Name)
		case !slices.ContainsFunc(values, header.AnyPort().holds):
			return partHeader, fmt.Sprintf("header %s is %q, not %s", header.Name, shorten(strings.Join(values, ", ")), header.wanted())
		}
	}
	for _, parameter := range match.Query {
		value, ok := r.query[parameter.Name]
		switch {
		case !ok:
			return partQuery, fmt.Sprintf("the request has no query parameter %s", parameter.Name)
		case !parameter.holds(value):
			return partQuery, fmt.Sprintf("query parameter %s is %q, not %s", parameter.Name, shorten(value), parameter.wanted())
		}
	}
	if route.GRPC && !slices.ContainsFunc(r.headers["content-type"], func(value string) bool { return strings.HasPrefix(value, "application/grpc") }) {
		return partContentType, "a GRPCRoute takes requests with content-type application/grpc only"
	}
	return "", ""
}

// isPreflight reports whether the request asks, before the real one, whether a
// browser may send it (Fetch standard, CORS preflight).
func (r *matchRequest) isPreflight(route *Route) bool {
	method := route.Match.Method
	if route.GRPC {
		method = "POST"
	}
	if route.CORS == nil || method == "" || method == "OPTIONS" || r.method != "OPTIONS" ||
		!slices.Contains(r.headers["access-control-request-method"], method) {
		return false
	}
	for _, parameter := range route.Match.Query {
		if value, ok := r.query[parameter.Name]; !ok || !parameter.holds(value) {
			return false
		}
	}
	return true
}

func (r *matchRequest) comparePath(match PathMatch) (bool, string) {
	switch match.Kind {
	case PathExact:
		return r.path == match.Value, fmt.Sprintf("the path is not exactly %s", match.Value)
	case PathRegex:
		return fullMatch(match.Value, r.path), fmt.Sprintf("the whole path does not match %s", match.Value)
	default:
		prefix := strings.TrimSuffix(match.Value, "/")
		if strings.Trim(prefix, "/") == "" {
			return strings.HasPrefix(r.path, "/"), "the path does not begin with /"
		}
		return r.path == prefix || strings.HasPrefix(r.path, prefix+"/"), fmt.Sprintf("the path is not %s or below it", prefix)
	}
}

func (m ValueMatch) holds(value string) bool {
	if m.Regex {
		return fullMatch(m.Value, value)
	}
	return m.Value == value
}

func (m ValueMatch) wanted() string {
	if m.Regex {
		return "all of it a match of " + m.Value
	}
	return fmt.Sprintf("%q", m.Value)
}

// fullMatch reports whether the expression matches all of the text. Expressions
// of a Plan compile: RE2, Envoy's engine, and Go's have one syntax.
func fullMatch(pattern, text string) bool {
	compiled, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
	return err == nil && compiled.MatchString(text)
}

func shorten(text string) string {
	const most = 80
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// Text is the match on one line, for people.
func (m *Match) Text(grpc bool) string {
	method := cmp.Or(m.Method, "any method")
	if grpc {
		method = "gRPC"
	}
	parts := []string{method, map[PathKind]string{PathExact: "exactly ", PathRegex: "matching ", PathPrefix: "below "}[m.Path.Kind] + m.Path.Value}
	for _, header := range m.Headers {
		parts = append(parts, "header "+header.text())
	}
	for _, parameter := range m.Query {
		parts = append(parts, "query "+parameter.text())
	}
	return strings.Join(parts, ", ")
}

func (m ValueMatch) text() string {
	if m.Regex {
		return m.Name + " matching " + m.Value
	}
	return m.Name + "=" + m.Value
}

// precedenceReason says why a route comes before another one, by the order of
// compareRoutes.
func precedenceReason(winner, loser *Route) string {
	a, b := &winner.Match, &loser.Match
	switch {
	case a.Path.Kind != b.Path.Kind:
		return fmt.Sprintf("%s before %s", kindText(a.Path.Kind), kindText(b.Path.Kind))
	case len(a.Path.Value) != len(b.Path.Value):
		return "the longer path comes first"
	case (a.Method == "") != (b.Method == ""):
		return "a match with a method comes first"
	case len(a.Headers) != len(b.Headers):
		return "more headers come first"
	case len(a.Query) != len(b.Query):
		return "more query parameters come first"
	case winner.Origin.Object != loser.Origin.Object:
		return "the older route comes first, then the first by namespace and name"
	default:
		return "the earlier rule of one route comes first"
	}
}

func kindText(kind PathKind) string {
	switch kind {
	case PathExact:
		return "an exact path"
	case PathRegex:
		return "a regular expression"
	default:
		return "a prefix"
	}
}
