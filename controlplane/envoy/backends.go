package envoy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	aggregatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/aggregate/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

// backend compiles one Backend: endpoints come by EDS when all are IP addresses
// or sockets (so that they change without touching the cluster), else Envoy
// resolves them.
func (c *compiler) backend(backend *policy.Backend) (*clusterv3.Cluster, *endpointv3.ClusterLoadAssignment, error) {
	if len(backend.Members) > 0 {
		return aggregate(backend), nil, nil
	}
	cluster := baseCluster(clusterName(backend.ID), backend.Protocol != v1alpha1.ProtocolHTTP)
	if backend.TLS != nil {
		cluster.TransportSocket = backendTLS(backend.TLS, backend.Protocol)
	}
	connection(cluster, backend)
	assignment := loadAssignment(cluster.GetName(), backend.Endpoints)
	if slices.ContainsFunc(backend.Endpoints, needsDNS) {
		resolveNames(cluster)
		cluster.LoadAssignment = assignment
		return cluster, nil, nil
	}
	cluster.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
	cluster.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource()}
	return cluster, assignment, nil
}

func needsDNS(endpoint policy.Endpoint) bool {
	if endpoint.Socket != "" {
		return false
	}
	_, err := netip.ParseAddr(endpoint.Address)
	return err != nil
}

// loadAssignment groups endpoints by zone.
func loadAssignment(cluster string, endpoints []policy.Endpoint) *endpointv3.ClusterLoadAssignment {
	assignment := &endpointv3.ClusterLoadAssignment{ClusterName: cluster}
	zones := map[string]*endpointv3.LocalityLbEndpoints{}
	for _, endpoint := range endpoints {
		group, ok := zones[endpoint.Zone]
		if !ok {
			group = &endpointv3.LocalityLbEndpoints{}
			if endpoint.Zone != "" {
				group.Locality = &corev3.Locality{Zone: endpoint.Zone}
			}
			zones[endpoint.Zone] = group
		}
		address := socketAddress(endpoint.Address, uint32(endpoint.Port)) //nolint:gosec // validated port
		if endpoint.Socket != "" {
			address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: endpoint.Socket}}}
		}
		group.LbEndpoints = append(group.LbEndpoints, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
			Endpoint: &endpointv3.Endpoint{Address: address},
		}})
	}
	for _, zone := range slices.Sorted(maps.Keys(zones)) {
		assignment.Endpoints = append(assignment.Endpoints, zones[zone])
	}
	return assignment
}

// aggregate stands for its members: the first with an endpoint that is well
// serves.
func aggregate(backend *policy.Backend) *clusterv3.Cluster {
	config := &aggregatev3.ClusterConfig{}
	for _, member := range backend.Members {
		config.Clusters = append(config.Clusters, clusterName(member))
	}
	return &clusterv3.Cluster{
		Name: clusterName(backend.ID), ConnectTimeout: durationpb.New(connectTimeout), LbPolicy: clusterv3.Cluster_CLUSTER_PROVIDED,
		ClusterDiscoveryType: &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
			Name: "envoy.clusters.aggregate", TypedConfig: packed(config),
		}},
	}
}

// connection puts what a TrafficPolicy says into a cluster.
func connection(cluster *clusterv3.Cluster, backend *policy.Backend) {
	settings := backend.Connection
	if settings == nil {
		return
	}
	if settings.ConnectTimeout > 0 {
		cluster.ConnectTimeout = durationpb.New(settings.ConnectTimeout)
	}
	thresholds := cluster.GetCircuitBreakers().GetThresholds()[0]
	if limits := settings.Limits; limits != nil {
		replace(&thresholds.MaxConnections, limits.MaxConnections)
		replace(&thresholds.MaxPendingRequests, limits.MaxPendingRequests)
		replace(&thresholds.MaxRequests, limits.MaxRequests)
		replace(&thresholds.MaxRetries, limits.MaxRetries)
		if limits.MaxRequestsPerConnection != nil {
			requestsPerConnection(cluster, backend.Protocol != v1alpha1.ProtocolHTTP, *limits.MaxRequestsPerConnection)
		}
	}
	if budget := settings.Budget; budget != nil {
		thresholds.RetryBudget = &clusterv3.CircuitBreakers_Thresholds_RetryBudget{
			BudgetPercent:       &typev3.Percent{Value: float64(or(budget.Percent, 20))},
			MinRetryConcurrency: wrapperspb.UInt32(uint32(or(budget.MinConcurrent, 3))), //nolint:gosec // validated
		}
		thresholds.MaxRetries = nil
	}
	cluster.OutlierDetection = outliers(settings.Outliers)
	if settings.Outliers != nil || settings.Health != nil {
		// An endpoint that is known to be out is not used because others are, too.
		cluster.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{Value: 0}}
	}
	if settings.Health != nil {
		cluster.HealthChecks = []*corev3.HealthCheck{healthCheck(settings.Health, backend)}
		// Checked again before it gets requests, and kept while it is well.
		cluster.IgnoreHealthOnHostRemoval = true
	}
	if settings.Balancing != nil {
		cluster.LoadBalancingPolicy = loadBalancing(settings.Balancing)
	}
}

// or is the value that is set, or else the default.
func or(value *int32, otherwise int32) int32 {
	if value != nil {
		return *value
	}
	return otherwise
}

func replace(target **wrapperspb.UInt32Value, value *int32) {
	if value != nil {
		*target = wrapperspb.UInt32(uint32(*value)) //nolint:gosec // validated to be positive
	}
}

func requestsPerConnection(cluster *clusterv3.Cluster, http2 bool, most int32) {
	options := protocolOptions(http2)
	options.CommonHttpProtocolOptions.MaxRequestsPerConnection = wrapperspb.UInt32(uint32(most)) //nolint:gosec // validated to be positive
	cluster.TypedExtensionProtocolOptions[httpProtocolOptions] = packed(options)
}

func outliers(settings *v1alpha1.OutlierDetection) *clusterv3.OutlierDetection {
	if settings == nil {
		return nil
	}
	percent := wrapperspb.UInt32(100)
	none := wrapperspb.UInt32(0)
	detection := &clusterv3.OutlierDetection{
		Consecutive_5Xx:          wrapperspb.UInt32(uint32(or(settings.ConsecutiveErrors, 5))), //nolint:gosec // validated
		EnforcingConsecutive_5Xx: percent,
		Interval:                 duration(settings.Interval, 10*time.Second),
		BaseEjectionTime:         duration(settings.BaseEjectionTime, 30*time.Second),
		MaxEjectionPercent:       wrapperspb.UInt32(uint32(or(settings.MaxEjectionPercent, 50))), //nolint:gosec // validated
		AlwaysEjectOneHost:       wrapperspb.Bool(true),
		// What is not asked for is off.
		EnforcingSuccessRate: none,
	}
	if settings.ConsecutiveGatewayErrors != nil {
		detection.ConsecutiveGatewayFailure = wrapperspb.UInt32(uint32(*settings.ConsecutiveGatewayErrors)) //nolint:gosec // validated
		detection.EnforcingConsecutiveGatewayFailure = percent
	}
	return detection
}

func duration(value *gatewayv1.Duration, otherwise time.Duration) *durationpb.Duration {
	if value != nil {
		if parsed, err := time.ParseDuration(string(*value)); err == nil {
			return durationpb.New(parsed)
		}
	}
	return durationpb.New(otherwise)
}

func healthCheck(settings *v1alpha1.HealthCheck, backend *policy.Backend) *corev3.HealthCheck {
	check := &corev3.HealthCheck{
		Interval:           duration(settings.Interval, 10*time.Second),
		Timeout:            duration(settings.Timeout, time.Second),
		UnhealthyThreshold: wrapperspb.UInt32(uint32(or(settings.UnhealthyThreshold, 3))), //nolint:gosec // validated
		HealthyThreshold:   wrapperspb.UInt32(uint32(or(settings.HealthyThreshold, 2))),   //nolint:gosec // validated
		// Envoy's default of a minute for clusters without traffic would keep a new
		// route waiting.
		NoTrafficInterval: duration(settings.Interval, 10*time.Second),
	}
	host := baseID(backend.ID)
	host = host[strings.IndexByte(host, '/')+1:]
	switch {
	case settings.HTTP != nil:
		http := &corev3.HealthCheck_HttpHealthCheck{Path: settings.HTTP.Path, Host: cmp.Or(settings.HTTP.Host, host)}
		if backend.Protocol != v1alpha1.ProtocolHTTP {
			http.CodecClientType = typev3.CodecClientType_HTTP2
		}
		for _, status := range settings.HTTP.Statuses {
			http.ExpectedStatuses = append(http.ExpectedStatuses, &typev3.Int64Range{Start: int64(status), End: int64(status) + 1})
		}
		check.HealthChecker = &corev3.HealthCheck_HttpHealthCheck_{HttpHealthCheck: http}
	case settings.GRPC != nil:
		check.HealthChecker = &corev3.HealthCheck_GrpcHealthCheck_{
			GrpcHealthCheck: &corev3.HealthCheck_GrpcHealthCheck{ServiceName: settings.GRPC.Service, Authority: host},
		}
	default:
		check.HealthChecker = &corev3.HealthCheck_TcpHealthCheck_{TcpHealthCheck: &corev3.HealthCheck_TcpHealthCheck{}}
	}
	return check
}

// baseID is a Backend's id without what its connection settings add.
func baseID(id string) string {
	base, _, _ := strings.Cut(id, "~")
	return base
}

// protocolOptions are how a cluster speaks HTTP.
func protocolOptions(http2 bool) *upstreamsv3.HttpProtocolOptions {
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
	return options
}
