package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
)

// maxMistakes bounds the values of a wrong type that are told of one object: each has
// it decoded once more.
const maxMistakes = 16

// mistake is a value that its field cannot hold.
type mistake struct{ field, message string }

// decodeValue decodes an object, and finds all values that their fields cannot hold,
// where the decoder tells of one: each that is found is taken out for the next. A
// number that is too large or too small has a 1 in its place, so that the object can
// be validated but for it; typed is nil where it cannot be. strict are fields that are
// unknown.
func decodeValue(node *yaml.Node, raw []byte, empty func() metav1.Object) (typed metav1.Object, mistakes []mistake, strict []error) {
	whole := true
	for {
		typed = empty()
		found, err := kjson.UnmarshalStrict(raw, typed)
		switch {
		case err == nil && whole:
			return typed, mistakes, found
		case err == nil:
			return nil, mistakes, found
		case len(mistakes) == 0:
			node = expanded(node)
		}
		field, number := locate(node, fieldOfTypeError(err), err), outOfRange(err)
		if slices.ContainsFunc(mistakes, func(m mistake) bool { return m.field == field }) {
			return nil, mistakes, nil // its place is not found
		}
		mistakes, whole = append(mistakes, mistake{field: field, message: typeErrorText(err)}), whole && number
		at := nodeAt(node, field)
		if at == nil || len(mistakes) == maxMistakes {
			return nil, mistakes, nil
		}
		*at = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: at.Line}
		if number {
			at.Tag, at.Value = "!!int", "1"
		}
		if raw, err = rawOf(node); err != nil {
			return nil, mistakes, nil
		}
	}
}

// rawOf is the JSON of a document.
func rawOf(node *yaml.Node) ([]byte, error) {
	value, err := toJSON(node, &budget{})
	if err != nil {
		return nil, err
	}
	withoutServerFields(value)
	return json.Marshal(value)
}

// expanded is a copy of a document, of which toJSON bounds the aliases, without them.
func expanded(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return expanded(node.Alias)
	}
	made := *node
	made.Content = make([]*yaml.Node, len(node.Content))
	for i, sub := range node.Content {
		made.Content[i] = expanded(sub)
	}
	return &made
}

// nodeAt is the value of a field, nil where there is none.
func nodeAt(node *yaml.Node, field string) *yaml.Node {
	if field == "" {
		return nil
	}
	for part := range strings.SplitSeq(strings.ReplaceAll(field, "[", "."), ".") {
		node, _ = child(node, strings.TrimSuffix(part, "]"))
	}
	return node
}

// about reports whether what is said of a field may be about the 1 that is there in a
// mistake's place: it is the mistake's field, or one that holds it.
func about(field string, mistakes []mistake) bool {
	within := func(inner, outer string) bool {
		rest, ok := strings.CutPrefix(inner, outer)
		return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
	}
	return slices.ContainsFunc(mistakes, func(m mistake) bool {
		return within(m.field, field)
	})
}

// outOfRange reports whether an error is about a number that a field for numbers
// cannot hold.
func outOfRange(err error) bool {
	return strings.HasSuffix(typeErrorText(err), beyond)
}

const beyond = ", which is outside of what the field can hold"

func fieldOfTypeError(err error) string {
	var typeError *json.UnmarshalTypeError
	if errors.As(err, &typeError) {
		return embedded.ReplaceAllString(typeError.Field, "")
	}
	if found := regexp.MustCompile(`Go struct field \w+\.(\S+) of type`).FindStringSubmatch(err.Error()); found != nil {
		return embedded.ReplaceAllString(found[1], "")
	}
	return ""
}

// embedded are Go's names of embedded structs, which the document does not have.
var embedded = regexp.MustCompile(`\b[A-Z]\w*\.`)

func typeErrorText(err error) string {
	if found := regexp.MustCompile(`cannot unmarshal (.+) into Go (?:struct field \S+|value) of type (\S+)`).FindStringSubmatch(err.Error()); found != nil {
		is, must := describeType(found[1]), describeType(found[2])
		if strings.HasPrefix(is, "the number") && must == "a number" {
			return "is " + is + beyond
		}
		return fmt.Sprintf("is %s; it must be %s", is, must)
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// describeType puts Go's and JSON's names of types into plain words.
func describeType(name string) string {
	switch {
	case strings.HasPrefix(name, "number"):
		return "the " + name
	case strings.HasPrefix(name, "int"), strings.HasPrefix(name, "uint"), strings.HasPrefix(name, "float"):
		return "a number"
	case name == "string":
		return "text"
	case name == "bool":
		return "true or false"
	case strings.HasPrefix(name, "[]"), name == "array":
		return "a list"
	default:
		return "a mapping"
	}
}

// locate finds the value that a type error is about: encoding/json names its
// path without the indexes of lists, so the first value on that path which is of
// the kind that the error names is the one; of numbers, which may be of the right
// kind and too large, the first that is written as the error names it.
func locate(node *yaml.Node, path string, err error) string {
	found := regexp.MustCompile(`cannot unmarshal (\w+)(?: (-?[0-9]\S*))?`).FindStringSubmatch(err.Error())
	if found == nil || path == "" {
		return path
	}
	ofKind := func(node *yaml.Node) bool { return kindOf(node) == found[1] }
	asWritten := func(node *yaml.Node) bool { return ofKind(node) && sameNumber(node, found[2]) }
	for _, matches := range []func(*yaml.Node) bool{asWritten, ofKind} {
		if place := search(node, strings.Split(path, "."), "", found[1] == "array", matches); place != "" {
			return place
		}
	}
	return path
}

// sameNumber reports whether a scalar is what an error calls it, which has it as JSON
// does: 1e+20 for twenty nines.
func sameNumber(node *yaml.Node, written string) bool {
	if node.Value == written || node.Tag != "!!int" && node.Tag != "!!float" {
		return node.Value == written
	}
	value, err := scalarToJSON(node)
	if err != nil {
		return false
	}
	raw, err := json.Marshal(value)
	return err == nil && string(raw) == written
}

// search finds the first value on a path that matches. Lists on the way are gone
// into, and a list at its end unless list says that one is looked for.
func search(node *yaml.Node, parts []string, at string, list bool, matches func(*yaml.Node) bool) string {
	if node == nil {
		return ""
	}
	if node.Kind == yaml.SequenceNode && (len(parts) > 0 || !list) {
		for i, item := range node.Content {
			if place := search(item, parts, fmt.Sprintf("%s[%d]", at, i), list, matches); place != "" {
				return place
			}
		}
		return ""
	}
	if len(parts) == 0 {
		if matches(node) {
			return at
		}
		return ""
	}
	next, _ := child(node, parts[0])
	return search(next, parts[1:], strings.TrimPrefix(at+"."+parts[0], "."), list, matches)
}

// kindOf is a node's kind in encoding/json's words.
func kindOf(node *yaml.Node) string {
	switch {
	case node.Kind == yaml.SequenceNode:
		return "array"
	case node.Kind == yaml.MappingNode:
		return "object"
	case node.Tag == "!!int" || node.Tag == "!!float":
		return "number"
	case node.Tag == "!!bool":
		return "bool"
	case node.Tag == "!!null":
		return "null"
	default:
		return "string"
	}
}
