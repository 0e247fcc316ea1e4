package kubeapply

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"weir.dev/policy"
)

// Times of waiting.
const (
	lookEvery = 200 * time.Millisecond
	// settled is how long nothing but refusals must stand before they are believed:
	// an object may be looked at before the one that it needs.
	settled = 5 * time.Second
)

// wait looks at the status of what was applied until proxies have all of it, or
// the control plane refuses some of it for good, or the time is over.
func (r *run) wait(ctx context.Context) {
	within, cancel := context.WithTimeout(ctx, r.request.Wait)
	defer cancel()
	var waiting []verdict
	since := time.Now()
	for first := true; ; first = false {
		now := r.look(within, waiting, first)
		if !slices.Equal(now, waiting) {
			waiting, since = now, time.Now()
		}
		pending := slices.ContainsFunc(waiting, func(v verdict) bool { return !v.final })
		if len(waiting) == 0 || !pending && time.Since(since) >= settled {
			break
		}
		r.request.Progress("waiting: " + waiting[0].text)
		select {
		case <-within.Done():
		case <-time.After(lookEvery):
			continue
		}
		break
	}
	for _, v := range waiting {
		r.result.Waiting = append(r.result.Waiting, v.text)
	}
	r.result.Programmed = len(waiting) == 0
}

// verdict is what keeps one object from being served.
type verdict struct {
	ref policy.ObjectRef
	// text is for people; final is set for a refusal.
	text  string
	final bool
}

// look reads the objects that are waited for: all at first, later those that were
// not good the last time.
func (r *run) look(ctx context.Context, before []verdict, first bool) []verdict {
	var items []*item
	for _, it := range r.items {
		if speaks(it.ref.Kind) && (first || slices.ContainsFunc(before, func(v verdict) bool { return v.ref == it.ref })) {
			items = append(items, it)
		}
	}
	verdicts := make([]verdict, len(items))
	index := map[*item]int{}
	for i, it := range items {
		index[it] = i
	}
	each(ctx, items, true, func(ctx context.Context, it *item) error {
		live, err := it.client.Get(ctx, it.ref.Name, metav1.GetOptions{})
		v := &verdicts[index[it]]
		if err != nil {
			*v = verdict{ref: it.ref, text: it.ref.String() + ": " + err.Error()}
			return nil
		}
		if text, final := unready(live); text != "" {
			*v = verdict{ref: it.ref, text: it.ref.String() + ": " + text, final: final}
		}
		return nil
	})
	return slices.DeleteFunc(verdicts, func(v verdict) bool { return v.text == "" })
}

// speaks reports whether controlplaned writes a status of every object of the
// kind. (Of Backends and Consumers it speaks when they are broken, which they are
// not when they got here.)
func speaks(kind string) bool {
	return strings.HasSuffix(kind, "Route") || strings.HasSuffix(kind, "Policy") || slices.Contains([]string{"Gateway", "ListenerSet", "GatewayClass"}, kind)
}

// unready says why an object is not in force, "" when it is.
func unready(live *unstructured.Unstructured) (text string, final bool) {
	var status struct {
		Conditions []metav1.Condition `json:"conditions"`
		Parents    []entry            `json:"parents"`
		Ancestors  []entry            `json:"ancestors"`
	}
	raw, _, _ := unstructured.NestedMap(live.Object, "status")
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &status); err != nil {
		return "its status cannot be read: " + err.Error(), false
	}
	kind := live.GetKind()
	var groups [][]metav1.Condition
	for _, e := range slices.Concat(status.Parents, status.Ancestors) {
		if e.ControllerName == policy.ControllerName {
			groups = append(groups, e.Conditions)
		}
	}
	if len(groups) == 0 && len(status.Conditions) > 0 {
		groups = append(groups, status.Conditions)
	}
	if len(groups) == 0 {
		return "has no status yet; is a control plane running that reads this cluster?", false
	}
	for _, conditions := range groups {
		if text, final = unmet(conditions, wanted(kind), live.GetGeneration()); text != "" {
			return text, final
		}
	}
	return "", false
}

// entry is what is said of an object at one parent or ancestor.
type entry struct {
	ControllerName string             `json:"controllerName"`
	Conditions     []metav1.Condition `json:"conditions"`
}

// wanted are the conditions that must be true.
func wanted(kind string) []string {
	switch {
	case strings.HasSuffix(kind, "Route"):
		return []string{"Accepted", "ResolvedRefs", "weir.dev/Programmed"}
	case strings.HasSuffix(kind, "Policy"):
		return []string{"Accepted", "Enforced"}
	case kind == "Gateway", kind == "ListenerSet":
		return []string{"Accepted", "Programmed"}
	default:
		return []string{"Accepted"}
	}
}

// unmet names the first condition that is not true of this generation. A policy
// that another one overrides is as it should be.
func unmet(conditions []metav1.Condition, wanted []string, generation int64) (text string, final bool) {
	find := func(kind string) *metav1.Condition {
		for i := range conditions {
			if conditions[i].Type == kind {
				return &conditions[i]
			}
		}
		return nil
	}
	for _, kind := range wanted {
		condition := find(kind)
		switch {
		case condition == nil || condition.ObservedGeneration < generation:
			return kind + " is not known yet of this version", false
		case condition.Status == metav1.ConditionTrue:
		case kind == "Enforced" && condition.Reason == "Overridden":
		default:
			return fmt.Sprintf("%s is %s (%s): %s", kind, condition.Status, condition.Reason, condition.Message), condition.Reason != "Pending"
		}
	}
	return "", false
}
