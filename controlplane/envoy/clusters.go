package envoy

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
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

// backend compiles one Backend: endpoints come by EDS when all are IP addresses
// (so that they change without touching the cluster), else Envoy resolves them.
func (c *compiler) backend(backend *policy.Backend) (*clusterv3.Cluster, *endpointv3.ClusterLoadAssignment, error) {
	cluster := baseCluster(clusterName(backend.ID), backend.Protocol != v1alpha1.ProtocolHTTP)
	assignment := &endpointv3.ClusterLoadAssignment{ClusterName: cluster.GetName(), Endpoints: []*endpointv3.LocalityLbEndpoints{{}}}
	numeric := true
	for _, endpoint := range backend.Endpoints {
		if _, err := netip.ParseAddr(endpoint.Address); err != nil {
			numeric = false
		}
		assignment.Endpoints[0].LbEndpoints = append(assignment.Endpoints[0].LbEndpoints, lbEndpoint(endpoint.Address, uint32(endpoint.Port))) //nolint:gosec // validated port
	}
	switch {
	case backend.SPIFFEID != "":
		cluster.TransportSocket = transportSocket(meshTLS(backend.SPIFFEID, alpn(backend.Protocol)))
	case backend.Hostname != "":
		cluster.TransportSocket = transportSocket(publicTLS(backend.Hostname, alpn(backend.Protocol)))
	}
	if numeric {
		cluster.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		cluster.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource()}
		return cluster, assignment, nil
	}
	resolveNames(cluster)
	cluster.LoadAssignment = assignment
	return cluster, nil, nil
}

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
			cluster.TransportSocket = transportSocket(meshTLS(own.peer, []string{"h2"}))
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
	options := &upstreamsv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(upstreamIdleTimeout)},
	}
	explicit := &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{}
	if http2 {
		explicit.ProtocolConfig = &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
			Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
				MaxConcurrentStreams: wrapperspb.UInt32(maxConcurrentStreams),
				ConnectionKeepalive: &corev3.KeepaliveSettings{
					Interval: durationpb.New(keepaliveInterval), Timeout: durationpb.New(keepaliveTimeout),
				},
			},
		}
	} else {
		explicit.ProtocolConfig = &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
			HttpProtocolOptions: &corev3.Http1ProtocolOptions{},
		}
	}
	options.UpstreamProtocolOptions = &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: explicit}
	limit := wrapperspb.UInt32(maxUpstreamRequests)
	return &clusterv3.Cluster{
		Name:                          name,
		ConnectTimeout:                durationpb.New(connectTimeout),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(upstreamBufferLimit),
		TypedExtensionProtocolOptions: map[string]*anypb.Any{httpProtocolOptions: packed(options)},
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxConnections: limit, MaxPendingRequests: limit, MaxRequests: limit, MaxRetries: wrapperspb.UInt32(100),
		}}},
		IgnoreHealthOnHostRemoval: true,
	}
}

func alpn(protocol v1alpha1.BackendProtocol) []string {
	if protocol == v1alpha1.ProtocolHTTP {
		return []string{"http/1.1"}
	}
	return []string{"h2"}
}

// meshTLS presents the edge's identity and accepts only the given one.
func meshTLS(peer string, alpn []string) *tlsv3.UpstreamTlsContext {
	return &tlsv3.UpstreamTlsContext{
		CommonTlsContext: &tlsv3.CommonTlsContext{
			AlpnProtocols:                  alpn,
			TlsParams:                      &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3},
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: SecretIdentity}},
			ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
				CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
					DefaultValidationContext: &tlsv3.CertificateValidationContext{
						MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
							SanType: tlsv3.SubjectAltNameMatcher_URI,
							Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: peer}},
						}},
					},
					ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: SecretTrust},
				},
			},
		},
	}
}

// publicTLS trusts the system's authorities and checks the host name.
func publicTLS(hostname string, alpn []string) *tlsv3.UpstreamTlsContext {
	return &tlsv3.UpstreamTlsContext{
		Sni: hostname,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			AlpnProtocols: alpn,
			TlsParams:     &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2},
			// Envoy does not implement system_root_certs; the bootstrap knows the file.
			ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
				CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
					DefaultValidationContext: &tlsv3.CertificateValidationContext{
						MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
							SanType: tlsv3.SubjectAltNameMatcher_DNS,
							Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: hostname}},
						}},
					},
					ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: SecretPublicTrust},
				},
			},
		},
	}
}

func transportSocket(context *tlsv3.UpstreamTlsContext) *corev3.TransportSocket {
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed(context)},
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
