package envoy

import (
	"reflect"
	"slices"

	"weir.dev/policy"
)

// usedBackends are the ids of the Backends that a fleet's ports refer to, nil
// for all: where there is one fleet, every Backend of the Plan is in use by it.
func usedBackends(plan *policy.Plan, fleet string) map[string]bool {
	if !slices.ContainsFunc(plan.Ports, func(p policy.Port) bool { return p.Fleet != fleet }) {
		return nil
	}
	ids, used := map[string]bool{}, map[string]bool{}
	for i := range plan.Backends {
		ids[plan.Backends[i].ID] = true
	}
	for i := range plan.Ports {
		if plan.Ports[i].Fleet == fleet {
			eachString(reflect.ValueOf(plan.Ports[i].Chains), func(text string) {
				if ids[text] {
					used[text] = true
				}
			})
		}
	}
	return used
}

// eachString visits every string of plain data. That a text which is no
// reference equals an id does no harm: a cluster more.
func eachString(value reflect.Value, visit func(string)) {
	switch value.Kind() {
	case reflect.String:
		visit(value.String())
	case reflect.Struct:
		if value.Type() == reflect.TypeFor[policy.Origin]() || value.Type() == reflect.TypeFor[policy.PolicyUse]() {
			return
		}
		for i := range value.NumField() {
			eachString(value.Field(i), visit)
		}
	case reflect.Slice, reflect.Array:
		if value.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		for i := range value.Len() {
			eachString(value.Index(i), visit)
		}
	case reflect.Map:
		for _, key := range value.MapKeys() {
			eachString(key, visit)
			eachString(value.MapIndex(key), visit)
		}
	case reflect.Pointer, reflect.Interface:
		if !value.IsNil() {
			eachString(value.Elem(), visit)
		}
	}
}
