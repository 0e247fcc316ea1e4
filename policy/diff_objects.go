package policy

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

type consumer = rulesv1.Consumer

// DiffObjects is what differs between two sets of documents, field by field as
// they are written; see Diff for what that changes. Defaults are not filled in,
// status and what servers manage are left out. Of equal objects the first counts.
func DiffObjects(before, after []*Object) []Change {
	return compare(AboutObject, objectItems(before), objectItems(after))
}

func objectItems(objects []*Object) map[string]item {
	items := map[string]item{}
	for _, object := range objects {
		name := object.Ref.String()
		if _, ok := items[name]; ok {
			continue
		}
		origin := object.Origin("")
		items[name] = item{origin: &origin, tree: func() any { return Redacted(object) }}
	}
	return items
}

// Redacted is an object's document as maps, lists and scalars, without status,
// without what a server manages, and with secrets replaced by text that only
// tells whether they differ.
func Redacted(object *Object) map[string]any {
	tree, ok := jsonTree(object.JSON()).(map[string]any)
	if !ok {
		return nil
	}
	delete(tree, "status")
	if metadata, ok := tree["metadata"].(map[string]any); ok {
		for _, managed := range []string{"managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink"} {
			delete(metadata, managed)
		}
		if annotations, ok := metadata["annotations"].(map[string]any); ok {
			delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
		}
	}
	if object.Ref.Kind == "Secret" {
		for _, key := range []string{"data", "stringData"} {
			tree[key] = hide(tree[key])
			if tree[key] == nil {
				delete(tree, key)
			}
		}
	}
	redacted, _ := redact("", tree).(map[string]any)
	return redacted
}

// secretKeys are names of fields whose text is never shown.
func secretKeys() []string {
	return []string{"sha256", "password", "privatekey", "clientsecret", "token", "secret"}
}

// secretHeaders are names of headers whose value is never shown.
func secretHeaders() []string {
	return []string{"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"}
}

// redact hides the values of secret fields anywhere in a tree.
func redact(key string, tree any) any {
	switch tree := tree.(type) {
	case map[string]any:
		name, _ := tree["name"].(string)
		secretHeader := slices.Contains(secretHeaders(), strings.ToLower(name))
		out := make(map[string]any, len(tree))
		for inner, value := range tree {
			if text, ok := value.(string); ok && secretHeader && inner == "value" {
				out[inner] = hiddenText(text)
				continue
			}
			out[inner] = redact(inner, value)
		}
		return out
	case []any:
		out := make([]any, len(tree))
		for i, value := range tree {
			out[i] = redact(key, value)
		}
		return out
	case string:
		if slices.Contains(secretKeys(), strings.ToLower(key)) {
			return hiddenText(tree)
		}
		return tree
	default:
		return tree
	}
}

// hide hides every text below a key.
func hide(tree any) any {
	switch tree := tree.(type) {
	case map[string]any:
		out := make(map[string]any, len(tree))
		for key, value := range tree {
			out[key] = hide(value)
		}
		return out
	case string:
		return hiddenText(tree)
	default:
		return tree
	}
}

// hiddenText tells two secrets apart with 16 bits, which is too little to guess
// one by.
func hiddenText(text string) string {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(text))
	sum := hash.Sum32()
	return fmt.Sprintf("(secret %04x)", (sum>>16^sum)&0xffff)
}

// DiffProblems lists the problems that come and those that go. One that only
// moved to another line is the same.
func DiffProblems(before, after Problems) (come, gone Problems) {
	key := func(p Problem) Problem {
		p.Line, p.File = 0, ""
		return p
	}
	missing := func(from, in Problems) (found Problems) {
		known := map[Problem]bool{}
		for _, problem := range in {
			known[key(problem)] = true
		}
		for _, problem := range from {
			if !known[key(problem)] {
				found = append(found, problem)
			}
		}
		return found
	}
	return missing(after, before), missing(before, after)
}
