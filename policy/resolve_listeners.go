package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// listener is one listener of an accepted Gateway.
type listener struct {
	gateway  *Object
	index    int
	name     string
	fleet    string
	port     int32
	hostname string
	kinds    []gatewayv1.RouteGroupKind
	fromAll  bool
}

func (l *listener) id() string {
	return l.gateway.Ref.Namespace + "/" + l.gateway.Ref.Name + "/" + l.name
}

// ports lists the listeners of Weir's Gateways. Of two that claim the same port
// and hostname, the older Gateway's wins.
func (r *resolver) ports() []*listener {
	var listeners []*listener
	taken := map[string]*listener{}
	for _, gateway := range ofType[*gatewayv1.Gateway](r) {
		spec := &gateway.value.Spec
		if !r.classes[string(spec.GatewayClassName)] {
			r.report(gateway.object.notice(CodeNotAttached, "spec.gatewayClassName",
				fmt.Sprintf("the class %q is not Weir's (known: %s), so this Gateway is left to others",
					string(spec.GatewayClassName), strings.Join(slices.Sorted(maps.Keys(r.classes)), ", "))))
			continue
		}
		for i := range spec.Listeners {
			l := newListener(gateway.object, i, &spec.Listeners[i])
			if r.fleetOf != nil {
				l.fleet = r.fleetOf(gateway.object.Ref)
			}
			place := fmt.Sprintf("%s/%d/%s", l.fleet, l.port, l.hostname)
			if other, ok := taken[place]; ok {
				r.report(gateway.object.problem(CodeListenerConflict, fmt.Sprintf("spec.listeners[%d]", i),
					fmt.Sprintf("port %d and hostname %q are already served for listener %s", l.port, l.hostname, other.id())))
				continue
			}
			taken[place] = l
			listeners = append(listeners, l)
		}
	}
	return listeners
}

func newListener(gateway *Object, index int, spec *gatewayv1.Listener) *listener {
	l := &listener{gateway: gateway, index: index, name: string(spec.Name), port: spec.Port}
	if spec.Hostname != nil {
		l.hostname = string(*spec.Hostname)
	}
	if allowed := spec.AllowedRoutes; allowed != nil {
		l.kinds = allowed.Kinds
		l.fromAll = allowed.Namespaces != nil && allowed.Namespaces.From != nil && *allowed.Namespaces.From == gatewayv1.NamespacesFromAll
	}
	return l
}

// allows reports whether a route object may attach.
func (l *listener) allows(route *Object) bool {
	if route.Ref.Namespace != l.gateway.Ref.Namespace && !l.fromAll {
		return false
	}
	if len(l.kinds) == 0 {
		return true
	}
	return slices.ContainsFunc(l.kinds, func(kind gatewayv1.RouteGroupKind) bool {
		return string(kind.Kind) == route.Ref.Kind && (kind.Group == nil || *kind.Group == gatewayv1.GroupName)
	})
}
