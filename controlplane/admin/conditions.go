package admin

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	"weir.dev/policy"
)

// Conditions that are added to those of resolving.
const (
	conditionProgrammed = "Programmed"
	conditionEnforced   = "Enforced"
	// reasonListener is that of a route at a listener that no proxy serves.
	reasonListener = "ListenerNotProgrammed"
)

// conditionsOf are what Resolve says of an object, with Programmed (of routes
// and the like) or Enforced (of policies) beside: whether proxies have it.
func conditionsOf(state *State, ref policy.ObjectRef) []*adminv1.Condition {
	var out []*adminv1.Condition
	add := func(about string, conditions []policy.Condition) {
		for _, c := range conditions {
			out = append(out, &adminv1.Condition{About: about, Type: c.Type, Status: string(c.Status), Reason: c.Reason, Message: c.Message})
		}
	}
	i, ok := slices.BinarySearchFunc(state.Plan.Statuses, ref, func(s policy.ObjectStatus, ref policy.ObjectRef) int {
		return cmp.Or(cmp.Compare(s.Object.Kind, ref.Kind), cmp.Compare(s.Object.Namespace, ref.Namespace), cmp.Compare(s.Object.Name, ref.Name))
	})
	if !ok || ref.Kind == "GatewayClass" {
		if ok {
			add("", state.Plan.Statuses[i].Conditions)
		}
		return append(out, served(ref, place{fleets: state.Fleets}))
	}
	status := &state.Plan.Statuses[i]
	add("", status.Conditions)
	if ref.Kind == "Gateway" || ref.Kind == "ListenerSet" {
		fleets := state.fleetsAt(ref)
		out = append(out, served(ref, place{fleets: fleets, conditions: status.Conditions}))
		for i, listener := range status.Listeners {
			at := place{about: "listener " + listener.Name, fleets: fleets, conditions: listener.Conditions}
			at.passes = func(field string) bool { return policy.OfListener(field) && !policy.WithinListener(field, i) }
			add(at.about, listener.Conditions)
			out = append(out, served(ref, at))
		}
	}
	for _, parent := range status.Parents {
		if ref.Kind == "ListenerSet" { // Its Gateway, of which there is nothing more to say.
			break
		}
		holder := gatewayOf(ref, parent.Ref)
		at := place{about: parentText(parent.Ref), fleets: state.fleetsAt(holder), conditions: parent.Conditions}
		at.closed = closedListener(at.fleets, holder, parent.Listeners)
		add(at.about, parent.Conditions)
		out = append(out, served(ref, at))
	}
	return out
}

// gatewayOf is what an object's parent or ancestor refers to.
func gatewayOf(object policy.ObjectRef, parent gatewayv1.ParentReference) policy.ObjectRef {
	ref := policy.ObjectRef{Kind: "Gateway", Namespace: object.Namespace, Name: string(parent.Name)}
	if parent.Kind != nil {
		ref.Kind = string(*parent.Kind)
	}
	if parent.Namespace != nil {
		ref.Namespace = string(*parent.Namespace)
	}
	return ref
}

// fleetsAt are the fleets that serve a Gateway or ListenerSet; all of them for
// anything else.
func (s *State) fleetsAt(ref policy.ObjectRef) []Fleet {
	if ref.Kind == "ListenerSet" && s.Plan != nil {
		for i := range s.Plan.Statuses {
			if status := &s.Plan.Statuses[i]; status.Object == ref && len(status.Parents) > 0 {
				ref = gatewayOf(ref, status.Parents[0].Ref)
				break
			}
		}
	}
	if ref.Kind != "Gateway" || s.Input.FleetOf == nil {
		return s.Fleets
	}
	name := s.Input.FleetOf(ref)
	return slices.DeleteFunc(slices.Clone(s.Fleets), func(f Fleet) bool { return f.Name != name })
}

// place is where an object is served: a listener of its, a parent, or "" for the
// object itself.
type place struct {
	about      string
	fleets     []Fleet
	conditions []policy.Condition
	// passes are fields of the object that this place does without; nil for none.
	passes func(field string) bool
	// closed says why a listener of the parent is not served; empty when all are.
	closed string
}

// closedListener says of the first that is not served of a parent's listeners,
// by their places in it, why not.
func closedListener(fleets []Fleet, holder policy.ObjectRef, listeners []int) string {
	for _, fleet := range fleets {
		for _, q := range fleet.Quarantined {
			// Where the last good version serves, routes reach it.
			if q.Origin.Object == holder && !q.Kept && policy.ClosesListeners(q.Origin.Field, listeners) {
				return fmt.Sprintf("%s is not served: %s: %s", strings.TrimSuffix(holder.String()+": "+q.Origin.Field, ": "), q.Node, q.Message)
			}
		}
	}
	return ""
}

// closedRoute says of the first route among objects that is at a listener that is
// not served; empty without one. What is rejected itself, problems say.
func closedRoute(state *State, objects []*policy.Object) string {
	for _, object := range objects {
		for _, c := range conditionsOf(state, object.Ref) {
			if c.GetReason() == reasonListener {
				return fmt.Sprintf("%s: %s", object.Ref, c.GetMessage())
			}
		}
	}
	return ""
}

// served says whether proxies have what an object says, as far as the conditions
// of the same place let it be in force at all.
func served(ref policy.ObjectRef, at place) *adminv1.Condition {
	about, fleets, conditions := at.about, at.fleets, at.conditions
	kind := conditionProgrammed
	if strings.HasSuffix(ref.Kind, "Policy") {
		kind = conditionEnforced
	}
	out := &adminv1.Condition{About: about, Type: kind, Status: "True", Reason: kind}
	no := func(reason, message string) *adminv1.Condition {
		out.Status, out.Reason, out.Message = "False", reason, message
		return out
	}
	is := func(kind string, status metav1.ConditionStatus) int {
		return slices.IndexFunc(conditions, func(c policy.Condition) bool { return c.Type == kind && c.Status == status })
	}
	if i := is(policy.ConditionOverridden, metav1.ConditionTrue); i >= 0 { // Which may be why it is not accepted.
		if conditions[i].Reason != policy.ReasonPartly {
			return no(policy.ReasonOverridden, conditions[i].Message)
		}
		out.Reason, out.Message = policy.ReasonPartly, conditions[i].Message
	}
	if is("Accepted", metav1.ConditionFalse) >= 0 {
		return no("Invalid", "it is not accepted")
	}
	for _, fleet := range fleets {
		for _, quarantine := range fleet.Quarantined {
			if quarantine.Origin.Object == ref && (at.passes == nil || !at.passes(quarantine.Origin.Field)) {
				return no("Rejected", quarantine.Node+": "+quarantine.Message)
			}
		}
	}
	if at.closed != "" {
		return no(reasonListener, at.closed)
	}
	for _, fleet := range fleets {
		if !fleet.Programmed {
			return no("Pending", fleet.waitingText())
		}
	}
	return out
}

func parentText(ref gatewayv1.ParentReference) string {
	text := string(ref.Name)
	if ref.Kind != nil {
		text = string(*ref.Kind) + " " + text
	}
	if ref.SectionName != nil {
		text += "/" + string(*ref.SectionName)
	}
	return text
}
