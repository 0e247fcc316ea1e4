package controlplane

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"weir.dev/controlplane/ads"
	"weir.dev/controlplane/envoy"
	"weir.dev/kit/certs"
	"weir.dev/policy"
)

// FleetConfig is a set of proxies that serve the same Gateways. Which fleet a
// proxy is of, its certificate says and nothing else.
type FleetConfig struct {
	// Name is a DNS label, or empty for the only fleet.
	Name string `yaml:"name"`
	// Gateways that the fleet serves, as namespace/name. Without Gateways and
	// GatewayLabels it serves all that no other fleet names.
	Gateways []string `yaml:"gateways"`
	// GatewayLabels are labels that a Gateway needs all of to be served.
	GatewayLabels map[string]string `yaml:"gatewayLabels"`
	// PerGateway gives each Gateway that no other fleet names a fleet of its own,
	// called gateway/NAMESPACE/NAME, whose proxies have the SPIFFE id
	// spiffe://weir/gateway/NAMESPACE/NAME. Such a configuration has no Name, no
	// Gateways and no Peers.
	PerGateway bool `yaml:"perGateway"`
	// Peers are the SPIFFE ids of the proxies.
	Peers []string `yaml:"peers"`
	// Ingress is where the listeners bind, if elsewhere than ingress says.
	Ingress *IngressConfig `yaml:"ingress"`
}

// rulesGroup is the group of Weir's own servers; no fleet can have its name.
const rulesGroup = "weir/rules"

// noFleet stands for Gateways that no fleet serves.
const noFleet = "weir/none"

const maxFleets = 100

// gatewayFleets is how the names of fleets begin that are of one Gateway each.
const gatewayFleets = "gateway/"

// maxGateways bounds the fleets of one Gateway each: every one compiles the Plan
// for itself.
const maxGateways = 1000

// gatewayFleet is the fleet of one Gateway alone.
func gatewayFleet(gateway policy.ObjectRef) string {
	return gatewayFleets + gateway.Namespace + "/" + gateway.Name
}

func (f *FleetConfig) rest() bool { return len(f.Gateways)+len(f.GatewayLabels) == 0 }

func (f *FleetConfig) serves(gateway *policy.Object) bool {
	if slices.Contains(f.Gateways, gateway.Ref.Namespace+"/"+gateway.Ref.Name) {
		return true
	}
	labels := gateway.Value.GetLabels()
	for name, value := range f.GatewayLabels {
		if labels[name] != value {
			return false
		}
	}
	return len(f.GatewayLabels) > 0
}

// fleetOf names the fleet of each Gateway among objects: the first by
// configuration that names it, else the one that takes the rest. nil stands for
// one fleet.
func fleetOf(fleets []FleetConfig, objects []*policy.Object) func(policy.ObjectRef) string {
	if len(fleets) == 0 || len(fleets) == 1 && fleets[0].rest() && fleets[0].Name == "" && !fleets[0].PerGateway {
		return nil
	}
	assigned := map[policy.ObjectRef]string{}
	rest, each := noFleet, false
	for i := range fleets {
		switch {
		case fleets[i].PerGateway:
			each = true
		case fleets[i].rest():
			rest = fleets[i].Name
		}
	}
	for _, object := range objects {
		if object.Ref.Kind != "Gateway" {
			continue
		}
		for i := range fleets {
			if fleets[i].serves(object) {
				assigned[object.Ref] = fleets[i].Name
				break
			}
		}
		if _, ok := assigned[object.Ref]; !ok && each {
			assigned[object.Ref] = gatewayFleet(object.Ref)
		}
	}
	return func(gateway policy.ObjectRef) string {
		if name, ok := assigned[gateway]; ok {
			return name
		}
		return rest
	}
}

// fleetless reports the Gateways that no fleet serves.
func fleetless(fleetOf func(policy.ObjectRef) string, objects []*policy.Object) policy.Problems {
	var problems policy.Problems
	for _, object := range objects {
		if fleetOf != nil && object.Ref.Kind == "Gateway" && fleetOf(object.Ref) == noFleet {
			problems = append(problems, policy.Problem{
				Origin: object.Origin("metadata"), Code: policy.CodeNoFleet, Severity: policy.SeverityError,
				Message: "no fleet of the control plane's configuration serves this Gateway, by name or by label",
			})
		}
	}
	return problems
}

// fleets are the configured ones, or the one that there is without any.
func (c *Config) fleets() []FleetConfig {
	if len(c.Fleets) == 0 {
		return []FleetConfig{{Peers: []string{certs.PeerID("ingress")}}}
	}
	return c.Fleets
}

var fleetName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func (c *Config) validateFleets() []error {
	var errs []error
	if len(c.Fleets) > maxFleets {
		errs = append(errs, fmt.Errorf("fleets: %d are more than %d", len(c.Fleets), maxFleets))
	}
	names, peers, rest := map[string]bool{}, map[string]string{certs.PeerID("extauthz"): "Weir's own", certs.PeerID("ratelimit"): "Weir's own"}, ""
	for i := range c.Fleets {
		fleet := &c.Fleets[i]
		at := fmt.Sprintf("fleets[%d]", i)
		if fleet.PerGateway && (fleet.Name != "" || !fleet.rest() || len(fleet.Peers) > 0) {
			errs = append(errs, fmt.Errorf("%s.perGateway: the fleets of one Gateway each have names and SPIFFE ids of their own: remove name, gateways, gatewayLabels and peers", at))
		}
		if !fleet.PerGateway && !fleetName.MatchString(fleet.Name) {
			errs = append(errs, fmt.Errorf("%s.name: %q is not a DNS label", at, fleet.Name))
		}
		if names[fleet.Name] {
			errs = append(errs, fmt.Errorf("%s.name: there are two fleets %q", at, fleet.Name))
		}
		names[fleet.Name] = true
		if fleet.rest() {
			if rest != "" {
				errs = append(errs, fmt.Errorf("%s: takes the Gateways that no other names, and so does %s: give one of them gateways or gatewayLabels", at, rest))
			}
			rest = at
		}
		if len(fleet.Peers) == 0 && !fleet.PerGateway {
			errs = append(errs, fmt.Errorf("%s.peers: name the SPIFFE id of its proxies", at))
		}
		for _, peer := range fleet.Peers {
			if !strings.HasPrefix(peer, "spiffe://") {
				errs = append(errs, fmt.Errorf("%s.peers: %q is not a SPIFFE id", at, peer))
			}
			if other, ok := peers[peer]; ok {
				errs = append(errs, fmt.Errorf("%s.peers: %s is %s already", at, peer, other))
			}
			peers[peer] = "of " + at
		}
		if fleet.Ingress != nil {
			ingress := *fleet.Ingress
			ingress.Address = cmp.Or(ingress.Address, "127.0.0.1") // that of ingress, validated there
			if err := errors.Join(ingress.validate()...); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", at, err))
			}
		}
	}
	return errs
}

// peers are all that may connect.
func (c *Config) peers() []string {
	peers := slices.Clone(c.Server.AllowedPeers)
	add := func(more []string) {
		for _, peer := range more {
			if !slices.Contains(peers, peer) {
				peers = append(peers, peer)
			}
		}
	}
	add(c.AdminAPI.Peers)
	for _, fleet := range c.fleets() {
		add(fleet.Peers)
		if fleet.PerGateway {
			add([]string{certs.PeerID(gatewayFleets + "*")})
		}
	}
	return peers
}

// Access is who may subscribe to what: proxies to what their fleet serves, Weir's
// own servers to their rules.
func Access(fleets []FleetConfig, extAuthz, rateLimit string) ads.Access {
	access := ads.Access{
		extAuthz:  {Group: rulesGroup, Types: []string{envoy.TypeAuthRoute, envoy.TypeConsumer}},
		rateLimit: {Group: rulesGroup, Types: []string{envoy.TypeRateLimit}},
	}
	for _, fleet := range fleets {
		for _, peer := range fleet.Peers {
			access[peer] = fleetGrant(fleet.Name)
		}
	}
	return access
}

// fleetGrant is what the proxies of a fleet may subscribe to.
func fleetGrant(fleet string) ads.Grant {
	return ads.Grant{Group: fleet, Types: []string{envoy.TypeListener, envoy.TypeScope, envoy.TypeRoute, envoy.TypeCluster, envoy.TypeEndpoint, envoy.TypeSecret}}
}

// fleetOptions are the compiler's for one fleet.
func fleetOptions(options envoy.Options, fleet *FleetConfig) envoy.Options {
	options.Fleet = fleet.Name
	if fleet.Ingress != nil {
		if fleet.Ingress.Address != "" {
			options.ListenAddress = fleet.Ingress.Address
		}
		options.PortMap = fleet.Ingress.PortMap
	}
	return options
}
