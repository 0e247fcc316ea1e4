// Package controlplane joins sources, policy and targets: it takes what a source
// says, resolves it to a Plan, compiles the Plan, and rolls it out. Its
// subpackages each do one of these; this package is the loop between them.
package controlplane

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"weir.dev/controlplane/envoy"
	"weir.dev/kit/certs"
	"weir.dev/kit/config"
	"weir.dev/kit/daemon"
	"weir.dev/kit/rpcserver"
)

// Config of controlplaned.
type Config struct {
	daemon.Config `yaml:",inline"`
	// Server is the ADS server that Envoy, extauthz and ratelimit subscribe to.
	Server  rpcserver.Config `yaml:"server"`
	Sources SourcesConfig    `yaml:"sources"`
	// StateFile keeps the last good policy over restarts; empty keeps nothing.
	StateFile string        `yaml:"stateFile"`
	Ingress   IngressConfig `yaml:"ingress"`
	// Fleets of proxies; by default one that serves every Gateway, of the peer
	// "ingress".
	Fleets    []FleetConfig   `yaml:"fleets"`
	ExtAuthz  PeerConfig      `yaml:"extAuthz"`
	RateLimit RateLimitConfig `yaml:"rateLimit"`
	// OTLP is the collector that Envoy sends traces to; none by default.
	OTLP PeerConfig `yaml:"otlp"`
	// AdminAPI is for the commands and the portal.
	AdminAPI AdminAPIConfig `yaml:"adminAPI"`
}

// AdminAPIConfig says who may use weir.admin.v1, which is served over gRPC
// beside ADS.
type AdminAPIConfig struct {
	// Peers are SPIFFE ids. Default cli and portal.
	Peers []string `yaml:"peers"`
	// REST is the host:port where the same is served as JSON over HTTP/2, with the
	// same certificates; none by default.
	REST string `yaml:"rest"`
}

// IngressConfig says where Envoy's listeners bind.
type IngressConfig struct {
	// Address is an IP address. Default 127.0.0.1.
	Address string `yaml:"address"`
	// PortMap binds a Gateway listener's port (key) elsewhere.
	PortMap map[int32]int32 `yaml:"portMap"`
}

// PeerConfig is one of Weir's servers, as Envoy reaches it.
type PeerConfig struct {
	// Address is host:port.
	Address string `yaml:"address"`
	// Peer is the SPIFFE id that the server presents.
	Peer string `yaml:"peer"`
}

// RateLimitConfig is ratelimitd, as Envoy reaches it.
type RateLimitConfig struct {
	PeerConfig `yaml:",inline"`
	// Timeout is how long a request waits for it, 10ms to 10s; then each limit's
	// failureMode decides. It is longer than what the store may take
	// (store.timeout of ratelimitd), or an outage of the store isn't told
	// from one of ratelimitd. Default 100ms.
	Timeout config.Duration `yaml:"timeout"`
}

// Bounds of RateLimitConfig.Timeout.
const (
	minRateLimitTimeout = 10 * time.Millisecond
	maxRateLimitTimeout = 10 * time.Second
)

// SetDefaults fills in what is documented.
func (c *Config) SetDefaults() {
	c.Config.SetDefaults()
	c.Server.SetDefaults()
	c.Server.AllowedPeers = []string{certs.PeerID("ingress"), certs.PeerID("extauthz"), certs.PeerID("ratelimit")}
	c.Sources.Kubernetes.SetDefaults()
	c.Ingress.Address = "127.0.0.1"
	c.AdminAPI.Peers = []string{certs.PeerID("cli"), certs.PeerID("portal")}
	c.ExtAuthz.Peer = certs.PeerID("extauthz")
	c.RateLimit.Peer = certs.PeerID("ratelimit")
	c.RateLimit.Timeout = config.Duration(envoy.DefaultRateLimitTimeout)
}

// Validate reports every mistake.
func (c *Config) Validate() error {
	errs := []error{c.Config.Validate(), c.Server.Validate()}
	errs = append(errs, c.Sources.validate()...)
	for _, peer := range []struct {
		name, address string
		required      bool
	}{{"extAuthz", c.ExtAuthz.Address, true}, {"rateLimit", c.RateLimit.Address, true}, {"otlp", c.OTLP.Address, false}} {
		switch {
		case peer.address == "" && peer.required:
			errs = append(errs, fmt.Errorf("%s.address: is required: a policy could not be enforced without it", peer.name))
		case peer.address != "" && !isHostPort(peer.address):
			errs = append(errs, fmt.Errorf("%s.address: %q is not host:port", peer.name, peer.address))
		}
	}
	if timeout := c.RateLimit.Timeout.Std(); timeout < minRateLimitTimeout || timeout > maxRateLimitTimeout {
		errs = append(errs, fmt.Errorf("rateLimit.timeout: %s is outside %s to %s", timeout, minRateLimitTimeout, maxRateLimitTimeout))
	}
	if c.AdminAPI.REST != "" {
		if _, _, err := net.SplitHostPort(c.AdminAPI.REST); err != nil {
			errs = append(errs, fmt.Errorf("adminAPI.rest: %q is not host:port", c.AdminAPI.REST))
		}
	}
	errs = append(errs, c.Ingress.validate()...)
	errs = append(errs, c.validateFleets()...)
	if c.Sources.Kubernetes.Provision.Enabled && !slices.ContainsFunc(c.Fleets, func(f FleetConfig) bool { return f.PerGateway }) {
		errs = append(errs, errors.New("sources.kubernetes.provision.enabled: needs an entry of fleets with perGateway: true, whose proxies are run"))
	}
	return errors.Join(errs...)
}

func (c *IngressConfig) validate() []error {
	var errs []error
	if _, err := netip.ParseAddr(c.Address); err != nil {
		errs = append(errs, fmt.Errorf("ingress.address: %q is not an IP address", c.Address))
	}
	from := map[int32]int32{}
	for _, port := range slices.Sorted(maps.Keys(c.PortMap)) {
		bound := c.PortMap[port]
		if other, ok := from[bound]; ok {
			errs = append(errs, fmt.Errorf("ingress.portMap: %d and %d are both bound to %d", other, port, bound))
		}
		from[bound] = port
		for _, number := range []int32{port, bound} {
			if number < 1 || number > 65535 {
				errs = append(errs, fmt.Errorf("ingress.portMap: %d is not a port", number))
			}
		}
	}
	return errs
}

func isHostPort(address string) bool {
	host, text, err := net.SplitHostPort(address)
	port, portErr := strconv.ParseUint(text, 10, 16)
	return err == nil && portErr == nil && host != "" && port > 0
}

// published are the addresses at which clients reach the proxies, as policy takes
// them.
func (c *Config) published() []string {
	if !c.Sources.Kubernetes.Enabled {
		return nil
	}
	published := slices.Clone(c.Sources.Kubernetes.Addresses)
	for i, text := range published {
		if address, err := netip.ParseAddr(text); err == nil {
			published[i] = address.Unmap().String()
		}
	}
	return published
}

// options are the compiler's.
func (c *Config) options() envoy.Options {
	return envoy.Options{
		ListenAddress: c.Ingress.Address, PortMap: c.Ingress.PortMap,
		ExtAuthzAddress: c.ExtAuthz.Address, ExtAuthzPeer: c.ExtAuthz.Peer,
		RateLimitAddress: c.RateLimit.Address, RateLimitPeer: c.RateLimit.Peer, RateLimitTimeout: c.RateLimit.Timeout.Std(),
		OTLPAddress: c.OTLP.Address,
	}
}
