package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weir.dev/policy"
)

// maxShown bounds a value that is shown; a longer one is named by its hash.
const maxShown = 200

// said is what an object says, without what the server counts.
func said(value *unstructured.Unstructured) map[string]any {
	slim := value.DeepCopy()
	delete(slim.Object, "status")
	if metadata, ok := slim.Object["metadata"].(map[string]any); ok {
		for _, name := range []string{"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"} {
			delete(metadata, name)
		}
	}
	return slim.Object
}

// differences lists the leaves that differ, by path. Of a secret object, what its
// data holds is not shown.
func differences(before, after map[string]any, secret bool) []policy.FieldChange {
	old, next := map[string]string{}, map[string]string{}
	leaves("", before, old)
	leaves("", after, next)
	paths := maps.Clone(old)
	maps.Copy(paths, next)
	var changes []policy.FieldChange
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		was, hadIt := old[path]
		is, hasIt := next[path]
		if hadIt == hasIt && was == is {
			continue
		}
		change := policy.FieldChange{Path: path}
		if hadIt {
			change.Old = shown(path, was, secret)
		}
		if hasIt {
			change.New = shown(path, is, secret)
		}
		if secret && hadIt && hasIt && change.Old == change.New {
			change.New += " and changed"
		}
		changes = append(changes, change)
	}
	return changes
}

func shown(path, value string, secret bool) string {
	switch {
	case secret && strings.HasPrefix(path, "data"):
		return "(hidden)"
	case len(value) > maxShown:
		sum := sha256.Sum256([]byte(value))
		return fmt.Sprintf("(%d bytes, sha256 %s…)", len(value), hex.EncodeToString(sum[:4]))
	case value == "":
		return `""`
	}
	return value
}

// leaves collects the texts at the ends of a tree, by path.
func leaves(path string, value any, into map[string]string) {
	switch typed := value.(type) {
	case map[string]any:
		for name, inner := range typed {
			leaves(child(path, name), inner, into)
		}
		if len(typed) == 0 {
			into[path] = "{}"
		}
	case []any:
		for i, inner := range typed {
			leaves(path+"["+strconv.Itoa(i)+"]", inner, into)
		}
		if len(typed) == 0 {
			into[path] = "[]"
		}
	case string:
		into[path] = typed
	default:
		raw, err := json.Marshal(typed)
		if err != nil {
			raw = []byte(fmt.Sprint(typed))
		}
		into[path] = string(raw)
	}
}

func child(path, name string) string {
	if strings.ContainsAny(name, "./[") {
		return path + "[" + name + "]"
	}
	return strings.TrimPrefix(path+"."+name, ".")
}

// added are the paths below which others have put something in: what the object
// has and was not told to have, beside its metadata.
func added(want, have map[string]any) []string {
	var found []string
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if name != "metadata" {
			found = append(found, addedBelow(name, want[name], have[name])...)
		}
	}
	return found
}

func addedBelow(path string, want, have any) []string {
	if want == nil {
		return []string{path}
	}
	fields, isMap := have.(map[string]any)
	wanted, wantsMap := want.(map[string]any)
	if !isMap || !wantsMap {
		return nil // Lists of Istio's kinds are whole, and their owner is told of.
	}
	var found []string
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if inner, asked := wanted[name]; asked {
			found = append(found, addedBelow(child(path, name), inner, fields[name])...)
		} else {
			found = append(found, child(path, name))
		}
	}
	return found
}

// appliedPart is what of an object Weir applied, as it would apply it again: the
// fields that the API server keeps for the field manager. Nil when it owns none.
func appliedPart(live *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	for _, entry := range live.GetManagedFields() {
		if !ours(entry) || entry.Subresource != "" || entry.FieldsV1 == nil {
			continue
		}
		var fields map[string]any
		if err := json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields); err != nil {
			return nil, fmt.Errorf("the fields that Weir owns: %w", err)
		}
		part, _ := restrict(live.DeepCopy().Object, fields).(map[string]any)
		if part == nil {
			part = map[string]any{}
		}
		made := &unstructured.Unstructured{Object: part}
		made.SetAPIVersion(live.GetAPIVersion())
		made.SetKind(live.GetKind())
		made.SetNamespace(live.GetNamespace())
		made.SetName(live.GetName())
		return made, nil
	}
	return nil, nil
}

// restrict keeps what FieldsV1 names: "f:" are fields; entries of lists ("k:", "v:",
// "i:") stand for the whole list, of which nobody else owns a part in the kinds that
// are made here.
func restrict(value any, fields map[string]any) any {
	object, ok := value.(map[string]any)
	if !ok {
		return value
	}
	kept, named := map[string]any{}, false
	for key, inner := range fields {
		name, isField := strings.CutPrefix(key, "f:")
		if !isField {
			continue
		}
		named = true
		below, present := object[name]
		if !present {
			continue
		}
		nested, _ := inner.(map[string]any)
		kept[name] = restrict(below, nested)
	}
	if !named { // the value as a whole
		return object
	}
	return kept
}

var numbered = regexp.MustCompile(`^spec\.(http|configPatches)\[(\d+)\]`)

// from is where a field of the object comes from: the route that it is of, where
// that is known, or else the first of the object's places.
func (it *item) from(field string) (policy.Origin, bool) {
	if match := numbered.FindStringSubmatch(field); match != nil {
		list, _, err := unstructured.NestedSlice(it.want.Object, "spec", match[1])
		index, badNumber := strconv.Atoi(match[2])
		if err == nil && badNumber == nil && index < len(list) {
			entry, _ := list[index].(map[string]any)
			name, _, _ := unstructured.NestedString(entry, "name")
			if match[1] == "configPatches" {
				name, _, _ = unstructured.NestedString(entry, "match", "routeConfiguration", "vhost", "route", "name")
			}
			if origin, known := it.object.Parts[name]; known {
				return origin, true
			}
		}
	}
	if len(it.object.Origins) > 0 {
		return it.object.Origins[0], true
	}
	return policy.Origin{}, false
}
