package metadata_test

import (
	"context"
	"math"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	metadatav1 "weir.dev/api/gen/weir/metadata/v1"
	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz/metadata"
	"weir.dev/kit/authzexpr"
)

// directory is a metadata server over gRPC that keeps what it is asked.
type directory struct {
	metadatav1.UnimplementedMetadataServiceServer

	address string
	answer  func(ctx context.Context, request *metadatav1.LookupRequest) (*structpb.Value, error)

	mu     sync.Mutex
	asked  []*metadatav1.LookupRequest
	header grpcmetadata.MD
	// open counts connections.
	open   int
	closed chan struct{}
}

func (d *directory) Lookup(ctx context.Context, request *metadatav1.LookupRequest) (*metadatav1.LookupResponse, error) {
	d.mu.Lock()
	d.asked = append(d.asked, request)
	d.header, _ = grpcmetadata.FromIncomingContext(ctx)
	d.mu.Unlock()
	value, err := d.answer(ctx, request)
	return &metadatav1.LookupResponse{Value: value}, err
}

func (d *directory) calls() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.asked)
}

// TagRPC and the others implement stats.Handler.
func (d *directory) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (d *directory) HandleRPC(context.Context, stats.RPCStats)                         {}
func (d *directory) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (d *directory) HandleConn(_ context.Context, event stats.ConnStats) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch event.(type) {
	case *stats.ConnBegin:
		d.open++
	case *stats.ConnEnd:
		d.open--
		d.closed <- struct{}{}
	}
}

func startDirectory(t *testing.T, answer func(ctx context.Context, request *metadatav1.LookupRequest) (*structpb.Value, error)) *directory {
	d := &directory{answer: answer, closed: make(chan struct{}, 100)}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	d.address = "http://" + listener.Addr().String()
	server := grpc.NewServer(grpc.StatsHandler(d))
	metadatav1.RegisterMetadataServiceServer(server, d)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return d
}

func always(value *structpb.Value) func(context.Context, *metadatav1.LookupRequest) (*structpb.Value, error) {
	return func(context.Context, *metadatav1.LookupRequest) (*structpb.Value, error) { return value, nil }
}

func over(source *rulesv1.MetadataSource) *rulesv1.MetadataSource {
	source.Protocol = rulesv1.MetadataSource_PROTOCOL_GRPC
	return source
}

func TestFetchOverGRPC(t *testing.T) {
	plan, err := structpb.NewValue(map[string]any{"plan": "gold", "seats": 3, "of": []any{"a", nil, true}})
	require.NoError(t, err)
	d := startDirectory(t, always(plan))
	f := must(t, over(&rulesv1.MetadataSource{
		Name: "plan", Url: d.address, Parameters: map[string]string{"tenant": "{identity.tenant}", "kind": "plan"},
		Headers: map[string]string{"authorization": "Bearer t", "x-user": "{identity.subject}"}, CacheDuration: durationpb.New(time.Minute),
	}))
	require.ElementsMatch(t, []string{"identity.tenant", "identity.subject"}, f.References())
	for range 2 {
		value, err := f.Fetch(t.Context(), now(), input("a/../b"))
		require.NoError(t, err)
		require.Equal(t, "gold", value.GetStructValue().GetFields()["plan"].GetStringValue())
	}
	require.Equal(t, 1, d.calls(), "the answer is kept")
	require.Equal(t, "plan", d.asked[0].GetSource())
	require.Equal(t, map[string]string{"tenant": "a/../b", "kind": "plan"}, d.asked[0].GetParameters())
	require.Equal(t, []string{"Bearer t"}, d.header.Get("authorization"))
	require.Equal(t, []string{"alice"}, d.header.Get("x-user"))
	_, err = f.Fetch(t.Context(), now(), input("other"))
	require.NoError(t, err)
	require.Equal(t, 2, d.calls(), "another question")
	_, err = f.Fetch(t.Context(), now(), input("a\xffb"))
	require.ErrorContains(t, err, "not UTF-8")
	_, err = f.Fetch(t.Context(), now(), input(""))
	require.Error(t, err)
	require.Equal(t, 2, d.calls())
}

func deep(levels int) *structpb.Value {
	value := structpb.NewNullValue()
	for range levels {
		value = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{value}})
	}
	return value
}

func TestAnswersOverGRPCThatAreNone(t *testing.T) {
	fails := func(code codes.Code) func(context.Context, *metadatav1.LookupRequest) (*structpb.Value, error) {
		return func(context.Context, *metadatav1.LookupRequest) (*structpb.Value, error) {
			return structpb.NewBoolValue(true), status.Error(code, "secret-of-the-server")
		}
	}
	member := func(value *structpb.Value) *structpb.Value {
		return structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"a": value}})
	}
	for says, answer := range map[string]func(context.Context, *metadatav1.LookupRequest) (*structpb.Value, error){
		"answered NotFound":         fails(codes.NotFound),
		"answered Unauthenticated":  fails(codes.Unauthenticated),
		"more than max_bytes":       always(structpb.NewStringValue(strings.Repeat("a", 400))),
		"that is not set":           always(nil),
		"value that is not set":     always(member(&structpb.Value{})),
		"number that is not finite": always(member(structpb.NewNumberValue(math.NaN()))),
		"is not finite":             always(structpb.NewNumberValue(math.Inf(-1))),
		"nested deeper than 32":     always(deep(33)),
	} {
		t.Run(says, func(t *testing.T) {
			d := startDirectory(t, answer)
			source := over(&rulesv1.MetadataSource{Name: "a", Url: d.address, MaxBytes: 300, CacheDuration: durationpb.New(time.Minute)})
			for range 2 {
				_, err := must(t, source).Fetch(t.Context(), now(), input("t"))
				require.ErrorContains(t, err, says)
				require.NotContains(t, err.Error(), "secret")
			}
			require.Equal(t, 2, d.calls(), "an error is not kept")
			source.DefaultValue = structpb.NewStringValue("default")
			value, err := must(t, source).Fetch(t.Context(), now(), input("t"))
			require.NoError(t, err)
			require.Equal(t, "default", value.GetStringValue())
		})
	}
	// The control: what is just within the bounds is an answer.
	d := startDirectory(t, always(deep(31)))
	_, err := must(t, over(&rulesv1.MetadataSource{Name: "a", Url: d.address, MaxBytes: 300})).Fetch(t.Context(), now(), input("t"))
	require.NoError(t, err)
}

func TestGRPCSourceThatHangsOrIsAway(t *testing.T) {
	d := startDirectory(t, func(ctx context.Context, _ *metadatav1.LookupRequest) (*structpb.Value, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	_, err := must(t, over(&rulesv1.MetadataSource{Name: "a", Url: d.address, Timeout: durationpb.New(50 * time.Millisecond)})).Fetch(t.Context(), now(), input("t"))
	require.ErrorContains(t, err, "no answer in time")
	_, err = must(t, over(&rulesv1.MetadataSource{Name: "a", Url: "http://127.0.0.1:1"})).Fetch(t.Context(), now(), input("t"))
	require.ErrorContains(t, err, "answered Unavailable")
}

// Sources at one address share a connection, which is closed once no rules have
// them any more.
func TestConnectionsAreSharedAndClosed(t *testing.T) {
	d := startDirectory(t, always(structpb.NewBoolValue(true)))
	sources, err := metadata.New(nil, 1<<20, nil)
	require.NoError(t, err)
	environment, err := authzexpr.NewEnvironment()
	require.NoError(t, err)
	ask := func() {
		for _, name := range []string{"a", "b"} {
			f, err := sources.Fetcher(environment, over(&rulesv1.MetadataSource{Name: name, Url: d.address}))
			require.NoError(t, err)
			_, err = f.Fetch(t.Context(), now(), input("t"))
			require.NoError(t, err)
			defer runtime.KeepAlive(f)
		}
	}
	ask()
	require.Equal(t, 2, d.calls())
	d.mu.Lock()
	require.LessOrEqual(t, d.open, 1)
	d.mu.Unlock()
	require.Eventually(t, func() bool {
		runtime.GC()
		select {
		case <-d.closed:
			return true
		default:
			return false
		}
	}, time.Minute, 10*time.Millisecond, "the connection outlives its sources")
	ask()
	require.Equal(t, 4, d.calls(), "another one is made")
}

func TestGRPCSourcesThatDoNotCompile(t *testing.T) {
	for says, source := range map[string]*rulesv1.MetadataSource{
		"url: has a path":               {Url: "https://example.com/a"},
		"path: goes with HTTP":          {Url: "https://example.com", Path: "/a"},
		"query: goes with HTTP":         {Url: "https://example.com", Query: map[string]string{"a": "b"}},
		`headers["grpc-timeout"]: is`:   {Url: "https://example.com", Headers: map[string]string{"grpc-timeout": "1S"}},
		`headers["x-bin"]: is`:          {Url: "https://example.com", Headers: map[string]string{"x-bin": "a"}},
		`parameters["a"]: in {nothing}`: {Url: "https://example.com", Parameters: map[string]string{"a": "{nothing}"}},
	} {
		_, err := fetcher(t, over(source))
		require.ErrorContains(t, err, says)
	}
	_, err := fetcher(t, &rulesv1.MetadataSource{Url: "https://example.com", Parameters: map[string]string{"a": "b"}})
	require.ErrorContains(t, err, "parameters: go with gRPC")
	_, err = fetcher(t, &rulesv1.MetadataSource{Url: "https://example.com", Protocol: 9})
	require.ErrorContains(t, err, "protocol: 9 is not known")
}
