package envoy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	udpaannotations "github.com/cncf/xds/go/udpa/annotations"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"weir.dev/policy"
)

// Types are the short names of resource types, as istioctl and others have
// them, with their type URLs; Weir's own rules under their messages' names.
func Types() map[string]string {
	return map[string]string{
		"lds": TypeListener, "rds": TypeRoute, "cds": TypeCluster, "eds": TypeEndpoint,
		"sds": TypeSecret, "auth": TypeAuthRoute, "consumers": TypeConsumer, "limits": TypeRateLimit,
	}
}

// ShortType is the short name of a type URL, or the last part of it.
func ShortType(typeURL string) string {
	for name, url := range Types() {
		if url == typeURL {
			return name
		}
	}
	return typeURL[strings.LastIndexByte(typeURL, '.')+1:]
}

// TypeURLs lists the types of a set in order of their short names.
func (s Set) TypeURLs() []string {
	return slices.SortedFunc(maps.Keys(s), func(a, b string) int { return strings.Compare(ShortType(a), ShortType(b)) })
}

// Show is a resource as JSON for people: what Envoy's API marks as sensitive and
// keys of consumers are replaced, and long content is named by its hash.
func Show(resource Resource) (json.RawMessage, error) {
	message, err := resource.Body.UnmarshalNew()
	if err != nil {
		return nil, fmt.Errorf("resource %s: %w", resource.Name, err)
	}
	if err := hideSecrets(message.ProtoReflect()); err != nil {
		return nil, fmt.Errorf("resource %s: %w", resource.Name, err)
	}
	raw, err := protojson.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("resource %s: %w", resource.Name, err)
	}
	var tree any
	if err := json.Unmarshal(raw, &tree); err != nil {
		return nil, err
	}
	return json.Marshal(shortenLong(tree))
}

// maxShown is the longest text that Show leaves as it is, in bytes.
const maxShown = 4 << 10

func shortenLong(tree any) any {
	switch tree := tree.(type) {
	case map[string]any:
		for key, value := range tree {
			tree[key] = shortenLong(value)
		}
	case []any:
		for i, value := range tree {
			tree[i] = shortenLong(value)
		}
	case string:
		if len(tree) > maxShown {
			sum := sha256.Sum256([]byte(tree))
			return fmt.Sprintf("(%d characters, sha256 %s)", len(tree), hex.EncodeToString(sum[:6]))
		}
	}
	return tree
}

const hidden = "(hidden)"

// hideSecrets replaces sensitive fields anywhere in a message, packed ones too.
func hideSecrets(message protoreflect.Message) error {
	if packed, ok := message.Interface().(*anypb.Any); ok {
		return hidePacked(packed)
	}
	var failed error
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if isSensitive(field) {
			hideField(message, field)
			return true
		}
		failed = hideWithin(field, value)
		return failed == nil
	})
	return failed
}

func hideWithin(field protoreflect.FieldDescriptor, value protoreflect.Value) (failed error) {
	switch {
	case field.IsMap():
		if field.MapValue().Message() != nil {
			value.Map().Range(func(_ protoreflect.MapKey, value protoreflect.Value) bool {
				failed = hideSecrets(value.Message())
				return failed == nil
			})
		}
	case field.Message() == nil:
	case field.IsList():
		for i := range value.List().Len() {
			if err := hideSecrets(value.List().Get(i).Message()); err != nil {
				return err
			}
		}
	default:
		return hideSecrets(value.Message())
	}
	return failed
}

func hidePacked(packed *anypb.Any) error {
	if packed.GetTypeUrl() == "" { // as a route turns a filter on that has its configuration in the chain
		return nil
	}
	inner, err := packed.UnmarshalNew()
	if err != nil {
		return err
	}
	if err := hideSecrets(inner.ProtoReflect()); err != nil {
		return err
	}
	return anypb.MarshalFrom(packed, inner, proto.MarshalOptions{Deterministic: true})
}

// isSensitive reports whether Envoy's API marks a field so, or ours does, or it is
// the hash of a consumer's key.
func isSensitive(field protoreflect.FieldDescriptor) bool {
	if field.FullName() == "weir.rules.v1.ApiKey.sha256" || policy.SecretField(field) {
		return true
	}
	options := field.Options()
	if options == nil || !proto.HasExtension(options, udpaannotations.E_Sensitive) {
		return false
	}
	sensitive, _ := proto.GetExtension(options, udpaannotations.E_Sensitive).(bool)
	return sensitive
}

func hideField(message protoreflect.Message, field protoreflect.FieldDescriptor) {
	switch {
	case field.Kind() == protoreflect.StringKind && !field.IsList() && !field.IsMap():
		message.Set(field, protoreflect.ValueOfString(hidden))
	case field.Message() != nil && field.Message().FullName() == "envoy.config.core.v3.DataSource" && !field.IsList():
		message.Set(field, protoreflect.ValueOfMessage((&corev3.DataSource{
			Specifier: &corev3.DataSource_InlineString{InlineString: hidden},
		}).ProtoReflect()))
	default:
		message.Clear(field)
	}
}
