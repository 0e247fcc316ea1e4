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
// When a client rejects a step, the previous target is restored everywhere and
// the rejection is returned. A step that times out goes on and is named in the
// log. It is not safe for concurrent use with itself.
func (s *Server) Rollout(ctx context.Context, next envoy.Set) error {
	started := time.Now()
	s.mu.Lock()
	current, first := s.target, !s.ready
	s.mu.Unlock()
	if first {
		// Clients may hold more than we know from an earlier life of ours; they are
		// brought to next directly, which is what they had unless policy changed.
		current = next
	}
	for _, step := range steps(current, next) {
		if equal(step.target, current) && !first {
			continue
		}
		s.set(step.target)
		if err := s.await(ctx, step); err != nil {
			var rejection *Rejection
			if errors.As(err, &rejection) {
				s.metrics.rollouts.WithLabelValues("rejected").Inc()
				if !first {
					s.set(current)
				}
			}
			return fmt.Errorf("step %q: %w", step.name, err)
		}
		if first {
			break
		}
	}
	s.metrics.rollouts.WithLabelValues("acknowledged").Inc()
	s.metrics.duration.Observe(time.Since(started).Seconds())
	return nil
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

func (s *Server) await(ctx context.Context, step step) error {
	timer := time.NewTimer(stepTimeout)
	defer timer.Stop()
	for {
		_, _, changed := s.look()
		waiting, rejected := s.outOfSync(step.types)
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
			s.logger.Warn("clients have not acknowledged in time; going on without them", "step", step.name, "nodes", waiting)
			return nil
		}
	}
}
