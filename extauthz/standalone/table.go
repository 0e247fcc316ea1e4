package standalone

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
)

// Bounds of a file.
const (
	maxHosts   = 10_000
	maxRoutes  = 100_000
	maxRegex   = 1000
	maxDomains = 1000
)

// Table chooses routes. It is immutable and safe for concurrent use.
type Table struct {
	exact      map[string]*host
	suffixes   []wildcard // "*.example.com": longest first
	prefixes   []wildcard // "api.*": longest first
	any        *host
	ignorePort bool
}

type wildcard struct {
	text string
	host *host
}

type host struct{ routes []route }

type route struct {
	id      string
	matches func(path string) bool
	methods []string
}

// NewTable makes a table whose routes have the ids that id gives them. The error
// lists every mistake.
func NewTable(source *rulesv1.StandaloneRules, id func(host, route string) string) (*Table, error) {
	t := &Table{exact: map[string]*host{}, ignorePort: source.GetIgnorePortInHostMatching()}
	var errs []error
	if n := len(source.GetVirtualHosts()); n > maxHosts {
		return nil, fmt.Errorf("virtual_hosts: %d are too many; the most is %d", n, maxHosts)
	}
	names, total := map[string]bool{}, 0
	for i, virtual := range source.GetVirtualHosts() {
		field := fmt.Sprintf("virtual_hosts[%d]", i)
		errs = append(errs, unique(names, field+".name", virtual.GetName()))
		if total += len(virtual.GetRoutes()); total > maxRoutes {
			return nil, fmt.Errorf("%s.routes: the file has more than %d", field, maxRoutes)
		}
		made := &host{}
		routeNames := map[string]bool{}
		for j, source := range virtual.GetRoutes() {
			at := fmt.Sprintf("%s.routes[%d]", field, j)
			errs = append(errs, unique(routeNames, at+".name", source.GetName()))
			compiled, err := newRoute(at+".match", source.GetMatch())
			errs = append(errs, err)
			compiled.id = id(virtual.GetName(), source.GetName())
			made.routes = append(made.routes, compiled)
		}
		if n := len(virtual.GetDomains()); n == 0 || n > maxDomains {
			errs = append(errs, fmt.Errorf("%s.domains: %d are given; give 1 to %d", field, n, maxDomains))
		}
		for j, domain := range virtual.GetDomains() {
			errs = append(errs, t.add(fmt.Sprintf("%s.domains[%d]", field, j), domain, made))
		}
	}
	longest := func(a, b wildcard) int { return cmp.Compare(len(b.text), len(a.text)) }
	slices.SortStableFunc(t.suffixes, longest)
	slices.SortStableFunc(t.prefixes, longest)
	return t, errors.Join(errs...)
}

func unique(names map[string]bool, field, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s: is required", field)
	case names[name]:
		return fmt.Errorf("%s: %q is used twice", field, name)
	case strings.ContainsAny(name, "~/") || !extauthz.ValidHeaderValue(name):
		return fmt.Errorf("%s: %q has characters that a name can't have", field, name)
	}
	names[name] = true
	return nil
}

// add enters one domain, as Envoy's route configuration has it.
func (t *Table) add(field, domain string, to *host) error {
	lower := strings.ToLower(domain)
	taken := fmt.Errorf("%s: %q is a domain of two virtual hosts", field, domain)
	switch {
	case lower == "*":
		if t.any != nil {
			return taken
		}
		t.any = to
	case lower == "" || strings.Count(lower, "*") > 1 || strings.Trim(lower, "*") == "":
		return fmt.Errorf("%s: %q is not a host, *.suffix, prefix.* or *", field, domain)
	case lower[0] == '*':
		return enter(&t.suffixes, lower[1:], to, taken)
	case lower[len(lower)-1] == '*':
		return enter(&t.prefixes, lower[:len(lower)-1], to, taken)
	case strings.Contains(lower, "*"):
		return fmt.Errorf("%s: %q has its wildcard in the middle; it stands first or last", field, domain)
	default:
		if t.exact[lower] != nil {
			return taken
		}
		t.exact[lower] = to
	}
	return nil
}

func enter(list *[]wildcard, text string, to *host, taken error) error {
	if slices.ContainsFunc(*list, func(w wildcard) bool { return w.text == text }) {
		return taken
	}
	*list = append(*list, wildcard{text, to})
	return nil
}

func newRoute(field string, match *rulesv1.RouteMatch) (r route, err error) {
	r.methods = match.GetMethods()
	for i, method := range r.methods {
		if method == "" || method != strings.ToUpper(method) {
			return r, fmt.Errorf("%s.methods[%d]: %q is not an upper-case method", field, i, method)
		}
	}
	fold := func(text string) string { return text }
	if match.GetIgnoreCase() {
		fold = strings.ToLower
	}
	switch path := match.GetPathSpecifier().(type) {
	case *rulesv1.RouteMatch_Prefix:
		return prefixRoute(r, field, path.Prefix, fold)
	case *rulesv1.RouteMatch_Path:
		if !strings.HasPrefix(path.Path, "/") {
			return r, fmt.Errorf("%s.path: %q does not start with /", field, path.Path)
		}
		wanted := fold(path.Path)
		r.matches = func(path string) bool { return fold(path) == wanted }
	case *rulesv1.RouteMatch_PathSeparatedPrefix:
		return separatedRoute(r, field, path.PathSeparatedPrefix, fold)
	case *rulesv1.RouteMatch_SafeRegex:
		if len(path.SafeRegex) > maxRegex || match.GetIgnoreCase() {
			return r, fmt.Errorf("%s.safe_regex: is longer than %d bytes, or to be compared without case", field, maxRegex)
		}
		expression, err := regexp.Compile("^(?:" + path.SafeRegex + ")$")
		if err != nil {
			return r, fmt.Errorf("%s.safe_regex: %w", field, err)
		}
		r.matches = expression.MatchString
	default:
		return r, fmt.Errorf("%s: give one of prefix, path, path_separated_prefix and safe_regex", field)
	}
	return r, nil
}

func prefixRoute(r route, field, prefix string, fold func(string) string) (route, error) {
	if !strings.HasPrefix(prefix, "/") {
		return r, fmt.Errorf("%s.prefix: %q does not start with /", field, prefix)
	}
	wanted := fold(prefix)
	r.matches = func(path string) bool { return strings.HasPrefix(fold(path), wanted) }
	return r, nil
}

func separatedRoute(r route, field, prefix string, fold func(string) string) (route, error) {
	if len(prefix) < 2 || prefix[0] != '/' || strings.HasSuffix(prefix, "/") || strings.ContainsAny(prefix, "?#") {
		return r, fmt.Errorf("%s.path_separated_prefix: %q is not /segments without a / at the end", field, prefix)
	}
	wanted := fold(prefix)
	r.matches = func(path string) bool {
		rest, found := strings.CutPrefix(fold(path), wanted)
		return found && (rest == "" || rest[0] == '/')
	}
	return r, nil
}

// Choose returns the id of the route that a request is of. An empty id is a
// refusal, for the reason given.
func (t *Table) Choose(authority, method, target string) (id string, refused extauthz.Reason) {
	if reason := extauthz.Readable(authority, method, target); reason != "" {
		return "", reason
	}
	host := t.host(authority)
	if host == nil {
		return "", extauthz.ReasonRouteNotListed
	}
	path, _, _ := strings.Cut(target, "?")
	id = host.choose(path, method)
	if strings.IndexByte(path, ';') >= 0 && (host.choose(untilParameter(path), method) != id || host.choose(withoutParameters(path), method) != id) {
		return "", extauthz.ReasonPathNotCanonical
	}
	if id == "" {
		return "", extauthz.ReasonRouteNotListed
	}
	return id, ""
}

// host finds the virtual host of an authority, in Envoy's order.
func (t *Table) host(authority string) *host {
	name := strings.ToLower(authority)
	if t.ignorePort {
		name = withoutPort(name)
	}
	if found := t.exact[name]; found != nil {
		return found
	}
	for i := range t.suffixes { // a wildcard stands for one character at least
		if w := &t.suffixes[i]; len(name) > len(w.text) && strings.HasSuffix(name, w.text) {
			return w.host
		}
	}
	for i := range t.prefixes {
		if w := &t.prefixes[i]; len(name) > len(w.text) && strings.HasPrefix(name, w.text) {
			return w.host
		}
	}
	return t.any
}

// withoutPort cuts a port off; the colons of an IPv6 address are not its.
func withoutPort(authority string) string {
	colon := strings.LastIndexByte(authority, ':')
	if colon < 0 || strings.IndexByte(authority[colon:], ']') >= 0 {
		return authority
	}
	return authority[:colon]
}

func (h *host) choose(path, method string) string {
	for i := range h.routes {
		r := &h.routes[i]
		if (len(r.methods) == 0 || slices.Contains(r.methods, method)) && r.matches(path) {
			return r.id
		}
	}
	return ""
}

// untilParameter is a path as Envoy compares it where
// ignore_path_parameters_in_path_matching is set.
func untilParameter(path string) string {
	cut, _, _ := strings.Cut(path, ";")
	return cut
}

// withoutParameters is a path as servers see it that cut the parameters off each
// segment.
func withoutParameters(path string) string {
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		segments[i], _, _ = strings.Cut(segment, ";")
	}
	return strings.Join(segments, "/")
}
