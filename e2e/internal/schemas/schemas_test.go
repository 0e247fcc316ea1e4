package schemas_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"weir.dev/e2e/internal/schemas"
)

func all(schema.GroupVersionKind) bool { return true }

const document = `{"definitions": {
  "x.Pod": {
    "description": "for people",
    "properties": {"spec": {"$ref": "#/definitions/x.Spec"}, "properties": {"type": "string"}},
    "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Pod"}]
  },
  "x.Spec": {"properties": {"port": {"format": "int-or-string", "type": "string"}, "again": {"$ref": "#/definitions/x.Spec"}}},
  "x.Other": {"properties": {}}
}}`

func TestSchemasOfOpenAPIAreStrict(t *testing.T) {
	set := schemas.Set{}
	require.NoError(t, set.AddOpenAPI([]byte(document), all))
	dir := t.TempDir()
	require.NoError(t, set.Write(dir))
	written, err := os.ReadFile(filepath.Join(dir, "v1", "pod_v1.json"))
	require.NoError(t, err)
	var found map[string]any
	require.NoError(t, json.Unmarshal(written, &found))
	definitions := found["definitions"].(map[string]any)
	require.Len(t, definitions, 2, "what is not used is left out")
	pod := definitions["x.Pod"].(map[string]any)
	require.Equal(t, false, pod["additionalProperties"])
	require.Equal(t, map[string]any{"type": "string"}, pod["properties"].(map[string]any)["properties"], "a property of that name is none of JSON schema's")
	require.Contains(t, string(written), `{"type":["integer","string"]}`)
	require.NotContains(t, string(written), "for people")

	none := schemas.Set{}
	require.NoError(t, none.AddOpenAPI([]byte(document), func(schema.GroupVersionKind) bool { return false }))
	require.Empty(t, none)
}

func TestSchemasOfDefinitionsAreStrict(t *testing.T) {
	set := schemas.Set{}
	require.NoError(t, set.AddDefinitions(strings.NewReader(`kind: Namespace
---
kind: CustomResourceDefinition
spec:
  group: weir.dev
  names: {kind: Thing}
  versions:
    - name: v1
      schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, nullable: true, properties: {a: {type: string}}}, free: {type: object, properties: {}, x-kubernetes-preserve-unknown-fields: true}}}}
`)))
	require.Len(t, set, 1)
	root := set[schema.GroupVersionKind{Group: "weir.dev", Version: "v1", Kind: "Thing"}].(map[string]any)
	require.Equal(t, false, root["additionalProperties"])
	properties := root["properties"].(map[string]any)
	require.Contains(t, properties, "metadata", "every object has it")
	require.Equal(t, []any{"object", "null"}, properties["spec"].(map[string]any)["type"])
	require.Equal(t, false, properties["spec"].(map[string]any)["additionalProperties"])
	require.NotContains(t, properties["free"], "additionalProperties")
}

func TestWhatCannotBeReadIsRefused(t *testing.T) {
	set := schemas.Set{}
	require.ErrorContains(t, set.AddOpenAPI([]byte("{"), all), "OpenAPI")
	require.ErrorContains(t, set.AddOpenAPI([]byte("{}"), all), "no definitions")
	require.ErrorContains(t, set.AddOpenAPI([]byte(strings.ReplaceAll(document, `"x.Spec": {`, `"x.Gone": {`)), all), "x.Spec is referred to and not there")
	require.ErrorContains(t, set.AddDefinitions(strings.NewReader("kind: CustomResourceDefinition\nspec: {group: weir.dev, names: {kind: Thing}, versions: [{name: v1}]}")), "Thing.weir.dev: version v1 has no schema")
	require.Error(t, set.AddDefinitions(strings.NewReader("- a list")))
	require.Error(t, set.AddFiles(filepath.Join(t.TempDir(), "none.yaml")))
}
