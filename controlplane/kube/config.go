package kube

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Config of the Kubernetes source.
type Config struct {
	Enabled bool `yaml:"enabled"`
	// Kubeconfig is a file's path; empty means the service account of the pod.
	Kubeconfig string `yaml:"kubeconfig"`
	// Context of that file; empty means its current one.
	Context string `yaml:"context"`
	// Namespaces that are read; none means all. Kinds without namespaces are read
	// in either case.
	Namespaces []string `yaml:"namespaces"`
	// Addresses are what the Gateways' status tells clients to connect to: IP
	// addresses or DNS names. A Gateway's spec.addresses can name some of them; where
	// there are none, it says where its listeners bind.
	Addresses      []string             `yaml:"addresses"`
	LeaderElection LeaderElectionConfig `yaml:"leaderElection"`
	// Provision runs the proxies of each Gateway in the cluster.
	Provision ProvisionConfig `yaml:"provision"`
}

// LeaderElectionConfig says how the replica that writes status is found.
type LeaderElectionConfig struct {
	// Namespace of the Lease. Default: $POD_NAMESPACE, else "default".
	Namespace string `yaml:"namespace"`
	// Name of the Lease. Default weir-status.
	Name string `yaml:"name"`
	// Lease is how long a leader that is gone is waited for, at least 1s. Default
	// 15s.
	Lease time.Duration `yaml:"lease"`
}

// maxAddresses is the Gateway API's bound on status.addresses.
const maxAddresses = 16

// SetDefaults fills in what is documented.
func (c *Config) SetDefaults() {
	c.LeaderElection.Namespace = os.Getenv("POD_NAMESPACE")
	if c.LeaderElection.Namespace == "" {
		c.LeaderElection.Namespace = "default"
	}
	c.LeaderElection.Name = "weir-status"
	c.LeaderElection.Lease = 15 * time.Second
	c.Provision.SetDefaults()
	c.Provision.Namespace = c.LeaderElection.Namespace
}

// Validate reports every mistake.
func (c *Config) Validate() error {
	if !c.Enabled {
		return nil
	}
	var errs []error
	if c.Context != "" && c.Kubeconfig == "" {
		errs = append(errs, fmt.Errorf("context: %q is one of a kubeconfig; name that, too", c.Context))
	}
	for i, namespace := range c.Namespaces {
		if bad := validation.IsDNS1123Label(namespace); len(bad) > 0 {
			errs = append(errs, fmt.Errorf("namespaces[%d]: %q: %s", i, namespace, bad[0]))
		}
	}
	if len(c.Addresses) > maxAddresses {
		errs = append(errs, fmt.Errorf("addresses: has %d entries; the most is %d", len(c.Addresses), maxAddresses))
	}
	for i, address := range c.Addresses {
		_, err := netip.ParseAddr(address)
		if bad := validation.IsDNS1123Subdomain(address); err != nil && len(bad) > 0 {
			errs = append(errs, fmt.Errorf("addresses[%d]: %q is neither an IP address nor a DNS name", i, address))
		}
	}
	if bad := validation.IsDNS1123Label(c.LeaderElection.Namespace); len(bad) > 0 {
		errs = append(errs, fmt.Errorf("leaderElection.namespace: %q: %s", c.LeaderElection.Namespace, bad[0]))
	}
	if bad := validation.IsDNS1123Subdomain(c.LeaderElection.Name); len(bad) > 0 {
		errs = append(errs, fmt.Errorf("leaderElection.name: %q: %s", c.LeaderElection.Name, bad[0]))
	}
	if c.LeaderElection.Lease < time.Second || c.LeaderElection.Lease > time.Hour {
		errs = append(errs, fmt.Errorf("leaderElection.lease: %s is outside of 1s to 1h", c.LeaderElection.Lease))
	}
	if err := c.Provision.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("provision: %w", err))
	}
	return errors.Join(errs...)
}

// Requests a second to the API server, and how many at once after idleness. The
// client's own default of 5 would make a status a matter of minutes; the API
// server's priority and fairness protects it anyway.
const (
	queriesPerSecond = 200
	queriesAtOnce    = 400
)

// restConfig says how to reach the API server.
func (c *Config) restConfig() (*rest.Config, error) {
	var config *rest.Config
	var err error
	if c.Kubeconfig == "" {
		config, err = rest.InClusterConfig()
	} else {
		config, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
			&clientcmd.ClientConfigLoadingRules{ExplicitPath: c.Kubeconfig}, &clientcmd.ConfigOverrides{CurrentContext: c.Context}).ClientConfig()
	}
	if err != nil {
		// What a kubeconfig holds is secret; the library's errors name paths only.
		return nil, fmt.Errorf("how to reach the Kubernetes API is not known: %w; set sources.kubernetes.kubeconfig, or run in a pod with a service account", err)
	}
	config.QPS, config.Burst = queriesPerSecond, queriesAtOnce
	config.UserAgent = strings.TrimSpace("weir-controlplaned " + rest.DefaultKubernetesUserAgent())
	return config, nil
}
