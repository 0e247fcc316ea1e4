package envoyauth

import (
	"errors"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protowire"

	"weir.dev/extauthz"
)

var errText = errors.New("a header's or the metadata's text is not UTF-8")

// append writes an answer that lets the request pass as Response would be
// marshalled, but for the order of fields. Numbers of fields are those of
// envoy/service/auth/v3/external_auth.proto.
func (a *Answer) append(to []byte) ([]byte, error) {
	if !a.isText() {
		return nil, errText // as proto.Marshal says
	}
	to = appendHead(to, 1, 0) // status: OK
	size := 0
	for i := range a.set {
		size += field(2, optionSize(&a.set[i], true))
	}
	for _, name := range a.remove {
		size += field(5, len(name))
	}
	for i := range a.added {
		size += field(6, optionSize(&a.added[i], false))
	}
	to = appendHead(to, 3, size) // ok_response
	for i := range a.set {
		to = appendOption(to, 2, &a.set[i], true)
	}
	for _, name := range a.remove {
		to = appendText(to, 5, name)
	}
	for i := range a.added {
		to = appendOption(to, 6, &a.added[i], false)
	}
	return a.appendMetadata(to), nil
}

func (a *Answer) isText() bool {
	for _, headers := range [...][]extauthz.Header{a.set, a.added} {
		for i := range headers {
			if !utf8.ValidString(headers[i].Name) || !utf8.ValidString(headers[i].Value) {
				return false
			}
		}
	}
	for _, name := range a.remove {
		if !utf8.ValidString(name) {
			return false
		}
	}
	for _, value := range a.metadata {
		if !utf8.ValidString(value) {
			return false
		}
	}
	for _, facts := range [...]map[string]string{a.attributes, a.claims} {
		for name, value := range facts {
			if !utf8.ValidString(name) || !utf8.ValidString(value) {
				return false
			}
		}
	}
	return true
}

// appendMetadata writes dynamic_metadata, a google.protobuf.Struct of texts.
func (a *Answer) appendMetadata(to []byte) []byte {
	names := metadataNames()
	size := 0
	for i, name := range names {
		size += field(1, entrySize(name, a.metadata[i]))
	}
	for name, value := range a.attributes {
		size += field(1, entrySize(attributePrefix+name, value))
	}
	for path, value := range a.claims {
		size += field(1, entrySize(claimPrefix+path, value))
	}
	to = appendHead(to, 4, size)
	for i, name := range names {
		to = appendEntry(to, name, a.metadata[i])
	}
	for name, value := range a.attributes {
		to = appendEntry(to, attributePrefix+name, value)
	}
	for path, value := range a.claims {
		to = appendEntry(to, claimPrefix+path, value)
	}
	return to
}

func appendEntry(to []byte, name, value string) []byte {
	to = appendHead(to, 1, entrySize(name, value))
	to = appendText(to, 1, name)
	to = appendHead(to, 2, field(3, len(value)))
	return appendText(to, 3, value) // string_value
}

func entrySize(name, value string) int {
	return field(1, len(name)) + field(2, field(3, len(value)))
}

// optionSize and appendOption are of a HeaderValueOption, which replaces what is
// there or is added to it.
func optionSize(header *extauthz.Header, replaces bool) int {
	size := field(1, headerSize(header))
	if replaces {
		size += 2
	}
	return size
}

func headerSize(header *extauthz.Header) int {
	size := 0
	for _, text := range [...]string{header.Name, header.Value} {
		if text != "" {
			size += field(1, len(text))
		}
	}
	return size
}

func appendOption(to []byte, number protowire.Number, header *extauthz.Header, replaces bool) []byte {
	to = appendHead(to, number, optionSize(header, replaces))
	to = appendHead(to, 1, headerSize(header))
	if header.Name != "" {
		to = appendText(to, 1, header.Name)
	}
	if header.Value != "" {
		to = appendText(to, 2, header.Value)
	}
	if replaces {
		to = protowire.AppendTag(to, 3, protowire.VarintType)
		to = protowire.AppendVarint(to, uint64(corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD))
	}
	return to
}

// field is the size of a field of a text, bytes or message of a size.
func field(number protowire.Number, size int) int {
	return protowire.SizeTag(number) + protowire.SizeBytes(size)
}

func appendHead(to []byte, number protowire.Number, size int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(to, number, protowire.BytesType), uint64(size))
}

func appendText(to []byte, number protowire.Number, text string) []byte {
	return protowire.AppendString(protowire.AppendTag(to, number, protowire.BytesType), text)
}
