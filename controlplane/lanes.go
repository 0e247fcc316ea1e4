package controlplane

import (
	"context"
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

// target is the newest rules, and those of before that routes in force still
// refer to. Consumers are the newest: a revoked key is revoked.
func (r *rulesLane) target(newest envoy.Set) envoy.Set {
	r.loop.mu.Lock()
	defer r.loop.mu.Unlock()
	target := maps.Clone(newest)
	for _, lane := range r.loop.lanes {
		for _, held := range lane.state.holds {
			for typeURL, resources := range held {
				if typeURL != envoy.TypeConsumer {
					target[typeURL] = ads.Retain(target[typeURL], resources)
				}
			}
		}
	}
	return target
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

func joinErrors(errs []error) string {
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = strings.TrimSpace(err.Error())
	}
	return strings.Join(texts, "; ")
}
