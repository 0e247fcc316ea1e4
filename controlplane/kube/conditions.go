package kube

import (
	"slices"
	"strings"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weir.dev/policy"
)

// programmed adds the condition that says whether proxies serve what the others
// are about, unless it is there already. old are the object's present ones.
func (c *composer) programmed(conditions []policy.Condition, old []metav1.Condition, kind string, progress progress) []policy.Condition {
	if has(conditions, kind, "") {
		return conditions
	}
	condition := policy.Condition{Type: kind, Status: metav1.ConditionFalse}
	accepted := find(conditions, conditionAccepted)
	overridden := find(conditions, conditionOverride)
	switch {
	case accepted == nil || accepted.Status != metav1.ConditionTrue:
		condition.Reason, condition.Message = reasonInvalid, "it is not accepted"
	case overridden != nil && overridden.Status == metav1.ConditionTrue && overridden.Reason != policy.ReasonPartly:
		condition.Reason, condition.Message = reasonOverridden, overridden.Message
	case progress.state == progressRejected:
		condition.Reason, condition.Message = reasonRejected, progress.message
	case progress.state == progressClosed:
		condition.Reason, condition.Message = reasonListener, progress.message
	case progress.state == progressWaiting && (progress.long || !c.wasDone(old, kind)):
		condition.Reason, condition.Message = reasonPending, progress.message
	default:
		condition.Status, condition.Reason = metav1.ConditionTrue, reasonProgrammed
		condition.Message = "every connected proxy has acknowledged it"
		if kind == conditionEnforced {
			condition.Reason = reasonEnforced
			if overridden != nil && overridden.Status == metav1.ConditionTrue {
				condition.Reason, condition.Message = policy.ReasonPartly, overridden.Message
			}
		}
	}
	return append(conditions, condition)
}

// wasDone reports whether proxies acknowledged this generation earlier.
func (c *composer) wasDone(old []metav1.Condition, kind string) bool {
	return slices.ContainsFunc(old, func(condition metav1.Condition) bool {
		return condition.Type == kind && condition.Status == metav1.ConditionTrue && condition.ObservedGeneration == c.generation
	})
}

func find(conditions []policy.Condition, kind string) *policy.Condition {
	for i := range conditions {
		if conditions[i].Type == kind {
			return &conditions[i]
		}
	}
	return nil
}

func has(conditions []policy.Condition, kind string, status metav1.ConditionStatus) bool {
	found := find(conditions, kind)
	return found != nil && (status == "" || found.Status == status)
}

// merge brings conditions into the shape that is stored. The time of a
// transition changes with the status alone; conditions of types that Weir does
// not know are others' and stay.
func (c *composer) merge(old []metav1.Condition, conditions []policy.Condition) []metav1.Condition {
	var merged []metav1.Condition
	for _, before := range old {
		if !isKnown(before.Type) && !has(conditions, before.Type, "") {
			merged = append(merged, before)
		}
	}
	for _, condition := range conditions {
		next := metav1.Condition{
			Type: condition.Type, Status: condition.Status, Reason: condition.Reason, Message: bounded(condition.Message),
			ObservedGeneration: c.generation, LastTransitionTime: metav1.NewTime(c.now.Truncate(1e9)),
		}
		for _, before := range old {
			if before.Type == next.Type && before.Status == next.Status {
				next.LastTransitionTime = before.LastTransitionTime
			}
		}
		merged = append(merged, next)
	}
	slices.SortStableFunc(merged, func(a, b metav1.Condition) int { return strings.Compare(a.Type, b.Type) })
	return merged
}

// isKnown lists the types that Weir writes: one that it does not write now does
// not hold any more.
func isKnown(kind string) bool {
	return strings.HasPrefix(kind, "weir.dev/") || slices.Contains([]string{
		conditionAccepted, conditionProgrammed, conditionEnforced, conditionOverride,
		"ResolvedRefs", "Conflicted", "PartiallyInvalid", "Ready", "Scheduled", "OverlappingTLSConfig",
	}, kind)
}

// bounded cuts a message where the API would refuse it.
func bounded(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	cut := maxMessage - len(" ...")
	for cut > 0 && !utf8.RuneStart(message[cut]) {
		cut--
	}
	return message[:cut] + " ..."
}
