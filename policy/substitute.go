package policy

import (
	"encoding/json"
	"slices"
)

// Substitute is the input with some objects replaced: a nil one is left out. What
// a policy that is left out protects is closed, as if it were broken; a policy all of whose targets are left out goes with them, since it would
// otherwise be taken for one with a mistyped target. The input itself stays as it
// is.
func (in Input) Substitute(with map[ObjectRef]*Object) Input {
	out := in
	out.Objects, out.Closings = nil, slices.Clone(in.Closings)
	placed := map[ObjectRef]bool{}
	for _, object := range in.Objects {
		by, replaced := with[object.Ref]
		switch {
		case !replaced:
			if !orphan(object, with) {
				out.Objects = append(out.Objects, object)
			}
		case placed[object.Ref]:
		case by != nil:
			out.Objects = append(out.Objects, by)
		default:
			if closing := closingFor(object, object.raw); closing != nil {
				out.Closings = append(out.Closings, *closing)
			}
		}
		placed[object.Ref] = true
	}
	for ref, object := range with {
		if object != nil && !placed[ref] { // It was removed, and is put back.
			out.Objects = append(out.Objects, object)
		}
	}
	return out
}

func orphan(object *Object, with map[ObjectRef]*Object) bool {
	if len(with) == 0 {
		return false
	}
	targets := targetRefsOf(object)
	left := func(target looseRef) bool {
		by, ok := with[target.ref(object)]
		return ok && by == nil
	}
	return len(targets) > 0 && !slices.ContainsFunc(targets, func(target looseRef) bool { return !left(target) })
}

// looseRef is any reference: what has a name, and may have a kind and a namespace.
type looseRef struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

func (r looseRef) ref(from *Object) ObjectRef {
	ref := ObjectRef(r)
	if ref.Namespace == "" {
		ref.Namespace = from.Ref.Namespace
	}
	return ref
}

func targetRefsOf(object *Object) []looseRef {
	var loose struct {
		Spec struct {
			TargetRefs []looseRef `json:"targetRefs"`
		} `json:"spec"`
	}
	if json.Unmarshal(object.raw, &loose) != nil {
		return nil
	}
	return loose.Spec.TargetRefs
}

// RefersTo reports whether an object may refer to another: something in it has
// its name, and its kind and namespace as far as it says any. It may say so of
// what is no reference.
func (o *Object) RefersTo(other ObjectRef) bool {
	var tree any
	return json.Unmarshal(o.raw, &tree) == nil && refersTo(tree, o.Ref.Namespace, other)
}

func refersTo(tree any, namespace string, other ObjectRef) bool {
	switch tree := tree.(type) {
	case []any:
		return slices.ContainsFunc(tree, func(item any) bool { return refersTo(item, namespace, other) })
	case map[string]any:
		if name, _ := tree["name"].(string); name == other.Name {
			kind, hasKind := tree["kind"].(string)
			where, hasWhere := tree["namespace"].(string)
			if !hasWhere {
				where = namespace
			}
			if (!hasKind || kind == other.Kind) && where == other.Namespace {
				return true
			}
		}
		for key, value := range tree {
			if key != "metadata" && refersTo(value, namespace, other) {
				return true
			}
		}
	}
	return false
}

// SameContent reports whether two objects say the same, wherever they stand.
func (o *Object) SameContent(other *Object) bool {
	return o == other || o != nil && other != nil && o.Ref == other.Ref && string(o.raw) == string(other.raw)
}
