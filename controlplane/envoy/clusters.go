package envoy

import (
	"fmt"
	"net"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Names of the clusters of Weir's own servers.
const (
	clusterExtAuthz  = "weir/extauthz"
	clusterRateLimit = "weir/ratelimit"
	clusterOTLP      = "weir/otlp"
)

const httpProtocolOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// Connection settings towards everything upstream.
const (
	connectTimeout       = time.Second
	upstreamIdleTimeout  = 5 * time.Minute
	keepaliveInterval    = 15 * time.Second
	keepaliveTimeout     = 5 * time.Second
	maxUpstreamRequests  = 10_000
	upstreamBufferLimit  = 1 << 20
	maxConcurrentStreams = 1000
)

// ownClusters are the servers that requests are checked by.
func (c *compiler) ownClusters() []*clusterv3.Cluster {
	var clusters []*clusterv3.Cluster
	for _, own := range []struct{ name, address, peer string }{
		{clusterExtAuthz, c.options.ExtAuthzAddress, c.options.ExtAuthzPeer},
		{clusterRateLimit, c.options.RateLimitAddress, c.options.RateLimitPeer},
		{clusterOTLP, c.options.OTLPAddress, ""},
	} {
		if own.address == "" {
			continue
		}
		cluster := baseCluster(own.name, true)
		cluster.ConnectTimeout = durationpb.New(ownConnectTimeout)
		host, port, err := splitHostPort(own.address)
		if err != nil { // validated with the configuration
			continue
		}
		resolveNames(cluster)
		cluster.LoadAssignment = &endpointv3.ClusterLoadAssignment{
			ClusterName: own.name,
			Endpoints:   []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{lbEndpoint(host, port)}}},
		}
		if own.peer != "" {
			cluster.TransportSocket = tlsSocket(meshTLS([]string{"h2"}, spiffeNames(own.peer)))
		}
		clusters = append(clusters, cluster)
	}
	return clusters
}

// resolveNames has Envoy look its endpoints up. IPv4 comes first: Envoy would
// take the IPv6 addresses alone where there are any, and a server on localhost
// mostly listens on 127.0.0.1 alone.
func resolveNames(cluster *clusterv3.Cluster) {
	cluster.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
	cluster.DnsLookupFamily = clusterv3.Cluster_V4_PREFERRED
}

func baseCluster(name string, http2 bool) *clusterv3.Cluster {
	limit := wrapperspb.UInt32(maxUpstreamRequests)
	return &clusterv3.Cluster{
		Name:                          name,
		ConnectTimeout:                durationpb.New(connectTimeout),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(upstreamBufferLimit),
		TypedExtensionProtocolOptions: map[string]*anypb.Any{httpProtocolOptions: packed(protocolOptions(http2))},
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxConnections: limit, MaxPendingRequests: limit, MaxRequests: limit, MaxRetries: wrapperspb.UInt32(100),
		}}},
		IgnoreHealthOnHostRemoval: true,
	}
}

func lbEndpoint(host string, port uint32) *endpointv3.LbEndpoint {
	return &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
		Endpoint: &endpointv3.Endpoint{Address: socketAddress(host, port)},
	}}
}

func socketAddress(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

func splitHostPort(address string) (string, uint32, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not a port", text)
	}
	return host, uint32(port), nil
}
