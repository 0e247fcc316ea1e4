package kube

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weir.dev/controlplane/source"
	"weir.dev/policy"
)

// Name of the source, which stands where a file's path does elsewhere.
const Name = "kubernetes"

// objects is what is known of the API server's objects. Safe for concurrent use.
type objects struct {
	parser *policy.Parser
	mu     sync.Mutex
	live   map[policy.ObjectRef]*live
	// good are the last good versions, also of objects that are broken now, and at
	// first those that were kept on disk.
	good map[policy.ObjectRef]*policy.Object
}

// live is one object that is there.
type live struct {
	document policy.Document
	// value is as the server gave it, with its status; it is not changed.
	value *unstructured.Unstructured
	seen  time.Time
}

func newObjects(parser *policy.Parser, kept []*policy.Object) *objects {
	o := &objects{parser: parser, live: map[policy.ObjectRef]*live{}, good: map[policy.ObjectRef]*policy.Object{}}
	for _, object := range kept {
		o.good[object.Ref] = object
	}
	return o
}

// refOf names an object as package policy does.
func refOf(value *unstructured.Unstructured) policy.ObjectRef {
	return policy.ObjectRef{Kind: value.GetKind(), Namespace: cmp.Or(value.GetNamespace(), policy.DefaultNamespace), Name: value.GetName()}
}

// put takes in an object and reports whether it says something new: a change of
// status alone does not.
func (o *objects) put(value *unstructured.Unstructured) (changed bool) {
	ref := refOf(value)
	document := o.parse(ref, value)
	o.mu.Lock()
	defer o.mu.Unlock()
	known, ok := o.live[ref]
	if ok && known.value.GetResourceVersion() == value.GetResourceVersion() {
		return false // A watch that started anew says everything again.
	}
	next := &live{document: document, value: value, seen: time.Now()}
	o.live[ref] = next
	if ok && policy.SameContent(known.document.Object, document.Object) {
		next.document, next.seen = known.document, known.seen
		return false
	}
	return true
}

func (o *objects) parse(ref policy.ObjectRef, value *unstructured.Unstructured) policy.Document {
	raw, err := value.MarshalJSON()
	if err != nil {
		return policy.Document{Ref: ref, Problems: policy.Problems{{
			Origin: policy.Origin{Object: ref, File: Name}, Code: policy.CodeDecode, Severity: policy.SeverityError,
			Message: "cannot be written as JSON: " + err.Error(),
		}}}
	}
	return o.parser.ParseObject(Name, raw)
}

func (o *objects) remove(ref policy.ObjectRef) (changed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.live[ref]
	delete(o.live, ref)
	return ok
}

// update is what the API server says now: good objects as they are, broken ones
// as they last were.
func (o *objects) update() source.Update {
	o.mu.Lock()
	defer o.mu.Unlock()
	var update source.Update
	good := make(map[policy.ObjectRef]*policy.Object, len(o.live))
	for ref, live := range o.live {
		update.Problems = append(update.Problems, live.document.Problems...)
		object := live.document.Object
		if object == nil {
			object = o.good[ref]
		}
		switch {
		case object != nil:
			good[ref] = object
			update.Input.Objects = append(update.Input.Objects, object)
		case live.document.Closing != nil:
			update.Input.Closings = append(update.Input.Closings, *live.document.Closing)
		}
	}
	o.good = good
	sortUpdate(&update)
	return update
}

// keptUpdate is what was kept on disk, for while the API server is not there.
func (o *objects) keptUpdate(why string) (update source.Update, any bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	update.Input.Objects = slices.Collect(maps.Values(o.good))
	update.Problems = policy.Problems{{
		Origin: policy.Origin{File: Name}, Code: policy.CodeSourceDown, Severity: policy.SeverityError,
		Message: fmt.Sprintf("the Kubernetes API cannot be read yet; what it last held serves (%d objects): %s", len(o.good), why),
	}}
	sortUpdate(&update)
	return update, len(o.good) > 0
}

// sortUpdate makes equal states equal updates.
func sortUpdate(update *source.Update) {
	slices.SortFunc(update.Input.Objects, func(a, b *policy.Object) int { return compareRefs(a.Ref, b.Ref) })
	slices.SortFunc(update.Input.Closings, func(a, b policy.Closing) int { return compareRefs(a.Origin.Object, b.Origin.Object) })
	update.Problems.Sort()
}

func compareRefs(a, b policy.ObjectRef) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func (o *objects) goodOnes() []*policy.Object {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Values(o.good))
}

// get is one object that is there.
func (o *objects) get(ref policy.ObjectRef) (live, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	found, ok := o.live[ref]
	if !ok {
		return live{}, false
	}
	return *found, true
}

// refs lists the objects that are there.
func (o *objects) refs() []policy.ObjectRef {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Keys(o.live))
}
