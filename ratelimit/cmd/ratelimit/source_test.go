package main

import (
	"net"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	rlsconfv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"weir.dev/ratelimit/erxds"
)

// configServer serves configurations as Envoy Gateway does.
type configServer struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	t        *testing.T
	answers  chan *discoveryv3.DiscoveryResponse
	requests chan *discoveryv3.DiscoveryRequest
	tenants  chan string
}

func (s *configServer) StreamAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	for _, tenant := range md.Get("x-tenant") {
		s.tenants <- tenant
	}
	go func() {
		for {
			request, err := stream.Recv()
			if err != nil {
				return
			}
			s.requests <- request
		}
	}()
	for {
		select {
		case answer := <-s.answers:
			if answer == nil {
				return nil // The stream breaks.
			}
			if err := stream.Send(answer); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

func startConfigServer(t *testing.T) (*configServer, string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &configServer{
		t: t, answers: make(chan *discoveryv3.DiscoveryResponse), requests: make(chan *discoveryv3.DiscoveryRequest, 16), tenants: make(chan string, 16),
	}
	server := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, s)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return s, listener.Addr().String()
}

func (s *configServer) send(version string, messages ...proto.Message) *discoveryv3.DiscoveryRequest {
	s.t.Helper()
	answer := &discoveryv3.DiscoveryResponse{VersionInfo: version, Nonce: version, TypeUrl: erxds.TypeURL}
	for _, message := range messages {
		packed, err := anypb.New(message)
		require.NoError(s.t, err)
		answer.Resources = append(answer.Resources, packed)
	}
	s.answers <- answer
	return s.next()
}

func (s *configServer) next() *discoveryv3.DiscoveryRequest {
	s.t.Helper()
	select {
	case request := <-s.requests:
		return request
	case <-time.After(patience):
		require.FailNow(s.t, "no request came")
		return nil
	}
}

func shopConfig(t *testing.T, requests uint32) *rlsconfv3.RateLimitConfig {
	team, err := structpb.NewStruct(map[string]any{"team": "x"})
	require.NoError(t, err)
	return &rlsconfv3.RateLimitConfig{Name: "shop", Domain: "shop", Descriptors: []*rlsconfv3.RateLimitDescriptor{
		{Key: "user", RateLimit: &rlsconfv3.RateLimitPolicy{Unit: rlsconfv3.RateLimitUnit_YEAR, RequestsPerUnit: requests, Name: "n"}, Metadata: team},
		{Key: "free", RateLimit: &rlsconfv3.RateLimitPolicy{Unlimited: true, Replaces: []*rlsconfv3.RateLimitReplace{{Name: "n"}}}},
		{Key: "quota", QuotaMode: true, ShadowMode: true, Descriptors: []*rlsconfv3.RateLimitDescriptor{
			{Key: "inner", Value: "v*", RateLimit: &rlsconfv3.RateLimitPolicy{Unit: rlsconfv3.RateLimitUnit_WEEK, RequestsPerUnit: 1}},
		}},
	}}
}

func TestConfigurationsOverXDS(t *testing.T) {
	plane, address := startConfigServer(t)
	_, set := configure(t, nil)
	set["CONFIG_TYPE"], set["CONFIG_GRPC_XDS_SERVER_URL"], set["CONFIG_GRPC_XDS_NODE_ID"] = "GRPC_XDS_SOTW", address, "gateway"
	set["CONFIG_GRPC_XDS_NODE_METADATA"], set["CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS"] = "zone=a", "x-tenant:one"
	set["XDS_CLIENT_BACKOFF_INITIAL_INTERVAL"] = "10ms"
	p := start(t, set)
	client := rlsv3.NewRateLimitServiceClient(p.conn)
	first := plane.next()
	require.Equal(t, "gateway", first.GetNode().GetId())
	require.Equal(t, "a", first.GetNode().GetMetadata().GetFields()["zone"].GetStringValue())
	require.Equal(t, erxds.TypeURL, first.GetTypeUrl())
	require.Equal(t, "one", <-plane.tenants)
	_, err := client.ShouldRateLimit(t.Context(), askFor("x"))
	require.ErrorContains(t, err, "no rate limit configuration is loaded")

	acked := plane.send("1", shopConfig(t, 2))
	require.Nil(t, acked.GetErrorDetail())
	require.Equal(t, "1", acked.GetVersionInfo())
	for range 2 {
		answer, err := client.ShouldRateLimit(t.Context(), askFor("x"))
		require.NoError(t, err)
		require.Equal(t, rlsv3.RateLimitResponse_OK, answer.GetOverallCode())
	}
	answer, err := client.ShouldRateLimit(t.Context(), askFor("x"))
	require.NoError(t, err)
	require.Equal(t, rlsv3.RateLimitResponse_OVER_LIMIT, answer.GetOverallCode())

	// A mistake refuses the whole set, says where it is, and changes nothing.
	bad := shopConfig(t, 9)
	bad.Descriptors[0].RateLimit.Unit = rlsconfv3.RateLimitUnit_UNKNOWN
	nacked := plane.send("2", bad)
	require.Contains(t, nacked.GetErrorDetail().GetMessage(), "descriptors[0].rate_limit.unit: is required")
	require.Equal(t, "1", nacked.GetVersionInfo())
	require.Contains(t, plane.send("3", &structpb.Struct{}).GetErrorDetail().GetMessage(), "is no RateLimitConfig")
	answer, err = client.ShouldRateLimit(t.Context(), askFor("x"))
	require.NoError(t, err)
	require.EqualValues(t, 2, answer.GetStatuses()[0].GetCurrentLimit().GetRequestsPerUnit())

	// The stream breaks; it is asked again, and what was in effect stayed.
	plane.answers <- nil
	require.Equal(t, "gateway", plane.next().GetNode().GetId())
	answer, err = client.ShouldRateLimit(t.Context(), askFor("x"))
	require.NoError(t, err)
	require.Equal(t, rlsv3.RateLimitResponse_OVER_LIMIT, answer.GetOverallCode())
	require.Nil(t, plane.send("4", shopConfig(t, 5)).GetErrorDetail())
	answer, err = client.ShouldRateLimit(t.Context(), askFor("x"))
	require.NoError(t, err)
	require.Equal(t, rlsv3.RateLimitResponse_OK, answer.GetOverallCode(), "counters survive new numbers")
}

func askFor(user string) *rlsv3.RateLimitRequest {
	return &rlsv3.RateLimitRequest{Domain: "shop", Descriptors: []*ratelimitv3.RateLimitDescriptor{{
		Entries: []*ratelimitv3.RateLimitDescriptor_Entry{{Key: "user", Value: user}},
	}}}
}
