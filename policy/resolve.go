package policy

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/kit/limitexpr"
	"weir.dev/policy/v1alpha1"
)

// Names by which a GatewayClass belongs to Weir.
const (
	ControllerName = "weir.dev/gateway-controller"
	// DefaultClass is Weir's even when no GatewayClass object says so.
	DefaultClass = "weir"
)

// Input is everything that a Plan is made from. Order does not matter.
type Input struct {
	Objects []*Object
	// Closings are broken AuthPolicies that have no good earlier version.
	Closings []Closing
	// FleetOf names the proxies that serve a Gateway; nil stands for one fleet,
	// "", that serves all. Gateways of different fleets may share ports.
	FleetOf func(gateway ObjectRef) string
	// Published are the addresses, IP addresses in their shortest form or DNS names,
	// at which clients reach the proxies, where that is not where the proxies bind.
	// None has listeners bind to what Gateways ask for.
	Published []string
	// Provisioned says that each Gateway is given proxies and an address of its own,
	// as its spec.infrastructure and spec.addresses ask: nothing binds to these.
	Provisioned bool
}

// Resolve attaches routes to listeners and policies to routes, settles
// precedence, follows references and returns the Plan with everything worth
// saying about it. It always returns a Plan: what cannot be resolved is left
// out, answered with 500 (backends, as the Gateway API asks) or refused
// (authentication), and reported. Equal inputs give equal Plans.
func Resolve(input Input) (*Plan, Problems) {
	r := &resolver{
		byRef:       map[ObjectRef]*Object{},
		classes:     map[string]bool{DefaultClass: true},
		states:      map[string]*backendState{},
		variants:    map[string]*Backend{},
		identities:  map[ObjectRef]*gatewayIdentity{},
		refFailures: map[ObjectRef]refFailure{},
		authIDs:     map[string]bool{},
		logins:      map[string][]*loginWay{},
		reported:    map[Problem]bool{},
		fleetOf:     input.FleetOf,
		published:   input.Published,
		provisioned: input.Provisioned,
		statuses:    map[ObjectRef]*ObjectStatus{},
		gateways:    map[ObjectRef]bool{},
		unusables:   map[ObjectRef]unusable{},
		secrets:     map[string]*Secret{},
	}
	r.index(input.Objects)
	r.indexGrants()
	r.indexTLSPolicies()
	r.splitClosings(input.Closings)
	r.indexPolicies()
	ports := r.ports()
	plan := &Plan{
		Ports:      r.routes(ports),
		Consumers:  r.consumers(),
		AuthRoutes: r.authRoutes,
		RateLimits: r.rateLimitRules(),
	}
	plan.Infrastructure = r.infrastructures()
	plan.Backends = r.usedBackends()
	plan.Secrets = r.usedSecrets(plan.Ports, plan.Backends)
	r.policyOutcomes()
	r.tlsPolicyStatuses()
	r.policyTargets()
	slices.SortFunc(plan.AuthRoutes, func(a, b *authRoute) int { return cmp.Compare(a.GetRouteId(), b.GetRouteId()) })
	plan.Digest = digestPlan(plan)
	plan.Statuses = r.sortedStatuses()
	r.problems.Sort()
	return plan, r.problems
}

type resolver struct {
	objects []*Object
	// limitExpressions is nil until a limit has one.
	limitExpressions *limitexpr.Environment
	byRef            map[ObjectRef]*Object
	classes          map[string]bool
	// states are the backends looked up, variants those with settings of their
	// own, by id.
	states         map[string]*backendState
	variants       map[string]*Backend
	refFailures    map[ObjectRef]refFailure
	tlsPolicies    map[targetKey][]*tlsPolicyState
	allTLSPolicies []*tlsPolicyState
	endpointSlices map[string][]typed[*discoveryv1.EndpointSlice]
	closings       []Closing
	policies       policyIndex
	authRoutes     []*authRoute
	authIDs        map[string]bool
	// logins that protect a route, by the route's AuthRoute.
	logins     map[string][]*loginWay
	limitRules map[string]*limitRule
	grants     map[grantKey]bool
	fleetOf    func(ObjectRef) string
	published  []string
	// provisioned is Input's.
	provisioned bool
	statuses   map[ObjectRef]*ObjectStatus
	// gateways of Weir's classes; allListeners are theirs, in order of precedence.
	gateways     map[ObjectRef]bool
	unusables    map[ObjectRef]unusable
	allListeners []*listener
	secrets      map[string]*Secret
	tlsClosings  []Closing
	// identities are what Gateways present to backends.
	identities map[ObjectRef]*gatewayIdentity
	// backendClosings are broken BackendTLSPolicies.
	backendClosings []Closing
	problems        Problems
	// reported are those of reportOnce.
	reported map[Problem]bool
}

func (r *resolver) report(problems ...Problem) { r.problems = append(r.problems, problems...) }

// reportOnce reports what several routes may come across.
func (r *resolver) reportOnce(problem Problem) {
	if !r.reported[problem] {
		r.reported[problem] = true
		r.report(problem)
	}
}

// index keeps the first of equal objects by file and line.
func (r *resolver) index(objects []*Object) {
	sorted := slices.Clone(objects)
	slices.SortStableFunc(sorted, func(a, b *Object) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.line, b.line))
	})
	for _, object := range sorted {
		if first, ok := r.byRef[object.Ref]; ok {
			r.report(object.problem(CodeDuplicateObject, "metadata.name",
				"is already defined at "+first.place()+"; this one is ignored"))
			continue
		}
		r.byRef[object.Ref] = object
		r.objects = append(r.objects, object)
		if class, ok := object.Value.(*gatewayv1.GatewayClass); ok && class.Spec.ControllerName == ControllerName {
			r.classes[class.Name] = true
		}
	}
}

// ofType lists the objects of one type in order of age, then namespace and
// name: the order of precedence that the Gateway API and GEP-713 prescribe.
func ofType[T any](r *resolver) []typed[T] {
	var found []typed[T]
	for _, object := range r.objects {
		if value, ok := object.Value.(T); ok {
			found = append(found, typed[T]{object, value})
		}
	}
	slices.SortStableFunc(found, func(a, b typed[T]) int { return comparePrecedence(a.object, b.object) })
	return found
}

type typed[T any] struct {
	object *Object
	value  T
}

func comparePrecedence(a, b *Object) int {
	return cmp.Or(
		a.Value.GetCreationTimestamp().Compare(b.Value.GetCreationTimestamp().Time),
		cmp.Compare(a.Ref.Namespace, b.Ref.Namespace),
		cmp.Compare(a.Ref.Name, b.Ref.Name),
		cmp.Compare(a.Ref.Kind, b.Ref.Kind))
}

// configMapValue reads a key of a ConfigMap, text or binary.
func (r *resolver) configMapValue(namespace string, ref v1alpha1.ConfigMapKeyRef) ([]byte, error) {
	object, ok := r.byRef[ObjectRef{Kind: "ConfigMap", Namespace: namespace, Name: ref.Name}]
	if !ok {
		return nil, fmt.Errorf("there is no ConfigMap %s/%s", namespace, ref.Name)
	}
	value, ok := object.Value.(*corev1.ConfigMap)
	if !ok {
		return nil, fmt.Errorf("%s is not a ConfigMap", object.Ref)
	}
	if text, ok := value.Data[ref.Key]; ok {
		return []byte(text), nil
	}
	if raw, ok := value.BinaryData[ref.Key]; ok {
		return raw, nil
	}
	return nil, fmt.Errorf("ConfigMap %s/%s has no key %q", namespace, ref.Name, ref.Key)
}
