package controlplane

import (
	"maps"
	"slices"
	"strings"

	"weir.dev/controlplane/envoy"
	"weir.dev/kit/certs"
	"weir.dev/policy"
)

// followGateways has a lane for each Gateway of Weir's that has a fleet of its
// own, and ends those of Gateways that are gone.
func (l *Loop) followGateways(input policy.Input, plan *policy.Plan) {
	template := slices.IndexFunc(l.Fleets, func(f FleetConfig) bool { return f.PerGateway })
	if template < 0 {
		return
	}
	wanted := map[string]bool{}
	for i := range plan.Statuses {
		ref := plan.Statuses[i].Object
		if ref.Kind != "Gateway" {
			continue
		}
		if name := input.FleetOf(ref); name == gatewayFleet(ref) && len(wanted) < maxGateways {
			wanted[name] = true
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lanes = slices.DeleteFunc(l.lanes, func(lane *fleetLane) bool {
		gone := strings.HasPrefix(lane.name, gatewayFleets) && !wanted[lane.name]
		if gone {
			lane.stop()
			l.Server.Dismiss(lane.name)
		}
		delete(wanted, lane.name)
		return gone
	})
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		lane := &fleetLane{
			loop: l, name: name, group: l.Server.Admit(certs.PeerID(name), fleetGrant(name)),
			options: l.gatewayOptions(name, &l.Fleets[template]), incoming: make(chan *generation, 1),
		}
		l.lanes = append(l.lanes, lane)
		l.spawn(lane)
	}
}

func (l *Loop) gatewayOptions(name string, template *FleetConfig) envoy.Options {
	own := *template
	own.Name = name
	return fleetOptions(l.Options, &own)
}
