package controlplane

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"weir.dev/controlplane/ads"
	"weir.dev/policy"
)

// Watch has watcher told of every Outcome, beginning with the one at hand if
// there is one. Calls come one after another while Run runs; what happens during
// a call is joined. Safe for concurrent use.
func (l *Loop) Watch(watcher func(Outcome)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.init()
	l.watchers = append(l.watchers, watcher)
	l.say()
}

// Outcome is what became of the newest update so far; its Plan is nil before
// the first. Safe for concurrent use.
func (l *Loop) Outcome() Outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.newest == nil {
		return Outcome{}
	}
	outcome := Outcome{
		Plan: l.newest.plan, Input: l.newest.input, Fleets: map[string]FleetOutcome{}, FleetOf: l.newest.input.FleetOf, Time: time.Now(),
	}
	var rejected policy.Problems
	if l.rules != nil {
		rejected = append(rejected, problemsOf(l.rules.state.quarantined)...)
	}
	for _, lane := range l.lanes {
		fleet := FleetOutcome{Quarantined: slices.Clone(lane.state.quarantined), Clients: lane.group.Clients()}
		if l.rules != nil {
			fleet.Quarantined = append(fleet.Quarantined, l.rules.state.quarantined...)
		}
		rejected = append(rejected, problemsOf(lane.state.quarantined)...)
		if lane.state.stuck != nil {
			rejected = append(rejected, rolledBack(lane.name, lane.state.stuck))
		}
		fleet.Waiting = l.waiting(lane, fleet.Clients)
		fleet.Programmed = fleet.Waiting == ""
		outcome.Fleets[lane.name] = fleet
	}
	outcome.Problems = l.newest.problems
	if len(rejected) > 0 { // The others are sorted.
		outcome.Problems = slices.Concat(l.newest.problems, rejected)
		outcome.Problems.Sort()
		outcome.Problems = slices.Compact(outcome.Problems)
	}
	return outcome
}

// waiting says what is missing until a fleet is programmed; the caller holds mu.
func (l *Loop) waiting(lane *fleetLane, clients []ads.Client) string {
	number := l.newest.number
	if rules := l.rules; rules != nil && rules.state.number < number {
		return "the rules are on their way to extauthz and ratelimit"
	}
	if !lane.state.finished || lane.state.number != number {
		return "the rollout is under way"
	}
	if lane.state.stuck != nil {
		return "the rollout failed: " + lane.state.stuck.Error()
	}
	if len(clients) == 0 {
		return "no proxy of the fleet is connected"
	}
	var behind []string
	for _, client := range clients {
		// A listener that it cannot open holds up nothing but itself.
		if opens := client.SyncedButListeners && quarantinedAll(lane.state.quarantined, client); !client.InSync && !opens {
			behind = append(behind, client.Node)
		}
	}
	if len(behind) > 0 {
		slices.Sort(behind)
		return fmt.Sprintf("not acknowledged by %s", strings.Join(slices.Compact(behind), ", "))
	}
	return ""
}

// quarantinedAll reports whether everything that a client rejects is quarantined,
// so that the objects at fault say so themselves.
func quarantinedAll(quarantined []Quarantine, client ads.Client) bool {
	return client.Rejected != nil && !slices.ContainsFunc(client.Rejected.Resources, func(name string) bool {
		return !slices.ContainsFunc(quarantined, func(q Quarantine) bool { return q.Resource == name })
	})
}

// publish tells watchers whenever there is something new.
func (l *Loop) publish(ctx context.Context) {
	look := time.NewTicker(watchEvery)
	defer look.Stop()
	var last Outcome
	told := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.said:
		case <-look.C:
		}
		l.mu.Lock()
		watchers := slices.Clone(l.watchers)
		l.mu.Unlock()
		outcome := l.Outcome()
		if outcome.Plan == nil {
			continue
		}
		changed := !equalOutcomes(last, outcome)
		for i, watcher := range watchers {
			if changed || i >= told {
				watcher(outcome)
			}
		}
		last, told = outcome, len(watchers)
	}
}

func equalOutcomes(a, b Outcome) bool {
	return a.Plan == b.Plan && slices.Equal(a.Problems, b.Problems) &&
		maps.EqualFunc(a.Fleets, b.Fleets, func(x, y FleetOutcome) bool { return reflect.DeepEqual(x, y) })
}
