package query

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
)

// Bounds of an order.
const (
	// MaxOrderBytes bounds the text.
	MaxOrderBytes = 512
	// MaxOrderKeys bounds the keys.
	MaxOrderKeys = 4
)

// Key is one key of an order.
type Key struct {
	Field string
	Kind  Kind
	// Path leads into a Document; empty for the other kinds.
	Path []string
	Desc bool
}

// InvalidOrder is the error of an order that can't be used.
func InvalidOrder(format string, args ...any) *fault.Error {
	message := fmt.Sprintf(format, args...)
	return fault.New(codes.InvalidArgument, "INVALID_ORDER_BY", "order_by can't be used: %s", message).WithField("order_by", message)
}

// ParseOrder checks an AIP-132 order_by against schema. Errors are
// *fault.Error with the reason INVALID_ORDER_BY.
func ParseOrder(text string, schema Schema) ([]Key, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	if len(text) > MaxOrderBytes {
		return nil, InvalidOrder("it is %d bytes long; at most %d are allowed", len(text), MaxOrderBytes)
	}
	parts := strings.Split(text, ",")
	if len(parts) > MaxOrderKeys {
		return nil, InvalidOrder("it has %d keys; at most %d are allowed", len(parts), MaxOrderKeys)
	}
	seen := map[string]bool{}
	keys := make([]Key, 0, len(parts))
	for _, part := range parts {
		key, err := parseKey(part, schema)
		if err != nil {
			return nil, err
		}
		full := key.Field + "." + strings.Join(key.Path, ".")
		if seen[full] {
			return nil, InvalidOrder("%q is named twice", strings.TrimSuffix(full, "."))
		}
		seen[full] = true
		keys = append(keys, key)
	}
	return keys, nil
}

func parseKey(part string, schema Schema) (Key, error) {
	words := strings.Fields(part)
	if len(words) == 0 || len(words) > 2 {
		return Key{}, InvalidOrder("%q is not a field with an optional asc or desc", strings.TrimSpace(part))
	}
	var key Key
	if len(words) == 2 {
		switch words[1] {
		case "desc":
			key.Desc = true
		case "asc":
		default:
			return Key{}, InvalidOrder("%q is neither asc nor desc", words[1])
		}
	}
	segments := strings.Split(words[0], ".")
	field, known := schema[segments[0]]
	if !known || field.Unordered || (field.Kind != Document && len(segments) > 1) {
		return Key{}, InvalidOrder("there is no field %q to order by", words[0])
	}
	key.Field, key.Kind, key.Path = segments[0], field.Kind, segments[1:]
	if field.Kind == Document {
		if err := CheckPath(key.Path); err != nil {
			return Key{}, InvalidOrder("%s", err)
		}
	}
	return key, nil
}
