package apply

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"weir.dev/mesh/istio"
)

// pageSize bounds one answer to a list.
const pageSize = 500

// groupKinds are the kinds that are made.
func groupKinds() []schema.GroupKind {
	groups := map[string]string{"Secret": "", "ConfigMap": "", "AuthorizationPolicy": "security.istio.io"}
	var kinds []schema.GroupKind
	for _, kind := range istio.Kinds() {
		group, known := groups[kind]
		if !known {
			group = "networking.istio.io"
		}
		kinds = append(kinds, schema.GroupKind{Group: group, Kind: kind})
	}
	return kinds
}

// findDeletions finds what the set has too much, of the kinds and in the
// namespaces that things are made in.
func (r *run) findDeletions(ctx context.Context) error {
	for _, kind := range groupKinds() {
		namespace := r.request.Options.Namespace
		if kind.Group == "" {
			namespace = r.request.Options.RulesNamespace
		}
		found, err := r.owned(ctx, kind, namespace)
		if err != nil {
			return err
		}
		for i := range found {
			it := &item{id: ID{kind.Kind, namespace, found[i].GetName()}, before: &found[i]}
			if slices.ContainsFunc(r.items, func(kept *item) bool { return kept.id == it.id }) {
				continue
			}
			if err := r.place(it, found[i].GroupVersionKind()); err != nil {
				return err
			}
			r.deletions = append(r.deletions, it)
		}
	}
	slices.Reverse(r.deletions) // Routes go before what guards them.
	return nil
}

// owned are the objects of a kind that are of the set, and that Weir applied.
func (r *run) owned(ctx context.Context, kind schema.GroupKind, namespace string) ([]unstructured.Unstructured, error) {
	mapping, err := r.Mapper.RESTMapping(kind)
	if meta.IsNoMatchError(err) {
		return nil, nil // not installed: there is none
	}
	if err != nil {
		return nil, r.failed(err)
	}
	var all []unstructured.Unstructured
	options := metav1.ListOptions{LabelSelector: istio.LabelOwner + "=" + istio.OwnerValue + "," + istio.LabelSet + "=" + r.request.Set, Limit: pageSize}
	for {
		page, err := r.Objects.Resource(mapping.Resource).Namespace(namespace).List(ctx, options)
		if err != nil {
			return nil, r.failed(fmt.Errorf("what the set %q holds of %s in %s is not known: %w", r.request.Set, kind.Kind, namespace, err))
		}
		for i := range page.Items {
			if appliedByUs(&page.Items[i]) {
				all = append(all, page.Items[i])
			}
		}
		if options.Continue = page.GetContinue(); options.Continue == "" {
			return all, nil
		}
	}
}

// appliedByUs reports whether weir owns fields of an object by applying it.
func appliedByUs(live *unstructured.Unstructured) bool {
	return slices.ContainsFunc(live.GetManagedFields(), ours)
}

func ours(entry metav1.ManagedFieldsEntry) bool {
	return entry.Manager == FieldManager && entry.Operation == metav1.ManagedFieldsOperationApply
}
