package envoyauth

import (
	"errors"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

var (
	errWire    = errors.New("it is cut off or malformed")
	errNotText = errors.New("a text is not UTF-8")
)

// maxFieldNumber is the greatest that there is.
const maxFieldNumber = 1<<29 - 1

// wire is the value of a field: text for texts, bytes and messages, number for
// varints. Others are passed over.
type wire struct {
	kind   protowire.Type
	number uint64
	data   string
}

// fields calls visit for each field of a message, in order.
func fields(raw string, visit func(number protowire.Number, value wire) error) error {
	for raw != "" {
		tag, rest, ok := varint(raw)
		if !ok || tag>>3 == 0 || tag>>3 > maxFieldNumber {
			return errWire
		}
		value := wire{kind: protowire.Type(tag & 7)}
		switch value.kind {
		case protowire.VarintType:
			value.number, raw, ok = varint(rest)
		case protowire.Fixed32Type:
			raw, ok = skip(rest, 4)
		case protowire.Fixed64Type:
			raw, ok = skip(rest, 8)
		case protowire.BytesType:
			var size uint64
			if size, rest, ok = varint(rest); ok && size <= uint64(len(rest)) {
				value.data, raw = rest[:size], rest[size:]
			} else {
				ok = false
			}
		case protowire.StartGroupType:
			_, n := protowire.ConsumeGroup(protowire.Number(tag>>3), []byte(rest))
			raw, ok = skip(rest, n)
		default:
			ok = false
		}
		if !ok {
			return errWire
		}
		if err := visit(protowire.Number(tag>>3), value); err != nil {
			return err
		}
	}
	return nil
}

func skip(raw string, n int) (rest string, ok bool) {
	if n < 0 || len(raw) < n {
		return "", false
	}
	return raw[n:], true
}

// varint reads a base-128 number of at most 64 bits.
func varint(raw string) (number uint64, rest string, ok bool) {
	for i := 0; i < len(raw) && i < 10; i++ {
		if i == 9 && raw[i] > 1 {
			return 0, "", false
		}
		number |= uint64(raw[i]&0x7f) << (7 * i)
		if raw[i] < 0x80 {
			return number, raw[i+1:], true
		}
	}
	return 0, "", false
}

// message visits the fields of a nested message. A field of another type than
// expected is an unknown one, and passed over.
func (w wire) message(visit func(number protowire.Number, value wire) error) error {
	if w.kind != protowire.BytesType {
		return nil
	}
	return fields(w.data, visit)
}

func (w wire) text(into *string) error {
	if w.kind != protowire.BytesType {
		return nil
	}
	if !utf8.ValidString(w.data) {
		return errNotText
	}
	*into = w.data
	return nil
}

func (w wire) bytes(into *string) {
	if w.kind == protowire.BytesType {
		*into = w.data
	}
}

func (w wire) uint32(into *uint32) {
	if w.kind == protowire.VarintType {
		*into = uint32(w.number) //nolint:gosec // what is above is cut off, as the encoding says
	}
}

func (w wire) int64(into *int64) {
	if w.kind == protowire.VarintType {
		*into = int64(w.number) //nolint:gosec // two's complement is the encoding
	}
}

// entry reads an entry of a map of texts.
func (w wire) entry() (name, value string, err error) {
	err = w.message(func(number protowire.Number, field wire) error {
		switch number {
		case 1:
			return field.text(&name)
		case 2:
			return field.text(&value)
		}
		return nil
	})
	return name, value, err
}
