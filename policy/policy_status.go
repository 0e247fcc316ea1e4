package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Conditions of policies, besides those of the Gateway API.
const (
	// ConditionOverridden is True where another policy is in effect in the place
	// of this one, in part or whole.
	ConditionOverridden = "Overridden"
	ReasonOverridden    = "Overridden"
	ReasonPartly        = "PartlyOverridden"
	// ConditionShadow is True where a policy is compared and not in force.
	ConditionShadow = "Shadow"
	ReasonCompared  = "Compared"
)

// ancestor is where a policy's status is told: a Gateway or ListenerSet or, of a
// policy on a listener, that listener; what it is attached to where no Gateway is reached.
type ancestor targetKey

// reach is what became of a policy below one ancestor.
type reach struct {
	kept, lost bool
	keys       map[string]bool
	by         map[string]bool
}

// account notes what became of the set's policies of the given kinds.
func (s *policySet) account(l *listener, kinds ...int) {
	gateway := ancestor{kind: kindGateway, namespace: l.gateway.Ref.Namespace, name: l.gateway.Ref.Name}
	for _, kind := range kinds {
		for _, layer := range s.kinds[kind].layers {
			at := gateway
			if l.set != nil && layer.level != levelGateway {
				at = ancestor{kind: kindListenerSet, namespace: l.set.Ref.Namespace, name: l.set.Ref.Name}
			}
			if layer.level == levelListener {
				at.section = l.name
			}
			to := layer.reach[at]
			if to == nil {
				to = &reach{keys: map[string]bool{}, by: map[string]bool{}}
				layer.reach[at] = to
			}
			to.kept = to.kept || layer.kept > 0
			to.lost = to.lost || len(layer.losses) > 0
			for _, key := range layer.keys {
				to.keys[key] = true
			}
			for _, lost := range layer.winners() {
				to.by[lost.by.origin.Object.String()] = true
			}
		}
	}
}

// policyOutcomes gives every policy its status, and reports those without any
// effect.
func (r *resolver) policyOutcomes() {
	for kind := range r.policies.statements {
		for _, s := range r.policies.statements[kind] {
			r.policyOutcome(s)
		}
	}
}

func (r *resolver) policyOutcome(s *statement) {
	kept, by := false, map[string]bool{}
	for _, at := range slices.SortedFunc(maps.Keys(s.reach), compareAncestors) {
		to := s.reach[at]
		kept = kept || to.kept
		maps.Copy(by, to.by)
		s.accept(r.status(s.object).parent(at.ref()), to)
	}
	for _, lost := range s.ties {
		message := "on " + describeTarget(lost.target) + ", " + lost.reason()
		parent := r.status(s.object).parent(ancestor(lost.target).ref())
		s.condition(parent, string(gatewayv1.PolicyConditionAccepted), false, string(gatewayv1.PolicyReasonConflicted), message)
		s.condition(parent, ConditionOverridden, true, ReasonOverridden, message)
	}
	for _, key := range s.missing {
		s.condition(r.status(s.object).parent(ancestor(key).ref()), string(gatewayv1.PolicyConditionAccepted), false,
			string(gatewayv1.PolicyReasonTargetNotFound), "there is no "+describeTarget(key))
	}
	switch {
	case kept || len(s.attachedTo) == 0 && len(s.ties)+len(s.missing) > 0:
	case len(by) > 0:
		r.report(s.object.notice(CodeNoEffect, "spec.targetRefs", "has no effect on any route: "+strings.Join(slices.Sorted(maps.Keys(by)), ", ")+" is in effect everywhere in its place"))
	default:
		for _, key := range s.attachedTo {
			s.accept(r.status(s.object).parent(ancestor(key).ref()), &reach{kept: true})
		}
		r.report(s.object.notice(CodeNotAttached, "spec.targetRefs", "governs no route"))
	}
}

// accept writes the conditions of a policy that stands.
func (s *statement) accept(parent *ParentStatus, to *reach) {
	s.condition(parent, string(gatewayv1.PolicyConditionAccepted), true, string(gatewayv1.PolicyReasonAccepted), "")
	if len(s.brokenRefs) > 0 {
		s.condition(parent, string(gatewayv1.RouteConditionResolvedRefs), false, "RefNotFound", strings.Join(s.brokenRefs, "; "))
	}
	if s.shadow {
		s.condition(parent, ConditionShadow, true, ReasonCompared, "what it would decide is compared with what is decided; it is not in force")
	}
	if !to.lost {
		return
	}
	winners := strings.Join(slices.Sorted(maps.Keys(to.by)), ", ")
	if !to.kept {
		s.condition(parent, ConditionOverridden, true, ReasonOverridden, winners+" is in effect everywhere in its place")
		return
	}
	keys := slices.Sorted(maps.Keys(to.keys))
	more := ""
	if most := 8; len(keys) > most {
		more = fmt.Sprintf(" and %d more", len(keys)-most)
		keys = keys[:most]
	}
	s.condition(parent, ConditionOverridden, true, ReasonPartly, fmt.Sprintf("on some routes %s is in effect in its place for %s%s", winners, strings.Join(keys, ", "), more))
}

func (s *statement) condition(parent *ParentStatus, kind string, holds bool, reason, message string) {
	status := metav1.ConditionFalse
	if holds {
		status = metav1.ConditionTrue
	}
	SetCondition(&parent.Conditions, Condition{Type: kind, Status: status, Reason: reason, Message: message})
}

func (a ancestor) ref() gatewayv1.ParentReference {
	group, kind, namespace := gatewayv1.Group(groupOf(a.kind)), gatewayv1.Kind(a.kind), gatewayv1.Namespace(a.namespace)
	ref := gatewayv1.ParentReference{Group: &group, Kind: &kind, Namespace: &namespace, Name: gatewayv1.ObjectName(a.name)}
	if a.section != "" {
		section := gatewayv1.SectionName(a.section)
		ref.SectionName = &section
	}
	return ref
}

func compareAncestors(a, b ancestor) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name), cmp.Compare(a.section, b.section))
}
