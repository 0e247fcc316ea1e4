package envoy

import (
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"weir.dev/policy"
)

// million is the denominator of shares, the finest that Envoy has.
const million = 1_000_000

// shares are a route for each of a route's backends, since Envoy rewrites paths,
// mirrors and redirects per route only. All compare one random number of the
// request with what they take together with those before (Envoy's
// RouteMatch.runtime_fraction), so that each gets its part, and the last one what
// is left. whole is the route without them.
func (c *compiler) shares(port *policy.Port, route *policy.Route, whole *routev3.Route) []*routev3.Route {
	total, taken := uint64(0), uint64(0)
	for i := range route.Backends {
		total += uint64(route.Backends[i].Weight)
	}
	routes := make([]*routev3.Route, len(route.Backends))
	for i := range route.Backends {
		backend := route.Backends[i]
		taken += uint64(backend.Weight)
		share := &routev3.Route{
			Name: whole.GetName(), TypedPerFilterConfig: whole.GetTypedPerFilterConfig(),
			Match:               proto.Clone(whole.GetMatch()).(*routev3.RouteMatch), //nolint:forcetypeassert // a clone
			RequestHeadersToAdd: whole.GetRequestHeadersToAdd(), RequestHeadersToRemove: whole.GetRequestHeadersToRemove(),
			ResponseHeadersToAdd: whole.GetResponseHeadersToAdd(), ResponseHeadersToRemove: whole.GetResponseHeadersToRemove(),
		}
		if i < len(route.Backends)-1 {
			share.Match.RuntimeFraction = &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{
				Numerator: uint32(taken * million / total), Denominator: typev3.FractionalPercent_MILLION, //nolint:gosec // at most a million
			}}
		}
		alone := *route
		alone.Backends = []policy.WeightedBackend{backend}
		alone.Mirrors = append(slices.Clone(route.Mirrors), backend.Mirrors...)
		switch {
		case backend.Backend == "":
			share.Action = unresolved(route)
		case backend.Redirect != nil:
			alone.Redirect = backend.Redirect
			share.Action = c.redirect(port, &alone)
		default:
			if backend.Path != nil {
				alone.Rewrite = &policy.Rewrite{Path: backend.Path}
				if route.Rewrite != nil {
					alone.Rewrite.Host = route.Rewrite.Host
				}
			}
			share.Action = &routev3.Route_Route{Route: c.action(&alone)}
		}
		routes[i] = share
	}
	return routes
}
