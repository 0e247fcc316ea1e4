package envoyauth

import (
	"cmp"
	"context"
	"net"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"weir.dev/extauthz"
	"weir.dev/kit/identity"
)

// full is a check with everything that Envoy may say.
func full() *authv3.CheckRequest {
	peer := func(ip string, port uint32) *authv3.AttributeContext_Peer {
		return &authv3.AttributeContext_Peer{
			Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
			}}},
			Principal: "spiffe://a/b", Certificate: "-----BEGIN%20", Service: "s", Labels: map[string]string{"a": "b"},
		}
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: peer("192.0.2.1", 1234), Destination: peer("192.0.2.2", 443),
		ContextExtensions: map[string]string{RouteExtension: "r", BodyExtension: "true", "other": "x"},
		Request: &authv3.AttributeContext_Request{
			Time: timestamppb.Now(),
			Http: &authv3.AttributeContext_HttpRequest{
				Id: "1", Method: "POST", Path: "/a?b=ü", Host: "api.example", Scheme: "https", Size: -1, Protocol: "HTTP/2", Body: "text", RawBody: []byte{0xff, 0},
				Headers: map[string]string{"X-A": "joined", "b": ""},
				HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
					{Key: ":path", Value: "/a"},
					{Key: "X-Raw", RawValue: []byte{0xff, 'a'}},
					{Key: "x-twice", Value: "1"},
					{Key: "x-twice", RawValue: []byte("2")},
					{Key: "content-length", Value: "17"},
					{Key: "content-type", Value: "application/grpc"},
					{Key: "x-request-id", Value: "id-1"},
					{},
				}},
			},
		},
	}}
}

func marshal(t testing.TB, message proto.Message) []byte {
	t.Helper()
	raw, err := proto.Marshal(message)
	require.NoError(t, err)
	return raw
}

// sorted puts headers in an order, since a map has none.
func sorted(request *extauthz.Request) *extauthz.Request {
	slices.SortFunc(request.Headers, func(a, b extauthz.Header) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Value, b.Value))
	})
	if len(request.Headers) == 0 {
		request.Headers = nil
	}
	return request
}

func requireSameReading(t *testing.T, raw []byte) {
	t.Helper()
	check := &authv3.CheckRequest{}
	if proto.Unmarshal(raw, check) != nil {
		return
	}
	// Which of two header names that differ in case alone says what follows from
	// them is chance, from a map.
	http := check.GetAttributes().GetRequest().GetHttp()
	names := map[string]bool{}
	for name := range http.GetHeaders() {
		if len(http.GetHeaderMap().GetHeaders()) == 0 && names[strings.ToLower(name)] {
			return
		}
		names[strings.ToLower(name)] = true
	}
	got, err := readCheck(string(raw))
	require.NoError(t, err)
	require.Equal(t, sorted(toRequest(check)), sorted(got))
}

func TestReadsAsProtocolBuffersDo(t *testing.T) {
	check := full()
	requireSameReading(t, marshal(t, check))
	got, err := readCheck(string(marshal(t, check)))
	require.NoError(t, err)
	require.Equal(t, toRequest(check), got, "in order, too")

	http := check.GetAttributes().GetRequest().GetHttp()
	for name, change := range map[string]func(){
		"no raw body":   func() { http.RawBody = nil },
		"no header map": func() { http.HeaderMap = nil },
		"no headers":    func() { http.Headers = nil },
		"a pipe": func() {
			check.Attributes.Source.Address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/run/x"}}}
		},
		"a named port": func() {
			check.Attributes.Destination.Address.GetSocketAddress().PortSpecifier = &corev3.SocketAddress_NamedPort{NamedPort: "http"}
		},
		"no request":    func() { check.Attributes.Request = nil },
		"no attributes": func() { check.Attributes = nil },
	} {
		t.Run(name, func(t *testing.T) {
			check = full()
			http = check.GetAttributes().GetRequest().GetHttp()
			change()
			requireSameReading(t, marshal(t, check))
		})
	}
	// Written in two parts, a message is both together.
	other := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		ContextExtensions: map[string]string{RouteExtension: "later", BodyExtension: ""},
		Source:            &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_EnvoyInternalAddress{}}},
	}}
	requireSameReading(t, append(marshal(t, full()), marshal(t, other)...))
}

// What is malformed where it is read is refused.
func TestMalformedChecks(t *testing.T) {
	good := string(marshal(t, full()))
	for cut := 1; cut < len(good); cut++ {
		_, err := readCheck(good[:cut])
		require.ErrorIs(t, err, errWire, "cut to %d bytes", cut)
	}
	bad := full()
	raw := strings.Replace(string(marshal(t, bad)), "api.example", "api\xffexample", 1)
	_, err := readCheck(raw)
	require.ErrorIs(t, err, errNotText)
	require.Error(t, proto.Unmarshal([]byte(raw), &authv3.CheckRequest{}))
	for _, raw := range []string{"\x00", "\x0b", "\x0f", "\x08", "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "\x0d\x00", "\xff\xff\xff\xff\x7f\x00"} {
		_, err := readCheck(raw)
		require.ErrorIs(t, err, errWire, "%q", raw)
		require.Error(t, proto.Unmarshal([]byte(raw), &authv3.CheckRequest{}), "%q", raw)
	}
}

func FuzzReadCheck(f *testing.F) {
	f.Add(marshal(f, full()))
	f.Add(append(marshal(f, full()), marshal(f, full())...))
	f.Add(protowire.AppendGroup(protowire.AppendTag(nil, 9, protowire.StartGroupType), 9, nil))
	f.Fuzz(requireSameReading)
}

func written(t *testing.T, answer *Answer) *authv3.CheckResponse {
	t.Helper()
	buffers, err := Codec().Marshal(answer)
	require.NoError(t, err)
	response := &authv3.CheckResponse{}
	require.NoError(t, proto.Unmarshal(buffers.Materialize(), response))
	return response
}

func requireSameWriting(t *testing.T, answer *Answer) {
	t.Helper()
	require.True(t, proto.Equal(answer.Response(), written(t, answer)), "%v\n%v", answer.Response(), written(t, answer))
}

func TestWritesAsProtocolBuffersDo(t *testing.T) {
	request := &extauthz.Request{Headers: []extauthz.Header{{Name: "x-weir-role", Value: "root"}, {Name: "cookie", Value: "a=1; ours=2"}}}
	long := strings.Repeat("ü", 3000)
	for name, decision := range map[string]extauthz.Decision{
		"plain": {Allowed: true, Reason: extauthz.ReasonAllowed, Route: "r"},
		"everything": {
			Allowed: true, Reason: extauthz.ReasonAllowed, ID: "d-1", Route: "r", Policy: "a/b", Rule: "x", Digest: "0", Authenticator: "key",
			Identity:          extauthz.Identity{Identity: identity.Identity{Consumer: "default/shop", Subject: "s", Tenant: "acme", Tier: "gold", Scopes: []string{"a", "b"}}, Attributes: map[string]string{"requests": "7", "b": ""}},
			CredentialHeaders: []string{"authorization", "x-api-key"}, CredentialCookie: func(name string) bool { return name == "ours" },
			UpstreamHeaders: []extauthz.Header{{Name: "authorization", Value: "Bearer " + long}, {Name: "x-empty"}},
			ResponseHeaders: []extauthz.Header{{Name: "set-cookie", Value: "a=1"}, {Name: "set-cookie", Value: "b=2"}},
		},
		"facts": {
			Allowed: true, Identity: extauthz.Identity{Attributes: map[string]string{"weight": "2", "a.b": ""}}, LimitClaims: map[string]string{"plan.name": "big"},
		},
		"denied": {Reason: extauthz.ReasonPermissionDenied, Route: "r", ResponseHeaders: []extauthz.Header{{Name: "set-cookie", Value: "a=1"}}},
	} {
		t.Run(name, func(t *testing.T) { requireSameWriting(t, newAnswer(request, &decision)) })
	}
	for name, answer := range map[string]*Answer{
		"a header":          {set: []extauthz.Header{{Name: "x", Value: "\xff"}}},
		"a response header": {added: []extauthz.Header{{Name: "x", Value: "\xff"}}},
		"a name":            {remove: []string{"\xff"}},
		"metadata":          {metadata: [metadataCount]string{"\xff"}},
		"an attribute":      {attributes: map[string]string{"a": "\xff"}},
		"a claim":           {claims: map[string]string{"a": "\xff"}},
	} {
		_, err := Codec().Marshal(answer)
		require.ErrorIs(t, err, errText, name)
		_, err = proto.Marshal(answer.Response())
		require.Error(t, err, name)
	}
}

func FuzzWriteAnswer(f *testing.F) {
	f.Add("x-a", "1", "x-b", "d-1", "default/shop")
	f.Add("", "", "", "", "\xff")
	f.Fuzz(func(t *testing.T, name, value, removed, id, consumer string) {
		answer := &Answer{
			set: []extauthz.Header{{Name: name, Value: value}, {Name: value, Value: name}}, remove: []string{removed, name},
			added: []extauthz.Header{{Name: removed, Value: id}}, metadata: [metadataCount]string{1: id, 8: consumer},
		}
		if !answer.isText() {
			_, err := proto.Marshal(answer.Response())
			require.Error(t, err)
			return
		}
		requireSameWriting(t, answer)
	})
}

type always struct{ seen chan *extauthz.Request }

func (a always) Answer(_ context.Context, request *extauthz.Request) *Answer {
	a.seen <- request
	return newAnswer(request, &extauthz.Decision{Allowed: true, Reason: extauthz.ReasonAllowed, Route: request.Route})
}

func (a always) Refuse(_ context.Context, request *extauthz.Request, reason extauthz.Reason) *Answer {
	return newAnswer(request, &extauthz.Decision{Reason: reason})
}

// Over a connection, with and without an interceptor, and beside a server that
// lacks the codec.
func TestServiceOverGRPC(t *testing.T) {
	seen := make(chan *extauthz.Request, 1)
	intercepted := 0
	serve := func(options ...grpc.ServerOption) authv3.AuthorizationClient {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		server := grpc.NewServer(options...)
		NewService(always{seen}).Register(server)
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(server.Stop)
		conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		return authv3.NewAuthorizationClient(conn)
	}
	codec := grpc.ForceServerCodecV2(Codec())
	counting := grpc.UnaryInterceptor(func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		intercepted++
		require.Equal(t, authv3.Authorization_Check_FullMethodName, info.FullMethod)
		return handler(ctx, request)
	})
	large := full()
	large.Attributes.Request.Http.RawBody = make([]byte, 100_000) // of several buffers
	for _, options := range [][]grpc.ServerOption{{codec}, {codec, counting}} {
		for _, check := range []*authv3.CheckRequest{full(), large} {
			answer, err := serve(options...).Check(t.Context(), check)
			require.NoError(t, err)
			require.Equal(t, "r", answer.GetDynamicMetadata().GetFields()["route"].GetStringValue())
			require.Equal(t, toRequest(check), <-seen)
		}
	}
	require.Equal(t, 2, intercepted)
	_, err := serve().Check(t.Context(), full())
	require.Equal(t, codes.Internal, status.Code(err))
}

func TestCodecLeavesOtherMessagesAlone(t *testing.T) {
	buffers, err := Codec().Marshal(timestamppb.New(timestamppb.Now().AsTime()))
	require.NoError(t, err)
	require.NoError(t, Codec().Unmarshal(buffers, &timestamppb.Timestamp{}))
	require.Error(t, Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer("\xff")}, &message{}))
	require.Equal(t, "proto", Codec().Name())
}

func BenchmarkWire(b *testing.B) {
	raw := string(marshal(b, full()))
	codec := Codec()
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := readCheck(raw); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read-as-message", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			check := &authv3.CheckRequest{}
			if err := proto.Unmarshal([]byte(raw), check); err != nil {
				b.Fatal(err)
			}
			toRequest(check)
		}
	})
	answer := newAnswer(&extauthz.Request{}, &extauthz.Decision{
		Allowed: true, Reason: extauthz.ReasonAllowed, Identity: extauthz.Identity{Identity: identity.Identity{Consumer: "default/shop", Subject: "main", Tenant: "acme"}},
	})
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buffers, err := codec.Marshal(answer)
			if err != nil {
				b.Fatal(err)
			}
			buffers.Free()
		}
	})
	b.Run("write-as-message", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := proto.Marshal(answer.Response()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
