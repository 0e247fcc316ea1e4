package kubeapply

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"weir.dev/policy"
)

// pageSize bounds one answer to a list.
const pageSize = 500

// findDeletions finds what is deleted: what is named, and what the set has too
// much. Both only if weir applied it.
func (r *run) findDeletions(ctx context.Context) error {
	for _, ref := range r.request.Prune {
		if err := r.findNamed(ctx, ref); err != nil {
			return err
		}
	}
	if r.request.PruneSet {
		for _, kind := range groupKinds(r.request.Kinds) {
			if err := r.findInSet(ctx, kind); err != nil {
				return err
			}
		}
	}
	slices.SortStableFunc(r.deletions, func(a, b *item) int { return rank(b.ref.Kind) - rank(a.ref.Kind) })
	return nil
}

func groupKinds(kinds []schema.GroupVersionKind) []schema.GroupKind {
	var groups []schema.GroupKind
	for _, kind := range kinds {
		if !slices.Contains(groups, kind.GroupKind()) {
			groups = append(groups, kind.GroupKind())
		}
	}
	return groups
}

func (r *run) findNamed(ctx context.Context, ref policy.ObjectRef) error {
	kinds := slices.DeleteFunc(slices.Clone(r.request.Kinds), func(k schema.GroupVersionKind) bool { return !strings.EqualFold(k.Kind, ref.Kind) })
	refuse := func(message string) {
		r.result.Problems = append(r.result.Problems, policy.Problem{
			Origin: policy.Origin{Object: ref, File: r.cluster.Host}, Code: policy.CodeKubernetes, Severity: policy.SeverityError, Message: message,
		})
	}
	if len(kinds) == 0 {
		refuse("cannot be deleted: Weir does not know this kind")
		return nil
	}
	it := &item{value: &unstructured.Unstructured{Object: map[string]any{}}}
	it.value.SetNamespace(ref.Namespace)
	it.value.SetName(ref.Name)
	err := r.cluster.place(it, kinds[0].GroupKind())
	if err == nil {
		it.live, err = it.client.Get(ctx, ref.Name, metav1.GetOptions{})
	}
	switch {
	case apierrors.IsNotFound(err) || meta.IsNoMatchError(err):
		refuse("cannot be deleted: there is none")
	case err != nil:
		return r.cluster.failed(err)
	case slices.ContainsFunc(r.items, func(applied *item) bool { return applied.ref == it.ref }):
		refuse("is applied and pruned at once")
	case !appliedByUs(it.live):
		refuse("is not deleted: weir has not applied it")
	default:
		r.deletions = append(r.deletions, it)
	}
	return nil
}

// findInSet looks through one kind, in every namespace.
func (r *run) findInSet(ctx context.Context, kind schema.GroupKind) error {
	mapping, err := r.cluster.mapper.RESTMapping(kind)
	if meta.IsNoMatchError(err) {
		return nil // Not installed: there is none.
	}
	options := metav1.ListOptions{LabelSelector: SetLabel + "=" + r.request.Set, Limit: pageSize}
	for err == nil {
		var page *unstructured.UnstructuredList
		if page, err = r.cluster.dynamic.Resource(mapping.Resource).List(ctx, options); err != nil {
			break
		}
		for i := range page.Items {
			live := &page.Items[i]
			it := &item{value: live, live: live}
			if err = r.cluster.place(it, kind, mapping.GroupVersionKind.Version); err != nil {
				break
			}
			kept := slices.ContainsFunc(r.items, func(applied *item) bool { return applied.ref == it.ref }) ||
				slices.ContainsFunc(r.deletions, func(other *item) bool { return other.ref == it.ref })
			if !kept && appliedByUs(live) {
				r.deletions = append(r.deletions, it)
			}
		}
		if options.Continue = page.GetContinue(); options.Continue == "" {
			break
		}
	}
	if err != nil {
		return r.cluster.failed(fmt.Errorf("what the set %q holds of %s is not known: %w", r.request.Set, kind.Kind, err))
	}
	return nil
}

// appliedByUs reports whether weir owns fields of an object by applying it.
func appliedByUs(live *unstructured.Unstructured) bool {
	return slices.ContainsFunc(live.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == FieldManager && entry.Operation == metav1.ManagedFieldsOperationApply
	})
}
