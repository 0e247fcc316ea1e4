package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// portKey is one port of one fleet, at some addresses.
type portKey struct {
	fleet  string
	number int32
	bind   string
}

func (k portKey) compare(other portKey) int {
	return cmp.Or(cmp.Compare(k.fleet, other.fleet), cmp.Compare(k.number, other.number), cmp.Compare(k.bind, other.bind))
}

func (l *listener) portKey() portKey { return portKey{l.fleet, l.port, strings.Join(l.bind, ",")} }

// edge is what a port's chains are gathered in.
type edge struct {
	listeners []*listener
	// hosts by chain and name.
	hosts map[string]map[string][]Route
	// loginPaths are those that logins answer, by listener, host and path.
	loginPaths map[string]*loginWay
	// streams by server name.
	streams map[string]*stream
}

// stream is what a TLSRoute makes of a server name.
type stream struct {
	listener *listener
	route    *Object
	forward  *Forward
}

// routes builds the chains of every port.
func (r *resolver) routes(listeners []*listener) []Port {
	edges := map[portKey]*edge{}
	for _, l := range listeners {
		e := edges[l.portKey()]
		if e == nil {
			e = &edge{hosts: map[string]map[string][]Route{}, loginPaths: map[string]*loginWay{}, streams: map[string]*stream{}}
			edges[l.portKey()] = e
		}
		e.listeners = append(e.listeners, l)
	}
	for _, route := range ofType[*gatewayv1.HTTPRoute](r) {
		spec := &route.value.Spec
		r.attach(route.object, edges, spec.ParentRefs, spec.Hostnames, httpRules(route.object, spec))
	}
	for _, route := range ofType[*gatewayv1.GRPCRoute](r) {
		spec := &route.value.Spec
		r.attach(route.object, edges, spec.ParentRefs, spec.Hostnames, grpcRules(route.object, spec))
	}
	for _, route := range ofType[*gatewayv1.TLSRoute](r) {
		spec := &route.value.Spec
		r.attach(route.object, edges, spec.ParentRefs, spec.Hostnames, tlsRules(route.object, spec))
	}
	var ports []Port
	for _, key := range slices.SortedFunc(maps.Keys(edges), portKey.compare) {
		first := edges[key].listeners[0]
		port := Port{Fleet: key.fleet, Number: key.number, Addresses: first.bind, Chains: r.chains(edges[key])}
		if len(first.bind) > 0 {
			port.Gateway = first.gateway.Ref.Namespace + "/" + first.gateway.Ref.Name
		}
		ports = append(ports, port)
	}
	r.gatewayStatuses()
	return ports
}

// attach adds the rules of a route to the listeners that its parents name.
func (r *resolver) attach(object *Object, edges map[portKey]*edge, parents []gatewayv1.ParentReference,
	hostnames []gatewayv1.Hostname, rules []*ruleSource,
) {
	names := []string{""}
	if len(hostnames) > 0 {
		names = names[:0]
		for _, name := range hostnames {
			names = append(names, string(name))
		}
	}
	open, done := false, map[string]bool{}
	var isolated []isolation
	for i, parent := range parents {
		verdict := &verdict{reason: gatewayv1.RouteReasonNoMatchingParent, message: "it has no listener of this sectionName and port"}
		for _, l := range r.allListeners {
			if !matchesParent(l, object, parent) || !verdict.consider(l, object) {
				continue
			}
			hosts := commonHosts(l.hostname, names)
			if len(hosts) == 0 {
				verdict.say(gatewayv1.RouteReasonNoMatchingListenerHostname, fmt.Sprintf("listener %q serves %q, and the route none of that", l.name, l.hostname))
				continue
			}
			l.attached[object.Ref] = true
			verdict.listeners = append(verdict.listeners, l.index)
			for _, host := range hosts {
				if done[l.id()+" "+host] { // two parents that name one listener
					continue
				}
				e := edges[l.portKey()]
				if owner := e.owner(host); owner != l {
					isolated = append(isolated, isolation{host: host, l: l, owner: owner})
					continue
				}
				done[l.id()+" "+host] = true
				unprotected := r.serve(e, l, object, host, rules)
				open = open || unprotected
			}
		}
		r.judge(object, i, parent, verdict)
		r.refsStatus(object, parent, rules)
	}
	for _, host := range isolated {
		if !done[host.owner.id()+" "+host.host] {
			r.report(object.notice(CodeIsolated, "spec.hostnames", fmt.Sprintf(
				"%q is not served on listener %s: that name belongs to listener %s, whose hostname is more specific", host.host, host.l.id(), host.owner.id())))
		}
	}
	if open {
		r.report(object.notice(CodeOpenRoute, "", "no AuthPolicy is attached to this route or its Gateway: anyone may call it"))
	}
}

// isolation is a host that a listener leaves to another one of its port
// (GatewaySpec.listeners, "Listener Isolation").
type isolation struct {
	host     string
	l, owner *listener
}

// serve adds the rules to one host of one listener. open is set when nothing says
// who may call.
func (r *resolver) serve(e *edge, l *listener, object *Object, host string, rules []*ruleSource) (open bool) {
	if l.protocol == gatewayv1.TLSProtocolType {
		r.serveStream(e, l, object, host, rules)
		return false
	}
	chain := l.chainName()
	if e.hosts[chain] == nil {
		e.hosts[chain] = map[string][]Route{}
	}
	for _, rule := range rules {
		built, unprotected := r.build(rule, l)
		open = open || unprotected
		e.hosts[chain][host] = append(e.hosts[chain][host], built...)
		e.hosts[chain][host] = append(e.hosts[chain][host], r.loginRoutes(e, l, host, built)...)
	}
	return open
}

// owner is the listener whose hostname is the most specific that covers a host;
// there is one, as the host is of some listener of the port.
func (e *edge) owner(host string) *listener {
	var owner *listener
	for _, l := range e.listeners {
		if hostCovers(l.hostname, host) && (owner == nil || len(l.hostname) > len(owner.hostname)) {
			owner = l
		}
	}
	return owner
}

// hostCovers reports whether a listener's hostname, "" for any, holds a host.
func hostCovers(listener, host string) bool {
	return listener == "" || listener == host || covers(listener, host)
}

// verdict is what becomes of a route at one parent.
type verdict struct {
	// listeners that take it, by their places in the parent.
	listeners []int
	rank      int
	reason    gatewayv1.RouteConditionReason
	message   string
}

// say notes a reason, unless a better one is known: the one that got furthest.
func (v *verdict) say(reason gatewayv1.RouteConditionReason, message string) {
	rank := slices.Index([]gatewayv1.RouteConditionReason{
		gatewayv1.RouteReasonNoMatchingParent, gatewayv1.RouteReasonNotAllowedByListeners, gatewayv1.RouteReasonNoMatchingListenerHostname,
	}, reason)
	if rank >= v.rank {
		v.rank, v.reason, v.message = rank, reason, message
	}
}

// consider reports whether a listener would take the route, whatever its
// hostnames.
func (v *verdict) consider(l *listener, route *Object) bool {
	switch {
	case l.refused != "":
		v.say(gatewayv1.RouteReasonNoMatchingParent, fmt.Sprintf("listener %q is not accepted: %s", l.name, l.refused))
	case route.Ref.Kind == "TLSRoute" && l.protocol != gatewayv1.TLSProtocolType:
		v.say(gatewayv1.RouteReasonNotAllowedByListeners, fmt.Sprintf("listener %q is of protocol %s, and a TLSRoute needs one of protocol TLS", l.name, l.protocol))
	case !l.takes(route.Ref.Kind):
		v.say(gatewayv1.RouteReasonNotAllowedByListeners, fmt.Sprintf("listener %q takes no %ss", l.name, route.Ref.Kind))
	case !l.namespaces(route.Ref.Namespace):
		v.say(gatewayv1.RouteReasonNotAllowedByListeners, fmt.Sprintf("listener %q takes no routes of namespace %q: see its allowedRoutes", l.name, route.Ref.Namespace))
	default:
		return true
	}
	return false
}

// judge reports a route that no listener of a parent takes, and writes status.
func (r *resolver) judge(object *Object, index int, parent gatewayv1.ParentReference, verdict *verdict) {
	gateway := parentOf(object, parent)
	known, taken := r.gateways[gateway], len(verdict.listeners) > 0
	if !taken {
		why := verdict.message
		if !known {
			why = fmt.Sprintf("there is no %s of a class of Weir's", gateway)
		}
		r.report(object.problem(CodeNotAttached, fmt.Sprintf("spec.parentRefs[%d]", index),
			fmt.Sprintf("no listener of %s %q takes this route: %s", gateway.Kind, string(parent.Name), why)))
	}
	if !known { // another controller's
		return
	}
	accepted := condition(gatewayv1.RouteConditionAccepted, true, gatewayv1.RouteReasonAccepted, "")
	if !taken {
		accepted = condition(gatewayv1.RouteConditionAccepted, false, verdict.reason, verdict.message)
	}
	status := r.status(object).parent(parent)
	status.Listeners = verdict.listeners
	SetCondition(&status.Conditions, accepted)
}

// parentOf is the Gateway or ListenerSet that a parentRef names.
func parentOf(route *Object, parent gatewayv1.ParentReference) ObjectRef {
	ref := ObjectRef{Kind: kindGateway, Namespace: route.Ref.Namespace, Name: string(parent.Name)}
	if parent.Kind != nil {
		ref.Kind = string(*parent.Kind)
	}
	if parent.Namespace != nil {
		ref.Namespace = string(*parent.Namespace)
	}
	return ref
}

func matchesParent(l *listener, route *Object, parent gatewayv1.ParentReference) bool {
	return l.holder().Ref == parentOf(route, parent) &&
		(parent.SectionName == nil || string(*parent.SectionName) == l.name) &&
		(parent.Port == nil || *parent.Port == l.port)
}

func commonHosts(listenerHost string, names []string) []string {
	var hosts []string
	for _, name := range names {
		if host, ok := intersect(listenerHost, name); ok {
			if host == "" {
				host = "*"
			}
			if !slices.Contains(hosts, host) {
				hosts = append(hosts, host)
			}
		}
	}
	return hosts
}

// intersect is the hostname that both a listener and a route serve: the more
// specific of the two when one covers the other. "" stands for every name.
func intersect(a, b string) (string, bool) {
	switch {
	case a == "" || a == b:
		return b, true
	case b == "":
		return a, true
	case covers(a, b):
		return b, true
	case covers(b, a):
		return a, true
	default:
		return "", false
	}
}

// covers reports whether the wildcard holds name, which may be a wildcard too.
func covers(wildcard, name string) bool {
	suffix, ok := strings.CutPrefix(wildcard, "*")
	return ok && strings.HasSuffix(name, suffix) && len(name) > len(suffix) && name != wildcard
}
