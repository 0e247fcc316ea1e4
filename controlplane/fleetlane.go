package controlplane

import (
	"context"
	"errors"
	"slices"
	"time"

	"weir.dev/controlplane/ads"
	"weir.dev/controlplane/envoy"
	"weir.dev/policy"
)

// fleetLane brings one fleet's part of each generation to its proxies.
type fleetLane struct {
	loop     *Loop
	name     string
	group    *ads.Group
	options  envoy.Options
	incoming chan *generation
	state    laneState
	// stop ends the lane, when its Gateway is gone.
	stop context.CancelFunc
	// compiled is used by the lane's goroutine alone.
	compiled envoy.Cache
	// inForce is the digest of the plan that was acknowledged last.
	inForce string
	// accepted are the objects that a proxy took last, nil before there was one;
	// offered are those in force until one took them, nil after; held are those that
	// are quarantined, as they were rejected. Only the lane's goroutine touches
	// the three.
	accepted, offered *versions
	held              map[policy.ObjectRef]heldObject
}

// heldObject is an object in quarantine.
type heldObject struct {
	rejected *policy.Object
	reason   Quarantine
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
			f.noteAccepted()
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
	f.noteAccepted()
	search := newSearch(f, next)
	if again {
		f.held = nil
	}
	f.keepHeld(search)
	t := search.run(ctx, search.attempt(ctx, nil))
	if ctx.Err() != nil {
		return
	}
	if err := f.end(next, search, t); err != nil {
		f.loop.Logger.ErrorContext(ctx, "the new plan is not in force, or not all of it", "fleet", f.name, "plan", next.plan.Digest, "error", err)
	}
}

// keepHeld leaves in quarantine what is as it was when it was rejected, unless
// something changed that it refers to.
func (f *fleetLane) keepHeld(s *search) {
	for ref, held := range f.held {
		rejected := held.rejected
		mended := !s.wanted.of(ref).SameContent(rejected) || rejected != nil && slices.ContainsFunc(s.changed(), func(other policy.ObjectRef) bool {
			_, alsoHeld := f.held[other]
			return !alsoHeld && rejected.RefersTo(other)
		})
		if !mended {
			s.blamed[ref] = held.reason
		}
	}
}

// noteAccepted has what is in force be what to go back to, once a proxy took it:
// where none was there to do so, the first that comes may reject it.
func (f *fleetLane) noteAccepted() {
	if f.offered != nil && f.group.Accepted() {
		f.accepted, f.offered = f.offered, nil
	}
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

// end notes what became of a generation, and returns why not all of it is in
// force.
func (f *fleetLane) end(next *generation, s *search, t trial) error {
	err := t.err
	if t.rejection == nil {
		f.offered = s.wanted
		if len(s.blamed) > 0 {
			f.offered = versionsOf(next.input.Substitute(s.replaced(nil)))
		}
		f.noteAccepted()
		f.held = map[policy.ObjectRef]heldObject{}
		for ref, reason := range s.blamed {
			f.held[ref] = heldObject{rejected: s.wanted.of(ref), reason: reason}
		}
		err = quarantineError(err, s.blamed)
	}
	rules, rulesErr := next.rules, error(nil)
	if t.plan != next.plan {
		rules, rulesErr = envoy.CompileRules(t.plan)
	}
	f.loop.mu.Lock()
	defer f.loop.mu.Unlock()
	state := &f.state
	state.stuck, state.quarantined = nil, quarantinedObjects(next, f.options, s.blamed, t)
	switch {
	case rulesErr != nil, t.rejection != nil && !isPartial(t.err), t.rejection == nil && t.err != nil && !isPartial(t.err):
		// The routes in force are those of before.
		state.stuck = errors.Join(t.err, rulesErr)
		state.holds = state.holds[:len(state.holds)-1]
	default:
		state.holds = []envoy.Set{rules}
	}
	if err == nil {
		f.inForce = next.plan.Digest
	}
	state.finished, state.err = true, err
	f.loop.settle()
	if f.loop.rules != nil {
		select {
		case f.loop.rules.kick <- struct{}{}:
		default:
		}
	}
	return err
}
