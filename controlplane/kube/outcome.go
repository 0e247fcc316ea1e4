package kube

import (
	"time"

	"weir.dev/policy"
)

// Outcome is what became of an update so far. It is immutable.
type Outcome struct {
	// Plan is what was resolved, with the statuses as far as resolving knows.
	Plan   *policy.Plan
	Fleets map[string]Fleet
	// FleetOf names the fleet that serves a Gateway; nil means that there is only
	// the one named "".
	FleetOf func(gateway policy.ObjectRef) string
	Time    time.Time
}

// Fleet is how far one fleet's proxies are.
type Fleet struct {
	// Programmed is set once every connected proxy acknowledged all of the Plan
	// but what is Quarantined, and at least one is connected; Waiting says what is
	// waited for while it is not.
	Programmed  bool
	Waiting     string
	Quarantined []Quarantine
}

// Quarantine is a part of the policy that a proxy rejected.
type Quarantine struct {
	// Origin is the object at fault, and the field as far as it is known.
	Origin policy.Origin
	// Kept is set when the last good version serves in its place.
	Kept bool
	// Message says who rejected what and why.
	Message string
}

// keepProgrammed is how long an object that was programmed stays so in its
// status while a fleet catches up with changes elsewhere: every change anywhere
// would otherwise be written to every object twice.
const keepProgrammed = 5 * time.Second

// verdict is an outcome, prepared for looking at one object after the other.
type verdict struct {
	outcome  Outcome
	statuses map[policy.ObjectRef]*policy.ObjectStatus
	// waiting is since when a fleet has not been programmed.
	waiting map[string]time.Time
}

func newVerdict(outcome Outcome, before *verdict) *verdict {
	v := &verdict{outcome: outcome, statuses: map[policy.ObjectRef]*policy.ObjectStatus{}, waiting: map[string]time.Time{}}
	for i := range outcome.Plan.Statuses {
		v.statuses[outcome.Plan.Statuses[i].Object] = &outcome.Plan.Statuses[i]
	}
	for name, fleet := range outcome.Fleets {
		if fleet.Programmed {
			continue
		}
		v.waiting[name] = outcome.Time
		if before != nil {
			if since, ok := before.waiting[name]; ok {
				v.waiting[name] = since
			}
		}
	}
	return v
}

func (v *verdict) fleetOf(gateway policy.ObjectRef) string {
	if v.outcome.FleetOf == nil {
		return ""
	}
	return v.outcome.FleetOf(gateway)
}

// progress is how far one object is.
type progress struct {
	state progressState
	// message of what is waited for, or why it was rejected.
	message string
	// long is set when it has been waited for a while.
	long bool
	// field is what was rejected, for progressRejected.
	field string
}

type progressState int

const (
	progressDone progressState = iota
	progressWaiting
	progressRejected
)

// progressOf is the worst of the fleets.
func (v *verdict) progressOf(object policy.ObjectRef, fleets []string, now time.Time) progress {
	result := progress{state: progressDone}
	for _, name := range fleets {
		fleet, known := v.outcome.Fleets[name]
		for _, quarantine := range fleet.Quarantined {
			if quarantine.Origin.Object == object {
				return progress{state: progressRejected, message: quarantine.text(), field: quarantine.Origin.Field}
			}
		}
		if known && fleet.Programmed || result.state != progressDone {
			continue
		}
		result = progress{state: progressWaiting, message: fleet.Waiting, long: !known || now.Sub(v.waiting[name]) >= keepProgrammed}
		if result.message == "" {
			result.message = "no proxy has taken it over yet"
		}
	}
	return result
}

func (q Quarantine) text() string {
	text := q.Message
	if q.Origin.Field != "" {
		text = q.Origin.Field + ": " + text
	}
	if q.Kept {
		return text + "; the last version that was accepted serves in its place"
	}
	return text + "; it is left out"
}

// fleetsOf lists the fleets that serve an object, by the gateways it is attached
// to.
func (v *verdict) fleetsOf(status *policy.ObjectStatus) []string {
	if status.Object.Kind == kindGateway {
		return []string{v.fleetOf(status.Object)}
	}
	var fleets []string
	for i := range status.Parents {
		fleets = append(fleets, v.fleetsAt(status.Object, &status.Parents[i])...)
	}
	return fleets
}

// fleetsAt lists the fleets that serve an object at one parent or ancestor.
func (v *verdict) fleetsAt(object policy.ObjectRef, parent *policy.ParentStatus) []string {
	ref := policy.ObjectRef{Kind: kindGateway, Namespace: object.Namespace, Name: string(parent.Ref.Name)}
	if parent.Ref.Kind != nil {
		ref.Kind = string(*parent.Ref.Kind)
	}
	if parent.Ref.Namespace != nil {
		ref.Namespace = string(*parent.Ref.Namespace)
	}
	if ref.Kind == kindGateway {
		return []string{v.fleetOf(ref)}
	}
	// The ancestor is a route or ListenerSet, or something else that hangs on gateways.
	if status, ok := v.statuses[ref]; ok && ref != object && (isRoute(ref.Kind) || ref.Kind == kindListenerSet) {
		return v.fleetsOf(status)
	}
	var all []string
	for name := range v.outcome.Fleets {
		all = append(all, name)
	}
	return all
}
