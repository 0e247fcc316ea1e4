package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxFallbacks bounds how many routes of wildcards are repeated under more
// specific hostnames on a port.
const maxFallbacks = 100_000

// compareRoutes is the Gateway API's precedence of matches (HTTPRouteRule
// .matches): exact path, then the longer prefix, method, number of headers,
// number of query parameters, age, namespace and name, order in the object.
// Regular expressions, which the standard leaves open, stand between exact and
// prefix, the longer first. It is that of GRPCRoutes too (GRPCRouteRule.matches:
// the longer service, the longer method, number of headers): a service and
// method is an exact path, a service alone a prefix, and a method alone comes
// after every service.
func (r *resolver) compareRoutes(a, b Route) int {
	return cmp.Or(
		cmp.Compare(pathRank(&a.Match), pathRank(&b.Match)),
		-cmp.Compare(pathLength(&a.Match), pathLength(&b.Match)),
		-cmp.Compare(len(a.Match.RPC), len(b.Match.RPC)),
		cmp.Compare(methodRank(&a.Match), methodRank(&b.Match)),
		-cmp.Compare(len(a.Match.Headers), len(b.Match.Headers)),
		-cmp.Compare(len(a.Match.Query), len(b.Match.Query)),
		comparePrecedence(r.byRef[a.Origin.Object], r.byRef[b.Origin.Object]))
}

func pathRank(match *Match) int {
	switch {
	case match.Path.Kind == PathExact:
		return 0
	case match.Path.Kind == PathRegex && match.RPC == "":
		return 1
	default:
		return 2
	}
}

func pathLength(match *Match) int {
	if match.RPC != "" {
		return len("/")
	}
	return len(match.Path.Value)
}

func methodRank(match *Match) int {
	if match.Method != "" {
		return 0
	}
	return 1
}

// shadow is what a route takes; equal ones hide each other.
type shadow struct {
	match string
	grpc  bool
}

func shadowOf(route *Route) shadow { return shadow{fmt.Sprintf("%+v", route.Match), route.GRPC} }

// hides reports whether one of the routes seen takes all that route would. One
// for gRPC leaves other requests to the routes after it.
func hides(seen map[shadow]*Route, route *Route) (*Route, bool) {
	key := shadowOf(route)
	if winner, ok := seen[key]; ok {
		return winner, true
	}
	key.grpc = false
	winner, ok := seen[key]
	return winner, ok
}

// order sorts the routes of each hostname by precedence, leaves out and reports
// those that an identical match hides, and adds the routes of the wildcards that
// hold the hostname: where nothing of the more specific hostname matches, the
// less specific one answers (HTTPRouteSpec.hostnames, "precedence must be given
// to rules from the HTTPRoute with the largest number of characters").
func (r *resolver) order(hosts map[string][]Route) []Host {
	names := slices.Sorted(maps.Keys(hosts))
	for _, name := range names {
		slices.SortStableFunc(hosts[name], r.compareRoutes)
	}
	ordered := make([]Host, 0, len(names))
	budget := maxFallbacks
	for _, name := range names {
		host := Host{Name: name}
		seen := map[shadow]*Route{}
		for i := range hosts[name] {
			route := &hosts[name][i]
			winner, hidden := hides(seen, route)
			if !hidden {
				seen[shadowOf(route)] = route
				host.Routes = append(host.Routes, *route)
				continue
			}
			if winner.Origin != route.Origin {
				object := r.byRef[route.Origin.Object]
				r.reportOnce(object.notice(CodeRouteConflict, route.Origin.Field, "never answers: "+winner.Origin.String()+" has the same match and comes first"))
			}
		}
		host.Routes = r.addFallbacks(host.Routes, hosts, wildcardsOf(name, hosts), seen, &budget)
		ordered = append(ordered, host)
	}
	return ordered
}

// wildcardsOf lists the hostnames that hold name, the most specific first.
func wildcardsOf(name string, hosts map[string][]Route) []string {
	var wildcards []string
	for rest := strings.TrimPrefix(name, "*."); rest != "" && name != "*"; {
		_, rest, _ = strings.Cut(rest, ".")
		wildcard := "*"
		if rest != "" {
			wildcard = "*." + rest
		}
		if _, ok := hosts[wildcard]; ok {
			wildcards = append(wildcards, wildcard)
		}
	}
	return wildcards
}

// addFallbacks adds routes of the same listeners: another listener's hostname is
// a world of its own (GEP-3155, listener isolation).
func (r *resolver) addFallbacks(routes []Route, hosts map[string][]Route, wildcards []string, seen map[shadow]*Route, budget *int) []Route {
	listeners := map[string]bool{}
	for i := range routes {
		listeners[listenerOf(&routes[i])] = true
	}
	for _, wildcard := range wildcards {
		for i := range hosts[wildcard] {
			route := &hosts[wildcard][i]
			if !listeners[listenerOf(route)] {
				continue
			}
			if _, hidden := hides(seen, route); hidden {
				continue
			}
			if *budget--; *budget < 0 {
				r.reportOnce(r.byRef[route.Origin.Object].problem(CodeManyFallbacks, "spec.hostnames",
					fmt.Sprintf("more than %d routes of wildcard hostnames would be repeated under more specific ones; the others are not", maxFallbacks)))
				return routes
			}
			seen[shadowOf(route)] = route
			routes = append(routes, *route)
		}
	}
	return routes
}

// listenerOf is the listener's part of a route's id.
func listenerOf(route *Route) string { return route.ID[strings.IndexByte(route.ID, '@')+1:] }
