package bootstrap

import (
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
)

// clusterLocal is the cluster of the proxies themselves.
const clusterLocal = "weir/proxies"

// inZone says where this Envoy is. Envoy prefers endpoints of its zone by
// comparing them with the proxies of a cluster of its own kind: here it is the
// only one, so that the preference is not weighed against others'. Nothing is
// ever sent to that cluster.
func inZone(bootstrap *bootstrapv3.Bootstrap, zone string, address *corev3.Address) {
	if zone == "" {
		return
	}
	locality := &corev3.Locality{Zone: zone}
	bootstrap.Node.Locality = locality
	bootstrap.ClusterManager = &bootstrapv3.ClusterManager{LocalClusterName: clusterLocal}
	bootstrap.StaticResources.Clusters = append(bootstrap.StaticResources.Clusters, &clusterv3.Cluster{
		Name: clusterLocal, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: clusterLocal,
			Endpoints: []*endpointv3.LocalityLbEndpoints{{
				Locality: locality,
				LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
					Endpoint: &endpointv3.Endpoint{Address: address},
				}}},
			}},
		},
	})
}
