package ads_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/controlplane/ads"
	"weir.dev/controlplane/envoy"
	"weir.dev/kit/certs"
	"weir.dev/kit/rpcserver"
)

// Types in the short form that the tests use.
const (
	cds   = envoy.TypeCluster
	eds   = envoy.TypeEndpoint
	lds   = envoy.TypeListener
	rds   = envoy.TypeRoute
	srds  = envoy.TypeScope
	rules = "type.googleapis.com/weir.rules.v1.AuthRoute"
	limit = "type.googleapis.com/weir.rules.v1.RateLimitRule"
)

// patience is how long a test waits for what must come.
const patience = time.Minute

// fixture is an ADS server behind the real gRPC server with mutual TLS.
type fixture struct {
	t         testing.TB
	ads       *ads.Server
	registry  *prometheus.Registry
	log       *lockedBuffer
	authority *certs.Authority
	address   string
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	authority, err := certs.OpenAuthority(t.TempDir(), time.Now())
	require.NoError(t, err)
	f := &fixture{t: t, registry: prometheus.NewRegistry(), log: &lockedBuffer{}, authority: authority}
	logger := slog.New(slog.NewTextHandler(f.log, nil))
	var config rpcserver.Config
	config.SetDefaults()
	config.TLS, err = authority.Issue("controlplane", t.TempDir(), time.Now())
	require.NoError(t, err)
	// One peer more than the ADS server knows: whom it refuses is tested too.
	for _, name := range []string{"ingress", "extauthz", "ratelimit", "data"} {
		config.AllowedPeers = append(config.AllowedPeers, certs.PeerID(name))
	}
	server, err := rpcserver.New(config, rpcserver.Options{Name: "test", Logger: logger, Quiet: true})
	require.NoError(t, err)
	// All are of one group: its rollouts go through every step.
	const weir = "type.googleapis.com/weir.rules.v1."
	f.ads = ads.NewServer(ads.Access{
		certs.PeerID("ingress"):   {Types: []string{lds, srds, rds, cds, eds}},
		certs.PeerID("extauthz"):  {Types: []string{rules, weir + "Consumer"}},
		certs.PeerID("ratelimit"): {Types: []string{limit}},
	}, logger, f.registry)
	f.ads.SetStepTimeout(patience)
	f.ads.SetLinger(0)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server.GRPC(), f.ads)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		f.ads.Close()
		cancel()
		require.NoError(t, <-done)
	})
	f.address = server.Address()
	return f
}

// lockedBuffer is a log that tests read while it is written.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// rollout starts one; its outcome arrives on the channel.
func (f *fixture) rollout(set envoy.Set) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f.ads.Group("").Rollout(f.t.Context(), set) }()
	return done
}

func (f *fixture) requireDone(done <-chan error) error {
	f.t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(patience + 5*time.Second):
		require.FailNow(f.t, "the rollout did not end", f.log.String())
		return nil
	}
}

func (f *fixture) requireGoesOn(done <-chan error) {
	f.t.Helper()
	select {
	case err := <-done:
		require.FailNow(f.t, "the rollout ended early", "error: %v", err)
	default:
	}
}

// counter is one series of a counter.
func (f *fixture) counter(name, label, value string) float64 {
	f.t.Helper()
	families, err := f.registry.Gather()
	require.NoError(f.t, err)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			if metric.GetLabel()[0].GetName() == label && metric.GetLabel()[0].GetValue() == value {
				return metric.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// requireInSync waits until every client has all of its answers in.
func (f *fixture) requireInSync() {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		return !slices.ContainsFunc(f.ads.Clients(), func(client ads.Client) bool { return !client.InSync })
	}, patience, time.Millisecond)
}

// client is one stream, steered by hand.
type client struct {
	t         testing.TB
	stream    discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	responses chan *discoveryv3.DeltaDiscoveryResponse
	ended     chan error
	cancel    context.CancelFunc
}

func (f *fixture) dial(component string) *client {
	f.t.Helper()
	c, err := f.tryDial(component)
	require.NoError(f.t, err)
	return c
}

// tryDial fails when the server refuses the connection.
func (f *fixture) tryDial(component string) (*client, error) {
	f.t.Helper()
	files, err := f.authority.Issue(component, f.t.TempDir(), time.Now())
	require.NoError(f.t, err)
	tls, err := files.ClientConfig(certs.PeerID("controlplane"))
	require.NoError(f.t, err)
	conn, err := grpc.NewClient(f.address, grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	require.NoError(f.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	f.t.Cleanup(func() {
		cancel()
		_ = conn.Close()
	})
	c := &client{t: f.t, responses: make(chan *discoveryv3.DeltaDiscoveryResponse, 100), ended: make(chan error, 1), cancel: cancel}
	c.stream, err = discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			response, err := c.stream.Recv()
			if err != nil {
				c.ended <- err
				return
			}
			c.responses <- response
		}
	}()
	return c, nil
}

func (c *client) send(request *discoveryv3.DeltaDiscoveryRequest) {
	c.t.Helper()
	if err := c.stream.Send(request); err != nil {
		require.ErrorIs(c.t, err, io.EOF) // the reason comes by Recv
	}
}

// subscribe is the first request of a type; has is what the client claims to
// have, as name=version.
func (c *client) subscribe(node, typeURL string, names []string, has map[string]string) {
	c.t.Helper()
	c.send(&discoveryv3.DeltaDiscoveryRequest{
		Node: &corev3.Node{Id: node}, TypeUrl: typeURL, ResourceNamesSubscribe: names, InitialResourceVersions: has,
	})
}

// next is the next response of a type; any other type fails the test.
func (c *client) next(typeURL string) *discoveryv3.DeltaDiscoveryResponse {
	c.t.Helper()
	select {
	case response := <-c.responses:
		require.Equal(c.t, typeURL, response.GetTypeUrl(), "%s", describe(response))
		return response
	case err := <-c.ended:
		require.FailNow(c.t, "the stream ended", "%v", err)
	case <-time.After(patience):
		require.FailNow(c.t, "nothing came", "waited for %s", typeURL)
	}
	return nil
}

// accept takes the next response of a type, which must be as described.
func (c *client) accept(typeURL, want string) {
	c.t.Helper()
	response := c.next(typeURL)
	require.Equal(c.t, want, describe(response))
	c.ack(response)
}

func (c *client) ack(response *discoveryv3.DeltaDiscoveryResponse) {
	c.t.Helper()
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: response.GetTypeUrl(), ResponseNonce: response.GetNonce()})
}

func (c *client) nack(response *discoveryv3.DeltaDiscoveryResponse, message string) {
	c.t.Helper()
	c.send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: response.GetTypeUrl(), ResponseNonce: response.GetNonce(), ErrorDetail: &statuspb.Status{Code: 3, Message: message},
	})
}

// requireNothing proves that nothing else is on its way: a question of its own
// is answered next, and a stream answers in order.
func (c *client) requireNothing(typeURL string) {
	c.t.Helper()
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: []string{"no-such-thing"}})
	c.accept(typeURL, "-no-such-thing")
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesUnsubscribe: []string{"no-such-thing"}})
}

// describe is "+a=1 +b=2 -c".
func describe(response *discoveryv3.DeltaDiscoveryResponse) string {
	var parts []string
	for _, resource := range response.GetResources() {
		parts = append(parts, "+"+resource.GetName()+"="+contentOf(resource))
	}
	removed := slices.Sorted(slices.Values(response.GetRemovedResources()))
	for _, name := range removed {
		parts = append(parts, "-"+name)
	}
	return strings.Join(parts, " ")
}

func contentOf(resource *discoveryv3.Resource) string {
	message, err := resource.GetResource().UnmarshalNew()
	if err != nil {
		return err.Error()
	}
	switch message := message.(type) {
	case *clusterv3.Cluster:
		return message.GetAltStatName()
	case *listenerv3.Listener:
		return message.GetStatPrefix()
	case *routev3.ScopedRouteConfiguration:
		return message.GetRouteConfigurationName()
	case *routev3.RouteConfiguration:
		return message.GetResponseHeadersToRemove()[0]
	case *endpointv3.ClusterLoadAssignment:
		return fmt.Sprint(message.GetPolicy().GetOverprovisioningFactor().GetValue())
	case *rulesv1.AuthRoute:
		return message.GetDigest()
	case *rulesv1.RateLimitRule:
		return message.GetDigest()
	default:
		return fmt.Sprintf("%T", message)
	}
}

// setOf makes a target of "cds a=1"-like lines.
func setOf(t testing.TB, lines ...string) envoy.Set {
	t.Helper()
	set := envoy.Set{lds: {}, rds: {}, cds: {}, eds: {}}
	for _, line := range lines {
		kind, rest, _ := strings.Cut(line, " ")
		for _, pair := range strings.Fields(rest) {
			name, content, _ := strings.Cut(pair, "=")
			require.NoError(t, set.Add(name, resourceOf(t, kind, name, content)))
		}
	}
	return set
}

func resourceOf(t testing.TB, kind, name, content string) proto.Message {
	t.Helper()
	switch kind {
	case "cds":
		return &clusterv3.Cluster{Name: name, AltStatName: content}
	case "lds":
		return &listenerv3.Listener{Name: name, StatPrefix: content}
	case "rds":
		return &routev3.RouteConfiguration{Name: name, ResponseHeadersToRemove: []string{content}}
	case "srds":
		return &routev3.ScopedRouteConfiguration{Name: name, RouteConfigurationName: name, OnDemand: content == "2"}
	case "eds":
		var factor uint32
		_, err := fmt.Sscan(content, &factor)
		require.NoError(t, err)
		return loadAssignment(name, factor)
	case "rules":
		return &rulesv1.AuthRoute{RouteId: name, Digest: content}
	case "limit":
		return &rulesv1.RateLimitRule{Id: name, Digest: content}
	}
	require.FailNow(t, "unknown kind", kind)
	return nil
}

// versions is what a client that has the whole set of a type says so by.
func versions(set envoy.Set, typeURL string) map[string]string {
	has := map[string]string{}
	for name, resource := range set[typeURL] {
		has[name] = resource.Version
	}
	return has
}
