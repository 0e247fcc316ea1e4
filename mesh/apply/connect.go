package apply

import (
	"fmt"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// Connect asks an API server which kinds it has. Groups that do not answer, which
// are others' (aggregated APIs), are taken as absent.
func Connect(config *rest.Config) (Cluster, error) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return Cluster{}, fmt.Errorf("kubernetes client: %w", err)
	}
	kinds, err := discovery.NewDiscoveryClientForConfigAndClient(config, client)
	if err != nil {
		return Cluster{}, fmt.Errorf("kubernetes client: %w", err)
	}
	objects, err := dynamic.NewForConfigAndClient(config, client)
	if err != nil {
		return Cluster{}, fmt.Errorf("kubernetes client: %w", err)
	}
	groups, err := restmapper.GetAPIGroupResources(kinds)
	if err != nil {
		return Cluster{}, fmt.Errorf("the Kubernetes API at %s: %w", config.Host, err)
	}
	return Cluster{Objects: objects, Mapper: restmapper.NewDiscoveryRESTMapper(groups), Host: config.Host}, nil
}
