package controlplane

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"weir.dev/controlplane/ads"
	"weir.dev/controlplane/envoy"
)

// laneState is how far a lane is; the loop's mutex guards it.
type laneState struct {
	// number is that of the generation at hand, finished whether it is done with.
	number   int
	finished bool
	// err is why not all of it is in force.
	err error
	// stuck is set when the fleet is not on the generation at all.
	stuck       error
	quarantined []Quarantine
	// holds are the rules that the routes in force, or about to be, refer to.
	holds []envoy.Set
}

// rulesLane brings rules to Weir's own servers. Rules are added before any
// fleet's routes refer to them, and removed when no fleet's do.
type rulesLane struct {
	loop     *Loop
	group    *ads.Group
	incoming chan *generation
	kick     chan struct{}
	state    laneState
}

func (r *rulesLane) run(ctx context.Context) {
	retry := time.NewTicker(r.loop.retryEvery())
	defer retry.Stop()
	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	var last *generation
	for {
		select {
		case <-ctx.Done():
			return
		case last = <-r.incoming:
			r.roll(ctx, last)
		case <-r.kick:
			if last != nil {
				r.roll(ctx, last)
			}
		case <-watch.C:
			// A client that came after the rollout may reject what is in force.
			if last != nil && r.failure() == nil && anyRejected(r.group) {
				r.roll(ctx, last)
			}
		case <-retry.C:
			if last != nil && r.failure() != nil {
				r.group.Retry()
				r.roll(ctx, last)
			}
		}
	}
}

func anyRejected(group *ads.Group) bool {
	return slices.ContainsFunc(group.Clients(), func(c ads.Client) bool { return c.Rejected != nil })
}

func (r *rulesLane) failure() error {
	r.loop.mu.Lock()
	defer r.loop.mu.Unlock()
	return r.state.err
}

const typeConsumer = "type.googleapis.com/weir.rules.v1.Consumer"

// target is the newest rules, and those of before that routes in force still
// refer to. Consumers are the newest: a revoked key is revoked.
func (r *rulesLane) target(newest envoy.Set) envoy.Set {
	r.loop.mu.Lock()
	defer r.loop.mu.Unlock()
	target := maps.Clone(newest)
	for _, lane := range r.loop.lanes {
		for _, held := range lane.state.holds {
			for typeURL, resources := range held {
				if typeURL != typeConsumer {
					target[typeURL] = retain(target[typeURL], resources)
				}
			}
		}
	}
	return target
}

// retain is resources and what is missing there of others.
func retain(resources, others map[string]envoy.Resource) map[string]envoy.Resource {
	cloned := false
	for name, resource := range others {
		if _, ok := resources[name]; ok {
			continue
		}
		if !cloned {
			resources, cloned = maps.Clone(resources), true
			if resources == nil {
				resources = map[string]envoy.Resource{}
			}
		}
		resources[name] = resource
	}
	return resources
}

func (r *rulesLane) roll(ctx context.Context, next *generation) {
	r.loop.mu.Lock()
	if r.state.number != next.number || !r.state.finished {
		r.state.number, r.state.finished = next.number, false
	}
	r.loop.mu.Unlock()
	err := next.rulesErr
	if err == nil {
		err = r.group.Rollout(ctx, r.target(next.rules))
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		r.loop.Logger.ErrorContext(ctx, "the new rules are not in force, or not all of them", "plan", next.plan.Digest, "error", err)
	}
	r.loop.mu.Lock()
	defer r.loop.mu.Unlock()
	r.state.finished, r.state.err, r.state.quarantined = true, err, quarantinedRules(next, err)
	close(r.loop.rulesReady)
	r.loop.rulesReady = make(chan struct{})
	r.loop.settle()
}

// awaitRules returns when the rules of a generation have been added. They may
// have been rejected: extauthz refuses what it has no rule for.
func (l *Loop) awaitRules(ctx context.Context, number int) error {
	for {
		l.mu.Lock()
		ready := l.rulesReady
		done := l.rules == nil || l.rules.state.finished && l.rules.state.number >= number || l.rules.state.number > number
		l.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ready:
		}
	}
}

// fleetLane brings one fleet's part of each generation to its proxies.
type fleetLane struct {
	loop     *Loop
	name     string
	group    *ads.Group
	options  envoy.Options
	incoming chan *generation
	state    laneState
	// inForce is the digest of the plan that was acknowledged last.
	inForce string
}

func (f *fleetLane) run(ctx context.Context) {
	retry := time.NewTicker(f.loop.retryEvery())
	defer retry.Stop()
	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	var last *generation
	for {
		select {
		case <-ctx.Done():
			return
		case last = <-f.incoming:
			f.roll(ctx, last, false)
		case <-watch.C:
			// A client that came after the rollout may reject what is in force.
			if last != nil && f.failure() == nil && anyRejected(f.group) {
				f.roll(ctx, last, true)
			}
		case <-retry.C:
			if last != nil && f.failure() != nil {
				f.group.Retry()
				f.roll(ctx, last, true)
			}
		}
	}
}

func (f *fleetLane) failure() error {
	f.loop.mu.Lock()
	defer f.loop.mu.Unlock()
	return f.state.err
}

// roll brings the fleet to a generation; again says that this is to be done even
// if the plan is the one in force.
func (f *fleetLane) roll(ctx context.Context, next *generation, again bool) {
	if !f.begin(next, again) {
		return
	}
	if f.loop.awaitRules(ctx, next.number) != nil {
		return
	}
	set, err := envoy.CompileFleet(next.plan, f.options)
	if err == nil {
		err = f.group.Rollout(ctx, set)
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		f.loop.Logger.ErrorContext(ctx, "the new plan is not in force, or not all of it", "fleet", f.name, "plan", next.plan.Digest, "error", err)
	}
	f.end(next, err)
}

// begin notes that a generation is under way. It returns false when there is
// nothing to do.
func (f *fleetLane) begin(next *generation, again bool) bool {
	f.loop.mu.Lock()
	defer f.loop.mu.Unlock()
	// After a failure there is something to settle even when the plan is the one
	// in force: what was rejected may have been put back, or be served in part.
	if !again && f.state.err == nil && f.inForce == next.plan.Digest {
		f.state.number, f.state.finished = next.number, true
		f.loop.settle()
		return false
	}
	if f.state.number != next.number || !f.state.finished {
		f.state.number, f.state.finished = next.number, false
	}
	f.state.holds = append(f.state.holds, next.rules)
	return true
}

// end notes what became of a generation.
func (f *fleetLane) end(next *generation, err error) {
	f.loop.mu.Lock()
	var partial *ads.PartialError
	f.state.stuck = nil
	if err == nil || errors.As(err, &partial) {
		f.state.holds = []envoy.Set{next.rules}
	} else {
		f.state.stuck = err // The routes in force are those of before.
		f.state.holds = f.state.holds[:len(f.state.holds)-1]
	}
	if err == nil {
		f.inForce = next.plan.Digest
	}
	f.state.finished, f.state.err = true, err
	f.loop.settle()
	rules := f.loop.rules
	f.loop.mu.Unlock()
	if rules != nil {
		select {
		case rules.kick <- struct{}{}:
		default:
		}
	}
}

func joinErrors(errs []error) string {
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = strings.TrimSpace(err.Error())
	}
	return strings.Join(texts, "; ")
}
