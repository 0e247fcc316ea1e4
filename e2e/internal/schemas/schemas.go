package schemas

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	k8syaml "k8s.io/apimachinery/pkg/util/yaml"
)

// Location is where kubeconform finds the schemas of a Set that was written to a
// folder, below that: the value of -schema-location.
const Location = "{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json"

// Set is schemas by kind. Not safe for concurrent use.
type Set map[schema.GroupVersionKind]any

// AddOpenAPI adds the kinds of an OpenAPI v2 document, such as
// api/openapi-spec/swagger.json of the module k8s.io/kubernetes, for which wanted is
// true.
func (s Set) AddOpenAPI(document []byte, wanted func(schema.GroupVersionKind) bool) error {
	var api struct {
		Definitions map[string]map[string]any `json:"definitions"`
	}
	if err := json.Unmarshal(document, &api); err != nil {
		return fmt.Errorf("OpenAPI: %w", err)
	}
	if len(api.Definitions) == 0 {
		return errors.New("OpenAPI: there are no definitions in it")
	}
	for name, definition := range api.Definitions {
		for _, kind := range kindsOf(definition) {
			if !wanted(kind) {
				continue
			}
			used := map[string]any{}
			if err := reach(name, api.Definitions, used); err != nil {
				return err
			}
			s[kind] = map[string]any{"$ref": reference + name, "definitions": used}
		}
	}
	return nil
}

const reference = "#/definitions/"

// kindsOf are the kinds that a definition says to be.
func kindsOf(definition map[string]any) (kinds []schema.GroupVersionKind) {
	listed, _ := definition["x-kubernetes-group-version-kind"].([]any)
	for _, each := range listed {
		kind, _ := each.(map[string]any)
		text := func(key string) string { value, _ := kind[key].(string); return value }
		kinds = append(kinds, schema.GroupVersionKind{Group: text("group"), Version: text("version"), Kind: text("kind")})
	}
	return kinds
}

// reach closes the definition and all that it leads to, into used.
func reach(name string, all map[string]map[string]any, used map[string]any) error {
	if _, ok := used[name]; ok {
		return nil
	}
	definition, ok := all[name]
	if !ok {
		return fmt.Errorf("OpenAPI: %s is referred to and not there", name)
	}
	used[name] = nil // Some refer to themselves.
	if name == "io.k8s.apimachinery.pkg.api.resource.Quantity" {
		used[name] = map[string]any{"type": []any{"string", "number"}}
		return nil
	}
	used[name] = closed(definition)
	for _, target := range references(definition) {
		if err := reach(strings.TrimPrefix(target, reference), all, used); err != nil {
			return err
		}
	}
	return nil
}

func references(value any) (found []string) {
	switch value := value.(type) {
	case map[string]any:
		for key, each := range value {
			if target, ok := each.(string); ok && key == "$ref" {
				found = append(found, target)
				continue
			}
			found = append(found, references(each)...)
		}
	case []any:
		for _, each := range value {
			found = append(found, references(each)...)
		}
	}
	return found
}

// keepsUnknown is set where an API server takes fields that a schema has not.
const keepsUnknown = "x-kubernetes-preserve-unknown-fields"

// closed is a schema that takes no more properties than it names, with Kubernetes'
// own formats in words of JSON schema.
func closed(value any) any {
	switch value := value.(type) {
	case []any:
		all := make([]any, len(value))
		for i, each := range value {
			all[i] = closed(each)
		}
		return all
	case map[string]any:
		if value["format"] == "int-or-string" || value["x-kubernetes-int-or-string"] == true {
			return map[string]any{"type": []any{"integer", "string"}}
		}
		all := map[string]any{}
		for key, each := range value {
			switch key {
			case "description", "example": // For people.
			case "properties": // Names, which may be those of keywords.
				named := map[string]any{}
				if properties, ok := each.(map[string]any); ok {
					for name, property := range properties {
						named[name] = closed(property)
					}
				}
				all[key] = named
			case "enum", "default", "required":
				all[key] = each
			default:
				all[key] = closed(each)
			}
		}
		_, names := value["properties"]
		_, says := value["additionalProperties"]
		if names && !says && value[keepsUnknown] != true {
			all["additionalProperties"] = false
		}
		if kind, ok := value["type"].(string); ok && value["nullable"] == true {
			all["type"] = []any{kind, "null"}
		}
		return all
	}
	return value
}

// AddDefinitions adds the kinds of CustomResourceDefinitions, YAML documents.
func (s Set) AddDefinitions(documents io.Reader) error {
	decoder := k8syaml.NewYAMLOrJSONDecoder(documents, 4096)
	for {
		var d definition
		if err := decoder.Decode(&d); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("definitions: %w", err)
		}
		if d.Kind != "CustomResourceDefinition" {
			continue
		}
		if err := s.addDefinition(d); err != nil {
			return fmt.Errorf("%s.%s: %w", d.Spec.Names.Kind, d.Spec.Group, err)
		}
	}
}

// definition is what matters here of a CustomResourceDefinition.
type definition struct {
	Kind string `json:"kind"`
	Spec struct {
		Group string `json:"group"`
		Names struct {
			Kind string `json:"kind"`
		} `json:"names"`
		Versions []struct {
			Name   string `json:"name"`
			Schema struct {
				Root map[string]any `json:"openAPIV3Schema"`
			} `json:"schema"`
		} `json:"versions"`
	} `json:"spec"`
}

func (s Set) addDefinition(d definition) error {
	for _, version := range d.Spec.Versions {
		root := version.Schema.Root
		if root == nil {
			return fmt.Errorf("version %s has no schema", version.Name)
		}
		// Every object has these, whether its definition says so or not.
		properties, _ := root["properties"].(map[string]any)
		if properties == nil {
			properties = map[string]any{}
		}
		for name, kind := range map[string]string{"apiVersion": "string", "kind": "string", "metadata": "object"} {
			if _, ok := properties[name]; !ok {
				properties[name] = map[string]any{"type": kind}
			}
		}
		root["properties"] = properties
		s[schema.GroupVersionKind{Group: d.Spec.Group, Version: version.Name, Kind: d.Spec.Names.Kind}] = closed(root)
	}
	return nil
}

// AddFiles adds the definitions of files.
func (s Set) AddFiles(paths ...string) error {
	for _, path := range paths {
		file, err := os.Open(path) //nolint:gosec // the checkout's and its modules' files
		if err != nil {
			return err
		}
		if err := errors.Join(s.AddDefinitions(file), file.Close()); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// Write puts each schema into a file below dir, at its Location.
func (s Set) Write(dir string) error {
	kinds := slices.SortedFunc(maps.Keys(s), func(a, b schema.GroupVersionKind) int { return strings.Compare(a.String(), b.String()) })
	for _, kind := range kinds {
		encoded, err := json.Marshal(s[kind])
		if err != nil {
			return err
		}
		group := kind.Group
		if group == "" { // kubeconform takes v1 for both.
			group = kind.Version
		}
		folder := filepath.Join(dir, group)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(folder, strings.ToLower(kind.Kind)+"_"+kind.Version+".json"), encoded, 0o600); err != nil {
			return err
		}
	}
	return nil
}
