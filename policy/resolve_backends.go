package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

func (r *resolver) weighted(rule *ruleSource) []WeightedBackend {
	var backends []WeightedBackend
	for i, ref := range rule.refs {
		weight := uint32(1)
		if ref.Weight != nil {
			weight = uint32(*ref.Weight) //nolint:gosec // validated to be 0 to 1000000
		}
		if weight == 0 {
			continue
		}
		id := r.backendFor(rule, fmt.Sprintf("%s.backendRefs[%d]", rule.field(), i), ref)
		backends = append(backends, WeightedBackend{Backend: id, Weight: weight})
	}
	return backends
}

// backendState is a Backend while resolving.
type backendState struct {
	backend *Backend
	used    bool
	// noREST says why requests of HTTPRoutes cannot be sent there.
	noREST string
}

// backendFor is the id of the Backend that a reference names, or "" when it
// does not resolve.
func (r *resolver) backendFor(rule *ruleSource, field string, ref gatewayv1.BackendRef) string {
	to := ObjectRef{Kind: v1alpha1.KindBackend, Namespace: rule.object.Ref.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil {
		to.Namespace = string(*ref.Namespace)
	}
	if !r.granted(rule.object.Ref, to) {
		problem := notGranted(rule.object, field+".namespace", to)
		problem.Message += "; its share of requests is answered with 500"
		r.report(problem)
		return ""
	}
	id := to.Namespace + "/" + to.Name
	state := r.resolveBackend(to.Namespace, to.Name)
	if state == nil {
		r.report(rule.object.problem(CodeRefNotFound, field+".name", fmt.Sprintf("there is no Backend %s; its share of requests is answered with 500", id)))
		return ""
	}
	if !rule.grpc && state.noREST != "" {
		r.report(rule.object.problem(CodeRefNotFound, field+".name", fmt.Sprintf("Backend %s cannot serve REST: %s; its share of requests is answered with 500", id, state.noREST)))
		return ""
	}
	state.used = true
	return id
}

func (r *resolver) resolveBackend(namespace, name string) *backendState {
	id := namespace + "/" + name
	if state, ok := r.backends[id]; ok {
		return state
	}
	object, ok := r.byRef[ObjectRef{Kind: v1alpha1.KindBackend, Namespace: namespace, Name: name}]
	if !ok {
		return nil
	}
	value, ok := object.Value.(*v1alpha1.Backend)
	if !ok {
		return nil
	}
	state := &backendState{backend: &Backend{
		ID: id, Protocol: cmp.Or(value.Spec.Protocol, v1alpha1.ProtocolHTTP), Endpoints: value.Spec.Endpoints, Origin: object.Origin(""),
	}}
	if tls := value.Spec.TLS; tls != nil {
		state.backend.SPIFFEID, state.backend.Hostname = tls.SPIFFEID, tls.Hostname
	}
	if spec := value.Spec.Transcoding; spec != nil {
		transcoding, err := r.transcoding(namespace, spec)
		if err != nil {
			state.noREST = err.Error()
			r.report(object.problem(CodeRefNotFound, "spec.transcoding.descriptorSetRef", err.Error()))
		}
		state.backend.Transcoding = transcoding
	}
	r.backends[id] = state
	return state
}

func (r *resolver) usedBackends() []Backend {
	var backends []Backend
	for _, id := range slices.Sorted(maps.Keys(r.backends)) {
		if r.backends[id].used {
			backends = append(backends, *r.backends[id].backend)
		}
	}
	return backends
}
