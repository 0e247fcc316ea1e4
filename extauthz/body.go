package extauthz

import (
	"encoding/binary"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz/internal/jsonvalue"
)

// maxBodyBytes bounds a body that expressions read.
const maxBodyBytes = 1 << 20

// bodyReader turns a body into the value that expressions read.
type bodyReader struct {
	most int
	// files is nil when bodies are JSON only.
	files *protoregistry.Files
	// announced asks the proxy to say that it sends bodies.
	announced bool
}

func newBodyReader(source *rulesv1.BodyInput) (*bodyReader, error) {
	if source == nil {
		return nil, nil //nolint:nilnil // no body is read
	}
	reader := &bodyReader{most: int(source.GetMaxBytes()), announced: source.GetAnnounced()}
	if reader.most == 0 || reader.most > maxBodyBytes {
		return nil, fmt.Errorf("body.max_bytes: %d is outside 1 to %d", reader.most, maxBodyBytes)
	}
	if raw := source.GetDescriptorSet(); len(raw) > 0 {
		var set descriptorpb.FileDescriptorSet
		if err := proto.Unmarshal(raw, &set); err != nil {
			return nil, errors.New("body.descriptor_set: is not a FileDescriptorSet")
		}
		files, err := protodesc.NewFiles(&set)
		if err != nil {
			return nil, fmt.Errorf("body.descriptor_set: is not whole: %w", err)
		}
		reader.files = files
	}
	return reader, nil
}

// headerPartial is what Envoy sets when it sends less than the whole body.
const headerPartial = "x-envoy-auth-partial-body"

func badBody(format string, args ...any) error {
	return Refuse(ReasonBodyInvalid, fmt.Errorf(format, args...))
}

// read returns nil, which expressions see as null, for a request without a body.
// A body that is not whole, too long, or in another form than its type says is
// refused, since a rule that cannot see it can say nothing about it.
func (b *bodyReader) read(request *Request, path string) (*structpb.Value, error) {
	if partial, _ := request.Credential(headerPartial); partial == "true" {
		return nil, badBody("the proxy sent a part of the body only")
	}
	if len(request.Body) == 0 {
		if request.Size > 0 || request.Received > 0 {
			return nil, badBody("the request has a body and the proxy did not send it")
		}
		if b.announced && !request.SendsBody {
			return nil, badBody("the proxy does not say that it sends the route's bodies")
		}
		if unsentBody(request) {
			return nil, badBody("the request asks for another protocol and may have a body, which the proxy does not send then")
		}
		return nil, nil //nolint:nilnil // documented
	}
	if len(request.Body) > b.most {
		return nil, badBody("the body has %d bytes; the most is %d", len(request.Body), b.most)
	}
	if request.Size >= 0 && request.Size != int64(len(request.Body)) {
		return nil, badBody("the body has %d bytes, its header says %d", len(request.Body), request.Size)
	}
	contentType, presence := request.Credential("content-type")
	media, _, err := mime.ParseMediaType(contentType)
	switch {
	case presence != Present || err != nil:
		return nil, badBody("the body has no type, or several")
	case media == "application/json" || strings.HasPrefix(media, "application/") && strings.HasSuffix(media, "+json"):
		return readJSON(request.Body)
	case b.files != nil && (media == "application/grpc" || media == "application/grpc+proto"):
		return b.readMessage(request, path)
	}
	return nil, badBody("the body is of type %q, which rules cannot read", media)
}

// unsentBody reports whether a request may have a body though none was sent: Envoy's
// ext_authz keeps none of a request for a WebSocket, whatever it is told. An opening
// handshake has none: it is a GET (RFC 6455 section 4.1), or a CONNECT over HTTP/2
// (RFC 8441).
func unsentBody(request *Request) bool {
	if _, presence := request.Credential("upgrade"); presence == Absent {
		return false
	}
	_, chunked := request.Credential("transfer-encoding")
	return chunked != Absent || request.Method != http.MethodGet && request.Method != http.MethodConnect
}

func readJSON(raw []byte) (*structpb.Value, error) {
	value, err := jsonvalue.Parse(raw)
	if err != nil {
		return nil, badBody("the body %w", err)
	}
	return value, nil
}

// grpcPrefix is the length of what precedes a message: a flag and the length.
const grpcPrefix = 5

// readMessage reads the one message of a unary call.
func (b *bodyReader) readMessage(request *Request, path string) (*structpb.Value, error) {
	if len(request.Body) < grpcPrefix {
		return nil, badBody("the body is shorter than a gRPC message")
	}
	switch {
	case request.Body[0] != 0:
		return nil, badBody("the gRPC message is compressed, which rules cannot read")
	case int64(binary.BigEndian.Uint32(request.Body[1:grpcPrefix])) != int64(len(request.Body)-grpcPrefix):
		return nil, badBody("the body is not exactly one gRPC message")
	}
	service, name, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !ok {
		return nil, badBody("the path is not that of a gRPC method")
	}
	found, err := b.files.FindDescriptorByName(protoreflect.FullName(service))
	described, isService := found.(protoreflect.ServiceDescriptor)
	if err != nil || !isService || described.Methods().ByName(protoreflect.Name(name)) == nil {
		return nil, badBody("the gRPC method is not in the descriptor set")
	}
	message := dynamicpb.NewMessage(described.Methods().ByName(protoreflect.Name(name)).Input())
	if err := proto.Unmarshal(request.Body[grpcPrefix:], message); err != nil {
		return nil, badBody("the gRPC message cannot be read")
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true, Resolver: dynamicpb.NewTypes(b.files)}.Marshal(message)
	if err != nil {
		return nil, badBody("the gRPC message has no form in JSON")
	}
	value := &structpb.Value{}
	if err := protojson.Unmarshal(raw, value); err != nil {
		return nil, badBody("the gRPC message has no form in JSON")
	}
	return value, nil
}
