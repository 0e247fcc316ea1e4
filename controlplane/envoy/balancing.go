package envoy

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	leastv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ringv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/policy/v1alpha1"
)

// loadBalancing compiles how an endpoint is chosen.
func loadBalancing(settings *v1alpha1.LoadBalancing) *clusterv3.LoadBalancingPolicy {
	locality := localityConfig(settings.Locality)
	var slow *commonv3.SlowStartConfig
	if settings.SlowStart != nil {
		slow = &commonv3.SlowStartConfig{SlowStartWindow: duration(settings.SlowStart, 0)}
	}
	switch settings.Algorithm {
	case v1alpha1.BalanceLeastRequest:
		return balancer("least_request", &leastv3.LeastRequest{SlowStartConfig: slow, LocalityLbConfig: locality})
	case v1alpha1.BalanceRandom:
		return balancer("random", &randomv3.Random{LocalityLbConfig: locality})
	case v1alpha1.BalanceMaglev:
		return balancer("maglev", &maglevv3.Maglev{})
	case v1alpha1.BalanceRingHash:
		return balancer("ring_hash", &ringv3.RingHash{})
	default:
		return balancer("round_robin", &roundv3.RoundRobin{SlowStartConfig: slow, LocalityLbConfig: locality})
	}
}

func balancer(name string, config proto.Message) *clusterv3.LoadBalancingPolicy {
	return &clusterv3.LoadBalancingPolicy{Policies: []*clusterv3.LoadBalancingPolicy_Policy{{
		TypedExtensionConfig: &corev3.TypedExtensionConfig{Name: "envoy.load_balancing_policies." + name, TypedConfig: packed(config)},
	}}}
}

// localityConfig keeps requests in the proxy's zone as long as one endpoint
// there is well. The bootstrap says which zone that is.
func localityConfig(locality v1alpha1.Locality) *commonv3.LocalityLbConfig {
	if locality != v1alpha1.LocalityPreferZone {
		return nil
	}
	return &commonv3.LocalityLbConfig{LocalityConfigSpecifier: &commonv3.LocalityLbConfig_ZoneAwareLbConfig_{
		ZoneAwareLbConfig: &commonv3.LocalityLbConfig_ZoneAwareLbConfig{
			RoutingEnabled: &typev3.Percent{Value: 100},
			MinClusterSize: wrapperspb.UInt64(1),
			ForceLocalZone: &commonv3.LocalityLbConfig_ZoneAwareLbConfig_ForceLocalZone{MinSize: wrapperspb.UInt32(1)},
		},
	}}
}
