package policy

import (
	"reflect"
	"slices"
	"strings"
)

// maxSlips is how many letters of a name may be wrong for another to be suggested.
const maxSlips = 2

// nearest is the one of names that is meant, when few letters are wrong; empty when
// none is near. Of those that are equally near it is the first.
func nearest(written string, names []string) (found string) {
	least := min(maxSlips, len(written)/3) + 1
	for _, name := range names {
		if slips := distance(strings.ToLower(written), strings.ToLower(name)); slips < least {
			found, least = name, slips
		}
	}
	return found
}

// distance is how many letters are to be put in, taken out, changed, or swapped with
// the next, to make b of a (optimal string alignment).
func distance(a, b string) int {
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, change)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}

// meant says which field an unknown one of an object was likely meant to be, with a
// question before it; empty if none is near.
func meant(typed any, field string) string {
	path := strings.FieldsFunc(field, func(r rune) bool { return r == '.' || r == '[' })
	at := reflect.TypeOf(typed)
	for i, part := range path {
		for at.Kind() == reflect.Pointer {
			at = at.Elem()
		}
		switch at.Kind() {
		case reflect.Slice, reflect.Array, reflect.Map:
			at = at.Elem()
		case reflect.Struct:
			fields := fieldsOf(at)
			if i == len(path)-1 {
				if name := nearest(part, fields.names); name != "" {
					return ": did you mean " + name + "?"
				}
				return ""
			}
			found := slices.Index(fields.names, part)
			if found < 0 {
				return ""
			}
			at = fields.types[found]
		default:
			return ""
		}
	}
	return ""
}

// jsonFields are the fields that a struct has in JSON.
type jsonFields struct {
	names []string
	types []reflect.Type
}

func fieldsOf(of reflect.Type) (fields jsonFields) {
	for field := range of.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case name == "-" || !field.IsExported():
		case name == "" && field.Anonymous:
			inner := field.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			if inner.Kind() == reflect.Struct {
				more := fieldsOf(inner)
				fields.names, fields.types = append(fields.names, more.names...), append(fields.types, more.types...)
			}
		case name != "":
			fields.names, fields.types = append(fields.names, name), append(fields.types, field.Type)
		}
	}
	return fields
}
