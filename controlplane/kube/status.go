package kube

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

const kindGateway, kindListenerSet = "Gateway", "ListenerSet"

// Types of conditions that this package adds.
const (
	// conditionProgrammed is the Gateway API's, of Gateways and listeners.
	conditionProgrammed = string(gatewayv1.GatewayConditionProgrammed)
	// conditionRouteProgrammed is ours: the standard has none for routes.
	conditionRouteProgrammed = "weir.dev/Programmed"
	// conditionEnforced is GEP-713's, of policies.
	conditionEnforced = "Enforced"
	conditionAccepted = string(gatewayv1.GatewayConditionAccepted)
	conditionOverride = "Overridden"
)

// Reasons of them.
const (
	reasonProgrammed = string(gatewayv1.GatewayReasonProgrammed)
	reasonPending    = string(gatewayv1.GatewayReasonPending)
	reasonInvalid    = string(gatewayv1.GatewayReasonInvalid)
	reasonEnforced   = "Enforced"
	reasonOverridden = "Overridden"
	reasonRejected   = "Rejected"
	// reasonListener is that of a route at a listener that no proxy serves.
	reasonListener = "ListenerNotProgrammed"
)

// Bounds of the Gateway API's lists and of a condition's message; it allows
// longer messages than are of use.
const (
	maxParents   = 32
	maxAncestors = 16
	maxMessage   = 4096
)

func isRoute(kind string) bool  { return strings.HasSuffix(kind, "Route") }
func isPolicy(kind string) bool { return strings.HasSuffix(kind, "Policy") }

// hasStatus lists the kinds whose status Weir writes.
func hasStatus(kind string) bool {
	return isRoute(kind) || isPolicy(kind) ||
		slices.Contains([]string{kindGateway, kindListenerSet, "GatewayClass", v1alpha1.KindBackend, v1alpha1.KindConsumer}, kind)
}

// statusView is the parts of a status that Weir writes, of every kind.
type statusView struct {
	Conditions []metav1.Condition               `json:"conditions,omitempty"`
	Addresses  []gatewayv1.GatewayStatusAddress `json:"addresses,omitempty"`
	Listeners  []gatewayv1.ListenerStatus       `json:"listeners,omitempty"`
	Attached   *int32                           `json:"attachedListenerSets,omitempty"`
	Features   []gatewayv1.SupportedFeature     `json:"supportedFeatures,omitempty"`
	Parents    []gatewayv1.RouteParentStatus    `json:"parents,omitempty"`
	Ancestors  []gatewayv1.PolicyAncestorStatus `json:"ancestors,omitempty"`
}

// composer writes the status of one object.
type composer struct {
	verdict   *verdict
	addresses []gatewayv1.GatewayStatusAddress
	// placed says that there has to be an address for the Gateway to be programmed,
	// and unready that nobody takes requests there.
	placed, unready bool
	now             time.Time
	// generation that the conditions are about.
	generation int64
	// later is set when the object is to be looked at again once settled.
	later bool
}

// compose is the object with the status that it should have, or nil when it has
// that already, or when it is not known or not Weir's to say.
func (c *composer) compose(live live) (*unstructured.Unstructured, error) {
	value := live.value
	var before statusView
	raw, _, err := unstructured.NestedMap(value.Object, "status")
	if err != nil {
		return nil, fmt.Errorf("the status is not a mapping: %w", err)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &before); err != nil {
		return nil, fmt.Errorf("the status cannot be read: %w", err)
	}
	ref := refOf(value)
	status := c.verdict.statuses[ref]
	if live.document.Object == nil {
		status = c.refused(live, status)
	}
	if status == nil && !isRoute(ref.Kind) && !isPolicy(ref.Kind) {
		return nil, nil
	}
	if status == nil && c.now.Sub(live.seen) < settled {
		c.later = len(before.Parents)+len(before.Ancestors) > 0
		return nil, nil
	}
	if status == nil { // Entries of ours, if any, do not hold any more.
		status = &policy.ObjectStatus{Object: ref, Generation: value.GetGeneration()}
	}
	if status.Generation != value.GetGeneration() {
		// Of a file of the same name, or of an older version: the outcome of what the
		// object says now is still to come.
		return nil, nil
	}
	c.generation = status.Generation
	after := before
	switch {
	case isRoute(ref.Kind):
		after.Parents = c.parents(before.Parents, status)
	case isPolicy(ref.Kind):
		after.Ancestors = c.ancestors(before.Ancestors, status)
	default:
		c.object(&after, status)
	}
	return c.replace(value, raw, before, after)
}

// settled is how long after it was seen as it is now an object is part of the
// outcome, so that what the outcome does not mention is not Weir's.
const settled = 2 * time.Second

// replace is a copy of value with the new status, or nil when nothing changed.
func (c *composer) replace(value *unstructured.Unstructured, raw map[string]any, before, after statusView) (*unstructured.Unstructured, error) {
	old, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&before)
	if err != nil {
		return nil, err
	}
	next, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&after)
	if err != nil {
		return nil, err
	}
	if reflect.DeepEqual(old, next) {
		return nil, nil
	}
	if raw == nil {
		raw = map[string]any{}
	}
	if _, had := old["attachedListenerSets"]; had {
		delete(raw, "attachedListenerSets")
	}
	if count, ok := next["attachedListenerSets"]; ok {
		raw["attachedListenerSets"] = count
	}
	for _, key := range []string{"conditions", "addresses", "listeners", "parents", "ancestors", "supportedFeatures"} {
		if part, ok := next[key]; ok {
			raw[key] = part
		} else if _, had := old[key]; had {
			raw[key] = []any{} // Required by the schema where it was there.
		}
	}
	changed := value.DeepCopy()
	return changed, unstructured.SetNestedMap(changed.Object, raw, "status")
}

// refused is the status of an object that the parser refused.
func (c *composer) refused(live live, serving *policy.ObjectStatus) *policy.ObjectStatus {
	ref := refOf(live.value)
	texts := make([]string, 0, len(live.document.Problems))
	for _, problem := range live.document.Problems.Errors() {
		texts = append(texts, fmt.Sprintf("%s: %s [%s]", problem.Field, problem.Message, problem.Code))
	}
	message := strings.Join(texts, "; ")
	status := &policy.ObjectStatus{Object: ref, Generation: live.value.GetGeneration()}
	if serving != nil {
		message += fmt.Sprintf("; generation %d, which was good, serves in its place", serving.Generation)
		status.Parents = slices.Clone(serving.Parents)
	} else {
		status.Parents = c.parentsOf(live.value)
	}
	condition := policy.Condition{Type: conditionAccepted, Status: metav1.ConditionFalse, Reason: reasonInvalid, Message: message}
	if isRoute(ref.Kind) {
		condition.Reason = string(gatewayv1.RouteReasonUnsupportedValue)
	}
	for i := range status.Parents {
		status.Parents[i].Conditions = []policy.Condition{condition}
	}
	if !isRoute(ref.Kind) && !isPolicy(ref.Kind) {
		status.Conditions = []policy.Condition{condition}
	}
	if ref.Kind == kindGateway && serving == nil && !c.ours(live.value) ||
		ref.Kind == kindListenerSet && serving == nil && len(status.Parents) == 0 {
		return nil
	}
	return status
}

// ours reports whether a Gateway, which may be broken, is of a class of Weir's.
func (c *composer) ours(gateway *unstructured.Unstructured) bool {
	class, _, _ := unstructured.NestedString(gateway.Object, "spec", "gatewayClassName")
	if class == policy.DefaultClass {
		return true
	}
	_, ok := c.verdict.statuses[policy.ObjectRef{Kind: "GatewayClass", Namespace: policy.DefaultNamespace, Name: class}]
	return ok
}

// parentsOf reads what a broken route or policy wants to be attached to, as far
// as that is Weir's.
func (c *composer) parentsOf(value *unstructured.Unstructured) []policy.ParentStatus {
	var loose struct {
		ParentRefs []gatewayv1.ParentReference `json:"parentRefs"`
		ParentRef  gatewayv1.ParentReference   `json:"parentRef"`
		TargetRefs []v1alpha1.TargetRef        `json:"targetRefs"`
	}
	spec, _, _ := unstructured.NestedMap(value.Object, "spec")
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(spec, &loose); err != nil {
		return nil
	}
	var parents []policy.ParentStatus
	for _, ref := range append(loose.ParentRefs, loose.ParentRef) {
		gateway := policy.ObjectRef{Kind: kindGateway, Namespace: value.GetNamespace(), Name: string(ref.Name)}
		if ref.Kind != nil {
			gateway.Kind = string(*ref.Kind)
		}
		if ref.Namespace != nil {
			gateway.Namespace = string(*ref.Namespace)
		}
		if _, ok := c.verdict.statuses[gateway]; ok {
			parents = append(parents, policy.ParentStatus{Ref: ref})
		}
	}
	for _, target := range loose.TargetRefs {
		parents = append(parents, policy.ParentStatus{Ref: gatewayv1.ParentReference{
			Group: &target.Group, Kind: &target.Kind, Name: target.Name, SectionName: target.SectionName,
		}})
	}
	return parents
}

// unreached has a Gateway not be programmed while nobody can reach it, at all or
// where it wants to be.
func (c *composer) unreached(conditions []policy.Condition, wanted []string) {
	missing := slices.DeleteFunc(slices.Clone(wanted), func(value string) bool {
		return slices.ContainsFunc(c.addresses, func(a gatewayv1.GatewayStatusAddress) bool { return a.Value == value })
	})
	var reason gatewayv1.GatewayConditionReason
	var message string
	switch {
	case len(missing) > 0:
		reason, message = gatewayv1.GatewayReasonAddressNotUsable, "its Service was not given "+strings.Join(missing, ", ")
	case len(c.addresses) == 0:
		reason, message = gatewayv1.GatewayReasonAddressNotAssigned, "its Service has no address yet"
	case c.unready:
		reason, message = gatewayv1.GatewayReasonNoResources, "none of its proxies is ready to take requests"
	default:
		return
	}
	for i := range conditions {
		if c := &conditions[i]; c.Type == conditionProgrammed && c.Status == metav1.ConditionTrue {
			c.Status, c.Reason, c.Message = metav1.ConditionFalse, string(reason), message
		}
	}
}

// object writes the conditions of the object itself, and the listeners of a Gateway
// or ListenerSet.
func (c *composer) object(view *statusView, status *policy.ObjectStatus) {
	conditions := slices.Clone(status.Conditions)
	if status.Object.Kind == "GatewayClass" {
		view.Features = nil
		for _, name := range policy.SupportedFeatures() {
			view.Features = append(view.Features, gatewayv1.SupportedFeature{Name: gatewayv1.FeatureName(name)})
		}
	}
	if status.Object.Kind != kindGateway && status.Object.Kind != kindListenerSet {
		view.Conditions = c.merge(view.Conditions, conditions)
		return
	}
	fleets := c.verdict.fleetsOf(status)
	progress := c.verdict.progressOf(status.Object, fleets, c.now, nil)
	conditions = c.programmed(conditions, view.Conditions, conditionProgrammed, progress)
	if c.placed {
		c.unreached(conditions, status.Addresses)
	}
	view.Conditions = c.merge(view.Conditions, conditions)
	if status.Object.Kind == kindGateway {
		view.Addresses, view.Attached = c.addresses, status.AttachedListenerSets
		if len(status.Addresses) > 0 && !c.placed {
			view.Addresses = addressesOf(status.Addresses)
		}
	}
	before := view.Listeners
	view.Listeners = nil
	for i := range status.Listeners {
		listener := &status.Listeners[i]
		var old []metav1.Condition
		for j := range before {
			if string(before[j].Name) == listener.Name {
				old = before[j].Conditions
			}
		}
		own := c.verdict.progressOf(status.Object, fleets, c.now, func(field string) bool {
			return policy.OfListener(field) && !policy.WithinListener(field, i)
		})
		conditions := c.programmed(slices.Clone(listener.Conditions), old, conditionProgrammed, own)
		kinds := listener.SupportedKinds
		if kinds == nil {
			kinds = []gatewayv1.RouteGroupKind{}
		}
		view.Listeners = append(view.Listeners, gatewayv1.ListenerStatus{
			Name: gatewayv1.SectionName(listener.Name), SupportedKinds: kinds, AttachedRoutes: listener.AttachedRoutes,
			Conditions: c.merge(old, conditions),
		})
	}
}

// parents writes a route's entries of Weir and keeps those of others.
func (c *composer) parents(before []gatewayv1.RouteParentStatus, status *policy.ObjectStatus) []gatewayv1.RouteParentStatus {
	own := make([]gatewayv1.RouteParentStatus, len(status.Parents))
	for i := range status.Parents {
		parent := &status.Parents[i]
		var old []metav1.Condition
		for j := range before {
			if before[j].ControllerName == policy.ControllerName && sameRef(before[j].ParentRef, parent.Ref) {
				old = before[j].Conditions
			}
		}
		progress := c.verdict.routeProgress(status.Object, parent, c.now)
		conditions := c.programmed(slices.Clone(parent.Conditions), old, conditionRouteProgrammed, progress)
		own[i] = gatewayv1.RouteParentStatus{ParentRef: parent.Ref, ControllerName: policy.ControllerName, Conditions: c.merge(old, conditions)}
	}
	return entries(before, own, maxParents,
		func(e gatewayv1.RouteParentStatus) bool { return e.ControllerName == policy.ControllerName },
		func(a, b gatewayv1.RouteParentStatus) bool { return sameRef(a.ParentRef, b.ParentRef) })
}

// ancestors does so for a policy.
func (c *composer) ancestors(before []gatewayv1.PolicyAncestorStatus, status *policy.ObjectStatus) []gatewayv1.PolicyAncestorStatus {
	own := make([]gatewayv1.PolicyAncestorStatus, len(status.Parents))
	for i := range status.Parents {
		parent := &status.Parents[i]
		var old []metav1.Condition
		for j := range before {
			if before[j].ControllerName == policy.ControllerName && sameRef(before[j].AncestorRef, parent.Ref) {
				old = before[j].Conditions
			}
		}
		progress := c.verdict.progressOf(status.Object, c.verdict.fleetsAt(status.Object, parent), c.now, nil)
		conditions := c.programmed(slices.Clone(parent.Conditions), old, conditionEnforced, progress)
		own[i] = gatewayv1.PolicyAncestorStatus{AncestorRef: parent.Ref, ControllerName: policy.ControllerName, Conditions: c.merge(old, conditions)}
	}
	return entries(before, own, maxAncestors,
		func(e gatewayv1.PolicyAncestorStatus) bool { return e.ControllerName == policy.ControllerName },
		func(a, b gatewayv1.PolicyAncestorStatus) bool { return sameRef(a.AncestorRef, b.AncestorRef) })
}

// entries is before with our entries replaced by own, each in its place, and new
// ones at the end as far as there is room. Entries of other controllers stay.
func entries[T any](before, own []T, most int, mine func(T) bool, same func(a, b T) bool) []T {
	var after []T
	used := make([]bool, len(own))
	for _, entry := range before {
		if !mine(entry) {
			after = append(after, entry)
			continue
		}
		if i := slices.IndexFunc(own, func(o T) bool { return same(o, entry) }); i >= 0 && !used[i] {
			used[i] = true
			after = append(after, own[i])
		}
	}
	for i := range own {
		if !used[i] && len(after) < most {
			after = append(after, own[i])
		}
	}
	return after
}

func sameRef(a, b gatewayv1.ParentReference) bool {
	return same(a.Group, b.Group) && same(a.Kind, b.Kind) && same(a.Namespace, b.Namespace) && a.Name == b.Name &&
		same(a.SectionName, b.SectionName) && same(a.Port, b.Port)
}

func same[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }
