// Package rlscodec reads rate limit requests and writes the answers to them as
// Protocol Buffers do, in a third of the time. It knows the fields that Envoy sends
// and that answers usually have; a message with any other, and one that is
// malformed, takes the usual way, and so does every other type of message. The strings
// of a request are parts of one text: who keeps one keeps all, unless it is cloned.
package rlscodec

import (
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the usual way
	"google.golang.org/grpc/mem"
)

type codec struct{ encoding.CodecV2 }

// New makes a codec for a server; see grpc.ForceServerCodecV2. It is safe for
// concurrent use.
func New() encoding.CodecV2 { return codec{encoding.GetCodecV2("proto")} }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, message any) error {
	if request, ok := message.(*rlsv3.RateLimitRequest); ok && read(text(data), request) {
		return nil
	}
	return c.CodecV2.Unmarshal(data, message)
}

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(message any) (mem.BufferSlice, error) {
	if response, ok := message.(*rlsv3.RateLimitResponse); ok && simple(response) {
		return mem.BufferSlice{mem.SliceBuffer(appendResponse(make([]byte, 0, sizeOf(response)), response))}, nil
	}
	return c.CodecV2.Marshal(message)
}

// text is a copy, of which the strings of the message are parts.
func text(data mem.BufferSlice) string {
	if len(data) == 1 {
		return string(data[0].ReadOnlyData())
	}
	return string(data.Materialize())
}
