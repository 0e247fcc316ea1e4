package istio

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weir.dev/policy"
)

// Labels and annotations of what is made.
const (
	// LabelOwner says that an object is ours, and may be pruned.
	LabelOwner = "app.kubernetes.io/managed-by"
	// OwnerValue is LabelOwner's.
	OwnerValue = "weir"
	// LabelSet names the policy that an object is made of, where it was applied by
	// Weir; objects of other sets are others' to change and to delete.
	LabelSet = "weir.dev/mesh-set"
	// AnnotationHash is a hash of the content.
	AnnotationHash = "weir.dev/content-hash"
	// AnnotationOrigin lists where the object comes from, one line each: file, line,
	// object and field.
	AnnotationOrigin = "weir.dev/origin"
	// AnnotationAssertion is the JSON of []Assertion.
	AnnotationAssertion = "weir.dev/assertion"
)

// maxOrigins are listed; annotations have a bound.
const maxOrigins = 20

// Object is one resource for the cluster.
type Object struct {
	APIVersion, Kind, Namespace, Name string
	// Body is everything beside the metadata, such as "spec".
	Body        map[string]any
	Annotations map[string]string
	Origins     []policy.Origin
	// Parts says where the routes that the object is about come from, by name.
	Parts map[string]policy.Origin
	// Secret objects are shown with their values hidden.
	Secret bool
}

// message is a proto as JSON values; it always marshals, being made here.
func message(m proto.Message) map[string]any {
	raw, err := protojson.Marshal(m)
	if err != nil {
		return nil
	}
	var value map[string]any
	if json.Unmarshal(raw, &value) != nil {
		return nil
	}
	return value
}

func (o *Object) seal() {
	if o.Annotations == nil {
		o.Annotations = map[string]string{}
	}
	var lines []string
	for _, origin := range o.Origins {
		if line := origin.String(); !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	if len(lines) > maxOrigins {
		lines = append(lines[:maxOrigins], fmt.Sprintf("and %d more", len(lines)-maxOrigins))
	}
	if len(lines) > 0 {
		o.Annotations[AnnotationOrigin] = strings.Join(lines, "\n")
	}
	raw, err := json.Marshal(o.Body)
	if err != nil {
		return
	}
	sum := sha256.Sum256(raw)
	o.Annotations[AnnotationHash] = hex.EncodeToString(sum[:8])
}

func (o *Object) compare(other *Object) int {
	return cmp.Or(cmp.Compare(rank(o.Kind), rank(other.Kind)), cmp.Compare(o.Kind, other.Kind),
		cmp.Compare(o.Namespace, other.Namespace), cmp.Compare(o.Name, other.Name))
}

// Kinds are those of the objects that are made, in the order of applying: whatever
// is referred to first, and what guards a route before the route.
func Kinds() []string {
	return []string{"Secret", "ConfigMap", "ServiceEntry", "DestinationRule", "RequestAuthentication", "AuthorizationPolicy", "EnvoyFilter", "Gateway", "VirtualService"}
}

func rank(kind string) int { return slices.Index(Kinds(), kind) }

// Unstructured is the object as clients take it.
func (o *Object) Unstructured() *unstructured.Unstructured {
	annotations := map[string]any{}
	for key, value := range o.Annotations {
		annotations[key] = value
	}
	content := map[string]any{
		"apiVersion": o.APIVersion, "kind": o.Kind,
		"metadata": map[string]any{
			"name": o.Name, "namespace": o.Namespace,
			"labels": map[string]any{LabelOwner: OwnerValue}, "annotations": annotations,
		},
	}
	for key, value := range o.Body {
		content[key] = value
	}
	return &unstructured.Unstructured{Object: content}
}

// Shown is the object without what is secret.
func (o *Object) Shown() map[string]any {
	shown := o.Unstructured().Object
	if !o.Secret {
		return shown
	}
	hidden := map[string]any{}
	if values, ok := o.Body["stringData"].(map[string]any); ok {
		for key, value := range values {
			hidden[key] = fmt.Sprintf("(%d bytes, hidden)", len(fmt.Sprint(value)))
		}
	}
	shown["stringData"] = hidden
	return shown
}

// slug is a name of Kubernetes for a text: what it can't hold is replaced, and a
// hash keeps texts apart.
func slug(text string) string {
	mapped := strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(text)), "-")
	if mapped == text && len(text) <= 40 {
		return text
	}
	if len(mapped) > 40 {
		mapped = strings.Trim(mapped[:40], "-")
	}
	sum := sha256.Sum256([]byte(text))
	return strings.Trim(mapped+"-"+hex.EncodeToString(sum[:4]), "-")
}
