package call

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Request is one call.
type Request struct {
	Method protoreflect.MethodDescriptor
	// Input is a sequence of JSON values, one per message; a call that takes one
	// message takes an empty input as {}. It is read as the call goes on.
	Input io.Reader
	// Headers are sent as metadata.
	Headers metadata.MD
	// Output receives each message as JSON.
	Output io.Writer
}

// BadInput is an error of the input, not of the call.
type BadInput struct{ Err error }

func (e *BadInput) Error() string { return e.Err.Error() }
func (e *BadInput) Unwrap() error { return e.Err }

// Do makes the call on the connection and returns when it has ended. Errors are
// a *BadInput or have a gRPC status.
func Do(ctx context.Context, conn grpc.ClientConnInterface, r Request) error {
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(ctx, r.Headers))
	defer cancel()
	messages := &input{decoder: json.NewDecoder(r.Input), of: r.Method.Input(), single: !r.Method.IsStreamingClient()}
	first, err := messages.next() // Bad input should not become half a call.
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if messages.single {
		if _, err := messages.next(); !errors.Is(err, io.EOF) {
			return err
		}
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{
		StreamName: string(r.Method.Name()), ClientStreams: true, ServerStreams: true,
	}, "/"+string(r.Method.Parent().FullName())+"/"+string(r.Method.Name()))
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		err := send(stream, first, messages)
		sent <- err
		if err != nil {
			cancel() // The server must not take half an input for the whole.
		}
	}()
	err = receive(stream, r)
	select {
	case bad := <-sent:
		if bad != nil {
			return bad
		}
	default: // The server ended the call; the input may never end.
	}
	return err
}

// send returns a *BadInput or nil: errors of the stream come out of receiving.
func send(stream grpc.ClientStream, message proto.Message, messages *input) error {
	for message != nil {
		if err := stream.SendMsg(message); err != nil {
			return nil //nolint:nilerr // See above.
		}
		if messages.single {
			break
		}
		var err error
		if message, err = messages.next(); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	_ = stream.CloseSend()
	return nil
}

func receive(stream grpc.ClientStream, r Request) error {
	format := protojson.MarshalOptions{Multiline: true, Indent: "  "}
	if r.Method.IsStreamingServer() {
		format = protojson.MarshalOptions{} // One message a line.
	}
	for count := 0; ; count++ {
		message := dynamicpb.NewMessage(r.Method.Output())
		err := stream.RecvMsg(message)
		if errors.Is(err, io.EOF) {
			if count == 0 && !r.Method.IsStreamingServer() {
				return status.Error(codes.Internal, "the server sent no message")
			}
			return nil
		}
		if err != nil {
			return withRequestID(err, stream)
		}
		text, err := format.Marshal(message)
		if err != nil {
			return status.Errorf(codes.Internal, "the answer cannot be shown as JSON: %v", err)
		}
		if _, err := r.Output.Write(append(text, '\n')); err != nil {
			return status.Errorf(codes.Aborted, "output: %v", err)
		}
	}
}

// requestIDHeader is the header that the edge names each request in.
const requestIDHeader = "x-request-id"

// maxRequestID bounds the request ids that are shown, in bytes.
const maxRequestID = 128

// withRequestID adds the id that the answer's headers name the request by, for an
// error without one: what Envoy answers by itself has the same details for every
// request. stream has ended.
func withRequestID(err error, stream grpc.ClientStream) error {
	st := status.Convert(err)
	for _, detail := range st.Details() {
		if _, is := detail.(*errdetails.RequestInfo); is {
			return err
		}
	}
	ids := stream.Trailer().Get(requestIDHeader) // which an answer without messages has its headers in
	if len(ids) == 0 {
		headers, failed := stream.Header()
		if failed != nil {
			return err
		}
		ids = headers.Get(requestIDHeader)
	}
	plain := func(r rune) bool { return r > ' ' && r < 0x7f }
	if len(ids) == 0 || ids[0] == "" || len(ids[0]) > maxRequestID || strings.ContainsFunc(ids[0], func(r rune) bool { return !plain(r) }) {
		return err
	}
	named, failed := st.WithDetails(&errdetails.RequestInfo{RequestId: ids[0]})
	if failed != nil {
		return err
	}
	return named.Err()
}

// input turns JSON values into messages.
type input struct {
	decoder *json.Decoder
	of      protoreflect.MessageDescriptor
	single  bool
	count   int
}

// next returns io.EOF, and no message, at the end.
func (in *input) next() (proto.Message, error) {
	var raw json.RawMessage
	err := in.decoder.Decode(&raw)
	switch {
	case errors.Is(err, io.EOF) && in.single && in.count == 0:
		raw = json.RawMessage("{}")
	case errors.Is(err, io.EOF):
		return nil, io.EOF
	case err != nil:
		return nil, in.bad(fmt.Errorf("not JSON: %w", err))
	case in.single && in.count > 0:
		return nil, in.bad(errors.New("one too many: this method takes one message"))
	}
	message := dynamicpb.NewMessage(in.of)
	if err := protojson.Unmarshal(raw, message); err != nil {
		return nil, in.bad(fmt.Errorf("not a %s: %s", in.of.FullName(), clean(err)))
	}
	in.count++
	return message, nil
}

// clean evens out the space that protobuf puts into its errors at random.
func clean(err error) string {
	return strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto: ")
}

func (in *input) bad(err error) error {
	return &BadInput{fmt.Errorf("input message %d, ending at byte %d: %w", in.count+1, in.decoder.InputOffset(), err)}
}
