package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// listener is one listener of a Gateway, or of a ListenerSet that adds to it.
type listener struct {
	gateway *Object
	// set is the ListenerSet that it is of; nil for the Gateway's own.
	set   *Object
	index int
	name  string
	fleet string
	port  int32
	// bind is where it is bound, see addressing.
	bind     []string
	hostname string
	protocol gatewayv1.ProtocolType
	spec     *gatewayv1.Listener
	// kinds of routes that may attach; namespaces whose routes may.
	kinds      []gatewayv1.RouteGroupKind
	namespaces func(name string) bool
	// refused says why nothing is served; empty for a listener that is.
	refused string
	// closed has connections ended at once: what they need is not there.
	closed bool
	tls    *Termination
	// routes that are attached.
	attached map[ObjectRef]bool
}

// id is "namespace/gateway/listener", or "namespace/listenerset:set/listener": no
// name can hold a colon.
func (l *listener) id() string {
	if l.set != nil {
		return l.set.Ref.Namespace + "/listenerset:" + l.set.Ref.Name + "/" + l.name
	}
	return l.gateway.Ref.Namespace + "/" + l.gateway.Ref.Name + "/" + l.name
}

// holder is the object that the listener is written in.
func (l *listener) holder() *Object { return cmp.Or(l.set, l.gateway) }

func (l *listener) field() string { return ListenerField(l.index) }

func (l *listener) origin() Origin { return l.holder().Origin(l.field()) }

// overTLS reports whether connections begin with a TLS handshake.
func (l *listener) overTLS() bool { return l.protocol != gatewayv1.HTTPProtocolType }

func (l *listener) passthrough() bool {
	return l.protocol == gatewayv1.TLSProtocolType && l.spec.TLS != nil && l.spec.TLS.Mode != nil &&
		*l.spec.TLS.Mode == gatewayv1.TLSModePassthrough
}

// ports lists the listeners of Weir's Gateways that are accepted.
func (r *resolver) ports() []*listener {
	r.classStatuses()
	var all []*listener
	for _, gateway := range ofType[*gatewayv1.Gateway](r) {
		spec := &gateway.value.Spec
		if !r.classes[string(spec.GatewayClassName)] {
			r.report(gateway.object.notice(CodeNotAttached, "spec.gatewayClassName",
				fmt.Sprintf("the class %q is not Weir's (known: %s), so this Gateway is left to others",
					string(spec.GatewayClassName), strings.Join(slices.Sorted(maps.Keys(r.classes)), ", "))))
			continue
		}
		r.gateways[gateway.object.Ref] = true
		bind, fault := r.unusable(gateway.object, spec)
		for i := range spec.Listeners {
			l := r.newListener(gateway.object, nil, i, &spec.Listeners[i])
			l.bind = bind
			if fault != "" {
				r.unaddressed(l, fault)
			}
			all = append(all, l)
		}
		r.unusables[gateway.object.Ref] = unusable{bind, fault}
	}
	all = append(all, r.listenerSets()...)
	settled := map[ObjectRef]bool{}
	byPort, served := map[portKey][]*listener{}, []*listener(nil)
	for _, l := range all { // Gateways in order of precedence, then their ListenerSets
		if settled[l.holder().Ref] {
			continue
		}
		settled[l.holder().Ref] = true
		served = r.settle(byPort, served, slices.DeleteFunc(slices.Clone(all), func(other *listener) bool { return other.holder() != l.holder() }))
	}
	r.allListeners = all
	var accepted []*listener
	for _, l := range all {
		if l.refused == "" {
			accepted = append(accepted, l)
		}
	}
	for _, l := range accepted {
		r.secure(l)
	}
	return accepted
}

// settle finds the conflicts of the listeners of one Gateway or ListenerSet with each other, which
// take all of them out (GatewaySpec.listeners, "Handling indistinct Listeners"),
// and with those of objects that come first, which stay.
func (r *resolver) settle(byPort map[portKey][]*listener, served, listeners []*listener) []*listener {
	type conflict struct {
		l, with *listener
		reason  gatewayv1.ListenerConditionReason
	}
	var conflicts []conflict
	for i, l := range listeners {
		if l.refused != "" {
			continue
		}
		for j, other := range listeners {
			if reason := conflictOf(l, other); i != j && other.refused == "" && reason != "" {
				conflicts = append(conflicts, conflict{l, other, reason})
				break
			}
		}
	}
	for _, found := range conflicts {
		r.conflicted(found.l, found.with, found.reason)
	}
	var mine []*listener
	for _, l := range listeners {
		if first := byPort[l.portKey()]; l.protocol == gatewayv1.TCPProtocolType && len(first) > 0 {
			// Not served in either case; that the port is taken is what can be changed.
			r.conflicted(l, first[0], gatewayv1.ListenerReasonProtocolConflict)
		}
		if l.refused != "" {
			continue
		}
		for _, first := range byPort[l.portKey()] {
			if reason := conflictOf(l, first); reason != "" {
				r.conflicted(l, first, reason)
				break
			}
		}
		for _, first := range served {
			if l.refused == "" && sharesAddress(l, first) {
				r.addressTaken(l, first)
			}
		}
		if l.refused == "" {
			mine = append(mine, l)
		}
	}
	for _, l := range mine {
		byPort[l.portKey()] = append(byPort[l.portKey()], l)
	}
	return append(served, mine...)
}

// conflictOf is why two listeners cannot both be served; empty when they can.
func conflictOf(a, b *listener) gatewayv1.ListenerConditionReason {
	switch {
	case a.portKey() != b.portKey():
		return ""
	case a.overTLS() != b.overTLS():
		return gatewayv1.ListenerReasonProtocolConflict
	case a.hostname != b.hostname:
		return ""
	case a.protocol != b.protocol:
		return gatewayv1.ListenerReasonProtocolConflict
	default:
		return gatewayv1.ListenerReasonHostnameConflict
	}
}

func (r *resolver) conflicted(l, with *listener, reason gatewayv1.ListenerConditionReason) {
	what := fmt.Sprintf("port %d and hostname %q are those of listener %s, too", l.port, l.hostname, with.id())
	if reason == gatewayv1.ListenerReasonProtocolConflict {
		what = fmt.Sprintf("protocol %s cannot share port %d with protocol %s of listener %s", l.protocol, l.port, with.protocol, with.id())
		if l.hostname != "" && l.overTLS() && with.overTLS() {
			what += fmt.Sprintf(" for the same hostname, %q", l.hostname)
		}
	}
	whose := "; the older Gateway's is served"
	switch {
	case with.holder() == l.holder():
		whose = "; neither is served"
	case l.set != nil:
		whose = "; that one comes first and is served"
	}
	l.refused = what + whose
	r.report(l.holder().problem(CodeListenerConflict, l.field(), l.refused))
	status := r.listenerStatus(l)
	SetCondition(&status.Conditions, condition(gatewayv1.ListenerConditionConflicted, true, reason, l.refused))
	SetCondition(&status.Conditions, condition(gatewayv1.ListenerConditionAccepted, false, reason, l.refused))
	if l.set == nil {
		reason = gatewayv1.ListenerReasonInvalid // The one that the standard has for Gateways' listeners.
	}
	SetCondition(&status.Conditions, condition(gatewayv1.ListenerConditionProgrammed, false, reason, l.refused))
}

func condition[T, R ~string](kind T, holds bool, reason R, message string) Condition {
	status := metav1.ConditionFalse
	if holds {
		status = metav1.ConditionTrue
	}
	return Condition{Type: string(kind), Status: status, Reason: string(reason), Message: message}
}

func (r *resolver) newListener(gateway, set *Object, index int, spec *gatewayv1.Listener) *listener {
	l := &listener{
		gateway: gateway, set: set, index: index, spec: spec, name: string(spec.Name), port: spec.Port, protocol: spec.Protocol,
		attached: map[ObjectRef]bool{},
	}
	if r.fleetOf != nil {
		l.fleet = r.fleetOf(gateway.Ref)
	}
	if spec.Hostname != nil {
		l.hostname = string(*spec.Hostname)
	}
	l.namespaces = r.namespacesOf(l)
	status := r.listenerStatus(l)
	SetCondition(&status.Conditions, condition(gatewayv1.ListenerConditionAccepted, true, gatewayv1.ListenerReasonAccepted, ""))
	SetCondition(&status.Conditions, condition(gatewayv1.ListenerConditionConflicted, false, gatewayv1.ListenerReasonNoConflicts, ""))
	SetCondition(&status.Conditions, condition(gatewayv1.ListenerConditionResolvedRefs, true, gatewayv1.ListenerReasonResolvedRefs, ""))
	served := servedKinds(spec.Protocol)
	if served == nil {
		l.refused = fmt.Sprintf("protocol %q is not served: write HTTP, HTTPS or TLS", string(spec.Protocol))
		r.report(l.holder().problem(CodeUnsupported, l.field()+".protocol", l.refused))
		SetCondition(&status.Conditions, condition(gatewayv1.ListenerConditionAccepted, false, gatewayv1.ListenerReasonUnsupportedProtocol, l.refused))
		SetCondition(&status.Conditions, condition(gatewayv1.ListenerConditionProgrammed, false, gatewayv1.ListenerReasonInvalid, l.refused))
		return l
	}
	l.kinds = r.kindsOf(l, served, status)
	status.SupportedKinds = l.kinds
	return l
}

// servedKinds are the kinds of routes for a protocol; nil for one that Weir does
// not serve.
func servedKinds(protocol gatewayv1.ProtocolType) []gatewayv1.RouteGroupKind {
	group := gatewayv1.Group(gatewayv1.GroupName)
	switch protocol {
	case gatewayv1.HTTPProtocolType, gatewayv1.HTTPSProtocolType:
		return []gatewayv1.RouteGroupKind{{Group: &group, Kind: "HTTPRoute"}, {Group: &group, Kind: "GRPCRoute"}}
	case gatewayv1.TLSProtocolType:
		return []gatewayv1.RouteGroupKind{{Group: &group, Kind: "TLSRoute"}}
	default:
		return nil
	}
}

// kindsOf are the served kinds that allowedRoutes names; it reports others.
func (r *resolver) kindsOf(l *listener, served []gatewayv1.RouteGroupKind, status *ListenerStatus) []gatewayv1.RouteGroupKind {
	if l.spec.AllowedRoutes == nil || len(l.spec.AllowedRoutes.Kinds) == 0 {
		return served
	}
	var kinds []gatewayv1.RouteGroupKind
	for i, kind := range l.spec.AllowedRoutes.Kinds {
		at := slices.IndexFunc(served, func(known gatewayv1.RouteGroupKind) bool {
			return known.Kind == kind.Kind && (kind.Group == nil || *kind.Group == gatewayv1.GroupName)
		})
		if at >= 0 {
			kinds = append(kinds, served[at])
			continue
		}
		message := fmt.Sprintf("routes of kind %q do not go with protocol %s", string(kind.Kind), l.protocol)
		r.report(l.holder().problem(CodeRouteKinds, fmt.Sprintf("%s.allowedRoutes.kinds[%d]", l.field(), i), message))
		SetCondition(&status.Conditions, condition(gatewayv1.ListenerConditionResolvedRefs, false, gatewayv1.ListenerReasonInvalidRouteKinds, message))
	}
	return kinds
}

// namespacesOf says whose routes a listener takes.
func (r *resolver) namespacesOf(l *listener) func(string) bool {
	from := gatewayv1.NamespacesFromSame
	allowed := l.spec.AllowedRoutes
	if allowed != nil && allowed.Namespaces != nil && allowed.Namespaces.From != nil {
		from = *allowed.Namespaces.From
	}
	switch from {
	case gatewayv1.NamespacesFromAll:
		return func(string) bool { return true }
	case gatewayv1.NamespacesFromSelector:
		selector, err := metav1.LabelSelectorAsSelector(allowed.Namespaces.Selector)
		if err != nil { // validated before
			selector = labels.Nothing()
		}
		return func(name string) bool { return selector.Matches(r.namespaceLabels(name)) }
	default:
		return func(name string) bool { return name == l.holder().Ref.Namespace }
	}
}

// namespaceLabels are those of the Namespace object, if there is one, and the one
// that Kubernetes gives every namespace.
func (r *resolver) namespaceLabels(name string) labels.Set {
	set := labels.Set{}
	if object, ok := r.byRef[ObjectRef{Kind: "Namespace", Namespace: DefaultNamespace, Name: name}]; ok {
		if namespace, ok := object.Value.(*corev1.Namespace); ok {
			maps.Copy(set, namespace.Labels)
		}
	}
	set[corev1.LabelMetadataName] = name
	return set
}

// takes reports whether routes of a kind may attach.
func (l *listener) takes(kind string) bool {
	return slices.ContainsFunc(l.kinds, func(known gatewayv1.RouteGroupKind) bool { return string(known.Kind) == kind })
}

// listenerStatus is the entry of a listener, made when first asked for.
func (r *resolver) listenerStatus(l *listener) *ListenerStatus {
	status := r.status(l.holder())
	for i := range status.Listeners {
		if status.Listeners[i].Name == l.name {
			return &status.Listeners[i]
		}
	}
	status.Listeners = append(status.Listeners, ListenerStatus{Name: l.name})
	return &status.Listeners[len(status.Listeners)-1]
}

func (r *resolver) classStatuses() {
	for _, class := range ofType[*gatewayv1.GatewayClass](r) {
		if class.value.Spec.ControllerName != ControllerName {
			continue
		}
		status := r.status(class.object)
		if class.value.Spec.ParametersRef != nil {
			message := "no kind of object is read as parameters of a class: settings are policies"
			r.report(class.object.problem(CodeUnsupported, "spec.parametersRef", message))
			SetCondition(&status.Conditions, condition(gatewayv1.GatewayClassConditionStatusAccepted, false, gatewayv1.GatewayClassReasonInvalidParameters, message))
			continue
		}
		SetCondition(&status.Conditions, condition(gatewayv1.GatewayClassConditionStatusAccepted, true, gatewayv1.GatewayClassReasonAccepted, ""))
	}
}

// gatewayStatuses sums up what became of the listeners.
func (r *resolver) gatewayStatuses() {
	refused := map[*Object][]string{}
	served := map[*Object]int{}
	for _, l := range r.allListeners {
		r.listenerStatus(l).AttachedRoutes = int32(len(l.attached)) //nolint:gosec // far fewer objects than that
		// What takes no connection makes a ListenerSet as invalid as what is refused.
		if l.refused != "" || l.set != nil && l.closed {
			refused[l.holder()] = append(refused[l.holder()], l.name)
		} else {
			served[l.holder()]++
		}
	}
	for _, gateway := range ofType[*gatewayv1.Gateway](r) {
		if !r.gateways[gateway.object.Ref] {
			continue
		}
		accepted := condition(gatewayv1.GatewayConditionAccepted, true, gatewayv1.GatewayReasonAccepted, "")
		if r.unusables[gateway.object.Ref].fault != "" { // Which says so itself.
			continue
		}
		if names := refused[gateway.object]; len(names) > 0 {
			accepted = condition(gatewayv1.GatewayConditionAccepted, served[gateway.object] > 0, gatewayv1.GatewayReasonListenersNotValid,
				"not accepted: "+strings.Join(names, ", "))
		}
		SetCondition(&r.status(gateway.object).Conditions, accepted)
		r.presented(gateway.object) // Which says so in the status, also where no route needs it.
	}
	r.setStatuses(refused, served)
}
