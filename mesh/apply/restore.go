package apply

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weir.dev/mesh/istio"
)

// restore puts back what was written, in the order of a change: routes are as they
// were, but for those that are to come back after their guards, then the guards, and
// then those. It is done also when the command was told to end.
func (r *run) restore(ctx context.Context) {
	if len(r.written) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreWithin)
	defer cancel()
	r.request.Progress("putting everything back")
	r.request.Wait = min(r.request.Wait, restoreWait)
	r.result.RolledBack = true
	routes := slices.DeleteFunc(slices.Clone(r.written), func(it *item) bool { return !routing(it.id.Kind) })
	guards := slices.DeleteFunc(slices.Clone(r.written), func(it *item) bool { return routing(it.id.Kind) })
	if len(guards) > 0 {
		if err := r.withdraw(ctx, routes); err != nil {
			// A gateway may have a new route still, which by the guards of before might be
			// anybody's.
			r.leave("nothing else is put back, since gateways may have routes that only the new guards are for: "+err.Error(), r.written)
			return
		}
	}
	for _, it := range slices.Backward(guards) {
		r.back(ctx, it)
	}
	if err := r.oldRules(ctx, guards); err != nil {
		r.leave("routes are not put back, since extauthz may decide about them by the rules of others: "+err.Error(), routes)
		return
	}
	for _, it := range routes {
		r.back(ctx, it)
	}
}

// leave gives up putting items back.
func (r *run) leave(why string, items []*item) {
	r.result.RolledBack = false
	r.result.Failed = append(r.result.Failed, why)
	for _, it := range items {
		it.action = NotRestored
	}
}

// withdraw brings VirtualServices to what they were when the guards of both came: the
// routes of before, but for those that were taken out then.
func (r *run) withdraw(ctx context.Context, routes []*item) error {
	had := r.serving()
	var trimmed []*item
	for _, it := range routes {
		if it.id.Kind != "VirtualService" || it.after == nil {
			continue
		}
		rest, err := r.between(it)
		switch {
		case err != nil:
			return fmt.Errorf("%s: what Weir applied of it before cannot be told: %w", it.id, err)
		case rest == nil:
			if err := it.delete(ctx, it.after, false); err != nil {
				return fmt.Errorf("%s is not deleted: %w", it.id, err)
			}
			it.after, it.action = nil, Deleted
		case reflect.DeepEqual(entries(rest, "http"), entries(it.after, "http")):
			continue
		default:
			if err := r.write(ctx, it, rest); err != nil {
				return err
			}
		}
		trimmed = append(trimmed, it)
	}
	return r.lost(ctx, trimmed, had, r.gateways())
}

// between is a VirtualService while the guards change; nil where it has no routes. Of
// one that was taken over from others it is what is left of the new one.
func (r *run) between(it *item) (*unstructured.Unstructured, error) {
	if it.before == nil {
		return nil, nil //nolint:nilnil // documented
	}
	part, err := appliedPart(it.before)
	if err != nil {
		return nil, err
	}
	if part == nil {
		rest, removed := without(it.after, it.before, false)
		if removed == 0 {
			return it.after, nil
		}
		return rest, nil
	}
	if rest, removed := without(it.before, it.want, r.handsBack()); removed > 0 && len(r.guards()) > 0 {
		return rest, nil
	}
	return part, nil
}

// oldRules waits until extauthz decides by the rules that there were before.
func (r *run) oldRules(ctx context.Context, guards []*item) error {
	for _, it := range guards {
		if r.Mesh == nil || it.id.Kind != "Secret" || it.id.Name != istio.RulesSecret || it.before == nil {
			continue
		}
		rules := content(it.before)
		return r.await(ctx, "extauthz to have the rules of before", func(ctx context.Context) ([]string, error) { return r.Mesh.Unruled(ctx, rules) })
	}
	return nil
}

// back restores one object, and says so.
func (r *run) back(ctx context.Context, it *item) {
	if err := it.restore(ctx); err != nil {
		it.action = NotRestored
		r.result.RolledBack = false
		r.result.Failed = append(r.result.Failed, fmt.Sprintf("%s is not put back: %v", it.id, err))
		return
	}
	it.action = Restored
}

// restore makes one object what it was.
func (it *item) restore(ctx context.Context) error {
	if it.before == nil {
		live, err := it.client.Get(ctx, it.id.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if !appliedByUs(live) { // Somebody else made it in the meantime.
			return nil
		}
		return it.delete(ctx, live, false)
	}
	part, err := appliedPart(it.before)
	if err != nil {
		return err
	}
	var now *unstructured.Unstructured
	if part != nil {
		now, err = it.apply(ctx, part, true, false)
	} else if now, err = it.client.Get(ctx, it.id.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
		now, err = it.client.Create(ctx, bare(it.before), metav1.CreateOptions{FieldManager: FieldManager})
	}
	if err != nil {
		return err
	}
	if len(differences(said(it.before), said(now), false)) == 0 {
		return nil
	}
	// Fields of others, taken over with --force-conflicts.
	old := bare(it.before)
	old.SetResourceVersion(now.GetResourceVersion())
	_, err = it.client.Update(ctx, old, metav1.UpdateOptions{FieldManager: FieldManager})
	return err
}

// bare is an object without what the server counts.
func bare(value *unstructured.Unstructured) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: said(value)}
}
