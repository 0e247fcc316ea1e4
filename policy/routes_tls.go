package policy

import (
	"fmt"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// tlsRules are the rules of a TLSRoute; it has one.
func tlsRules(object *Object, spec *gatewayv1.TLSRouteSpec) []*ruleSource {
	rules := make([]*ruleSource, len(spec.Rules))
	for i := range spec.Rules {
		rule := &spec.Rules[i]
		// Like gRPC it needs no REST of its backends.
		source := &ruleSource{object: object, index: i, grpc: true, refs: rule.BackendRefs}
		if rule.Name != nil {
			source.name = string(*rule.Name)
		}
		rules[i] = source
	}
	return rules
}

// serveStream gives a server name to the first TLSRoute that asks for it.
func (r *resolver) serveStream(e *edge, l *listener, object *Object, name string, rules []*ruleSource) {
	if first, ok := e.streams[name]; ok {
		r.report(object.notice(CodeRouteConflict, "spec.hostnames", fmt.Sprintf(
			"never takes connections for %q on listener %s: %s has the same hostname and comes first", name, l.id(), first.route.Ref)))
		return
	}
	forward := &Forward{Origin: object.Origin("spec.rules[0]")}
	for _, rule := range rules {
		for i, backend := range r.weighted(rule) {
			if l.passthrough() && r.endsInTLS(backend.Backend) {
				r.report(object.problem(CodeBackendProtocol, fmt.Sprintf("%s.backendRefs[%d]", rule.field(), i), fmt.Sprintf(
					"Backend %s has tls, and what is passed through is encrypted already: remove tls, or end TLS on the listener; its share of connections is closed", backend.Backend)))
				backend.Backend = ""
			}
			forward.Backends = append(forward.Backends, backend)
		}
	}
	e.streams[name] = &stream{listener: l, route: object, forward: forward}
}

// endsInTLS reports whether connections to a Backend are encrypted by the edge.
func (r *resolver) endsInTLS(id string) bool {
	state, ok := r.backends[id]
	return ok && (state.backend.SPIFFEID != "" || state.backend.Hostname != "")
}

func (c *checker) tlsRoute(spec *gatewayv1.TLSRouteSpec) {
	c.common(spec.Hostnames, spec.ParentRefs, len(spec.Rules))
	c.unsupported(spec.UseDefaultGateways != "", "spec.useDefaultGateways")
	c.count("spec.hostnames", len(spec.Hostnames), 1, 64)
	c.count("spec.rules", len(spec.Rules), 1, 1)
	c.ruleNames(len(spec.Rules), func(i int) *gatewayv1.SectionName { return spec.Rules[i].Name })
	for i := range spec.Rules {
		rule := &spec.Rules[i]
		c.count(fmt.Sprintf("spec.rules[%d].backendRefs", i), len(rule.BackendRefs), 1, 16)
		for j := range rule.BackendRefs {
			c.backendRef(fmt.Sprintf("spec.rules[%d].backendRefs[%d]", i, j), &rule.BackendRefs[j])
		}
	}
}

// streamTLS is how a listener of protocol TLS ends TLS: without ALPN, which is
// between the client and the service.
func streamTLS(l *listener) *TLS {
	if l.tls == nil {
		return nil
	}
	tls := *l.tls
	tls.Protocols = []v1alpha1.HTTPProtocol(nil)
	return &tls
}
