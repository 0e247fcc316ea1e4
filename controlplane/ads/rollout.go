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
// A listener or rule that a client rejects is quarantined: it stays everywhere as
// it was before, or is left out when it is new, the rest of next goes on, and a
// *PartialError says so. What a client rejects of clusters and routes is not told
// apart from what depends on it: the previous target is restored everywhere and
// the rejection is returned. A client that rejects what
// was served before does not hold up changes elsewhere; that, too, is a
// *PartialError. So it is with what an Envoy rejects of the first target: there
// is nothing to go back to, and what it had before stays. A step that times out
// goes on and is named in the log.
//
// It is not safe for concurrent use with itself. When ctx ends it returns at
// once and leaves the step reached, in which everything that was served still is.
func (g *Group) Rollout(ctx context.Context, next envoy.Set) error {
	started := time.Now()
	g.mu.Lock()
	current, first := g.target, !g.ready
	g.rolling = true
	g.mu.Unlock()
	defer g.rolled()
	next = keepMaps(current, next)
	_, _ = g.outOfSync(nil, nil) // Who has caught up by now is waited for again.
	var partial PartialError
	// What was reached before something was rejected is gone on from.
	reached := current
	for {
		err := g.walk(ctx, walk{current: current, from: reached, next: next, first: first, again: len(partial.Rejections) > 0})
		if err == nil {
			standing := g.standingRule()
			if standing == nil || len(partial.Rejections) > maxQuarantined {
				break
			}
			err = standing
		}
		var rejection *Rejection
		if !errors.As(err, &rejection) {
			return err
		}
		g.metrics.rollouts.WithLabelValues("rejected").Inc()
		partial.Rejections = append(partial.Rejections, rejection)
		alone := isRule(rejection.TypeURL) || (rejection.TypeURL == envoy.TypeListener || rejection.TypeURL == envoy.TypeSecret) && !first
		switch {
		case alone && len(rejection.Blamed()) > 0 && len(partial.Rejections) <= maxQuarantined:
		case first:
			g.clearListeners()
			return &partial
		default:
			g.restore(ctx, withRules(current, next, rejection))
			return err
		}
		next = g.quarantine(current, next, rejection)
		reached = g.leaveOut(next, rejection)
	}
	if standing := g.standing(); len(standing) > 0 {
		g.metrics.rollouts.WithLabelValues("rejected").Inc()
		partial.Rejections = append(partial.Rejections, standing...)
		g.clearListeners()
	}
	if len(partial.Rejections) > 0 {
		return &partial
	}
	g.metrics.rollouts.WithLabelValues("acknowledged").Inc()
	g.metrics.duration.Observe(time.Since(started).Seconds())
	return nil
}

// rolled ends a rollout, after which what lingers is looked at.
func (g *Group) rolled() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rolling = false
	if len(g.unused) > 0 {
		time.AfterFunc(g.linger, g.sweep)
	}
}

// standingRule is a rejection of rules that were in force before, such as one of
// a server that has just connected. Such a server has none of its rules, so what
// it blames is worth leaving out.
func (g *Group) standingRule() *Rejection {
	rules := ruleTypes(g.Target())
	if len(rules) == 0 {
		return nil
	}
	_, standing := g.outOfSync(nil, rules)
	if standing == nil || len(standing.Blamed()) == 0 {
		return nil
	}
	return standing
}

// standing is what clients reject of what is served, a rejection of each, by node.
func (g *Group) standing() []*Rejection {
	g.mu.Lock()
	defer g.mu.Unlock()
	var found []*Rejection
	for session := range g.sessions {
		if rejection := session.rejected(nil, nil); rejection != nil && len(found) < maxQuarantined {
			found = append(found, rejection)
		}
	}
	slices.SortFunc(found, func(a, b *Rejection) int { return strings.Compare(a.Node, b.Node) })
	return found
}

// clearListeners offers clients the listeners again that came with one that they
// rejected and are not blamed, to learn that they have them.
func (g *Group) clearListeners() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for session := range g.sessions {
		rejection := session.rejected(nil, []string{envoy.TypeListener})
		if rejection == nil {
			continue
		}
		if blamed := rejection.Blamed(); len(blamed) > 0 && len(blamed) < len(rejection.Resources) {
			session.types[envoy.TypeListener].forgive(func(name string) bool { return !slices.Contains(blamed, name) })
			session.wake()
		}
	}
}

// maxQuarantined bounds how many rejections one rollout works around.
const maxQuarantined = 50

// PartialError says that a rollout is in force but for what was rejected.
type PartialError struct {
	Rejections []*Rejection
}

// Error names every rejection.
func (e *PartialError) Error() string {
	texts := make([]string, len(e.Rejections))
	for i, rejection := range e.Rejections {
		texts[i] = rejection.Error()
	}
	return "in force, but not everywhere: " + strings.Join(texts, "; ")
}

// Unwrap lets errors.As find the first rejection.
func (e *PartialError) Unwrap() error { return e.Rejections[0] }

// walk is one way to next.
type walk struct {
	// current was in force before the rollout, and from is where the steps begin: what
	// a walk before this one reached, else current.
	current, from, next envoy.Set
	// first says that nothing was served before, and again that there was a walk before.
	first, again bool
}

// walk goes through the steps to next.
func (g *Group) walk(ctx context.Context, w walk) error {
	todo, reached, base := steps(w.from, w.next), envoy.Set(nil), w.current
	todo[len(todo)-1].target = g.remaining(w.current, w.next)
	if g.atOnce {
		todo = todo[len(todo)-1:]
	}
	if w.first {
		// Clients may hold more than we know from an earlier life of ours; they are
		// brought to next directly, which is what they had unless policy changed.
		todo, base = []step{{name: "first", target: w.next}}, nil
	} else {
		reached = g.Target()
	}
	waited := false
	for _, now := range todo {
		// What is offered again is answered before anything is said of it.
		if !w.first && !w.again && equal(now.target, reached) {
			continue
		}
		g.set(now.target)
		reached, waited = now.target, true
		if err := g.await(ctx, now, base); err != nil {
			return fmt.Errorf("step %q: %w", now.name, err)
		}
	}
	if !waited {
		return g.await(ctx, step{name: "again", target: w.next}, base)
	}
	return nil
}

// leaveOut has the target be without what a client blamed, as next is, and offers
// what was in the same response again. It returns that target: going on from there,
// nothing that clients have taken is put back for as long as the steps before take.
func (g *Group) leaveOut(next envoy.Set, rejection *Rejection) envoy.Set {
	blamed := rejection.Blamed()
	g.mu.Lock()
	defer g.mu.Unlock()
	target := maps.Clone(g.target)
	resources := maps.Clone(target[rejection.TypeURL])
	for _, name := range blamed {
		if resource, ok := next[rejection.TypeURL][name]; ok {
			resources[name] = resource
		} else {
			delete(resources, name)
		}
	}
	target[rejection.TypeURL] = resources
	g.forgiveLocked(rejection.TypeURL, func(name string) bool { return !slices.Contains(blamed, name) })
	g.setLocked(target)
	return target
}

// quarantine is next without what a client blamed: each such resource is as in
// current, or not there when it is new.
func (g *Group) quarantine(current, next envoy.Set, rejection *Rejection) envoy.Set {
	blamed := rejection.Blamed()
	resources := maps.Clone(next[rejection.TypeURL])
	rejection.Kept = map[string]bool{}
	for _, name := range blamed {
		if before, ok := current[rejection.TypeURL][name]; ok && before.Version != resources[name].Version {
			resources[name], rejection.Kept[name] = before, true
		} else {
			delete(resources, name)
		}
	}
	next = maps.Clone(next)
	next[rejection.TypeURL] = resources
	g.logger.Warn("quarantined what was rejected; the rest goes on", "node", rejection.Node,
		"type", shortType(rejection.TypeURL), "resources", blamed)
	return next
}

// Blamed are the rejected resources that the message names. A single one needs no
// naming; none is the answer when it cannot be told.
func (r *Rejection) Blamed() []string {
	if len(r.Resources) == 1 {
		return r.Resources
	}
	var named []string
	for _, name := range r.Resources {
		if mentions(r.Message, name) {
			named = append(named, name)
		}
	}
	return named
}

// Of is what the message says of one of the resources: the lines that name it, or
// all of it.
func (r *Rejection) Of(name string) string {
	var lines []string
	for line := range strings.Lines(r.Message) {
		if mentions(line, name) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	if len(lines) == 0 {
		return r.Message
	}
	return strings.Join(lines, "\n")
}

// mentions reports whether a message holds a name by itself, not as a part of a
// longer one.
func mentions(message, name string) bool {
	for rest := message; ; {
		at := strings.Index(rest, name)
		if at < 0 {
			return false
		}
		after := rest[at+len(name):]
		if after == "" || !isNameByte(after[0]) {
			return true
		}
		rest = after
	}
}

func isNameByte(c byte) bool {
	return c == '-' || c == '_' || c == '/' || c == '@' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// Retry has everything offered again that was rejected, at the next rollout.
func (g *Group) Retry() {
	g.mu.Lock()
	var types []string
	for session := range g.sessions {
		types = append(types, slices.Collect(maps.Keys(session.types))...)
	}
	g.mu.Unlock()
	for _, typeURL := range types {
		g.forgive(typeURL, func(string) bool { return true })
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for session := range g.sessions {
		session.wake()
	}
}

// forgive forgets that clients refused resources; they are offered again when
// the target is set next.
func (g *Group) forgive(typeURL string, which func(name string) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forgiveLocked(typeURL, which)
}

// forgiveLocked is forgive for a caller that holds mu.
func (g *Group) forgiveLocked(typeURL string, which func(name string) bool) {
	for session := range g.sessions {
		if sub := session.types[typeURL]; sub != nil {
			sub.forgive(which)
		}
	}
}

func isRule(typeURL string) bool { return strings.Contains(typeURL, "/weir.") }

// withRules is the target to go back to when clusters or routes were rejected:
// rules do not wait for them. Consumers, above all revoked keys, are next's;
// other rules are next's where they have one, and stay where they have not, since
// the routes that stay refer to them.
func withRules(current, next envoy.Set, rejection *Rejection) envoy.Set {
	if isRule(rejection.TypeURL) {
		return current
	}
	target := merge(current, next, ruleTypes(current, next)...)
	return replace(target, next, envoy.TypeConsumer)
}

// restore goes back to a target that was in force, and waits for it like for any
// step. What a client rejects even of that shows in its status.
func (g *Group) restore(ctx context.Context, target envoy.Set) {
	g.set(target)
	if err := g.await(ctx, step{name: "restore", target: target}, target); err != nil {
		g.logger.WarnContext(ctx, "restoring the previous target", "error", err)
	}
}

// keepMaps is next with the maps of current where they hold the same, so that
// what is unchanged is seen to be.
func keepMaps(current, next envoy.Set) envoy.Set {
	next = maps.Clone(next)
	for typeURL, resources := range next {
		if before, ok := current[typeURL]; ok && len(changedNames(before, resources)) == 0 {
			next[typeURL] = before
		}
	}
	return next
}

func equal(a, b envoy.Set) bool {
	return maps.EqualFunc(a, b, func(x, y map[string]envoy.Resource) bool { return len(changedNames(x, y)) == 0 })
}

// await returns when every client answered the step, with a *Rejection when one
// refuses what base does not have.
func (g *Group) await(ctx context.Context, step step, base envoy.Set) error {
	timer := time.NewTimer(g.stepTimeout)
	defer timer.Stop()
	for {
		changed := g.Changed()
		waiting, rejected := g.outOfSync(base, step.types)
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
			pause(ctx, len(waiting))
		case <-timer.C:
			g.logger.WarnContext(ctx, "clients have not acknowledged in time; going on without them",
				"step", step.name, "nodes", g.leaveBehind(waiting))
			return nil
		}
	}
}

// pause joins the answers of many clients, so that not all of them are looked at
// for each. For a few it is none.
func pause(ctx context.Context, waiting int) {
	const few, each = 16, 20 * time.Microsecond
	if waiting <= few {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(waiting) * each):
	}
}
