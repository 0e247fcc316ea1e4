package data

import (
	"container/list"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
)

const (
	draft2020       = "https://json-schema.org/draft/2020-12/schema"
	schemaURL       = "urn:weir:collection-schema"
	maxViolations   = 100
	maxViolationLen = 300
	cachedSchemas   = 256
)

// Schema is a compiled JSON Schema. Immutable; safe for concurrent use. The nil
// Schema accepts everything.
type Schema struct{ compiled *jsonschema.Schema }

// CompileSchema compiles a JSON Schema (2020-12). References outside of it are
// refused, and so are schemas that could take exponential time. The error says
// what is wrong, for people.
func CompileSchema(o Object) (*Schema, error) {
	if o == nil {
		return nil, nil
	}
	if dialect, named := o["$schema"]; named && dialect != draft2020 && dialect != draft2020+"#" {
		return nil, fmt.Errorf("$schema must be %s", draft2020)
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	compiler.UseLoader(noLoader{})
	if err := compiler.AddResource(schemaURL, o); err != nil {
		return nil, shortened(err)
	}
	compiled, err := compiler.Compile(schemaURL)
	if err != nil {
		return nil, shortened(err)
	}
	if err := checkCost(compiled); err != nil {
		return nil, err
	}
	return &Schema{compiled}, nil
}

func shortened(err error) error {
	text := strings.ReplaceAll(err.Error(), schemaURL+"#", "schema ")
	return errors.New(cut(strings.Join(strings.Fields(text), " ")))
}

// noLoader refuses every reference to another document.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("reference to %q: only references within the schema are allowed", url)
}

// Violations lists what in o breaks the schema, at most 100 entries, with
// paths below prefix. The message of each is cut to a bounded length.
func (s *Schema) Violations(o Object, prefix string) []fault.FieldViolation {
	if s == nil {
		return nil
	}
	err := s.compiled.Validate(o)
	if err == nil {
		return nil
	}
	var failure *jsonschema.ValidationError
	if !errors.As(err, &failure) {
		return []fault.FieldViolation{{Field: prefix, Description: cut(err.Error())}}
	}
	c := collector{printer: message.NewPrinter(language.English), prefix: prefix}
	c.collect(failure)
	return c.found
}

// schemaViolation is the error of data that breaks its collection's schema.
func schemaViolation(violations []fault.FieldViolation) error {
	if len(violations) == 0 {
		return nil
	}
	err := fault.New(codes.InvalidArgument, "SCHEMA_VIOLATION", "the data breaks the collection's schema")
	err.Fields = violations
	return err
}

type collector struct {
	printer *message.Printer
	prefix  string
	found   []fault.FieldViolation
}

func (c *collector) collect(e *jsonschema.ValidationError) {
	if len(c.found) >= maxViolations {
		return
	}
	at := c.prefix
	for _, segment := range e.InstanceLocation {
		at += "." + segment
	}
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		for _, property := range k.Missing {
			c.add(at+"."+property, "is required")
		}
		return
	case *kind.AdditionalProperties:
		for _, property := range k.Properties {
			c.add(at+"."+property, "is not allowed")
		}
		return
	case *kind.AnyOf, *kind.OneOf, *kind.Not:
		// What every alternative lacks would bury the point.
		c.add(at, e.ErrorKind.LocalizedString(c.printer))
		return
	}
	if len(e.Causes) == 0 {
		c.add(at, e.ErrorKind.LocalizedString(c.printer))
		return
	}
	for _, cause := range e.Causes {
		c.collect(cause)
	}
}

func (c *collector) add(field, description string) {
	if len(c.found) < maxViolations {
		c.found = append(c.found, fault.FieldViolation{Field: cut(field), Description: cut(description)})
	}
}

func cut(text string) string {
	if len(text) <= maxViolationLen {
		return text
	}
	return strings.ToValidUTF8(text[:maxViolationLen], "") + "..."
}

// schemaCache keeps the compiled schemas of the collections used last.
type schemaCache struct {
	mu      sync.Mutex
	entries map[schemaKey]*list.Element
	recent  *list.List
}

type schemaKey struct{ tenant, id, etag string }

type schemaEntry struct {
	key    schemaKey
	schema *Schema
}

func newSchemaCache() *schemaCache {
	return &schemaCache{entries: map[schemaKey]*list.Element{}, recent: list.New()}
}

// of compiles the schema of a collection, or finds it compiled.
func (c *schemaCache) of(collection Collection) (*Schema, error) {
	if collection.Schema == nil {
		return nil, nil
	}
	key := schemaKey{collection.Tenant, collection.ID, collection.Etag()}
	c.mu.Lock()
	if element, ok := c.entries[key]; ok {
		c.recent.MoveToFront(element)
		c.mu.Unlock()
		return element.Value.(schemaEntry).schema, nil
	}
	c.mu.Unlock()
	object, err := collection.Schema.Object()
	if err != nil {
		return nil, err
	}
	schema, err := CompileSchema(object)
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", collection.Name(), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.entries[key]; !ok {
		c.entries[key] = c.recent.PushFront(schemaEntry{key, schema})
	}
	if c.recent.Len() > cachedSchemas {
		oldest := c.recent.Remove(c.recent.Back()).(schemaEntry)
		delete(c.entries, oldest.key)
	}
	return schema, nil
}
