package kube

import (
	"fmt"
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
}

type progressState int

const (
	progressDone progressState = iota
	progressWaiting
	progressRejected
	// progressClosed is a route's where a listener of its parent is not served.
	progressClosed
)

// progressOf is the worst of the fleets. What was rejected of the object in fields
// that passes, nil for none, is not counted.
func (v *verdict) progressOf(object policy.ObjectRef, fleets []string, now time.Time, passes func(field string) bool) progress {
	result := progress{state: progressDone}
	for _, name := range fleets {
		fleet, known := v.outcome.Fleets[name]
		for _, quarantine := range fleet.Quarantined {
			if quarantine.Origin.Object == object && (passes == nil || !passes(quarantine.Origin.Field)) {
				return progress{state: progressRejected, message: quarantine.text()}
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

// routeProgress is that of a route at a parent, which serves it at listeners of
// its own.
func (v *verdict) routeProgress(route policy.ObjectRef, parent *policy.ParentStatus, now time.Time) progress {
	fleets, holder := v.fleetsAt(route, parent), parentOf(route, parent)
	result := v.progressOf(route, fleets, now, nil)
	if result.state == progressRejected {
		return result
	}
	for _, name := range fleets {
		for _, q := range v.outcome.Fleets[name].Quarantined {
			// Where the last good version serves, routes reach it.
			if q.Origin.Object == holder && !q.Kept && policy.ClosesListeners(q.Origin.Field, parent.Listeners) {
				return progress{state: progressClosed, message: fmt.Sprintf("%s: %s", holder, q.text())}
			}
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

// parentOf is what an object's parent or ancestor refers to.
func parentOf(object policy.ObjectRef, parent *policy.ParentStatus) policy.ObjectRef {
	ref := policy.ObjectRef{Kind: kindGateway, Namespace: object.Namespace, Name: string(parent.Ref.Name)}
	if parent.Ref.Kind != nil {
		ref.Kind = string(*parent.Ref.Kind)
	}
	if parent.Ref.Namespace != nil {
		ref.Namespace = string(*parent.Ref.Namespace)
	}
	return ref
}

// fleetsAt lists the fleets that serve an object at one parent or ancestor.
func (v *verdict) fleetsAt(object policy.ObjectRef, parent *policy.ParentStatus) []string {
	ref := parentOf(object, parent)
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
