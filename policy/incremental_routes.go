package policy

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// routeChange is a route that is another one now, is new (no before) or gone (no
// after).
type routeChange struct{ before, after *Object }

func (c routeChange) object() *Object { return cmp.Or(c.after, c.before) }

// changedRoutes are the differences to the last input, if they are a few routes
// and nothing else.
func (r *Resolver) changedRoutes(input Input) ([]routeChange, bool) {
	old := r.input.Objects
	if r.plan == nil || r.opaque || len(r.byRef) != len(old) || len(input.Closings)+len(r.input.Closings) > 0 ||
		(input.FleetOf == nil) != (r.input.FleetOf == nil) || !slices.Equal(input.Published, r.input.Published) || input.Provisioned != r.input.Provisioned {
		return nil, false
	}
	var changed []routeChange
	added := map[ObjectRef]bool{}
	i := 0
	for _, object := range input.Objects {
		for i < len(old) && old[i].Ref != object.Ref && r.byRef[object.Ref] != nil && len(changed) <= maxRoutesPatched {
			changed = append(changed, routeChange{before: old[i]})
			i++
		}
		switch {
		case i < len(old) && old[i].Ref == object.Ref:
			if !object.same(old[i]) {
				changed = append(changed, routeChange{old[i], object})
			}
			i++
		case r.byRef[object.Ref] != nil || added[object.Ref]: // in another order, or twice
			return nil, false
		default:
			added[object.Ref] = true
			changed = append(changed, routeChange{after: object})
		}
		if len(changed) > maxRoutesPatched {
			return nil, false
		}
	}
	for ; i < len(old) && len(changed) <= maxRoutesPatched; i++ {
		changed = append(changed, routeChange{before: old[i]})
	}
	if len(changed) > maxRoutesPatched || slices.ContainsFunc(changed, func(c routeChange) bool { return !r.patchable(c) }) {
		return nil, false
	}
	return changed, len(changed) == 0 || reflect.DeepEqual(fleetsOf(input), r.fleets)
}

func (r *Resolver) patchable(c routeChange) bool {
	ref := c.object().Ref
	if ref.Kind != "HTTPRoute" && ref.Kind != "GRPCRoute" || r.mixed[ref] {
		return false
	}
	return c.before == nil || c.after == nil || c.before.File == c.after.File && comparePrecedence(c.before, c.after) == 0
}

// companion is a route that the Plan has anyway and that attaches where a route
// does and leads where it leads. What a route brings beside itself that this one
// does not, such as the first use of a Backend, shows next to it.
func (r *Resolver) companion(object *Object) *Object {
	parents, hosts, backends := attachment(object)
	for _, other := range r.input.Objects {
		if other.Ref.Kind != object.Ref.Kind || other.Ref.Namespace != object.Ref.Namespace || other.Ref == object.Ref ||
			r.byRef[other.Ref] != other || len(r.targets[other.Ref]) > 0 {
			continue
		}
		otherParents, otherHosts, otherBackends := attachment(other)
		if slices.Equal(hosts, otherHosts) && reflect.DeepEqual(parents, otherParents) && reflect.DeepEqual(backends, otherBackends) {
			return other
		}
	}
	return nil
}

// attachment is what a route attaches to and where it leads.
func attachment(object *Object) (parents []gatewayv1.ParentReference, hosts []gatewayv1.Hostname, backends []gatewayv1.BackendObjectReference) {
	switch route := object.Value.(type) {
	case *gatewayv1.HTTPRoute:
		for i := range route.Spec.Rules {
			for j := range route.Spec.Rules[i].BackendRefs {
				backends = append(backends, route.Spec.Rules[i].BackendRefs[j].BackendObjectReference)
			}
		}
		return route.Spec.ParentRefs, route.Spec.Hostnames, backends
	case *gatewayv1.GRPCRoute:
		for i := range route.Spec.Rules {
			for j := range route.Spec.Rules[i].BackendRefs {
				backends = append(backends, route.Spec.Rules[i].BackendRefs[j].BackendObjectReference)
			}
		}
		return route.Spec.ParentRefs, route.Spec.Hostnames, backends
	}
	return nil, nil, nil
}

// patchStatuses puts the status of a route in the place of its earlier one, and
// counts it where it is attached. all is changed; before and after are
// the statuses without other routes.
func patchStatuses(ref ObjectRef, all, before, after []ObjectStatus) []ObjectStatus {
	patched := all
	at, had := slices.BinarySearchFunc(patched, ref, func(s ObjectStatus, ref ObjectRef) int { return compareRefs(s.Object, ref) })
	now, has := slices.BinarySearchFunc(after, ref, func(s ObjectStatus, ref ObjectRef) int { return compareRefs(s.Object, ref) })
	switch {
	case had && has:
		patched[at] = after[now]
	case had:
		patched = slices.Delete(patched, at, at+1)
	case has:
		patched = slices.Insert(patched, at, after[now])
	}
	for i := range after {
		gateway := &after[i]
		if len(gateway.Listeners) == 0 {
			continue
		}
		was, _ := slices.BinarySearchFunc(before, gateway.Object, func(s ObjectStatus, ref ObjectRef) int { return compareRefs(s.Object, ref) })
		whole, _ := slices.BinarySearchFunc(patched, gateway.Object, func(s ObjectStatus, ref ObjectRef) int { return compareRefs(s.Object, ref) })
		listeners := slices.Clone(patched[whole].Listeners)
		for j := range listeners {
			listeners[j].AttachedRoutes += gateway.Listeners[j].AttachedRoutes - before[was].Listeners[j].AttachedRoutes
		}
		patched[whole].Listeners = listeners
	}
	return patched
}

// uncounted are statuses but that of one object, without how many routes are
// attached.
func uncounted(ref ObjectRef, statuses []ObjectStatus) []ObjectStatus {
	others := slices.DeleteFunc(slices.Clone(statuses), func(s ObjectStatus) bool { return s.Object == ref })
	for i := range others {
		others[i].Listeners = slices.Clone(others[i].Listeners)
		for j := range others[i].Listeners {
			others[i].Listeners[j].AttachedRoutes = 0
		}
	}
	return others
}

// ofRoute are the routes that an object makes.
func ofRoute(ref ObjectRef, routes []Route) []Route {
	var own []Route
	for i := range routes {
		if routes[i].Origin.Object == ref {
			own = append(own, routes[i])
		}
	}
	return own
}

// others are the problems of other objects.
func others(ref ObjectRef, problems Problems) Problems {
	return slices.DeleteFunc(slices.Clone(problems), func(p Problem) bool { return p.Object == ref })
}

// conflicts reports whether a route hides others, or others it.
func conflicts(ref ObjectRef, problems Problems) bool {
	text := ""
	for i := range problems {
		if problems[i].Code != CodeRouteConflict {
			continue
		}
		if text == "" {
			text = ref.String()
		}
		if problems[i].Object == ref || strings.Contains(problems[i].Message, text) {
			return true
		}
	}
	return false
}
