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
	// Full counts inputs that were resolved as a whole.
	Full int
}

// maxRoutesPatched is how many changed routes are put in place one by one.
const maxRoutesPatched = 16

// Resolve is what the function Resolve returns; the caller does not change it.
func (r *Resolver) Resolve(input Input) (*Plan, Problems) {
	if changed, ok := r.changedRoutes(input); ok {
		plan, problems, patched := r.plan, r.problems, true
		for _, at := range changed {
			if plan, problems, patched = r.patch(plan, problems, r.input.Objects[at], input.Objects[at]); !patched {
				break
			}
			r.byRef[input.Objects[at].Ref] = input.Objects[at]
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
	r.byRef, r.targets, r.mixed, r.rest = make(map[ObjectRef]*Object, len(input.Objects)), map[ObjectRef][]*Object{}, map[ObjectRef]bool{}, nil
	for _, object := range input.Objects {
		r.byRef[object.Ref] = object
		if isRoute(object.Ref.Kind) {
			continue
		}
		toRoute := false
		targets := targetRefsOf(object)
		for _, target := range targets {
			ref := target.ref(object)
			if !isRoute(ref.Kind) {
				continue
			}
			toRoute = true
			r.targets[ref] = append(r.targets[ref], object)
			if len(targets) > 1 {
				r.mixed[ref] = true
			}
		}
		if !toRoute {
			r.rest = append(r.rest, object)
		}
	}
}

func fleetsOf(input Input) map[ObjectRef]string {
	fleets := map[ObjectRef]string{}
	for _, object := range input.Objects {
		if input.FleetOf != nil && object.Ref.Kind == "Gateway" {
			fleets[object.Ref] = input.FleetOf(object.Ref)
		}
	}
	return fleets
}

// changedRoutes are the places of the objects that differ from the last input,
// if they are a few routes and nothing else.
func (r *Resolver) changedRoutes(input Input) ([]int, bool) {
	if r.plan == nil || len(input.Objects) != len(r.input.Objects) || len(r.byRef) != len(input.Objects) ||
		len(input.Closings)+len(r.input.Closings) > 0 || (input.FleetOf == nil) != (r.input.FleetOf == nil) {
		return nil, false
	}
	var changed []int
	for i, object := range input.Objects {
		before := r.input.Objects[i]
		if object == before {
			continue
		}
		if object.Ref != before.Ref || object.File != before.File || object.line != before.line || len(changed) == maxRoutesPatched ||
			(object.Ref.Kind != "HTTPRoute" && object.Ref.Kind != "GRPCRoute") || r.mixed[object.Ref] ||
			comparePrecedence(object, before) != 0 {
			return nil, false
		}
		changed = append(changed, i)
	}
	return changed, len(changed) == 0 || reflect.DeepEqual(fleetsOf(input), r.fleets)
}

// patch puts what a route makes of a Plan in the place of what it made before. It
// resolves the two versions, each as the only route there is: where they differ
// in nothing but their own routes, nothing else of the Plan differs.
func (r *Resolver) patch(plan *Plan, problems Problems, before, after *Object) (*Plan, Problems, bool) {
	ref := after.Ref
	text := ref.String()
	for _, problem := range problems {
		if problem.Code == CodeRouteConflict && (problem.Object == ref || strings.Contains(problem.Message, text)) {
			return nil, nil, false // It hides others, or others it.
		}
	}
	alone := func(object *Object) (*Plan, Problems) {
		objects := slices.Concat(r.rest, r.targets[ref], []*Object{object})
		return Resolve(Input{Objects: objects, FleetOf: r.input.FleetOf})
	}
	oldPlan, oldProblems := alone(before)
	newPlan, newProblems := alone(after)
	if !sameBeside(ref, oldPlan, newPlan) || !slices.Equal(others(ref, oldProblems), others(ref, newProblems)) {
		return nil, nil, false
	}
	patched := *plan
	patched.Ports = slices.Clone(plan.Ports)
	for i := range patched.Ports {
		if !r.patchPort(ref, after, &patched.Ports[i], &oldPlan.Ports[i], &newPlan.Ports[i]) {
			return nil, nil, false
		}
	}
	patched.AuthRoutes = patchAuth(plan.AuthRoutes, oldPlan.AuthRoutes, newPlan.AuthRoutes)
	patched.Statuses = slices.Clone(plan.Statuses)
	at := slices.IndexFunc(patched.Statuses, func(s ObjectStatus) bool { return s.Object == ref })
	now := slices.IndexFunc(newPlan.Statuses, func(s ObjectStatus) bool { return s.Object == ref })
	if (at < 0) != (now < 0) {
		return nil, nil, false
	}
	if at >= 0 {
		patched.Statuses[at] = newPlan.Statuses[now]
	}
	return &patched, patchProblems(ref, problems, newProblems), true
}

// sameBeside reports whether two Plans differ in nothing but the routes of an
// object, who may call them, and the object's status.
func sameBeside(ref ObjectRef, a, b *Plan) bool {
	strip := func(plan *Plan) *Plan {
		bare := *plan
		bare.Digest, bare.AuthRoutes = "", nil
		bare.Statuses = slices.DeleteFunc(slices.Clone(plan.Statuses), func(s ObjectStatus) bool { return s.Object == ref })
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

func others(ref ObjectRef, problems Problems) Problems {
	return slices.DeleteFunc(slices.Clone(problems), func(p Problem) bool { return p.Object == ref })
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
func (r *Resolver) patchPort(ref ObjectRef, object *Object, port, before, after *Port) bool {
	if port.Number != after.Number || port.Fleet != after.Fleet {
		return false
	}
	for j := range after.Chains {
		for k := range after.Chains[j].Hosts {
			old, now := &before.Chains[j].Hosts[k], &after.Chains[j].Hosts[k]
			if len(old.Routes)+len(now.Routes) == 0 {
				continue
			}
			c := slices.IndexFunc(port.Chains, func(chain Chain) bool { return chain.Name == after.Chains[j].Name })
			if c < 0 || hasFallbacks(port.Chains[c].Hosts) {
				return false
			}
			h := slices.IndexFunc(port.Chains[c].Hosts, func(host Host) bool { return host.Name == now.Name })
			if h < 0 {
				return false
			}
			routes, ok := r.patchRoutes(ref, object, port.Chains[c].Hosts[h].Routes, len(old.Routes), now.Routes)
			if !ok {
				return false
			}
			port.Chains = slices.Clone(port.Chains)
			port.Chains[c].Hosts = slices.Clone(port.Chains[c].Hosts)
			port.Chains[c].Hosts[h].Routes = routes
		}
	}
	return true
}

// hasFallbacks reports whether routes of one host may be repeated under others.
func hasFallbacks(hosts []Host) bool {
	return len(hosts) > 1 && slices.ContainsFunc(hosts, func(host Host) bool { return strings.HasPrefix(host.Name, "*") })
}

func (r *Resolver) patchRoutes(ref ObjectRef, object *Object, all []Route, count int, now []Route) ([]Route, bool) {
	patched := make([]Route, 0, len(all)+len(now))
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
		patched = append(patched, all[i])
	}
	if count != 0 {
		return nil, false
	}
	precedence := resolver{byRef: r.byRef}
	was := r.byRef[ref]
	r.byRef[ref] = object
	defer func() { r.byRef[ref] = was }()
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
