package kubeapply

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"weir.dev/policy"
)

// atOnce bounds the requests that are under way together.
const atOnce = 8

// each calls do for every item, some at once, and returns the errors in the order
// of the items. After the first failure it begins no more unless all is set.
func each(ctx context.Context, items []*item, all bool, do func(context.Context, *item) error) []error {
	errs := make([]error, len(items))
	slots := make(chan struct{}, atOnce)
	failed := make(chan struct{})
	fail := sync.OnceFunc(func() { close(failed) })
	var working sync.WaitGroup
	for i, it := range items {
		slots <- struct{}{}
		select {
		case <-failed:
			if !all {
				working.Wait()
				return errs
			}
		default:
		}
		working.Go(func() {
			defer func() { <-slots }()
			if errs[i] = do(ctx, it); errs[i] != nil {
				fail()
			}
		})
	}
	working.Wait()
	return errs
}

// check tries every item without changing anything.
func (r *run) check(ctx context.Context, items []*item) {
	coming := map[string]bool{}
	for _, it := range r.items {
		if it.ref.Kind == "Namespace" {
			coming[it.ref.Name] = true
		}
	}
	errs := each(ctx, items, true, func(ctx context.Context, it *item) error {
		err := r.try(ctx, it, []string{metav1.DryRunAll})
		if lacksNamespace(err) && coming[it.value.GetNamespace()] {
			it.homeless, it.action = true, Unchecked
			return nil
		}
		return err
	})
	r.report(items, errs)
}

func lacksNamespace(err error) bool {
	var status apierrors.APIStatus
	return apierrors.IsNotFound(err) && errors.As(err, &status) && status.Status().Details != nil && status.Status().Details.Kind == "namespaces"
}

// try applies or deletes one item, or pretends to.
func (r *run) try(ctx context.Context, it *item, dryRun []string) error {
	if it.source == nil {
		return it.delete(ctx, dryRun)
	}
	live, err := it.client.Get(ctx, it.ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		live, err = nil, nil
	}
	if err != nil {
		return err
	}
	value := it.value.DeepCopy()
	if err := r.label(value, live); err != nil {
		return err
	}
	raw, err := value.MarshalJSON()
	if err != nil {
		return err
	}
	after, err := it.client.Patch(ctx, it.ref.Name, types.ApplyPatchType, raw, metav1.PatchOptions{
		FieldManager: FieldManager, Force: &r.request.Force, DryRun: dryRun, FieldValidation: metav1.FieldValidationStrict,
	})
	if err != nil {
		return err
	}
	it.live = after
	switch {
	case live == nil:
		it.action = Created
	case reflect.DeepEqual(said(live), said(after)):
		it.action = Unchanged
	default:
		it.action = Configured
	}
	return nil
}

// setError is an object that belongs to another set.
type setError struct{ set string }

func (e setError) Error() string {
	return fmt.Sprintf("is part of the set %q, which other files own: apply it with --set %s, or take it over with --force-conflicts", e.set, e.set)
}

// label marks the object as one of the set.
func (r *run) label(value, live *unstructured.Unstructured) error {
	set := r.request.Set
	if live != nil {
		switch had := live.GetLabels()[SetLabel]; {
		case had == "" || had == set:
		case set == "":
			set = had // It stays where it is.
		case !r.request.Force:
			return setError{had}
		}
	}
	if set == "" {
		return nil
	}
	labels := value.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[SetLabel] = set
	value.SetLabels(labels)
	return nil
}

// said is what an object says, without what the server counts.
func said(value *unstructured.Unstructured) map[string]any {
	slim := value.DeepCopy()
	slim.SetManagedFields(nil)
	slim.SetResourceVersion("")
	slim.SetGeneration(0)
	delete(slim.Object, "status")
	return slim.Object
}

func (it *item) delete(ctx context.Context, dryRun []string) error {
	uid := it.live.GetUID()
	err := it.client.Delete(ctx, it.ref.Name, metav1.DeleteOptions{DryRun: dryRun, Preconditions: &metav1.Preconditions{UID: &uid}})
	if err == nil || apierrors.IsNotFound(err) {
		it.action = Deleted
		return nil
	}
	return err
}

// change does what was checked: namespaces first when others wait for them, then
// one kind after the other, then what is deleted.
func (r *run) change(ctx context.Context) {
	for _, it := range slices.Concat(r.items, r.deletions) {
		it.action = NotApplied
	}
	rest := r.items
	homeless := slices.DeleteFunc(slices.Clone(r.items), func(it *item) bool { return !it.homeless })
	if len(homeless) > 0 {
		var namespaces []*item
		namespaces, rest = split(rest, func(it *item) bool { return it.ref.Kind == "Namespace" })
		if !r.step(ctx, namespaces) {
			return
		}
		r.check(ctx, homeless)
		for _, it := range homeless {
			it.action = NotApplied
		}
		if len(r.result.Problems) > 0 {
			r.result.Stopped = "after the namespaces, which the other objects could not be checked without"
			return
		}
	}
	for len(rest) > 0 {
		kind := rest[0].ref.Kind
		var same []*item
		same, rest = split(rest, func(it *item) bool { return it.ref.Kind == kind })
		r.request.Progress("applying " + kind)
		if !r.step(ctx, same) {
			return
		}
	}
	r.request.Progress("deleting what is not there any more")
	r.step(ctx, r.deletions)
}

func split(items []*item, which func(*item) bool) (chosen, others []*item) {
	for _, it := range items {
		if which(it) {
			chosen = append(chosen, it)
		} else {
			others = append(others, it)
		}
	}
	return chosen, others
}

// step changes items and reports whether all went well.
func (r *run) step(ctx context.Context, items []*item) bool {
	errs := each(ctx, items, false, func(ctx context.Context, it *item) error { return r.try(ctx, it, nil) })
	r.report(items, errs)
	if len(r.result.Problems) == 0 {
		return true
	}
	r.result.Stopped = "at " + r.result.Problems[0].Object.String()
	return false
}

// report turns the API server's answers into problems, each with its field.
func (r *run) report(items []*item, errs []error) {
	for i, err := range errs {
		if err == nil {
			continue
		}
		it := items[i]
		for _, found := range explain(err) {
			origin := policy.Origin{File: r.cluster.Host, Field: found.field}
			if it.source != nil {
				origin = it.source.Origin(found.field)
			}
			origin.Object = it.ref
			r.result.Problems = append(r.result.Problems, policy.Problem{
				Origin: origin, Code: found.code, Severity: policy.SeverityError, Message: found.message,
			})
		}
	}
}

type refusal struct {
	code           policy.Code
	field, message string
}

// explain is what an answer of the API server says, field by field.
func explain(err error) []refusal {
	var other setError
	if errors.As(err, &other) {
		return []refusal{{policy.CodeOwned, "metadata.labels", err.Error()}}
	}
	var answer apierrors.APIStatus
	if !errors.As(err, &answer) || answer.Status().Details == nil || len(answer.Status().Details.Causes) == 0 {
		code := policy.CodeKubernetes
		message := err.Error()
		if meta.IsNoMatchError(err) {
			message = "the cluster does not have this kind"
		}
		return []refusal{{code, "", message}}
	}
	var found []refusal
	for _, cause := range answer.Status().Details.Causes {
		field := strings.TrimPrefix(cause.Field, ".")
		if field == "<nil>" { // A rule of the whole object.
			field = ""
		}
		if cause.Type != metav1.CauseTypeFieldManagerConflict {
			found = append(found, refusal{policy.CodeKubernetes, field, cause.Message})
			continue
		}
		found = append(found, refusal{policy.CodeOwned, field, fmt.Sprintf("is owned by %s with another value: leave the field out, or take it over with --force-conflicts",
			strings.TrimPrefix(cause.Message, "conflict with "))})
	}
	return found
}
