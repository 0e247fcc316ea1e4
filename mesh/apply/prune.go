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
	groups := map[string]string{"Secret": "", "ConfigMap": "", "AuthorizationPolicy": "security.istio.io", "RequestAuthentication": "security.istio.io"}
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

// Strays are objects that are labelled as Weir's and are of no set: brought by other
// means than Apply, they are never deleted by it.
func Strays(ctx context.Context, cluster Cluster, options istio.Options) ([]ID, error) {
	r := &run{Cluster: cluster, request: Request{Options: options}}
	var strays []ID
	for _, kind := range groupKinds() {
		found, err := r.list(ctx, kind, istio.LabelOwner+"="+istio.OwnerValue+",!"+istio.LabelSet)
		if err != nil {
			return nil, err
		}
		for i := range found {
			strays = append(strays, ID{kind.Kind, found[i].GetNamespace(), found[i].GetName()})
		}
	}
	return strays, nil
}

// findDeletions finds what the set has too much, of the kinds and in the
// namespaces that things are made in.
func (r *run) findDeletions(ctx context.Context) error {
	for _, kind := range groupKinds() {
		found, err := r.list(ctx, kind, istio.LabelOwner+"="+istio.OwnerValue+","+istio.LabelSet+"="+r.request.Set)
		if err != nil {
			return err
		}
		for i := range found {
			it := &item{id: ID{kind.Kind, found[i].GetNamespace(), found[i].GetName()}, before: &found[i]}
			if !appliedByUs(it.before) {
				continue
			}
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

// list are the objects of a kind with some labels, in the namespaces that the kind is
// made in: Secrets are rules of extauthz and certificates of the gateway.
func (r *run) list(ctx context.Context, kind schema.GroupKind, labels string) ([]unstructured.Unstructured, error) {
	mapping, err := r.Mapper.RESTMapping(kind)
	if meta.IsNoMatchError(err) {
		return nil, nil // not installed: there is none
	}
	if err != nil {
		return nil, r.failed(err)
	}
	namespaces := []string{r.request.Options.Namespace}
	if kind.Group == "" {
		namespaces = []string{r.request.Options.RulesNamespace}
		if kind.Kind == "Secret" && r.request.Options.Namespace != r.request.Options.RulesNamespace {
			namespaces = append(namespaces, r.request.Options.Namespace)
		}
	}
	var all []unstructured.Unstructured
	for _, namespace := range namespaces {
		found, err := r.listIn(ctx, mapping.Resource, kind.Kind, namespace, labels)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

func (r *run) listIn(ctx context.Context, resource schema.GroupVersionResource, kind, namespace, labels string) ([]unstructured.Unstructured, error) {
	var all []unstructured.Unstructured
	options := metav1.ListOptions{LabelSelector: labels, Limit: pageSize}
	for {
		page, err := r.Objects.Resource(resource).Namespace(namespace).List(ctx, options)
		if err != nil {
			return nil, r.failed(fmt.Errorf("what there is of %s in %s with %s is not known: %w", kind, namespace, labels, err))
		}
		all = append(all, page.Items...)
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
