package mtls

import (
	"context"
	"fmt"
	"sync"
	"time"

	"weir.dev/policy"
)

// roundLeast is what one round of asking the sidecars has at least, however little is
// left of the wait.
const roundLeast = 5 * time.Second

// verify waits until every sidecar has the mode and, after STRICT, watches whether
// somebody is harmed, and whether it is in force at the end. It ends as soon as somebody
// is: callers are those, without their names. No reasons and no callers mean that the
// mode is in force.
func (c *change) verify(ctx context.Context) (reasons []Reason, callers []Caller) {
	guarded, unguard := c.guard(ctx)
	why := c.settle(guarded, c.request.Wait, c.request.To)
	if why == "" && c.observing != nil {
		why = c.watch(guarded)
	}
	unguard()
	if callers = c.hurt(); len(callers) > 0 {
		return nil, callers
	}
	if c.observing != nil {
		if blind := c.observing.blind(); blind != "" {
			why = blind
		}
	}
	if why != "" {
		reasons = []Reason{{policy.CodeMTLSRolledBack, why}}
	}
	return reasons, nil
}

// hurt are those who were harmed since STRICT was set; nobody without an observation.
func (c *change) hurt() []Caller {
	if c.observing == nil {
		return nil
	}
	return harmed(c.before, c.observing.tally.callers(Directory{}))
}

// guard ends a context as soon as somebody is harmed, or that is not known any more.
func (c *change) guard(ctx context.Context) (guarded context.Context, unguard func()) {
	guarded, cancel := context.WithCancel(ctx)
	var guarding sync.WaitGroup
	if c.observing != nil {
		guarding.Go(func() {
			for len(c.hurt()) == 0 && c.observing.blind() == "" {
				if !pause(guarded, lookEvery) {
					return
				}
			}
			cancel()
		})
	}
	return guarded, func() {
		cancel()
		guarding.Wait()
	}
}

// watch lets time pass in which somebody may be harmed, and then sees to it that all of
// it was seen, and that the mode is in force. What is wrong is answered.
func (c *change) watch(ctx context.Context) string {
	c.request.Progress(fmt.Sprintf("watching for %s whether somebody is refused", c.request.Watch))
	const cut = "interrupted before it was known whether somebody is refused"
	for end := time.Now().Add(c.request.Watch + logsLate); ; {
		c.observing.join(ctx)
		left := time.Until(end)
		if left <= 0 {
			break
		}
		if !pause(ctx, min(relistEvery, left)) {
			return cut
		}
	}
	// Pods that come may need a while until they have all of it.
	for end := time.Now().Add(c.request.Wait); ; {
		late, final := c.held(ctx, end)
		switch {
		case late == "":
			return ""
		case final || !time.Now().Before(end):
			return late
		case !pause(ctx, lookEvery):
			return cut
		}
		c.observing.join(ctx)
	}
}

// held asks once whether every sidecar was observed by this run and has the mode; final
// is what does not mend itself.
func (c *change) held(ctx context.Context, end time.Time) (late string, final bool) {
	ctx, cancel := round(ctx, end)
	defer cancel()
	found := c.observing.survey(ctx)
	switch {
	case found.failed == nil && found.mode != c.request.To:
		return meanwhile(found.by, found.mode), true
	case len(found.unknown) > 0:
		return found.unknown[0], false
	}
	return found.differs, false
}

func meanwhile(by string, mode Mode) string {
	return fmt.Sprintf("somebody changed it meanwhile: %s says %s", by, mode)
}

// round bounds one asking of all sidecars by what is left.
func round(ctx context.Context, end time.Time) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, max(time.Until(end), roundLeast))
}

// name says who was harmed; who it is may have come after the observation.
func (c *change) name(ctx context.Context, callers []Caller) {
	if len(callers) == 0 {
		return
	}
	c.observing.look(ctx)
	for i := range callers {
		c.observing.directory.name(&callers[i])
		c.result.Reasons = append(c.result.Reasons, Reason{policy.CodeMTLSRolledBack, fmt.Sprintf("%s: %s", &callers[i], remedy(&callers[i]))})
	}
	c.result.Callers = callers
}

// settle waits until every sidecar of the scope has the modes that the policies say;
// what is missing is answered when it is in vain. want is the mode that they have to say
// of the scope, Unset whatever they do.
func (c *change) settle(ctx context.Context, within time.Duration, want Mode) string {
	c.request.Progress("waiting for the sidecars to have it")
	for end := time.Now().Add(within); ; {
		late, final := c.late(ctx, end, want)
		switch {
		case late == "" || final:
			return late
		case !time.Now().Before(end):
			return fmt.Sprintf("waited %s for the sidecars in vain: %s", within, late)
		case !pause(ctx, lookEvery):
			return "interrupted before every sidecar had it"
		}
	}
}

// late asks once which sidecar has not what the policies say; final is what does not
// mend itself.
func (c *change) late(ctx context.Context, end time.Time, want Mode) (late string, final bool) {
	ctx, cancel := round(ctx, end)
	defer cancel()
	state, err := c.State(ctx, c.request.Scope.Namespace)
	if err != nil {
		return err.Error(), false
	}
	standing, _ := Stand(state, c.request.Scope)
	if want != Unset && standing.Mode != want {
		return meanwhile(standing.By, standing.Mode), true
	}
	return firstOf(standing.Governed, func(pod Pod) string {
		inbound, err := ask(ctx, c.Cluster, pod)
		if err != nil {
			return err.Error()
		}
		if inbound.Rejected != "" {
			return "its proxy refuses its configuration: " + inbound.Rejected
		}
		return inbound.Differs(state.Policies.Effective(pod.Namespace, pod.Labels))
	}), false
}

func ask(ctx context.Context, cluster Cluster, pod Pod) (Inbound, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	return cluster.Inbound(ctx, pod)
}
