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
		source := &ruleSource{object: object, index: i, stream: true}
		if rule.Name != nil {
			source.name = string(*rule.Name)
		}
		for j := range rule.BackendRefs {
			source.addRef(&rule.BackendRefs[j], j, &Route{}, nil)
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
		if rule.backends == nil {
			rule.backends = r.lookUp(rule)
		}
		for i := range rule.backends.weighted {
			if state := rule.backends.weighted[i].state; l.passthrough() && state != nil && state.backend.TLS != nil {
				r.reportOnce(object.problem(CodeBackendProtocol, rule.field()+".backendRefs", fmt.Sprintf(
					"connections to %s are encrypted by the edge, and what is passed through is encrypted already; end TLS on the listener, or route to another one; its share of connections is closed", state.object.Ref)))
				rule.backends.weighted[i].state = nil
			}
		}
		var route Route
		r.backends(&route, rule, l, nil)
		forward.Backends = append(forward.Backends, route.Backends...)
	}
	e.streams[name] = &stream{listener: l, route: object, forward: forward}
}

func (c *checker) tlsRoute(spec *gatewayv1.TLSRouteSpec) {
	c.common(spec.Hostnames, spec.ParentRefs, len(spec.Rules))
	c.defaults(string(spec.UseDefaultGateways), "spec.useDefaultGateways")
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
func streamTLS(l *listener) *Termination {
	if l.tls == nil {
		return nil
	}
	tls := *l.tls
	tls.Protocols = []v1alpha1.HTTPProtocol(nil)
	return &tls
}
