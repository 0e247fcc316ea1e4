package policy

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Kinds are those that a source may hold, sorted by kind.
func (p *Parser) Kinds() []schema.GroupVersionKind {
	found := make([]schema.GroupVersionKind, 0, len(p.kinds))
	for name := range maps.Keys(p.kinds) {
		found = append(found, schema.FromAPIVersionAndKind(name[0], name[1]))
	}
	slices.SortFunc(found, func(a, b schema.GroupVersionKind) int { return strings.Compare(a.Kind, b.Kind) })
	return found
}

// ParseObject reads one object as the Kubernetes API gives it, by the same rules
// as a document of a file. source stands in the place of the file's name, and
// there are no lines.
func (p *Parser) ParseObject(source string, content []byte) Document {
	documents := p.Parse(source, content)
	if len(documents) != 1 {
		return broken(source, 0, CodeDecode, "an object is expected", content)
	}
	document := documents[0]
	for i := range document.Problems {
		document.Problems[i].Line = 0
	}
	if document.Object != nil {
		document.Object.lines, document.Object.line = nil, 0
	}
	if document.Closing != nil {
		document.Closing.Origin.Line = 0
	}
	return document
}

// withoutServerFields drops what an API server adds and nobody writes: the
// status, and in the metadata who set which field when. `kubectl get -o yaml` is
// a policy file, then, and an object changes with what it says alone.
func withoutServerFields(value any) {
	object, ok := value.(map[string]any)
	if !ok {
		return
	}
	delete(object, "status")
	metadata, ok := object["metadata"].(map[string]any)
	if !ok {
		return
	}
	delete(metadata, "managedFields")
	delete(metadata, "resourceVersion")
	if annotations, ok := metadata["annotations"].(map[string]any); ok {
		delete(annotations, lastApplied)
	}
}

// lastApplied holds a copy of the object that `kubectl apply` leaves.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// SameContent reports whether two objects say the same, whatever their status.
func SameContent(a, b *Object) bool {
	return a != nil && b != nil && a.Ref == b.Ref && bytes.Equal(a.raw, b.raw)
}
