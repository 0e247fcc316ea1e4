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

// ObjectStatus is what Resolve says of one object, in the shape that the Gateway
// API and GEP-713 give status. Whether it is served is not known here: the
// control plane adds Programmed and Enforced once proxies acknowledged.
type ObjectStatus struct {
	Object ObjectRef `json:"object"`
	// Generation is the object's metadata.generation, 0 from files.
	Generation int64 `json:"generation,omitempty"`
	// Conditions of the object itself: GatewayClass, Gateway, Backend, Consumer.
	Conditions []Condition `json:"conditions,omitempty"`
	// Listeners of a Gateway or ListenerSet, in its order.
	Listeners []ListenerStatus `json:"listeners,omitempty"`
	// Addresses are those that a Gateway asked for and is served at.
	Addresses []string `json:"addresses,omitempty"`
	// AttachedListenerSets counts those that a Gateway takes; nil where it says
	// nothing of them.
	AttachedListenerSets *int32 `json:"attachedListenerSets,omitempty"`
	// Parents of a route, one per parentRef, ancestors of a policy, or the Gateway
	// of a ListenerSet.
	Parents []ParentStatus `json:"parents,omitempty"`
}

// ListenerStatus is one listener's.
type ListenerStatus struct {
	Name string `json:"name"`
	// SupportedKinds are those of allowedRoutes that Weir serves there.
	SupportedKinds []gatewayv1.RouteGroupKind `json:"supportedKinds,omitempty"`
	// AttachedRoutes counts route objects, however many rules they have.
	AttachedRoutes int32       `json:"attachedRoutes"`
	Conditions     []Condition `json:"conditions,omitempty"`
}

// ParentStatus is a route's at one parent, or a policy's at one ancestor.
type ParentStatus struct {
	Ref        gatewayv1.ParentReference `json:"ref"`
	Conditions []Condition               `json:"conditions,omitempty"`
	// Listeners of the parent that take the route, by their place in its
	// spec.listeners; nil for anything but routes.
	Listeners []int `json:"-"`
}

// ListenerField is the field of a Gateway or ListenerSet that holds its listener
// at a place of the list.
func ListenerField(index int) string { return fmt.Sprintf("spec.listeners[%d]", index) }

// WithinListener reports whether a field of a Gateway or ListenerSet is that of
// its listener at a place of the list, or is inside of it.
func WithinListener(field string, index int) bool {
	return strings.HasPrefix(field, ListenerField(index))
}

// ClosesListeners reports whether what is wrong at a field of a Gateway or
// ListenerSet is so with one of its listeners at some places of the list: it is in
// one of them, or in none.
func ClosesListeners(field string, indexes []int) bool {
	return len(indexes) > 0 && !OfListener(field) || slices.ContainsFunc(indexes, func(i int) bool { return WithinListener(field, i) })
}

// OfListener reports whether a field of a Gateway or ListenerSet is one listener's,
// whichever.
func OfListener(field string) bool { return strings.HasPrefix(field, "spec.listeners[") }

// Condition is a metav1.Condition without what only a writer knows: the time and
// the observed generation.
type Condition struct {
	Type    string                 `json:"type"`
	Status  metav1.ConditionStatus `json:"status"`
	Reason  string                 `json:"reason"`
	Message string                 `json:"message,omitempty"`
}

// SetCondition puts a condition in the place of an earlier one of its type.
func SetCondition(conditions *[]Condition, condition Condition) {
	i := slices.IndexFunc(*conditions, func(c Condition) bool { return c.Type == condition.Type })
	if i < 0 {
		*conditions = append(*conditions, condition)
		return
	}
	(*conditions)[i] = condition
}

// status is the object's entry, made when first asked for.
func (r *resolver) status(object *Object) *ObjectStatus {
	status, ok := r.statuses[object.Ref]
	if !ok {
		status = &ObjectStatus{Object: object.Ref, Generation: object.Value.GetGeneration()}
		r.statuses[object.Ref] = status
	}
	return status
}

// parent is the entry for one parent or ancestor, made when first asked for.
func (s *ObjectStatus) parent(ref gatewayv1.ParentReference) *ParentStatus {
	for i := range s.Parents {
		if sameParent(s.Parents[i].Ref, ref) {
			return &s.Parents[i]
		}
	}
	s.Parents = append(s.Parents, ParentStatus{Ref: ref})
	return &s.Parents[len(s.Parents)-1]
}

func sameParent(a, b gatewayv1.ParentReference) bool {
	return same(a.Group, b.Group) && same(a.Kind, b.Kind) && same(a.Namespace, b.Namespace) && a.Name == b.Name &&
		same(a.SectionName, b.SectionName) && same(a.Port, b.Port)
}

func same[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

func (r *resolver) sortedStatuses() []ObjectStatus {
	var statuses []ObjectStatus
	for _, ref := range slices.SortedFunc(maps.Keys(r.statuses), compareRefs) {
		statuses = append(statuses, *r.statuses[ref])
	}
	return statuses
}

func compareRefs(a, b ObjectRef) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
