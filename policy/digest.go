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
	hash := sha256.New()
	for _, message := range plan.AuthRoutes {
		fmt.Fprintln(hash, "auth", message.GetRouteId(), message.GetDigest())
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
	return hex.EncodeToString(hash.Sum(nil)[:16])
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
		for i := range value.NumField() {
			writeValue(w, value.Field(i))
		}
	case reflect.Slice:
		if value.Type().Elem() == reflect.TypeFor[PolicyUse]() {
			return
		}
		writeNumber(w, value.Len())
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
