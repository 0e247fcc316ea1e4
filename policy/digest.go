package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"reflect"
	"slices"
	"strings"
)

// digestPlan hashes the content. Origins are left out: moving a document within
// its file changes nothing that is served.
func digestPlan(plan *Plan) string {
	digestRoutes(plan.Ports)
	hash := sha256.New()
	var line []byte // Thousands of lines: none is a string of its own.
	for _, message := range plan.AuthRoutes {
		line = append(append(append(append(line[:0], "auth "...), message.GetRouteId()...), ' '), message.GetDigest()...)
		_, _ = hash.Write(append(line, '\n'))
	}
	for _, message := range plan.Consumers {
		fmt.Fprintln(hash, "consumer", message.GetName(), digestMessage(message))
	}
	for _, message := range plan.RateLimits {
		fmt.Fprintln(hash, "limit", message.GetId(), message.GetDigest())
	}
	writeValue(hash, reflect.ValueOf(plan.Ports))
	writeValue(hash, reflect.ValueOf(plan.Backends))
	writeValue(hash, reflect.ValueOf(plan.Secrets))
	for i := range plan.Infrastructure {
		fmt.Fprintln(hash, "infrastructure", plan.Infrastructure[i].Gateway.Object)
	}
	writeValue(hash, reflect.ValueOf(plan.Infrastructure))
	return hex.EncodeToString(hash.Sum(nil)[:16])
}

// digestRoutes fills in the digests that routes lack.
func digestRoutes(ports []Port) {
	w := sha256.New()
	for i := range ports {
		for j := range ports[i].Chains {
			for k := range ports[i].Chains[j].Hosts {
				routes := ports[i].Chains[j].Hosts[k].Routes
				for n := range routes {
					if routes[n].digest != ([16]byte{}) {
						continue
					}
					w.Reset()
					writeFields(w, reflect.ValueOf(&routes[n]).Elem())
					copy(routes[n].digest[:], w.Sum(nil))
				}
			}
		}
	}
}

func writeFields(w hash.Hash, value reflect.Value) {
	for i := range value.NumField() {
		writeValue(w, value.Field(i))
	}
}

// writeValue hashes plain data: structs, slices, maps, pointers, strings and
// numbers, each with its length, so that no two values are written alike. What
// only says where something comes from (Origin, PolicyUse) is passed over. Other
// kinds do not occur in a Plan; they are written as text.
func writeValue(w hash.Hash, value reflect.Value) {
	switch value.Kind() {
	case reflect.Struct:
		if value.Type() == reflect.TypeFor[Origin]() || value.Type() == reflect.TypeFor[PolicyUse]() {
			return
		}
		writeFields(w, value)
	case reflect.Slice:
		if value.Type().Elem() == reflect.TypeFor[PolicyUse]() {
			return
		}
		writeNumber(w, value.Len())
		if routes, ok := reflect.TypeAssert[[]Route](value); ok {
			for i := range routes {
				_, _ = w.Write(routes[i].digest[:])
			}
			return
		}
		if value.Type().Elem().Kind() == reflect.Uint8 {
			_, _ = w.Write(value.Bytes())
			return
		}
		for i := range value.Len() {
			writeValue(w, value.Index(i))
		}
	case reflect.Map:
		keys := value.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		writeNumber(w, len(keys))
		for _, key := range keys {
			writeValue(w, key)
			writeValue(w, value.MapIndex(key))
		}
	case reflect.Pointer:
		if value.IsNil() {
			writeNumber(w, 0)
			return
		}
		writeNumber(w, 1)
		writeValue(w, value.Elem())
	case reflect.String:
		writeNumber(w, value.Len())
		_, _ = io.WriteString(w, value.String())
	default:
		text := fmt.Sprint(value)
		writeNumber(w, len(text))
		_, _ = io.WriteString(w, text)
	}
}

func writeNumber(w hash.Hash, n int) {
	var raw [8]byte
	binary.BigEndian.PutUint64(raw[:], uint64(n)) //nolint:gosec // lengths are not negative
	_, _ = w.Write(raw[:])
}
