package policy

import (
	"cmp"
	"fmt"
)

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
