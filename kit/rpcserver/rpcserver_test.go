package rpcserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/kit/certs"
	"weir.dev/kit/config"
	"weir.dev/kit/fault"
	"weir.dev/kit/identity"
	"weir.dev/kit/rpcserver"
)

// handler is what the test service does; by the text that it is sent.
type handler func(ctx context.Context, text string) (string, error)

const (
	unaryMethod  = "/test.Echo/Unary"
	streamMethod = "/test.Echo/Stream"
)

// echoService is one unary and one server-streaming method over handler.
func echoService() *grpc.ServiceDesc {
	unary := func(server any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		request := new(wrapperspb.StringValue)
		if err := decode(request); err != nil {
			return nil, err
		}
		return interceptor(ctx, request, &grpc.UnaryServerInfo{Server: server, FullMethod: unaryMethod}, func(ctx context.Context, request any) (any, error) {
			answer, err := server.(handler)(ctx, request.(*wrapperspb.StringValue).GetValue())
			return wrapperspb.String(answer), err
		})
	}
	stream := func(server any, stream grpc.ServerStream) error {
		request := new(wrapperspb.StringValue)
		if err := stream.RecvMsg(request); err != nil {
			return err
		}
		answer, err := server.(handler)(stream.Context(), request.GetValue())
		if err != nil {
			return err
		}
		return stream.SendMsg(wrapperspb.String(answer))
	}
	return &grpc.ServiceDesc{
		ServiceName: "test.Echo", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: unary}},
		Streams: []grpc.StreamDesc{{StreamName: "Stream", Handler: stream, ServerStreams: true}},
	}
}

type fixture struct {
	server    *rpcserver.Server
	authority *certs.Authority
	registry  *prometheus.Registry
	log       *lockedBuffer
	stop      context.CancelFunc
	done      chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func start(t *testing.T, do handler, change func(*rpcserver.Config, *rpcserver.Options)) *fixture {
	t.Helper()
	authority, err := certs.OpenAuthority(t.TempDir(), time.Now())
	require.NoError(t, err)
	files, err := authority.Issue("user", t.TempDir(), time.Now())
	require.NoError(t, err)
	var cfg rpcserver.Config
	cfg.SetDefaults()
	cfg.TLS, cfg.AllowedPeers = files, []string{certs.PeerID("ingress")}
	f := &fixture{authority: authority, registry: prometheus.NewRegistry(), log: &lockedBuffer{}, done: make(chan error, 1)}
	options := rpcserver.Options{Name: "testd", Logger: slog.New(slog.NewJSONHandler(f.log, nil)), Registry: f.registry}
	if change != nil {
		change(&cfg, &options)
	}
	require.NoError(t, cfg.Validate())
	f.server, err = rpcserver.New(cfg, options)
	require.NoError(t, err)
	f.server.GRPC().RegisterService(echoService(), do)
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	go func() { f.done <- f.server.Run(ctx) }()
	t.Cleanup(cancel)
	return f
}

func (f *fixture) connect(t *testing.T, as string) *grpc.ClientConn {
	t.Helper()
	files, err := f.authority.Issue(as, t.TempDir(), time.Now())
	require.NoError(t, err)
	config, err := files.ClientConfig(certs.PeerID("user"))
	require.NoError(t, err)
	return dial(t, f.server.Address(), credentials.NewTLS(config))
}

func dial(t *testing.T, address string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds), grpc.WithNoProxy())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

type answer struct {
	text    string
	err     error
	trailer metadata.MD
}

// call calls a method of the echo; unary and stream look the same from here.
func call(conn *grpc.ClientConn, method, text string, headers ...string) (a answer) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, headers...)
	response := new(wrapperspb.StringValue)
	if method == unaryMethod {
		a.err = conn.Invoke(ctx, method, wrapperspb.String(text), response, grpc.Trailer(&a.trailer))
		a.text = response.GetValue()
		return a
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return answer{err: err}
	}
	if err := errors.Join(stream.SendMsg(wrapperspb.String(text)), stream.CloseSend()); err != nil {
		return answer{err: err}
	}
	for {
		if a.err = stream.RecvMsg(response); a.err != nil {
			break
		}
		a.text = response.GetValue()
	}
	if errors.Is(a.err, io.EOF) {
		a.err = nil
	}
	a.trailer = stream.Trailer()
	return a
}

func both(t *testing.T, test func(t *testing.T, method string)) {
	for _, method := range []string{unaryMethod, streamMethod} {
		t.Run(method[len("/test.Echo/"):], func(t *testing.T) { test(t, method) })
	}
}

func echo(_ context.Context, text string) (string, error) { return text, nil }

func TestOnlyNamedPeersGetIn(t *testing.T) {
	f := start(t, echo, nil)
	require.Equal(t, "hello", call(f.connect(t, "ingress"), unaryMethod, "hello").text)
	for name, conn := range map[string]*grpc.ClientConn{
		"another component": f.connect(t, "extauthz"),
		"plain text":        dial(t, f.server.Address(), insecure.NewCredentials()),
	} {
		require.Equal(t, codes.Unavailable, status.Code(call(conn, unaryMethod, "hello").err), name)
	}
	stranger := start(t, echo, nil) // Its own authority.
	files, err := stranger.authority.Issue("ingress", t.TempDir(), time.Now())
	require.NoError(t, err)
	config, err := files.ClientConfig(certs.PeerID("user"))
	require.NoError(t, err)
	require.Equal(t, codes.Unavailable, status.Code(call(dial(t, f.server.Address(), credentials.NewTLS(config)), unaryMethod, "x").err))
}

// One entry may stand for many peers, also where other services are reserved.
func TestPeersBelowAnId(t *testing.T) {
	for _, reserved := range [][]string{nil, {"test.Other"}} {
		f := start(t, echo, func(cfg *rpcserver.Config, options *rpcserver.Options) {
			cfg.AllowedPeers, options.Reserved = []string{certs.PeerID("gateway/*")}, reserved
		})
		require.Equal(t, "hello", call(f.connect(t, "gateway/shop/edge"), unaryMethod, "hello").text)
		for _, other := range []string{"gateway", "ingress", "gatewayed/x"} {
			require.Equal(t, codes.Unavailable, status.Code(call(f.connect(t, other), unaryMethod, "hello").err), other)
		}
	}
}

func TestHealth(t *testing.T) {
	f := start(t, echo, nil)
	client := healthpb.NewHealthClient(f.connect(t, "ingress"))
	check := func(service string) healthpb.HealthCheckResponse_ServingStatus {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		response, err := client.Check(ctx, &healthpb.HealthCheckRequest{Service: service})
		require.NoError(t, err)
		return response.GetStatus()
	}
	require.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, check(""), "not before it was said")
	f.server.SetServing(true)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, check(""))
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, check("test.Echo"))
	f.server.SetServing(false)
	require.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, check("test.Echo"))
	require.NotContains(t, f.log.String(), "/grpc.health.", "probes are not logged")
}

func TestIdentityComesFromTheEdge(t *testing.T) {
	f := start(t, func(ctx context.Context, _ string) (string, error) {
		caller, ok := identity.FromContext(ctx)
		return fmt.Sprintf("%t %s %s %v", ok, caller.Consumer, caller.Tenant, caller.Scopes), nil
	}, nil)
	conn := f.connect(t, "ingress")
	both(t, func(t *testing.T, method string) {
		got := call(conn, method, "", identity.HeaderConsumer, "default/q", identity.HeaderTenant, "demo", identity.HeaderScopes, "a b")
		require.Equal(t, "true default/q demo [a b]", got.text)
		double := call(conn, method, "", identity.HeaderTenant, "demo", identity.HeaderTenant, "other")
		require.Equal(t, codes.Unauthenticated, status.Code(double.err))
		require.Equal(t, "IDENTITY_AMBIGUOUS", reason(t, double.err))
	})
}

func reason(t *testing.T, err error) string {
	t.Helper()
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	t.Fatalf("no ErrorInfo in %v", err)
	return ""
}

func TestErrors(t *testing.T) {
	f := start(t, func(_ context.Context, text string) (string, error) {
		switch text {
		case "coded":
			return "", fault.New(codes.NotFound, "RECORD_NOT_FOUND", "record %q does not exist", "ü").
				WithField("name", "unknown").WithCause(errors.New("row 7 of /var/secret"))
		case "many fields":
			err := fault.New(codes.InvalidArgument, "SCHEMA_VIOLATION", "no good")
			for i := range 400 {
				err = err.WithField(fmt.Sprintf("record.data.field%d", i), "is required")
			}
			return "", err
		case "panic":
			panic("the well is dry")
		}
		return "", errors.New("connection to 10.0.0.7 refused")
	}, nil)
	conn := f.connect(t, "ingress")
	both(t, func(t *testing.T, method string) {
		coded := call(conn, method, "coded", identity.HeaderRequestID, "r-1")
		require.Equal(t, codes.NotFound, status.Code(coded.err))
		require.Equal(t, "RECORD_NOT_FOUND", reason(t, coded.err))
		require.NotContains(t, coded.err.Error(), "secret")
		var problem map[string]any
		require.Len(t, coded.trailer.Get(rpcserver.ProblemTrailer), 1)
		body := coded.trailer.Get(rpcserver.ProblemTrailer)[0]
		require.NoError(t, json.Unmarshal([]byte(body), &problem))
		require.Equal(t, "RECORD_NOT_FOUND", problem["code"])
		require.Equal(t, "r-1", problem["requestId"])
		require.InDelta(t, 404, problem["status"], 0)
		require.Equal(t, `record "ü" does not exist`, problem["detail"])
		require.True(t, strings.IndexFunc(body, func(r rune) bool { return r > 126 || r < 32 }) < 0, "headers are ASCII: %s", body)
		require.Contains(t, f.log.String(), "row 7", "the cause is logged")

		many := call(conn, method, "many fields")
		require.Equal(t, "SCHEMA_VIOLATION", reason(t, many.err))
		require.Less(t, len(many.trailer.Get(rpcserver.ProblemTrailer)[0]), 6<<10)

		for _, text := range []string{"plain", "panic"} {
			hidden := call(conn, method, text)
			require.Equal(t, codes.Internal, status.Code(hidden.err))
			require.Equal(t, "an internal error occurred", status.Convert(hidden.err).Message())
			require.Contains(t, hidden.trailer.Get(rpcserver.ProblemTrailer)[0], `"INTERNAL"`)
		}
		require.Contains(t, f.log.String(), "connection to 10.0.0.7 refused")
		require.Contains(t, f.log.String(), "panic: the well is dry")
		require.Contains(t, f.log.String(), "rpcserver_test.go", "with the place")
	})
}

func TestMessagesAreBounded(t *testing.T) {
	f := start(t, echo, func(cfg *rpcserver.Config, _ *rpcserver.Options) { cfg.MaxMessageBytes = 2 << 10 })
	conn := f.connect(t, "ingress")
	both(t, func(t *testing.T, method string) {
		require.NoError(t, call(conn, method, strings.Repeat("x", 1<<10)).err)
		require.Equal(t, codes.ResourceExhausted, status.Code(call(conn, method, strings.Repeat("x", 3<<10)).err))
	})
}

func TestCallsAreLoggedAndCounted(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		f := start(t, echo, func(_ *rpcserver.Config, o *rpcserver.Options) { o.Quiet = quiet })
		require.NoError(t, call(f.connect(t, "ingress"), unaryMethod, "x", identity.HeaderRequestID, "r-2").err)
		require.Equal(t, !quiet, strings.Contains(f.log.String(), `"request_id":"r-2"`))
		families, err := f.registry.Gather()
		require.NoError(t, err)
		handled := 0.0
		for _, family := range families {
			if family.GetName() == "grpc_server_handled_total" {
				for _, metric := range family.GetMetric() {
					handled += metric.GetCounter().GetValue()
				}
			}
		}
		require.InDelta(t, 1, handled, 0)
	}
}

// A server that proxies ask on their own behalf has no caller in its context,
// whatever they send, and still names the request that failed.
func TestAnonymousServers(t *testing.T) {
	for _, anonymous := range []bool{true, false} {
		f := start(t, func(ctx context.Context, _ string) (string, error) {
			caller, _ := identity.FromContext(ctx)
			require.Equal(t, anonymous, caller.Tenant == "")
			return "", fault.New(codes.NotFound, "NOT_THERE", "nothing")
		}, func(_ *rpcserver.Config, o *rpcserver.Options) { o.Anonymous = anonymous })
		err := call(f.connect(t, "ingress"), unaryMethod, "x", identity.HeaderTenant, "demo", identity.HeaderRequestID, "r-3").err
		require.Equal(t, codes.NotFound, status.Code(err))
		require.Contains(t, f.log.String(), `"request_id":"r-3"`)
	}
}

func await[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case value := <-c:
		return value
	case <-time.After(time.Minute):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func TestDrainLetsCallsFinish(t *testing.T) {
	running, finish := make(chan struct{}), make(chan struct{})
	f := start(t, func(_ context.Context, text string) (string, error) {
		close(running)
		<-finish
		return text, nil
	}, nil)
	conn := f.connect(t, "ingress")
	result := make(chan answer, 1)
	go func() { result <- call(conn, unaryMethod, "late") }()
	await(t, running)
	f.stop()
	require.Eventually(t, func() bool { // New connections are refused from here on.
		return status.Code(call(f.connect(t, "ingress"), unaryMethod, "new").err) == codes.Unavailable
	}, time.Minute, 10*time.Millisecond)
	select {
	case err := <-f.done:
		t.Fatalf("ended before its call: %v", err)
	default:
	}
	close(finish)
	require.Equal(t, "late", await(t, result).text)
	require.NoError(t, await(t, f.done))
}

func TestDrainEndsEndlessStreams(t *testing.T) {
	entered := make(chan struct{})
	f := start(t, func(ctx context.Context, _ string) (string, error) {
		close(entered)
		<-ctx.Done()
		return "", ctx.Err()
	}, func(cfg *rpcserver.Config, options *rpcserver.Options) {
		cfg.DrainTimeout, options.Endless = config.Duration(time.Hour), []string{streamMethod}
	})
	answers := make(chan answer, 1)
	go func() { answers <- call(f.connect(t, "ingress"), streamMethod, "x") }()
	await(t, entered)
	f.stop()
	require.NoError(t, await(t, f.done))
	require.NoError(t, await(t, answers).err)
}

func TestDrainIsBounded(t *testing.T) {
	running := make(chan struct{})
	f := start(t, func(ctx context.Context, _ string) (string, error) {
		close(running)
		<-ctx.Done()
		return "", ctx.Err()
	}, func(cfg *rpcserver.Config, _ *rpcserver.Options) {
		cfg.DrainTimeout = config.Duration(50 * time.Millisecond)
	})
	conn := f.connect(t, "ingress")
	result := make(chan answer, 1)
	go func() { result <- call(conn, unaryMethod, "x") }()
	await(t, running)
	f.stop()
	require.NoError(t, await(t, f.done))
	require.Error(t, await(t, result).err)
	require.Contains(t, f.log.String(), "drain timeout reached")
}

func TestConfigReportsAllMistakes(t *testing.T) {
	err := (&rpcserver.Config{Listen: "here"}).Validate()
	for _, want := range []string{
		`server.listen: "here" is not host:port`, "server.tls.certFile", "server.tls.keyFile", "server.tls.caFile", "server.allowedPeers", "server.maxMessageBytes",
		"server.maxConcurrentStreams", "server.drainTimeout",
	} {
		require.ErrorContains(t, err, want)
	}
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	var cfg rpcserver.Config
	cfg.SetDefaults()
	cfg.TLS, cfg.AllowedPeers = certs.FilesIn("/nonexistent"), []string{"x"}
	_, err := rpcserver.New(cfg, rpcserver.Options{})
	require.ErrorContains(t, err, "server certificate: ")
	f := start(t, echo, nil)
	files, err := f.authority.Issue("user", t.TempDir(), time.Now())
	require.NoError(t, err)
	cfg.TLS, cfg.Listen = files, f.server.Address()
	_, err = rpcserver.New(cfg, rpcserver.Options{})
	require.ErrorContains(t, err, "cannot listen on "+f.server.Address())
}

// A reserved service is for its own peers, and they are for nothing else.
func TestReservedServices(t *testing.T) {
	reserve := func(peers map[string][]string) func(*rpcserver.Config, *rpcserver.Options) {
		return func(cfg *rpcserver.Config, options *rpcserver.Options) {
			options.Reserved, cfg.ReservedPeers = []string{"test.Echo"}, peers
		}
	}
	both(t, func(t *testing.T, method string) {
		f := start(t, echo, reserve(map[string][]string{"test.Echo": {certs.PeerID("extauthz")}}))
		require.Equal(t, "hello", call(f.connect(t, "extauthz"), method, "hello").text)
		answer := call(f.connect(t, "ingress"), method, "hello")
		require.Equal(t, codes.PermissionDenied, status.Code(answer.err))
		require.Equal(t, "PEER_NOT_ALLOWED", reason(t, answer.err))
		require.Equal(t, codes.Unavailable, status.Code(call(f.connect(t, "data"), method, "hello").err), "a peer that nobody names")
	})
	both(t, func(t *testing.T, method string) {
		f := start(t, echo, func(cfg *rpcserver.Config, options *rpcserver.Options) {
			options.Reserved, cfg.ReservedPeers = []string{"test.Other"}, map[string][]string{"test.Other": {certs.PeerID("extauthz")}}
		})
		require.Equal(t, codes.PermissionDenied, status.Code(call(f.connect(t, "extauthz"), method, "hello").err), "reserved peers call nothing else")
		require.Equal(t, "hello", call(f.connect(t, "ingress"), method, "hello").text)
		response, err := healthpb.NewHealthClient(f.connect(t, "extauthz")).Check(t.Context(), &healthpb.HealthCheckRequest{})
		require.NoError(t, err)
		require.NotZero(t, response.GetStatus())
	})
	f := start(t, echo, reserve(nil))
	require.Equal(t, codes.PermissionDenied, status.Code(call(f.connect(t, "ingress"), unaryMethod, "hello").err), "reserved for nobody")
	for reserved, want := range map[string]codes.Code{"test.Other": codes.OK, "test.Echo": codes.PermissionDenied} {
		f := start(t, echo, func(cfg *rpcserver.Config, options *rpcserver.Options) {
			cfg.Plaintext, cfg.TLS, cfg.AllowedPeers, options.Reserved = true, certs.Files{}, nil, []string{reserved}
		})
		conn := dial(t, f.server.Address(), insecure.NewCredentials())
		require.Equal(t, want, status.Code(call(conn, unaryMethod, "hello").err), "without TLS, %s is reserved", reserved)
	}
}
