package envoy_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"

	"weir.dev/controlplane/envoy"
)

// referred collects what listeners name by the given keys.
func referred(t *testing.T, set envoy.Set, keys ...string) []string {
	t.Helper()
	var names []string
	var walk func(value any)
	walk = func(value any) {
		switch value := value.(type) {
		case map[string]any:
			for key, inner := range value {
				for _, wanted := range keys {
					if key == wanted {
						names = append(names, namesOf(inner)...)
					}
				}
				walk(inner)
			}
		case []any:
			for _, inner := range value {
				walk(inner)
			}
		}
	}
	for _, resource := range set[envoy.TypeListener] {
		raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(resource.Body)
		require.NoError(t, err)
		var value any
		require.NoError(t, json.Unmarshal(raw, &value))
		walk(value)
	}
	return names
}

func namesOf(value any) []string {
	switch value := value.(type) {
	case string:
		return []string{value}
	case map[string]any:
		return namesOf(value["name"])
	case []any:
		var names []string
		for _, inner := range value {
			names = append(names, namesOf(inner)...)
		}
		return names
	}
	return nil
}
