package policy

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	kjson "sigs.k8s.io/json"
)

// treeOf turns a value into maps, lists and scalars without zero values, for
// comparing and showing what has no code of its own. Durations become text.
func treeOf(value any) any { return treeOfValue(reflect.ValueOf(value)) }

func treeOfValue(value reflect.Value) any {
	if !value.IsValid() {
		return nil
	}
	if value.CanInterface() {
		switch typed := value.Interface().(type) {
		case Origin, PolicyUse, []PolicyUse:
			return nil
		case time.Duration:
			return durationTree(typed)
		case []byte:
			return bytesTree(typed)
		case proto.Message:
			if value.Kind() != reflect.Pointer || !value.IsNil() {
				return messageTree(typed)
			}
			return nil
		case fmt.Stringer:
			if text := typed.String(); value.Kind() != reflect.Pointer || !value.IsNil() {
				return emptyAsNil(text)
			}
		}
	}
	switch value.Kind() {
	case reflect.Pointer, reflect.Interface:
		if value.IsNil() {
			return nil
		}
		if inner := treeOfValue(value.Elem()); inner != nil {
			return inner
		}
		if kind := value.Elem().Kind(); kind != reflect.Struct && kind != reflect.Map && kind != reflect.Slice {
			return fmt.Sprint(value.Elem()) // set to zero
		}
		return map[string]any{} // set, if to nothing
	case reflect.Struct:
		return structTree(value)
	case reflect.Map:
		return mapTree(value)
	case reflect.Slice, reflect.Array:
		list := make([]any, 0, value.Len())
		for i := range value.Len() {
			list = append(list, treeOfValue(value.Index(i)))
		}
		if len(list) == 0 {
			return nil
		}
		return list
	case reflect.String:
		return emptyAsNil(value.String())
	case reflect.Bool:
		if value.Bool() {
			return true
		}
		return nil
	default:
		if value.IsZero() {
			return nil
		}
		return fmt.Sprint(value)
	}
}

func structTree(value reflect.Value) any {
	tree := map[string]any{}
	for i := range value.NumField() {
		field := value.Type().Field(i)
		if !field.IsExported() {
			continue
		}
		if inner := treeOfValue(value.Field(i)); inner != nil {
			tree[lowerFirst(field.Name)] = inner
		}
	}
	if len(tree) == 0 {
		return nil
	}
	return tree
}

func mapTree(value reflect.Value) any {
	tree := map[string]any{}
	for _, key := range value.MapKeys() {
		if inner := treeOfValue(value.MapIndex(key)); inner != nil {
			tree[fmt.Sprint(key)] = inner
		}
	}
	if len(tree) == 0 {
		return nil
	}
	return tree
}

// lowerFirst is the field as YAML would have it: "CORS" becomes "cors".
func lowerFirst(name string) string {
	end := 1
	upper := func(i int) bool { return i == len(name) || 'A' <= name[i] && name[i] <= 'Z' }
	for end < len(name) && upper(end) && upper(end+1) {
		end++
	}
	return strings.ToLower(name[:end]) + name[end:]
}

func emptyAsNil(text string) any {
	if text == "" {
		return nil
	}
	return text
}

func durationTree(d time.Duration) any {
	switch {
	case d == 0:
		return nil
	case d < 0:
		return "none"
	}
	return shortDuration(d)
}

// bytesTree names content by its hash.
func bytesTree(raw []byte) any {
	if len(raw) == 0 {
		return nil
	}
	sum := sha256.Sum256(raw)
	return fmt.Sprintf("(%d bytes, sha256 %s)", len(raw), hex.EncodeToString(sum[:6]))
}

func messageTree(message proto.Message) any {
	raw, err := protojson.Marshal(message)
	if err != nil {
		return nil
	}
	return jsonTree(raw)
}

// jsonTree decodes JSON; numbers stay exact. What is not JSON is nil.
func jsonTree(raw []byte) any {
	var tree any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &tree); err != nil {
		return nil
	}
	return tree
}

// leaf is a scalar of a tree, or an empty map or list.
type leaf struct{ path, value string }

// flatten lists the leaves in order of their paths.
func flatten(tree any) []leaf {
	var leaves []leaf
	walkTree("", tree, func(path, value string) { leaves = append(leaves, leaf{path, value}) })
	return leaves
}

func walkTree(path string, tree any, visit func(path, value string)) {
	switch tree := tree.(type) {
	case nil:
	case map[string]any:
		if len(tree) == 0 {
			visit(path, "{}")
		}
		for _, key := range slices.Sorted(maps.Keys(tree)) {
			walkTree(joinPath(path, key), tree[key], visit)
		}
	case []any:
		if len(tree) == 0 {
			visit(path, "[]")
		}
		if text, ok := scalarList(tree); ok {
			visit(path, text)
			return
		}
		for i, inner := range tree {
			walkTree(fmt.Sprintf("%s[%d]", path, i), inner, visit)
		}
	case string:
		visit(path, showText(tree))
	default:
		visit(path, fmt.Sprint(tree))
	}
}

// joinPath is the notation that Origin.Field has.
func joinPath(path, key string) string {
	switch {
	case strings.ContainsAny(key, ".[]"):
		return path + `["` + key + `"]`
	case path == "":
		return key
	default:
		return path + "." + key
	}
}

// scalarList shows a list of scalars on one line.
func scalarList(list []any) (string, bool) {
	parts := make([]string, len(list))
	for i, item := range list {
		switch item := item.(type) {
		case map[string]any, []any, nil:
			return "", false
		case string:
			parts[i] = showText(item)
		default:
			parts[i] = fmt.Sprint(item)
		}
	}
	return "[" + strings.Join(parts, ", ") + "]", true
}

// maxShown is how much of one text is shown, in bytes.
const maxShown = 160

// showText names long text by its hash, and quotes what would break a line.
func showText(text string) string {
	if len(text) > maxShown {
		if raw, err := base64.StdEncoding.DecodeString(text); err == nil {
			return bytesTree(raw).(string) //nolint:forcetypeassert // not empty
		}
		return bytesTree([]byte(text)).(string) //nolint:forcetypeassert // not empty
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return strconv.Quote(text)
	}
	return text
}
