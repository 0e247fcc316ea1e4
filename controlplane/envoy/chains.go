package envoy

import (
	"cmp"
	"slices"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	connectionlimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

// quicSuffix ends the name of a port's listener for HTTP/3.
const quicSuffix = "/quic"

// listeners are the one for TCP and, where a chain offers HTTP/3, the one for
// UDP.
func (c *compiler) listeners(port *policy.Port) []*listenerv3.Listener {
	tcp := &listenerv3.Listener{
		Name:                          portName(port),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(bufferBytes(port)),
	}
	tcp.Address, tcp.AdditionalAddresses = c.addresses(port, corev3.SocketAddress_TCP)
	if port.Chains[0].Name != policy.PlainChain {
		tcp.ListenerFilters = []*listenerv3.ListenerFilter{{
			Name:       "envoy.filters.listener.tls_inspector",
			ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: packed(&tlsinspectorv3.TlsInspector{})},
		}}
	}
	quic := &listenerv3.Listener{
		Name:                          portName(port) + quicSuffix,
		PerConnectionBufferLimitBytes: tcp.GetPerConnectionBufferLimitBytes(),
		UdpListenerConfig:             &listenerv3.UdpListenerConfig{QuicOptions: &listenerv3.QuicProtocolOptions{}},
	}
	quic.Address, quic.AdditionalAddresses = c.addresses(port, corev3.SocketAddress_UDP)
	for i := range port.Chains {
		chain := &port.Chains[i]
		tcp.FilterChains = append(tcp.FilterChains, c.filterChain(port, chain))
		if chain.TLS.Offers(v1alpha1.HTTP3) {
			quic.FilterChains = append(quic.FilterChains, c.quicChain(port, chain))
		}
	}
	if len(quic.GetFilterChains()) == 0 {
		return []*listenerv3.Listener{tcp}
	}
	return []*listenerv3.Listener{tcp, quic}
}

// addresses are where a port is bound: at what its Gateways ask for, or at the
// options' address.
func (c *compiler) addresses(port *policy.Port, protocol corev3.SocketAddress_Protocol) (*corev3.Address, []*listenerv3.AdditionalAddress) {
	var first *corev3.Address
	var more []*listenerv3.AdditionalAddress
	asked := port.Addresses
	if len(asked) == 0 {
		asked = []string{""}
	}
	for _, host := range asked {
		address := socketAddress(cmp.Or(host, c.options.ListenAddress), uint32(c.bound(port))) //nolint:gosec // validated port
		address.GetSocketAddress().Protocol = protocol
		if first == nil {
			first = address
			continue
		}
		more = append(more, &listenerv3.AdditionalAddress{Address: address})
	}
	return first, more
}

// bufferBytes is the smallest of the port's chains: Envoy has it per listener.
func bufferBytes(port *policy.Port) uint32 {
	least := port.Chains[0].Settings().BufferKiB
	for i := range port.Chains {
		least = min(least, port.Chains[i].Settings().BufferKiB)
	}
	return least << 10
}

func (c *compiler) filterChain(port *policy.Port, chain *policy.Chain) *listenerv3.FilterChain {
	compiled := &listenerv3.FilterChain{Name: chain.Name, FilterChainMatch: chainMatch(chain)}
	edge := chain.Settings()
	if chain.TLS != nil {
		compiled.TransportSocket = listenerSocket(chain.TLS)
		compiled.TransportSocketConnectTimeout = durationpb.New(edge.HandshakeTimeout)
	}
	if edge.MaxConnections > 0 {
		compiled.Filters = append(compiled.Filters, networkFilter("envoy.filters.network.connection_limit", &connectionlimitv3.ConnectionLimit{
			StatPrefix: chainName(port, chain), MaxConnections: wrapperspb.UInt64(uint64(edge.MaxConnections)),
		}))
	}
	if chain.Forward != nil {
		compiled.Filters = append(compiled.Filters, networkFilter("envoy.filters.network.tcp_proxy", c.tcpProxy(port, chain)))
	} else {
		compiled.Filters = append(compiled.Filters, networkFilter("envoy.filters.network.http_connection_manager", c.connectionManager(port, chain)))
	}
	return compiled
}

// quicChain serves the chain over HTTP/3.
func (c *compiler) quicChain(port *policy.Port, chain *policy.Chain) *listenerv3.FilterChain {
	manager := c.connectionManager(port, chain)
	manager.CodecType = hcmv3.HttpConnectionManager_HTTP3
	manager.Http3ProtocolOptions = http3Options(chain.Settings())
	manager.Http2ProtocolOptions = nil
	return &listenerv3.FilterChain{
		Name: chain.Name, FilterChainMatch: chainMatch(chain), TransportSocket: quicSocket(chain.TLS),
		Filters: []*listenerv3.Filter{networkFilter("envoy.filters.network.http_connection_manager", manager)},
	}
}

func chainMatch(chain *policy.Chain) *listenerv3.FilterChainMatch {
	if len(chain.ServerNames) == 0 {
		return nil
	}
	return &listenerv3.FilterChainMatch{ServerNames: slices.Clone(chain.ServerNames)}
}

func networkFilter(name string, config proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(config)}}
}

// tcpProxy passes a connection on. The stand-in for backends that did not
// resolve does not exist, which has Envoy close the connection.
func (c *compiler) tcpProxy(port *policy.Port, chain *policy.Chain) *tcpproxyv3.TcpProxy {
	proxy := &tcpproxyv3.TcpProxy{
		StatPrefix:  chainName(port, chain),
		IdleTimeout: durationpb.New(chain.Settings().ConnectionIdleTimeout),
		AccessLog:   []*accesslogv3.AccessLog{streamAccessLog()},
	}
	if len(chain.Forward.Backends) <= 1 {
		cluster := clusterUnresolved
		if len(chain.Forward.Backends) == 1 && chain.Forward.Backends[0].Backend != "" {
			cluster = clusterName(chain.Forward.Backends[0].Backend)
		}
		proxy.ClusterSpecifier = &tcpproxyv3.TcpProxy_Cluster{Cluster: cluster}
		return proxy
	}
	weighted := &tcpproxyv3.TcpProxy_WeightedCluster{}
	for _, backend := range chain.Forward.Backends {
		name := clusterUnresolved
		if backend.Backend != "" {
			name = clusterName(backend.Backend)
		}
		weighted.Clusters = append(weighted.Clusters, &tcpproxyv3.TcpProxy_WeightedCluster_ClusterWeight{Name: name, Weight: backend.Weight})
	}
	proxy.ClusterSpecifier = &tcpproxyv3.TcpProxy_WeightedClusters{WeightedClusters: weighted}
	return proxy
}
