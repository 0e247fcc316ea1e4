package policy

import (
	"reflect"
	"slices"
	"strings"
)

// Resolver resolves inputs that follow each other. Where all that changed is a few
// routes, and in a way that leaves others alone, what they make of the Plan is
// put in the place of what they made before; else everything is resolved anew.
// Plans and problems are those of Resolve. Not safe for concurrent use; the zero
// value is ready.
type Resolver struct {
	input    Input
	fleets   map[ObjectRef]string
	byRef    map[ObjectRef]*Object
	plan     *Plan
	problems Problems
	// rest is everything but routes and policies that target routes; targets are
	// those policies by the route. mixed holds the routes whose policies have more
	// targets than one.
	rest    []*Object
	targets map[ObjectRef][]*Object
	mixed   map[ObjectRef]bool
	// opaque is set where no change can be told to leave others alone.
	opaque bool
	// owned are the hosts whose routes are a copy that no Plan handed out has, by the
	// places of port, chain and host; ownStatuses says so of the statuses.
	owned       map[[3]int]bool
	ownStatuses bool
	// Full counts inputs that were resolved as a whole.
	Full int
}

// maxRoutesPatched is how many changed routes are put in place one by one.
const maxRoutesPatched = 64

// Resolve is what the function Resolve returns; the caller does not change it.
func (r *Resolver) Resolve(input Input) (*Plan, Problems) {
	if changed, ok := r.changedRoutes(input); ok {
		plan, problems, patched := r.plan, r.problems, true
		r.owned, r.ownStatuses = map[[3]int]bool{}, false
		for _, change := range changed {
			if plan, problems, patched = r.patch(plan, problems, change); !patched {
				break
			}
			r.put(change.object().Ref, change.after)
		}
		if patched {
			if plan != r.plan {
				plan.Digest = digestPlan(plan)
			}
			r.input, r.plan, r.problems = input, plan, problems
			return plan, problems
		}
	}
	r.Full++
	r.plan, r.problems = Resolve(input)
	r.index(input)
	return r.plan, r.problems
}

func isRoute(kind string) bool {
	return kind == "HTTPRoute" || kind == "GRPCRoute" || kind == "TLSRoute"
}

func (r *Resolver) index(input Input) {
	r.input, r.fleets = input, fleetsOf(input)
	r.byRef, r.targets, r.mixed, r.rest, r.opaque = make(map[ObjectRef]*Object, len(input.Objects)), map[ObjectRef][]*Object{}, map[ObjectRef]bool{}, nil, false
	for _, object := range input.Objects {
		r.byRef[object.Ref] = object
	}
	for _, object := range input.Objects {
		if !isRoute(object.Ref.Kind) {
			r.indexTargets(object)
		}
	}
}

// indexTargets puts an object with the routes that it targets, or with the rest. A
// policy whose target is not there closes other routes, so it is of the rest; with
// more targets it cannot be told what it does to which.
func (r *Resolver) indexTargets(object *Object) {
	targets := targetRefsOf(object)
	toRoute, missing := false, false
	for _, target := range targets {
		ref := target.ref(object)
		if isRoute(ref.Kind) {
			toRoute, missing = true, missing || r.byRef[ref] == nil
		}
	}
	if !toRoute || missing {
		r.opaque = r.opaque || missing && len(targets) > 1
		r.rest = append(r.rest, object)
		return
	}
	for _, target := range targets {
		if ref := target.ref(object); isRoute(ref.Kind) {
			r.targets[ref] = append(r.targets[ref], object)
			if len(targets) > 1 {
				r.mixed[ref] = true
			}
		}
	}
}

func fleetsOf(input Input) map[ObjectRef]string {
	fleets := map[ObjectRef]string{}
	for _, object := range input.Objects {
		if input.FleetOf != nil && object.Ref.Kind == kindGateway {
			fleets[object.Ref] = input.FleetOf(object.Ref)
		}
	}
	return fleets
}

// put notes the version of a route at hand, nil for none.
func (r *Resolver) put(ref ObjectRef, object *Object) {
	if object == nil {
		delete(r.byRef, ref)
		return
	}
	r.byRef[ref] = object
}

// patch puts what a route makes of a Plan in the place of what it made before. It
// resolves the two versions, each as the only route there is, but for a companion
// where there is only one: where they differ in nothing but their own routes,
// nothing else of the Plan differs.
func (r *Resolver) patch(plan *Plan, problems Problems, change routeChange) (*Plan, Problems, bool) {
	ref := change.object().Ref
	if conflicts(ref, problems) {
		return nil, nil, false
	}
	beside := slices.Concat(r.rest, r.targets[ref])
	if change.before == nil || change.after == nil {
		companion := r.companion(change.object())
		if companion == nil {
			return nil, nil, false
		}
		beside = append(beside, companion)
	}
	alone := func(object *Object) (*Plan, Problems) {
		objects := beside
		if object != nil {
			objects = append(slices.Clone(beside), object)
		}
		return Resolve(Input{Objects: objects, FleetOf: r.input.FleetOf, Published: r.input.Published, Provisioned: r.input.Provisioned})
	}
	oldPlan, oldProblems := alone(change.before)
	newPlan, newProblems := alone(change.after)
	if !sameBeside(ref, oldPlan, newPlan) || !slices.Equal(others(ref, oldProblems), others(ref, newProblems)) {
		return nil, nil, false
	}
	patched := *plan
	patched.Ports = slices.Clone(plan.Ports)
	for i := range patched.Ports {
		if !r.patchPort(ref, change.after, i, &patched.Ports[i], &oldPlan.Ports[i], &newPlan.Ports[i]) {
			return nil, nil, false
		}
	}
	patched.AuthRoutes = patchAuth(plan.AuthRoutes, oldPlan.AuthRoutes, newPlan.AuthRoutes)
	if !r.ownStatuses {
		patched.Statuses, r.ownStatuses = slices.Clone(plan.Statuses), true
	}
	patched.Statuses = patchStatuses(ref, patched.Statuses, oldPlan.Statuses, newPlan.Statuses)
	return &patched, patchProblems(ref, problems, newProblems), true
}

// sameBeside reports whether two Plans differ in nothing but the routes of an
// object, who may call them, and the object's status.
func sameBeside(ref ObjectRef, a, b *Plan) bool {
	strip := func(plan *Plan) *Plan {
		bare := *plan
		bare.Digest, bare.AuthRoutes = "", nil
		bare.Statuses = uncounted(ref, plan.Statuses)
		bare.Ports = slices.Clone(plan.Ports)
		for i := range bare.Ports {
			bare.Ports[i].Chains = slices.Clone(bare.Ports[i].Chains)
			for j := range bare.Ports[i].Chains {
				chain := &bare.Ports[i].Chains[j]
				chain.Hosts = slices.Clone(chain.Hosts)
				for k := range chain.Hosts {
					chain.Hosts[k].Routes = nil
				}
			}
		}
		return &bare
	}
	return reflect.DeepEqual(strip(a), strip(b))
}

func patchProblems(ref ObjectRef, problems, now Problems) Problems {
	own := problemsOf(ref, now)
	if slices.Equal(own, problemsOf(ref, problems)) {
		return problems
	}
	patched := append(others(ref, problems), own...)
	patched.Sort()
	return patched
}

func problemsOf(ref ObjectRef, problems Problems) Problems {
	var own Problems
	for i := range problems {
		if problems[i].Object == ref {
			own = append(own, problems[i])
		}
	}
	return own
}

func patchAuth(all, before, after []*authRoute) []*authRoute {
	if len(before)+len(after) == 0 {
		return all
	}
	gone := map[string]bool{}
	for _, route := range before {
		gone[route.GetRouteId()] = true
	}
	patched := make([]*authRoute, 0, len(all)+len(after))
	for _, route := range all {
		if !gone[route.GetRouteId()] {
			patched = append(patched, route)
		}
	}
	for _, route := range after {
		at, _ := slices.BinarySearchFunc(patched, route.GetRouteId(), func(r *authRoute, id string) int { return strings.Compare(r.GetRouteId(), id) })
		patched = slices.Insert(patched, at, route)
	}
	return patched
}

// patchPort patches the hosts that the route is on. before and after are the
// port's in the Plans of the route alone.
func (r *Resolver) patchPort(ref ObjectRef, object *Object, number int, port, before, after *Port) bool {
	if port.Number != after.Number || port.Fleet != after.Fleet {
		return false
	}
	for j := range after.Chains {
		for k := range after.Chains[j].Hosts {
			name := after.Chains[j].Hosts[k].Name
			old, now := ofRoute(ref, before.Chains[j].Hosts[k].Routes), ofRoute(ref, after.Chains[j].Hosts[k].Routes)
			if len(old)+len(now) == 0 {
				continue
			}
			c := slices.IndexFunc(port.Chains, func(chain Chain) bool { return chain.Name == after.Chains[j].Name })
			if c < 0 || hasFallbacks(port.Chains[c].Hosts) {
				return false
			}
			h := slices.IndexFunc(port.Chains[c].Hosts, func(host Host) bool { return host.Name == name })
			if h < 0 {
				return false
			}
			all := port.Chains[c].Hosts[h].Routes
			if place := [3]int{number, c, h}; !r.owned[place] {
				all = append(make([]Route, 0, len(all)+maxRoutesPatched), all...)
				port.Chains = slices.Clone(port.Chains)
				port.Chains[c].Hosts = slices.Clone(port.Chains[c].Hosts)
				r.owned[place] = true
			}
			routes, ok := r.patchRoutes(ref, object, all, len(old), now)
			if !ok {
				return false
			}
			port.Chains[c].Hosts[h].Routes = routes
		}
	}
	return true
}

// hasFallbacks reports whether routes of one host may be repeated under others.
func hasFallbacks(hosts []Host) bool {
	return len(hosts) > 1 && slices.ContainsFunc(hosts, func(host Host) bool { return strings.HasPrefix(host.Name, "*") })
}

// without is slices.DeleteFunc, but for copying each route to ask for its origin.
func without(all []Route, ref ObjectRef) []Route {
	kept := 0
	for i := range all {
		if all[i].Origin.Object == ref {
			continue
		}
		if kept != i {
			all[kept] = all[i]
		}
		kept++
	}
	clear(all[kept:])
	return all[:kept]
}

// patchRoutes changes all, which is the caller's own.
func (r *Resolver) patchRoutes(ref ObjectRef, object *Object, all []Route, count int, now []Route) ([]Route, bool) {
	for i := range all {
		if all[i].Origin.Object == ref {
			count--
			continue
		}
		for j := range now {
			if all[i].Match.Path == now[j].Match.Path && reflect.DeepEqual(all[i].Match, now[j].Match) {
				return nil, false // One would hide the other.
			}
		}
	}
	if count != 0 {
		return nil, false
	}
	patched := without(all, ref)
	precedence := resolver{byRef: r.byRef}
	was := r.byRef[ref]
	r.put(ref, object)
	defer r.put(ref, was)
	for i := range now {
		at, _ := slices.BinarySearchFunc(patched, now[i], func(other, route Route) int {
			if order := precedence.compareRoutes(other, route); order != 0 {
				return order
			}
			return -1 // Its own earlier ones stay before it.
		})
		patched = slices.Insert(patched, at, now[i])
	}
	return patched, true
}
