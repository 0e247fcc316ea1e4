package controlplane

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"weir.dev/controlplane/ads"
	"weir.dev/controlplane/envoy"
	"weir.dev/controlplane/folder"
	"weir.dev/policy"
)

// Loop turns updates of a source into rollouts: one for the rules, and one for
// each fleet, which do not wait for each other.
type Loop struct {
	Server  *ads.Server
	Options envoy.Options
	// Fleets are those of the configuration; none stands for one that serves all.
	Fleets []FleetConfig
	// Published is Input.Published of package policy.
	Published []string
	// Provisioned is Input.Provisioned.
	Provisioned bool
	Logger      *slog.Logger
	// RetryEvery is how often what was rejected is tried again; 0 means 15 s.
	RetryEvery time.Duration

	mu       sync.Mutex
	status   Status
	told     policy.Problems
	watchers []func(Outcome)
	newest   *generation
	lanes    []*fleetLane
	rules    *rulesLane
	// spawn runs a lane; only Run's goroutine uses it.
	spawn func(*fleetLane)
	// said is set when a lane has something new for watchers.
	said chan struct{}
	// rulesReady is replaced whenever the rules lane is done with a generation.
	rulesReady chan struct{}
	// resolver and compiled remember the last update; only Run's goroutine uses
	// them.
	resolver policy.Resolver
	compiled envoy.Cache
	// noQuarantine is set by tests: what they claim of quarantine must fail then.
	noQuarantine bool
}

// generation is one update, resolved.
type generation struct {
	number   int
	input    policy.Input
	plan     *policy.Plan
	problems policy.Problems
	rules    envoy.Set
	rulesErr error
	started  time.Time
}

// retryEvery is how often a rollout that was rejected, as a whole or in part, is
// tried again: what a proxy rejected may work later, such as a port that was
// taken.
const retryEvery = 15 * time.Second

// watchEvery is how often rejections outside of a rollout are looked for, and
// clients that came or went.
const watchEvery = 500 * time.Millisecond

// Run rolls out the newest update until ctx ends; updates that come during a
// rollout replace each other.
func (l *Loop) Run(ctx context.Context, updates <-chan folder.Update) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.start()
	if l.rules != nil {
		wait.Go(func() { l.rules.run(ctx) })
	}
	l.spawn = func(lane *fleetLane) {
		laneCtx, stop := context.WithCancel(ctx)
		lane.stop = stop
		wait.Go(func() { lane.run(laneCtx) })
	}
	for _, lane := range l.lanes {
		l.spawn(lane)
	}
	wait.Go(func() { l.publish(ctx) })
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case update := <-updates:
			l.apply(update)
		}
	}
}

// start makes the lanes.
func (l *Loop) start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.init()
	if len(l.Fleets) == 0 {
		l.Fleets = []FleetConfig{{}}
	}
	l.rulesReady = make(chan struct{})
	if group := l.Server.Group(rulesGroup); group != nil {
		l.rules = &rulesLane{loop: l, group: group, incoming: make(chan *generation, 1), kick: make(chan struct{}, 1)}
	}
	for i := range l.Fleets {
		fleet := &l.Fleets[i]
		if group := l.Server.Group(fleet.Name); group != nil {
			l.lanes = append(l.lanes, &fleetLane{
				loop: l, name: fleet.Name, group: group, options: fleetOptions(l.Options, fleet), incoming: make(chan *generation, 1),
			})
		}
	}
}

func (l *Loop) init() {
	if l.said == nil {
		l.said = make(chan struct{}, 1)
	}
}

func (l *Loop) retryEvery() time.Duration { return cmp.Or(l.RetryEvery, retryEvery) }

// apply resolves an update and hands it to the lanes.
func (l *Loop) apply(update folder.Update) {
	started := time.Now()
	input := update.Input
	input.FleetOf, input.Published, input.Provisioned = fleetOf(l.Fleets, input.Objects), l.Published, l.Provisioned
	plan, problems := l.resolver.Resolve(input)
	if found := slices.Concat(update.Problems, fleetless(input.FleetOf, input.Objects)); len(found) > 0 {
		problems = slices.Concat(found, problems)
		problems.Sort()
	}
	problems = distinct(problems)
	l.tell(problems)
	next := &generation{input: input, plan: plan, problems: problems, started: started}
	next.rules, next.rulesErr = l.compiled.CompileRules(plan)
	l.followGateways(input, plan)
	l.mu.Lock()
	if l.newest != nil {
		next.number = l.newest.number + 1
	}
	l.newest = next
	l.settle()
	l.mu.Unlock()
	if l.rules != nil {
		replaceWaiting(l.rules.incoming, next)
	}
	for _, lane := range l.lanes {
		replaceWaiting(lane.incoming, next)
	}
}

// distinct is a sorted list without what it repeats; the list itself stays as it
// is.
func distinct(problems policy.Problems) policy.Problems {
	for i := 1; i < len(problems); i++ {
		if problems[i] == problems[i-1] {
			return slices.Compact(slices.Clone(problems))
		}
	}
	return problems
}

// replaceWaiting puts a value into a channel of one, in the place of what waits
// there. There is one sender.
func replaceWaiting[T any](channel chan T, value T) {
	select {
	case <-channel:
	default:
	}
	channel <- value
}

// settle derives the status from what the lanes say; the caller holds mu.
func (l *Loop) settle() {
	newest := l.newest
	if newest == nil {
		return
	}
	l.status.Problems, l.status.Updated = newest.problems, time.Now()
	done, failed := true, []error(nil)
	look := func(name string, state *laneState) {
		done = done && state.finished && state.number == newest.number
		if state.err != nil && state.number == newest.number {
			err := state.err
			if name != "" {
				err = fmt.Errorf("fleet %s: %w", name, err)
			}
			failed = append(failed, err)
		}
	}
	if l.rules != nil {
		look("", &l.rules.state)
	}
	for _, lane := range l.lanes {
		look(lane.name, &lane.state)
	}
	switch {
	case len(failed) > 0:
		// Also when most of it is in force (ads.PartialError), Plan stays the one
		// that was acknowledged whole.
		l.status.Rolling, l.status.Error = newest.plan.Digest, joinErrors(failed)
	case done:
		if l.status.Plan != newest.plan.Digest || l.status.Error != "" {
			l.Logger.Info("plan in force", "plan", newest.plan.Digest, "routes", countRoutes(newest.plan), "backends", len(newest.plan.Backends),
				"consumers", len(newest.plan.Consumers), "limits", len(newest.plan.RateLimits), "problems", len(newest.problems.Errors()),
				"duration", time.Since(newest.started))
		}
		l.status.Plan, l.status.Rolling, l.status.Error = newest.plan.Digest, "", ""
	case l.status.Plan != newest.plan.Digest || l.status.Error != "":
		// Error stays until it is known whether it still holds.
		l.status.Rolling = newest.plan.Digest
	}
	l.say()
}

// say has watchers told; the caller need not hold mu.
func (l *Loop) say() {
	select {
	case l.said <- struct{}{}:
	default:
	}
}

func countRoutes(plan *policy.Plan) int {
	count := 0
	for _, port := range plan.Ports {
		for _, chain := range port.Chains {
			for _, host := range chain.Hosts {
				count += len(host.Routes)
			}
		}
	}
	return count
}
