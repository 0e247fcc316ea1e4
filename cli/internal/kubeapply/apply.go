package kubeapply

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"weir.dev/policy"
)

// FieldManager owns the fields that are applied.
const FieldManager = "weir"

// SetLabel names the set that an object was applied as a part of.
const SetLabel = "weir.dev/applied-set"

// What becomes of an object.
const (
	Created    = "created"
	Configured = "configured"
	Unchanged  = "unchanged"
	Deleted    = "deleted"
	// NotApplied is what was to be applied or deleted when something failed before.
	NotApplied = "not applied"
	// Unchecked is an object of a dry run whose namespace is not there yet.
	Unchecked = "unchecked"
)

// Request is what Apply is asked for.
type Request struct {
	// Objects to apply, of one version each.
	Objects []*policy.Object
	// Set is the value of SetLabel; empty leaves an object in the set that it is in.
	Set string
	// PruneSet deletes the set's objects that are not among Objects.
	PruneSet bool
	// Kinds that PruneSet looks through.
	Kinds []schema.GroupVersionKind
	// Prune are objects to delete, if weir applied them.
	Prune []policy.ObjectRef
	// Force takes fields over from their owners, and objects from another set.
	Force bool
	// DryRun changes nothing.
	DryRun bool
	// Wait is how long the status is waited for; 0 is not at all.
	Wait time.Duration
	// Progress is told what is being done.
	Progress func(string)
}

// Result is what became of a Request.
type Result struct {
	Objects []Outcome `json:"objects"`
	// Problems are refusals; nothing at all was changed when Stopped is empty.
	Problems policy.Problems `json:"problems,omitempty"`
	// Stopped says at which object a failure came after others had been changed.
	Stopped string `json:"stopped,omitempty"`
	DryRun  bool   `json:"dryRun,omitempty"`
	// Programmed is set once the status of every object says that proxies have it.
	Programmed bool `json:"programmed"`
	// Waiting says what is not so yet, or refused by the control plane.
	Waiting []string `json:"waiting,omitempty"`
}

// Outcome is what became of one object.
type Outcome struct {
	Object policy.ObjectRef `json:"object"`
	Action string           `json:"action"`
	File   string           `json:"file,omitempty"`
}

// item is one object on its way.
type item struct {
	source *policy.Object // nil for what is deleted
	ref    policy.ObjectRef
	client dynamic.ResourceInterface
	scope  meta.RESTScopeName
	value  *unstructured.Unstructured
	live   *unstructured.Unstructured
	action string
	// homeless is set while the object's namespace, which is applied with it, is not
	// there.
	homeless bool
}

// Apply does what the request asks for. The error is about the conversation as a
// whole; what is wrong with objects is in the result.
func (c *Cluster) Apply(ctx context.Context, request Request) (*Result, error) {
	if request.Progress == nil {
		request.Progress = func(string) {}
	}
	run := &run{cluster: c, request: request, result: &Result{DryRun: request.DryRun}}
	request.Progress("asking " + c.Host + " which kinds it has")
	if err := run.prepare(ctx); err != nil {
		return nil, err
	}
	if len(run.result.Problems) == 0 {
		request.Progress("checking with the API server")
		run.check(ctx, run.items)
		run.check(ctx, run.deletions)
	}
	if len(run.result.Problems) > 0 {
		return run.finish(), ctx.Err()
	}
	if !request.DryRun {
		run.change(ctx)
		if len(run.result.Problems) == 0 && request.Wait > 0 {
			run.wait(ctx)
		}
	}
	return run.finish(), ctx.Err()
}

// run is one Apply.
type run struct {
	cluster   *Cluster
	request   Request
	items     []*item
	deletions []*item
	result    *Result
}

// finish reports the objects in the order of the files' kinds and names.
func (r *run) finish() *Result {
	for _, it := range slices.Concat(r.items, r.deletions) {
		outcome := Outcome{Object: it.ref, Action: it.action}
		if it.source != nil {
			outcome.File = it.source.File
		}
		r.result.Objects = append(r.result.Objects, outcome)
	}
	return r.result
}

// prepare finds out what is applied where, and what is deleted.
func (r *run) prepare(ctx context.Context) error {
	if err := r.cluster.discover(); err != nil {
		return err
	}
	for _, object := range r.request.Objects {
		it, err := r.cluster.item(object)
		if meta.IsNoMatchError(err) {
			r.refuse(object, "kind", policy.CodeKubernetes, "the cluster does not have this kind: install the Gateway API's definitions and those in charts/crds")
			continue
		}
		if err != nil {
			return r.cluster.failed(err)
		}
		r.items = append(r.items, it)
	}
	// What protects comes before what it protects, and what is referred to before
	// what refers to it.
	slices.SortStableFunc(r.items, func(a, b *item) int { return cmp.Compare(rank(a.ref.Kind), rank(b.ref.Kind)) })
	return r.findDeletions(ctx)
}

// rank is the place of a kind in the order of applying; deleting goes the other
// way.
func rank(kind string) int {
	order := []string{
		"Namespace", "GatewayClass", "ConfigMap", "Secret", "Service", "EndpointSlice", "Consumer", "Backend", "ReferenceGrant", "BackendTLSPolicy",
		"AuthPolicy", "RateLimitPolicy", "", "Gateway", "ListenerSet", "TLSRoute", "GRPCRoute", "HTTPRoute",
	}
	if i := slices.Index(order, kind); i >= 0 {
		return i
	}
	return slices.Index(order, "")
}

// item is an object with where it goes.
func (c *Cluster) item(object *policy.Object) (*item, error) {
	value := &unstructured.Unstructured{}
	if err := json.Unmarshal(object.JSON(), &value.Object); err != nil {
		return nil, err
	}
	it := &item{source: object, value: value}
	return it, c.place(it, value.GroupVersionKind().GroupKind(), value.GroupVersionKind().Version)
}

// place finds where an item's kind lives.
func (c *Cluster) place(it *item, kind schema.GroupKind, versions ...string) error {
	mapping, err := c.mapper.RESTMapping(kind, versions...)
	if err != nil {
		return err
	}
	it.scope = mapping.Scope.Name()
	resource := c.dynamic.Resource(mapping.Resource)
	if it.scope == meta.RESTScopeNameRoot {
		it.value.SetNamespace("")
		it.client = resource
		it.ref = policy.ObjectRef{Kind: kind.Kind, Namespace: policy.DefaultNamespace, Name: it.value.GetName()}
		return nil
	}
	it.value.SetNamespace(cmp.Or(it.value.GetNamespace(), c.namespace))
	it.client = resource.Namespace(it.value.GetNamespace())
	it.ref = policy.ObjectRef{Kind: kind.Kind, Namespace: it.value.GetNamespace(), Name: it.value.GetName()}
	return nil
}

// refuse notes a problem of an object.
func (r *run) refuse(object *policy.Object, field string, code policy.Code, message string) {
	r.result.Problems = append(r.result.Problems, policy.Problem{
		Origin: object.Origin(field), Code: code, Severity: policy.SeverityError, Message: message,
	})
}
