package data

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Object is a decoded JSON object: values are nil, bool, float64, string,
// []any and Object.
type Object = map[string]any

// Document is a JSON object in canonical form: keys sorted, numbers without
// exponent, no space. Equal objects have equal documents. A nil Document is
// the absence of one.
type Document []byte

// NewDocument encodes o. It returns what is wrong with o, for people, when o
// is larger than limit bytes, nested deeper than MaxDepth, or holds what JSON
// can't.
func NewDocument(o Object, limit int) (Document, error) {
	e := encoder{limit: limit, out: make([]byte, 0, 256)}
	if err := e.value(o, 1); err != nil {
		return nil, err
	}
	return e.out, nil
}

// MarshalJSON implements json.Marshaler: the document itself.
func (d Document) MarshalJSON() ([]byte, error) {
	if d == nil {
		return []byte("null"), nil
	}
	return d, nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (d *Document) UnmarshalJSON(raw []byte) error {
	if string(raw) == "null" {
		*d = nil
		return nil
	}
	*d = slices.Clone(raw)
	return nil
}

// Object decodes the document; nil for a nil document.
func (d Document) Object() (Object, error) {
	if d == nil {
		return nil, nil
	}
	var o Object
	if err := json.Unmarshal(d, &o); err != nil {
		return nil, fmt.Errorf("stored document: %w", err)
	}
	return o, nil
}

type encoder struct {
	out   []byte
	limit int
}

func (e *encoder) value(v any, depth int) error {
	if depth > MaxDepth+1 {
		return fmt.Errorf("is nested deeper than %d levels", MaxDepth)
	}
	switch v := v.(type) {
	case nil:
		e.out = append(e.out, "null"...)
	case bool:
		e.out = strconv.AppendBool(e.out, v)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("holds a number that JSON can't write (NaN or infinity)")
		}
		// Without exponent the size limit also bounds what a database that
		// expands numbers has to hold.
		e.out = strconv.AppendFloat(e.out, v, 'f', -1, 64)
	case string:
		if err := e.text(v); err != nil {
			return err
		}
	case []any:
		if err := e.list(v, depth); err != nil {
			return err
		}
	case Object:
		if err := e.object(v, depth); err != nil {
			return err
		}
	default:
		return fmt.Errorf("holds a value of type %T", v)
	}
	if len(e.out) > e.limit {
		return fmt.Errorf("is larger than %d bytes", e.limit)
	}
	return nil
}

func (e *encoder) list(list []any, depth int) error {
	e.out = append(e.out, '[')
	for i, element := range list {
		if i > 0 {
			e.out = append(e.out, ',')
		}
		if err := e.value(element, depth+1); err != nil {
			return err
		}
	}
	e.out = append(e.out, ']')
	return nil
}

func (e *encoder) object(o Object, depth int) error {
	e.out = append(e.out, '{')
	for i, key := range slices.Sorted(maps.Keys(o)) {
		if i > 0 {
			e.out = append(e.out, ',')
		}
		if err := e.text(key); err != nil {
			return err
		}
		e.out = append(e.out, ':')
		if err := e.value(o[key], depth+1); err != nil {
			return err
		}
	}
	e.out = append(e.out, '}')
	return nil
}

func (e *encoder) text(s string) error {
	plain := true
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			plain = false
			break
		}
	}
	if plain {
		e.out = append(append(append(e.out, '"'), s...), '"')
		return nil
	}
	if strings.IndexByte(s, 0) >= 0 {
		return fmt.Errorf("holds a text with U+0000")
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("holds a text that is not UTF-8")
	}
	quoted, err := json.Marshal(s)
	if err != nil {
		return err
	}
	e.out = append(e.out, quoted...)
	return nil
}

// setPath copies the value at path from one object to another, and removes it
// there if it isn't in the first. Missing objects on the way are made.
func setPath(into, from Object, path []string) error {
	path = meant(path, from, into)
	value, present := lookUp(from, path)
	for i, segment := range path[:len(path)-1] {
		next, exists := into[segment]
		if !exists || next == nil {
			if !present {
				return nil
			}
			next = Object{}
			into[segment] = next
		}
		object, ok := next.(Object)
		if !ok {
			return fmt.Errorf("%q is not an object", strings.Join(path[:i+1], "."))
		}
		into = object
	}
	last := path[len(path)-1]
	if present {
		into[last] = value
	} else {
		delete(into, last)
	}
	return nil
}

// meant is the path with each name as the objects have it. A mask in JSON writes
// foo_bar as fooBar (proto3 JSON, FieldMask), so what a REST client wrote as
// fooBar arrives as foo_bar: a name that no object has, while one has its camel
// case form, stands for that. A name that is there is always taken as it is.
func meant(path []string, objects ...Object) []string {
	resolved := slices.Clone(path)
	values := make([]any, len(objects))
	for i, object := range objects {
		values[i] = object
	}
	for i, segment := range path {
		if camel := camelCase(segment); !anyHas(values, segment) && anyHas(values, camel) {
			resolved[i] = camel
		}
		for j, value := range values {
			object, _ := value.(Object)
			values[j] = object[resolved[i]]
		}
	}
	return resolved
}

func anyHas(values []any, name string) bool {
	return slices.ContainsFunc(values, func(value any) bool {
		object, _ := value.(Object)
		_, has := object[name]
		return has
	})
}

// camelCase turns foo_bar into fooBar, as proto3 JSON does.
func camelCase(name string) string {
	var b strings.Builder
	upper := false
	for _, r := range name {
		switch {
		case r == '_':
			upper = true
		case upper:
			b.WriteString(strings.ToUpper(string(r)))
			upper = false
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func lookUp(from Object, path []string) (any, bool) {
	var value any = from
	for _, segment := range path {
		object, ok := value.(Object)
		if !ok {
			return nil, false
		}
		if value, ok = object[segment]; !ok {
			return nil, false
		}
	}
	return value, true
}

// Project keeps only the values at the given paths.
func (d Document) Project(paths [][]string) (Object, error) {
	whole, err := d.Object()
	if err != nil {
		return nil, err
	}
	kept := Object{}
	for _, path := range paths {
		path = meant(path, whole)
		if _, present := lookUp(whole, path); present {
			if err := setPath(kept, whole, path); err != nil {
				return nil, err
			}
		}
	}
	return kept, nil
}
