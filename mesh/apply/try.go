package apply

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"weir.dev/mesh/istio"
	"weir.dev/policy"
)

// atOnce bounds the requests that are under way together.
const atOnce = 8

// item is an object with where it goes.
func (r *run) item(object *istio.Object) (*item, error) {
	want := object.Unstructured()
	if err := encodeSecret(want); err != nil {
		return nil, err
	}
	labels := want.GetLabels()
	labels[istio.LabelSet] = r.request.Set
	want.SetLabels(labels)
	it := &item{object: object, id: ID{object.Kind, object.Namespace, object.Name}, want: want}
	return it, r.place(it, want.GroupVersionKind())
}

// encodeSecret turns stringData into data: the API server does so, but leaves the
// fields to nobody, so that they would stay for ever.
func encodeSecret(object *unstructured.Unstructured) error {
	texts, found, err := unstructured.NestedMap(object.Object, "stringData")
	if err != nil || !found {
		return err
	}
	data := map[string]any{}
	for key, value := range texts {
		data[key] = base64.StdEncoding.EncodeToString([]byte(fmt.Sprint(value)))
	}
	delete(object.Object, "stringData")
	object.Object["data"] = data
	return nil
}

// place finds where an item's kind lives.
func (r *run) place(it *item, kind schema.GroupVersionKind) error {
	mapping, err := r.Mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) {
		return fmt.Errorf("the Kubernetes API at %s does not have %s %s: is Istio installed there?", r.Host, kind.GroupVersion(), kind.Kind)
	}
	if err != nil {
		return r.failed(err)
	}
	it.client = r.Objects.Resource(mapping.Resource).Namespace(it.id.Namespace)
	return nil
}

func (r *run) failed(err error) error {
	return fmt.Errorf("the Kubernetes API at %s: %w", r.Host, err)
}

// tryAll has the API server try every change, some at once.
func (r *run) tryAll(ctx context.Context) {
	all := slices.Concat(r.items, r.deletions)
	errs := make([]error, len(all))
	slots := make(chan struct{}, atOnce)
	var working sync.WaitGroup
	for i, it := range all {
		slots <- struct{}{}
		working.Go(func() {
			defer func() { <-slots }()
			errs[i] = r.try(ctx, it)
		})
	}
	working.Wait()
	r.refusedAll(all, errs)
}

// refusedAll notes what the API server says against objects. What it says of none of
// them, because it could not ask a webhook, is said once.
func (r *run) refusedAll(all []*item, errs []error) {
	unasked, first := map[string]int{}, []string(nil)
	for i, it := range all {
		if message, ok := webhookFailure(errs[i]); ok {
			if unasked[message]++; unasked[message] == 1 {
				first = append(first, message)
			}
			continue
		}
		r.refused(it, errs[i])
	}
	for _, message := range first {
		r.result.Problems = append(r.result.Problems, policy.Problem{
			Origin: policy.Origin{File: r.Host}, Code: policy.CodeKubernetes, Severity: policy.SeverityError,
			Message: fmt.Sprintf("%d of %d objects cannot be changed while the API server gets no answer from a webhook that it asks about them; see that what it names runs, istiod above all: %s",
				unasked[message], len(all), message),
		})
	}
}

// webhookFailure is the API server's message where it could not ask a webhook, which
// is no object's fault (apiserver, pkg/admission/plugin/webhook, ErrCallingWebhook).
func webhookFailure(err error) (message string, ok bool) {
	return fmt.Sprint(err), apierrors.IsInternalError(err) && strings.Contains(err.Error(), "failed calling webhook")
}

// try finds out what a change would do.
func (r *run) try(ctx context.Context, it *item) error {
	if it.object == nil {
		it.action = Deleted
		return it.delete(ctx, it.before, true)
	}
	live, err := it.client.Get(ctx, it.id.Name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if err == nil {
		it.before = live
		if owner := r.stranger(live); owner != "" {
			it.conflicts = append(it.conflicts, Conflict{Owner: owner})
		}
	}
	after, err := it.apply(ctx, it.want, false, true)
	if apierrors.IsConflict(err) {
		it.conflicts = append(it.conflicts, conflicts(err)...)
		after, err = it.apply(ctx, it.want, true, true)
	}
	if err != nil {
		return err
	}
	it.after = after
	it.compare()
	return nil
}

// stranger says whose an object is, if not of this set.
func (r *run) stranger(live *unstructured.Unstructured) string {
	labels := live.GetLabels()
	switch {
	case labels[istio.LabelOwner] != istio.OwnerValue || labels[istio.LabelSet] == "":
		return "somebody else: it is not labelled as one of Weir's"
	case labels[istio.LabelSet] != r.request.Set:
		return fmt.Sprintf("the set %q", labels[istio.LabelSet])
	}
	return ""
}

// conflicts are the fields that an answer says are others'.
func conflicts(err error) []Conflict {
	var answer apierrors.APIStatus
	if !errors.As(err, &answer) || answer.Status().Details == nil {
		return []Conflict{{Owner: err.Error()}}
	}
	var found []Conflict
	for _, cause := range answer.Status().Details.Causes {
		if cause.Type == metav1.CauseTypeFieldManagerConflict {
			found = append(found, Conflict{Field: strings.TrimPrefix(cause.Field, "."), Owner: strings.TrimPrefix(cause.Message, "conflict with ")})
		}
	}
	if len(found) == 0 {
		found = append(found, Conflict{Owner: err.Error()})
	}
	return found
}

// compare says how the object would differ.
func (it *item) compare() {
	if it.before == nil {
		it.action = Created
		return
	}
	all := differences(said(it.before), said(it.after), it.object.Secret)
	it.foreign = added(said(it.want), said(it.after))
	it.action = Unchanged
	// Where it comes from is not what it does: a line more in a file changes nothing.
	if slices.ContainsFunc(all, func(f policy.FieldChange) bool { return f.Path != annotation(istio.AnnotationOrigin) }) {
		it.action = Changed
	}
	// These tell nothing that the other fields don't.
	told := []string{annotation(istio.AnnotationOrigin), annotation(istio.AnnotationHash), annotation(istio.AnnotationAssertion)}
	it.fields = slices.DeleteFunc(all, func(f policy.FieldChange) bool { return slices.Contains(told, f.Path) })
}

func annotation(name string) string { return "metadata.annotations[" + name + "]" }

// apply is one server-side apply.
func (it *item) apply(ctx context.Context, value *unstructured.Unstructured, force, dryRun bool) (*unstructured.Unstructured, error) {
	raw, err := value.MarshalJSON()
	if err != nil {
		return nil, err
	}
	options := metav1.PatchOptions{FieldManager: FieldManager, Force: &force, FieldValidation: metav1.FieldValidationStrict}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	return it.client.Patch(ctx, it.id.Name, types.ApplyPatchType, raw, options)
}

// delete deletes this very object.
func (it *item) delete(ctx context.Context, live *unstructured.Unstructured, dryRun bool) error {
	uid := live.GetUID()
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	if err := it.client.Delete(ctx, it.id.Name, options); !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}

// refuseConflicts makes problems of conflicts, where they are not to be overruled.
func (r *run) refuseConflicts() {
	for _, it := range r.items {
		for _, conflict := range it.conflicts {
			if r.request.Force {
				break
			}
			what := it.id.String()
			if conflict.Field != "" {
				what += ": " + conflict.Field
			}
			r.problem(it, conflict.Field, policy.CodeOwned, fmt.Sprintf("%s belongs to %s; leave it to its owner, or take it over with --force-conflicts", what, conflict.Owner))
		}
	}
}

// refused notes what the API server says against an object.
func (r *run) refused(it *item, err error) {
	if err == nil {
		return
	}
	var answer apierrors.APIStatus
	if !errors.As(err, &answer) || answer.Status().Details == nil || len(answer.Status().Details.Causes) == 0 {
		r.problem(it, fieldIn(err.Error()), policy.CodeKubernetes, it.id.String()+": "+err.Error())
		return
	}
	for _, cause := range answer.Status().Details.Causes {
		field := strings.TrimPrefix(cause.Field, ".")
		if field == "<nil>" { // a rule of the whole object
			field = ""
		}
		r.problem(it, field, policy.CodeKubernetes, strings.TrimSuffix(it.id.String()+": "+field, ": ")+": "+cause.Message)
	}
}

// fieldIn is the field that a message names, where it is no cause of its own: values
// of a wrong type, which the API server can't compare with others'.
func fieldIn(message string) string {
	for word := range strings.FieldsSeq(message) {
		if field, ok := strings.CutPrefix(word, ".spec."); ok {
			return "spec." + strings.TrimSuffix(field, ":")
		}
	}
	return ""
}

// problem is one of an object, at the place of the policy that it comes from.
func (r *run) problem(it *item, field string, code policy.Code, message string) {
	origin := policy.Origin{File: r.Host, Object: policy.ObjectRef{Kind: it.id.Kind, Namespace: it.id.Namespace, Name: it.id.Name}}
	if it.object != nil {
		if from, ok := it.from(field); ok {
			origin = from
		}
	}
	r.result.Problems = append(r.result.Problems, policy.Problem{Origin: origin, Code: code, Severity: policy.SeverityError, Message: message})
}
