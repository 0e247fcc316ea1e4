package apply

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"weir.dev/mesh/istio"
	"weir.dev/policy"
)

// FieldManager owns the fields that are applied.
const FieldManager = "weir"

// What becomes of an object.
const (
	Created   = "created"
	Changed   = "changed"
	Unchanged = "unchanged"
	Deleted   = "deleted"
	// NotApplied is what was to be changed when something failed before.
	NotApplied = "not applied"
	// Restored is what was changed, and is as it was before.
	Restored = "restored"
	// NotRestored is what was changed and could not be put back.
	NotRestored = "not restored"
)

// Cluster is the API server, and the mesh in it.
type Cluster struct {
	Objects dynamic.Interface
	Mapper  meta.RESTMapper
	// Host is the API server's URL, for messages.
	Host string
	// Mesh is asked what is in force; nil when nothing is to be waited for, checked or
	// put back.
	Mesh Mesh
}

// Mesh is what runs of Istio and of Weir's servers. Each method answers with what
// is not so yet, one line for each, and is asked again until nothing is left or
// time is over. An error is of the asking.
type Mesh interface {
	// Ready says what keeps the mesh from taking a policy at all, once, before
	// anything is changed. Notes are no hindrance. A check of extauthz may take as
	// long as said.
	Ready(ctx context.Context, check time.Duration) (hindrances, notes []string, err error)
	// Missing are objects that an istiod does not have in this version.
	Missing(ctx context.Context, objects []*unstructured.Unstructured) ([]string, error)
	// Unruled are the extauthz servers that decide by other rules than these.
	Unruled(ctx context.Context, rules []byte) ([]string, error)
	// Unserved says what the gateways lack: patches of EnvoyFilters, and routes of
	// VirtualServices in the number, and of the forms, given.
	Unserved(ctx context.Context, filters []*unstructured.Unstructured, routes []Routes) ([]string, error)
	// Judges says what the gateways lack, on the ports that they serve of those given, of
	// RequestAuthentications and AuthorizationPolicies.
	Judges(ctx context.Context, ports []int32, objects []*unstructured.Unstructured) ([]string, error)
	// Draining are the gateways with connections that are served by what the gateway had
	// before a time. Each of them is over that when its drain time is.
	Draining(ctx context.Context, since time.Time) ([]string, error)
}

// Routes is how many routes of each name a port has to have.
type Routes struct {
	Port  int32
	Count map[string]int
	// Forms are those of all routes of a name, in any order, where they count.
	Forms map[string][]istio.Form `json:",omitempty"`
}

// Request is what is asked for.
type Request struct {
	Objects []istio.Object
	// Options are those that the objects were made with.
	Options istio.Options
	// CheckTimeout is how long a check of extauthz may take, see istio.CheckTimeout.
	CheckTimeout time.Duration
	// Set is the value of istio.LabelSet, a label's.
	Set string
	// Force takes over fields and objects that are others'.
	Force bool
	// Wait bounds each of the waits for the mesh.
	Wait time.Duration
	// Progress is told what is being done; nil is fine.
	Progress func(string)
}

// Result is what would become, or became, of a Request.
type Result struct {
	Objects []Outcome `json:"objects"`
	// Problems are refusals of single objects.
	Problems policy.Problems `json:"problems,omitempty"`
	// Failed says why it was stopped after something had been changed, or why nothing
	// was; empty when all went well.
	Failed []string `json:"failed,omitempty"`
	// RolledBack is set when what had been changed was put back, all of it.
	RolledBack bool `json:"rolledBack,omitempty"`
	// Checked is set when the gateways were found to serve it.
	Checked bool     `json:"checked,omitempty"`
	Notes   []string `json:"notes,omitempty"`
}

// Differs reports whether an object is not as it is to be.
func (r *Result) Differs() bool {
	return slices.ContainsFunc(r.Objects, func(o Outcome) bool { return o.Action != Unchanged || len(o.Conflicts) > 0 })
}

// Plan tries everything on the API server and changes nothing. The error is of the
// conversation as a whole.
func Plan(ctx context.Context, cluster Cluster, request Request) (*Result, error) {
	run, err := start(ctx, cluster, request)
	if err != nil {
		return nil, err
	}
	return run.finish(), ctx.Err()
}

// Apply makes the cluster have the objects, or changes nothing, or puts back what
// it changed. When ctx ends midway, that is a failure as any other.
func Apply(ctx context.Context, cluster Cluster, request Request) (*Result, error) {
	run, err := start(ctx, cluster, request)
	if err != nil {
		return nil, err
	}
	run.refuseConflicts()
	if len(run.result.Problems) > 0 {
		return run.finish(), ctx.Err()
	}
	if cluster.Mesh != nil {
		run.request.Progress("asking the mesh")
		hindrances, notes, err := cluster.Mesh.Ready(ctx, request.CheckTimeout)
		if err != nil {
			return nil, err
		}
		run.result.Notes = notes
		if len(hindrances) > 0 {
			run.result.Failed = hindrances
			return run.finish(), nil
		}
	}
	run.change(ctx)
	return run.finish(), ctx.Err()
}

// run is one Plan or Apply.
type run struct {
	Cluster
	request   Request
	items     []*item
	deletions []*item
	// written are the changes that were made, in their order.
	written []*item
	result  *Result
}

// start finds out what is there and what would change.
func start(ctx context.Context, cluster Cluster, request Request) (*run, error) {
	if request.Progress == nil {
		request.Progress = func(string) {}
	}
	r := &run{Cluster: cluster, request: request, result: &Result{Objects: []Outcome{}}}
	for i := range request.Objects {
		it, err := r.item(&request.Objects[i])
		if err != nil {
			return nil, err
		}
		r.items = append(r.items, it)
	}
	request.Progress("checking with the API server")
	if err := r.findDeletions(ctx); err != nil {
		return nil, err
	}
	r.tryAll(ctx)
	return r, nil
}

// finish reports the objects in the order of applying.
func (r *run) finish() *Result {
	for _, it := range slices.Concat(r.items, r.deletions) {
		outcome := Outcome{ID: it.id, Action: it.action, Fields: it.fields, Conflicts: it.conflicts, Foreign: it.foreign}
		if it.object != nil && len(it.object.Origins) > 0 {
			outcome.From = place(it.object.Origins[0])
		}
		r.result.Objects = append(r.result.Objects, outcome)
	}
	return r.result
}

// ID names an object of the cluster.
type ID struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

func (id ID) String() string { return id.Kind + " " + id.Namespace + "/" + id.Name }

// Outcome is what becomes of one object.
type Outcome struct {
	ID
	// Action is one of the constants; empty for one that could not be tried.
	Action string `json:"action"`
	// From is the first place that the object comes from.
	From string `json:"from,omitempty"`
	// Fields that would differ, with what is secret hidden.
	Fields []policy.FieldChange `json:"fields,omitempty"`
	// Conflicts are fields that others own with another value.
	Conflicts []Conflict `json:"conflicts,omitempty"`
	// Foreign are fields that others added; they stay.
	Foreign []string `json:"foreign,omitempty"`
}

// Conflict is a field, or the object as a whole, that is another's.
type Conflict struct {
	Field string `json:"field,omitempty"`
	Owner string `json:"owner"`
}

func place(origin policy.Origin) string {
	if origin.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", origin.File, origin.Line)
}

// item is one object on its way.
type item struct {
	// object is nil for what is deleted.
	object *istio.Object
	id     ID
	client dynamic.ResourceInterface
	// want is applied; before is what was there, nil for nothing; after is what there
	// is after the last write, or after the dry run.
	want, before, after *unstructured.Unstructured
	action              string
	fields              []policy.FieldChange
	conflicts           []Conflict
	foreign             []string
}
