package istio

import (
	"slices"

	"weir.dev/policy"
)

// apart is a Plan in which the paths of a login have ids of their own: EnvoyFilters
// find routes by them, and one of the paths has its bodies sent to extauthz. What
// Weir's own target makes of a route is found by the new id, too.
func (c *compiler) apart(plan *policy.Plan) *policy.Plan {
	made := *plan
	made.Ports = slices.Clone(plan.Ports)
	for i := range made.Ports {
		port := &made.Ports[i]
		port.Chains = slices.Clone(port.Chains)
		for j := range port.Chains {
			chain := &port.Chains[j]
			chain.Hosts = slices.Clone(chain.Hosts)
			for k := range chain.Hosts {
				c.apartOn(&chain.Hosts[k])
			}
		}
	}
	return &made
}

func (c *compiler) apartOn(host *policy.Host) {
	host.Routes = slices.Clone(host.Routes)
	for i := range host.Routes {
		route := &host.Routes[i]
		if route.Origin.Object.Kind != "AuthPolicy" {
			continue
		}
		lifted := c.lifted[route.ID]
		route.ID += route.Match.Path.Value
		c.lifted[route.ID] = lifted
	}
}
