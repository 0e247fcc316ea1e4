package controlplane

import (
	"time"

	"weir.dev/controlplane/ads"
	"weir.dev/policy"
)

// Outcome is what became of an update so far: what status is written from and
// the admin API tells. It is immutable.
type Outcome struct {
	// Plan is what was resolved; its Statuses lack Programmed and Enforced.
	Plan *policy.Plan
	// Input is what it was resolved from.
	Input policy.Input
	// Problems of the sources, of resolving and of the rollout, sorted.
	Problems policy.Problems
	// Fleets by name; see policy.Port.Fleet.
	Fleets map[string]FleetOutcome
	// FleetOf names the fleet that serves a Gateway; nil means that there is only
	// the one named "".
	FleetOf func(gateway policy.ObjectRef) string
	Time    time.Time
}

// FleetOutcome is how far one fleet's proxies are.
type FleetOutcome struct {
	// Programmed is set once every connected proxy of the fleet acknowledged all
	// of the Plan but what is Quarantined, and at least one is connected.
	Programmed bool
	// Waiting says what is waited for while it is not.
	Waiting     string
	Quarantined []Quarantine
	Clients     []ads.Client
}

// Quarantine is a part of the policy that a proxy rejected and that is therefore
// left out, or kept as it last was.
type Quarantine struct {
	// Origin is the object, and the field as far as it is known, at fault.
	Origin policy.Origin
	// Kept is set when the object's last good version serves in its place.
	Kept bool
	// Among is 0 where the object is known to be at fault, and else the number of
	// changed objects that could not be told apart.
	Among int
	// Node, Resource and Message are the proxy, what it rejected and why, in its
	// words.
	Node, Resource, Message string
}
