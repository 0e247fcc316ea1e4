package ads

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"weir.dev/controlplane/envoy"
)

// stepTimeout is how long one step waits for acknowledgement. A client that is
// connected and silent for longer does not hold up the others.
const stepTimeout = 3 * time.Second

// Rollout brings every connected client from the current target to next, in
// steps that each wait for acknowledgement: rules are added, then clusters and
// their endpoints, then routes switch, then what is no longer referred to goes.
//
// When a client rejects something that next changes, the previous target is
// restored everywhere and the rejection is returned. A client that rejects what
// was served before does not hold up changes elsewhere; that rejection is
// returned too, with next in force. So it is with the first target: there is
// nothing to go back to. A step that times out goes on and is named in the log.
//
// It is not safe for concurrent use with itself. When ctx ends it returns at
// once and leaves the step reached, in which everything that was served still is.
func (s *Server) Rollout(ctx context.Context, next envoy.Set) error {
	started := time.Now()
	s.mu.Lock()
	current, first := s.target, !s.ready
	s.mu.Unlock()
	_, _ = s.outOfSync(nil, nil) // Who has caught up by now is waited for again.
	todo, reached, base := steps(current, next), current, current
	if first {
		// Clients may hold more than we know from an earlier life of ours; they are
		// brought to next directly, which is what they had unless policy changed.
		todo, base = []step{{name: "first", target: next}}, nil
	}
	for _, now := range todo {
		if !first && equal(now.target, reached) {
			continue
		}
		s.set(now.target)
		reached = now.target
		err := s.await(ctx, now, base)
		var rejection *Rejection
		if errors.As(err, &rejection) {
			s.metrics.rollouts.WithLabelValues("rejected").Inc()
			if first {
				return fmt.Errorf("in force, but not everywhere: %w", err)
			}
			s.restore(ctx, current)
		}
		if err != nil {
			return fmt.Errorf("step %q: %w", now.name, err)
		}
	}
	if _, standing := s.outOfSync(nil, nil); standing != nil {
		s.metrics.rollouts.WithLabelValues("rejected").Inc()
		return fmt.Errorf("in force, but not everywhere: %w", standing)
	}
	s.metrics.rollouts.WithLabelValues("acknowledged").Inc()
	s.metrics.duration.Observe(time.Since(started).Seconds())
	return nil
}

// restore goes back to a target that was in force, and waits for it like for any
// step. What a client rejects even of that shows in its status.
func (s *Server) restore(ctx context.Context, target envoy.Set) {
	s.set(target)
	if err := s.await(ctx, step{name: "restore", target: target}, target); err != nil {
		s.logger.WarnContext(ctx, "restoring the previous target", "error", err)
	}
}

type step struct {
	name   string
	types  []string
	target envoy.Set
}

func steps(current, next envoy.Set) []step {
	rules := ruleTypes(current, next)
	upstream := []string{envoy.TypeCluster, envoy.TypeEndpoint}
	routing := []string{envoy.TypeListener, envoy.TypeRoute}
	added := merge(current, next, rules...)
	warmed := merge(added, next, upstream...)
	for name := range warmed[envoy.TypeEndpoint] {
		// A cluster that no longer has endpoints of its own, but looks them up, is
		// not asked for any by the proxy.
		_, stays := next[envoy.TypeCluster][name]
		if _, wanted := next[envoy.TypeEndpoint][name]; stays && !wanted {
			delete(warmed[envoy.TypeEndpoint], name) // merge made the map
		}
	}
	switched := replace(warmed, next, routing...)
	all := slices.Concat(rules, upstream, routing)
	return []step{
		{"add rules", rules, added},
		{"add clusters", upstream, warmed},
		{"switch routes", routing, switched},
		{"remove what is unused", all, next},
	}
}

// ruleTypes are the types that are Weir's own.
func ruleTypes(sets ...envoy.Set) []string {
	var types []string
	for _, set := range sets {
		for typeURL := range set {
			if strings.Contains(typeURL, "/weir.") && !slices.Contains(types, typeURL) {
				types = append(types, typeURL)
			}
		}
	}
	slices.Sort(types)
	return types
}

func equal(a, b envoy.Set) bool {
	return maps.EqualFunc(a, b, func(x, y map[string]envoy.Resource) bool {
		return maps.EqualFunc(x, y, func(p, q envoy.Resource) bool { return p.Version == q.Version })
	})
}

// await returns when every client answered the step, with a *Rejection when one
// refuses what base does not have.
func (s *Server) await(ctx context.Context, step step, base envoy.Set) error {
	timer := time.NewTimer(s.stepTimeout)
	defer timer.Stop()
	for {
		_, _, changed := s.look()
		waiting, rejected := s.outOfSync(base, step.types)
		if rejected != nil {
			return rejected
		}
		if len(waiting) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-timer.C:
			s.logger.WarnContext(ctx, "clients have not acknowledged in time; going on without them",
				"step", step.name, "nodes", s.leaveBehind(waiting))
			return nil
		}
	}
}
