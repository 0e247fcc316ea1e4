package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/controlplane/envoy"
)

// saysYes answers every check and every limit.
type saysYes struct {
	authv3.UnimplementedAuthorizationServer
	rlsv3.UnimplementedRateLimitServiceServer
	asked, counted atomic.Int64
	// takes is how long a check does.
	takes atomic.Int64
}

func (s *saysYes) Check(ctx context.Context, _ *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	s.asked.Add(1)
	select {
	case <-time.After(time.Duration(s.takes.Load())):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}}}, nil
}

func (s *saysYes) ShouldRateLimit(context.Context, *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	s.counted.Add(1)
	return &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK}, nil
}

// listenGRPC serves s until the test ends.
func (s *saysYes) listen(t *testing.T) net.Addr {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, s)
	rlsv3.RegisterRateLimitServiceServer(server, s)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr()
}

// gone is an address at which nobody listens any more.
func gone(t *testing.T) *net.TCPAddr {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address, _ := listener.Addr().(*net.TCPAddr)
	require.NoError(t, listener.Close())
	return address
}

// checkedYAML has the route's callers looked at.
const checkedYAML = `---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: limited}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: limited}]
  authentication: [{name: keys, apiKey: {}}]
`

// A server that has gone is known to the proxy until its name is looked up again.
// Nobody is refused for it while there is another one.
func TestServersThatHaveGoneRefuseNobody(t *testing.T) {
	backend := newEcho(t)
	server := &saysYes{}
	p := startEnvoy(t)
	p.options.ExtAuthzAddress, p.options.ExtAuthzPeer = server.listen(t).String(), ""
	p.options.RateLimitAddress, p.options.RateLimitPeer = p.options.ExtAuthzAddress, ""
	text := backend.backendYAML() + routeYAML("limited", "/limited") + "---\n" + consumerYAML("shop", "acme", "weir_demo") + checkedYAML + limitYAML("limited", "FixedWindow", 1000, "1h", "Open") + `---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: quickstart}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 8080}]}
`
	dead := gone(t)
	p.requireAccepted(also(t, p.compileText(text), dead, 0))
	refused := 0
	for range 20 {
		if p.get(8080, "/limited").StatusCode == http.StatusServiceUnavailable {
			refused++
		}
	}
	require.Positive(t, refused, "the negative control: without asking again they are")
	server.asked.Store(0)
	server.counted.Store(0)
	p.requireAccepted(also(t, p.compileText(text), dead, 100))
	for i := range 200 {
		response := p.get(8080, "/limited")
		require.Equal(t, http.StatusOK, response.StatusCode, "request %d", i)
	}
	require.EqualValues(t, 200, server.asked.Load())
	require.LessOrEqual(t, server.counted.Load(), int64(200), "nothing is counted twice")
	server.asked.Store(0)
	server.takes.Store(int64(400 * time.Millisecond))
	for range 4 {
		require.Equal(t, http.StatusOK, p.get(8080, "/limited").StatusCode, "a check that takes its time is waited for")
	}
	require.EqualValues(t, 4, server.asked.Load(), "and asked once")
	for _, name := range []string{"extauthz", "ratelimit"} {
		stat := "cluster.weir/" + name + ".upstream_rq_retry_success"
		require.Positive(t, p.stats(stat)[stat], "some asked the one that has gone first")
	}
}

// also makes an address the second one of Weir's own servers, with so many retries
// at once.
func also(t *testing.T, set envoy.Set, address *net.TCPAddr, retries uint32) envoy.Set {
	t.Helper()
	for _, name := range []string{"weir/extauthz", "weir/ratelimit"} {
		var cluster clusterv3.Cluster
		require.NoError(t, set[envoy.TypeCluster][name].Body.UnmarshalTo(&cluster))
		endpoints := cluster.GetLoadAssignment().GetEndpoints()[0]
		second, _ := proto.Clone(endpoints.GetLbEndpoints()[0]).(*endpointv3.LbEndpoint)
		second.GetEndpoint().GetAddress().GetSocketAddress().PortSpecifier = &corev3.SocketAddress_PortValue{PortValue: uint32(address.Port)}
		endpoints.LbEndpoints = append(endpoints.LbEndpoints[:1], second)
		cluster.GetCircuitBreakers().GetThresholds()[0].MaxRetries = wrapperspb.UInt32(retries)
		require.NoError(t, set.Add(name, &cluster))
	}
	return set
}

// An endpoint that has gone before anybody heard of it costs no request: another
// one is tried.
func TestEndpointsThatHaveGoneFailNoRequest(t *testing.T) {
	backend := newEcho(t)
	p := startEnvoy(t)
	p.requireAccepted(p.compileText(fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: quickstart}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 8080}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: echo}
spec: {endpoints: [{address: 127.0.0.1, port: %d}, {address: 127.0.0.1, port: %d}]}
---
apiVersion: weir.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: never}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: never}]
  retry: {attempts: 0}
`, backend.port(), gone(t).Port) + routeYAML("usual", "/usual") + routeYAML("never", "/never")))
	for i := range 300 {
		require.Equal(t, http.StatusOK, p.get(8080, "/usual").StatusCode, "request %d", i)
	}
	failed := 0
	for range 20 {
		if p.get(8080, "/never").StatusCode == http.StatusServiceUnavailable {
			failed++
		}
	}
	require.Positive(t, failed, "the negative control")
}
