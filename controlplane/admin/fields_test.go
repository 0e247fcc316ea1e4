package admin

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/reflect/protoreflect"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	"weir.dev/policy"
)

// lost are the fields of a Go type, as JSON, that a message has no place for.
func lost(from reflect.Type, to protoreflect.MessageDescriptor, at string) []string {
	var found []string
	for i := range from.NumField() {
		field := from.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Anonymous && name == "" {
			found = append(found, lost(field.Type, to, at)...)
			continue
		}
		if name == "-" || !field.IsExported() {
			continue
		}
		if name == "" {
			name = field.Name
		}
		place := to.Fields().ByJSONName(name)
		if place == nil {
			found = append(found, at+"."+name)
			continue
		}
		inner := field.Type
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && place.Message() != nil && inner != reflect.TypeFor[time.Time]() && inner != reflect.TypeFor[metav1.Time]() {
			found = append(found, lost(inner, place.Message(), at+"."+name)...)
		}
	}
	return found
}

// What the admin API answers is what is known: nothing is left out on the way.
func TestNothingIsLostInConversion(t *testing.T) {
	require.Empty(t, lost(reflect.TypeFor[policy.Explanation](), (&adminv1.Explanation{}).ProtoReflect().Descriptor(), "explanation"))
	require.Empty(t, lost(reflect.TypeFor[policy.Change](), (&adminv1.Change{}).ProtoReflect().Descriptor(), "change"))
	require.NotEmpty(t, lost(reflect.TypeFor[policy.Explanation](), (&adminv1.AuthWay{}).ProtoReflect().Descriptor(), "control"))
}
