package policy

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Kinds of the Gateway API that hold listeners.
const (
	kindGateway     = "Gateway"
	kindListenerSet = "ListenerSet"
)

// maxGatewayListeners bounds the listeners of a Gateway with those of its
// ListenerSets.
const maxGatewayListeners = 1024

func holdsListeners[T ~string](kind T) bool { return kind == kindGateway || kind == kindListenerSet }

// listenerSets lists the listeners that ListenerSets add to Weir's Gateways: the
// oldest set first, then by namespace and name (ListenerSetSpec.listeners). They
// come after those of all Gateways, so that no set takes a port from a Gateway.
func (r *resolver) listenerSets() []*listener {
	var all []*listener
	count := map[ObjectRef]int{}
	for _, set := range ofType[*gatewayv1.ListenerSet](r) {
		gateway, ours := r.parentGateway(set)
		if !ours {
			continue
		}
		spec := &gateway.Value.(*gatewayv1.Gateway).Spec //nolint:forcetypeassert // parentGateway says so
		r.gateways[set.object.Ref] = true
		r.setParent(set.object, gateway)
		if !r.allowsSet(gateway, spec.AllowedListeners, set.object.Ref.Namespace) {
			message := fmt.Sprintf("%s takes no ListenerSets of namespace %q: see its allowedListeners", gateway.Ref, set.object.Ref.Namespace)
			r.report(set.object.problem(CodeNotAttached, "spec.parentRef", message))
			r.refuseSet(set.object, gatewayv1.ListenerSetReasonNotAllowed, message)
			continue
		}
		for i := range set.value.Spec.Listeners {
			l := r.newListener(gateway, set.object, i, entryListener(&set.value.Spec.Listeners[i]))
			own := r.unusables[gateway.Ref]
			if l.bind = own.bind; own.fault != "" {
				r.unaddressed(l, own.fault)
			}
			if count[gateway.Ref]++; count[gateway.Ref]+len(spec.Listeners) > maxGatewayListeners && l.refused == "" {
				r.tooMany(l)
			}
			all = append(all, l)
		}
	}
	return all
}

// parentGateway is the Gateway of Weir's classes that a ListenerSet adds to.
func (r *resolver) parentGateway(set typed[*gatewayv1.ListenerSet]) (*Object, bool) {
	parent := set.value.Spec.ParentRef
	ref := ObjectRef{Kind: kindGateway, Namespace: set.object.Ref.Namespace, Name: string(parent.Name)}
	if parent.Namespace != nil {
		ref.Namespace = string(*parent.Namespace)
	}
	if !r.gateways[ref] {
		r.report(set.object.notice(CodeNotAttached, "spec.parentRef", fmt.Sprintf("there is no %s of a class of Weir's, so this ListenerSet is left to others", ref)))
		return nil, false
	}
	return r.byRef[ref], true
}

// entryListener is an entry as a Gateway would have it.
func entryListener(entry *gatewayv1.ListenerEntry) *gatewayv1.Listener {
	return &gatewayv1.Listener{
		Name: entry.Name, Hostname: entry.Hostname, Port: entry.Port, Protocol: entry.Protocol, TLS: entry.TLS, AllowedRoutes: entry.AllowedRoutes,
	}
}

// allowsSet reports whether a Gateway takes ListenerSets of a namespace; unless it
// says so, it takes none.
func (r *resolver) allowsSet(gateway *Object, allowed *gatewayv1.AllowedListeners, namespace string) bool {
	if allowed == nil || allowed.Namespaces == nil || allowed.Namespaces.From == nil {
		return false
	}
	switch *allowed.Namespaces.From {
	case gatewayv1.NamespacesFromAll:
		return true
	case gatewayv1.NamespacesFromSame:
		return namespace == gateway.Ref.Namespace
	case gatewayv1.NamespacesFromSelector:
		selector, err := metav1.LabelSelectorAsSelector(allowed.Namespaces.Selector)
		if err != nil { // validated before
			selector = labels.Nothing()
		}
		return selector.Matches(r.namespaceLabels(namespace))
	default:
		return false
	}
}

// setParent notes which Gateway a ListenerSet is served with.
func (r *resolver) setParent(set, gateway *Object) {
	group, kind, namespace := gatewayv1.Group(gatewayv1.GroupName), gatewayv1.Kind(kindGateway), gatewayv1.Namespace(gateway.Ref.Namespace)
	r.status(set).parent(gatewayv1.ParentReference{Group: &group, Kind: &kind, Namespace: &namespace, Name: gatewayv1.ObjectName(gateway.Ref.Name)})
}

func (r *resolver) refuseSet(set *Object, reason gatewayv1.ListenerSetConditionReason, message string) {
	status := r.status(set)
	SetCondition(&status.Conditions, condition(gatewayv1.ListenerSetConditionAccepted, false, reason, message))
	SetCondition(&status.Conditions, condition(gatewayv1.ListenerSetConditionProgrammed, false, reason, message))
}

func (r *resolver) tooMany(l *listener) {
	l.refused = fmt.Sprintf("%s has more than %d listeners with those of its ListenerSets", l.gateway.Ref, maxGatewayListeners)
	r.report(l.holder().problem(CodeTooMany, l.field(), l.refused))
	status := r.listenerStatus(l)
	SetCondition(&status.Conditions, condition(gatewayv1.ListenerEntryConditionAccepted, false, gatewayv1.ListenerEntryReasonTooManyListeners, l.refused))
	SetCondition(&status.Conditions, condition(gatewayv1.ListenerEntryConditionProgrammed, false, gatewayv1.ListenerEntryReasonInvalid, l.refused))
}

// setStatuses sums up what became of the listeners of ListenerSets, and counts the
// sets of each Gateway that takes any.
func (r *resolver) setStatuses(refused map[*Object][]string, served map[*Object]int) {
	attached := map[ObjectRef]int32{}
	for _, set := range ofType[*gatewayv1.ListenerSet](r) {
		status, ours := r.statuses[set.object.Ref]
		if !ours || !r.gateways[set.object.Ref] {
			continue
		}
		gateway := ObjectRef{Kind: kindGateway, Namespace: string(*status.Parents[0].Ref.Namespace), Name: string(status.Parents[0].Ref.Name)}
		if slices.ContainsFunc(status.Conditions, func(c Condition) bool { return c.Type == string(gatewayv1.ListenerSetConditionAccepted) }) {
			continue
		}
		if at := slices.IndexFunc(r.statuses[gateway].Conditions, func(c Condition) bool {
			return c.Type == string(gatewayv1.GatewayConditionAccepted) && c.Status == metav1.ConditionFalse && c.Reason != string(gatewayv1.GatewayReasonListenersNotValid)
		}); at >= 0 {
			r.refuseSet(set.object, gatewayv1.ListenerSetReasonParentNotAccepted, gateway.String()+" is not accepted")
			continue
		}
		accepted := condition(gatewayv1.ListenerSetConditionAccepted, true, gatewayv1.ListenerSetReasonAccepted, "")
		if names := refused[set.object]; len(names) > 0 {
			message := "not accepted: " + strings.Join(names, ", ")
			accepted = condition(gatewayv1.ListenerSetConditionAccepted, served[set.object] > 0, gatewayv1.ListenerSetReasonListenersNotValid, message)
			if served[set.object] == 0 {
				SetCondition(&status.Conditions, condition(gatewayv1.ListenerSetConditionProgrammed, false, gatewayv1.ListenerSetReasonListenersNotValid, message))
			}
		}
		SetCondition(&status.Conditions, accepted)
		if accepted.Status == metav1.ConditionTrue {
			attached[gateway]++
		}
	}
	for _, gateway := range ofType[*gatewayv1.Gateway](r) {
		if r.gateways[gateway.object.Ref] && gateway.value.Spec.AllowedListeners != nil {
			count := attached[gateway.object.Ref]
			r.status(gateway.object).AttachedListenerSets = &count
		}
	}
}

// covered reports whether a Closing without targets is of a namespace whose
// policies reach the listener.
func (l *listener) covered(closing *Closing) bool {
	return closing.Targets == nil && (closing.Namespace == "" || closing.Namespace == l.gateway.Ref.Namespace || closing.Namespace == l.holder().Ref.Namespace)
}
