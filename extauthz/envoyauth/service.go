package envoyauth

import (
	"context"
	"fmt"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	"weir.dev/extauthz"
)

// Service is envoy.service.auth.v3.Authorization over a Checker. As an
// authv3.AuthorizationServer it takes and gives messages, for what is not gRPC;
// Register is for gRPC. Safe for concurrent use.
type Service struct {
	authv3.UnimplementedAuthorizationServer
	checker Checker
}

// NewService makes a service.
func NewService(checker Checker) *Service { return &Service{checker: checker} }

// Check implements authv3.AuthorizationServer. It never returns an error.
func (s *Service) Check(ctx context.Context, check *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return s.checker.Answer(ctx, toRequest(check)).Response(), nil
}

// Register adds the service to a server that uses Codec (see
// grpc.ForceServerCodecV2): on any other, every call fails.
func (s *Service) Register(server grpc.ServiceRegistrar) {
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: authv3.Authorization_ServiceDesc.ServiceName, HandlerType: (*any)(nil),
		Methods:  []grpc.MethodDesc{{MethodName: "Check", Handler: s.handle}},
		Metadata: authv3.Authorization_ServiceDesc.Metadata,
	}, s)
}

// handle is of the type of a generated method handler.
func (s *Service) handle(_ any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // The order is gRPC's.
	message := &message{}
	if err := decode(message); err != nil {
		return nil, err
	}
	check := func(ctx context.Context, _ any) (any, error) { return s.checker.Answer(ctx, message.request), nil }
	if interceptor == nil {
		return check(ctx, message)
	}
	return interceptor(ctx, message, &grpc.UnaryServerInfo{Server: s, FullMethod: authv3.Authorization_Check_FullMethodName}, check)
}

// message is a CheckRequest, read.
type message struct{ request *extauthz.Request }

// Codec returns a codec of gRPC that reads check requests and writes answers
// without making Protocol Buffers' structures of them: that is most of what a
// cheap check costs. Every other message goes to the usual codec.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2(proto.Name)} }

type codec struct{ encoding.CodecV2 }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	answer, ok := v.(*Answer)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	if answer.denied != nil {
		return c.CodecV2.Marshal(answer.Response())
	}
	pool := mem.DefaultBufferPool()
	buffer := pool.Get(typicalAnswerBytes)
	raw, err := answer.append((*buffer)[:0])
	if err != nil {
		pool.Put(buffer)
		return nil, fmt.Errorf("check response: %w", err)
	}
	*buffer = raw
	return mem.BufferSlice{mem.NewBuffer(buffer, pool)}, nil
}

// typicalAnswerBytes is about what an answer takes; longer ones grow.
const typicalAnswerBytes = 1 << 10

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	into, ok := v.(*message)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	var err error
	if into.request, err = readCheck(text(data)); err != nil {
		return fmt.Errorf("check request: %w", err)
	}
	return nil
}

// text copies the buffers, which are used again.
func text(data mem.BufferSlice) string {
	if len(data) == 1 {
		return string(data[0].ReadOnlyData())
	}
	return string(data.Materialize())
}
