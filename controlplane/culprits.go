package controlplane

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"weir.dev/controlplane/ads"
	"weir.dev/controlplane/envoy"
	"weir.dev/policy"
)

// Bounds of looking for what is to blame.
const (
	// maxTrials of one search; what is not told apart by then is put back whole.
	maxTrials = 64
	// maxSuspects that are tried one by one.
	maxSuspects = 8
)

// versions are objects as a fleet accepted them, by name once that is asked for;
// nil stands for none.
type versions struct {
	objects []*policy.Object
	byRef   map[policy.ObjectRef]*policy.Object
}

func versionsOf(input policy.Input) *versions { return &versions{objects: input.Objects} }

func (v *versions) all() map[policy.ObjectRef]*policy.Object {
	if v == nil {
		return nil
	}
	if v.byRef == nil {
		v.byRef = make(map[policy.ObjectRef]*policy.Object, len(v.objects))
		for _, object := range v.objects {
			if _, ok := v.byRef[object.Ref]; !ok { // of equal ones the first is used
				v.byRef[object.Ref] = object
			}
		}
	}
	return v.byRef
}

func (v *versions) of(ref policy.ObjectRef) *policy.Object { return v.all()[ref] }

// search looks for the smallest part of an update that a fleet rejects. Every
// trial is a rollout: what is rejected is put back at once, so that only what was
// accepted is in force meanwhile.
type search struct {
	lane *fleetLane
	next *generation
	// wanted is the update, accepted what the fleet accepted last, nil at first.
	wanted, accepted *versions
	// differing is what changed returns, once it was asked for.
	differing []policy.ObjectRef
	compared  bool
	// blamed are put back.
	blamed     map[policy.ObjectRef]Quarantine
	rejections []*ads.Rejection
	trials     int
}

// trial is a rollout and what came of it.
type trial struct {
	plan *policy.Plan
	// err is the rollout's; rejection is set where something was rejected that
	// could not be left out by itself.
	err       error
	rejection *ads.Rejection
}

func newSearch(lane *fleetLane, next *generation) *search {
	return &search{lane: lane, next: next, wanted: versionsOf(next.input), accepted: lane.accepted, blamed: map[policy.ObjectRef]Quarantine{}}
}

// changed are the objects that differ between what is wanted and what was
// accepted, sorted.
func (s *search) changed() []policy.ObjectRef {
	if s.compared {
		return s.differing
	}
	s.compared = true
	for ref, object := range s.wanted.all() {
		if !object.SameContent(s.accepted.of(ref)) {
			s.differing = append(s.differing, ref)
		}
	}
	for ref := range s.accepted.all() {
		if s.wanted.of(ref) == nil {
			s.differing = append(s.differing, ref)
		}
	}
	slices.SortFunc(s.differing, compareRefs)
	return s.differing
}

// compareRefs orders what is referred to before what refers to it. Policies come
// after what they protect: while a new one is put back, that is closed.
func compareRefs(a, b policy.ObjectRef) int {
	rank := map[string]int{"Backend": 1, "Service": 1, "GatewayClass": 2, "Gateway": 3, "ListenerSet": 3, "HTTPRoute": 4, "GRPCRoute": 4, "TLSRoute": 4}
	of := func(kind string) int {
		if strings.HasSuffix(kind, "Policy") {
			return 5
		}
		return rank[kind]
	}
	return cmp.Or(cmp.Compare(of(a.Kind), of(b.Kind)), cmp.Compare(a.String(), b.String()))
}

// replaced are the objects to put in the place of wanted ones.
func (s *search) replaced(back map[policy.ObjectRef]bool) map[policy.ObjectRef]*policy.Object {
	with := map[policy.ObjectRef]*policy.Object{}
	put := func(ref policy.ObjectRef) {
		with[ref] = s.accepted.of(ref)
		if with[ref].SameContent(s.wanted.of(ref)) {
			with[ref] = nil // It was accepted once and is no more: there is no better version.
		}
	}
	for ref := range back {
		put(ref)
	}
	for ref := range s.blamed {
		put(ref)
	}
	return with
}

// attempt rolls out the update with some objects put back.
func (s *search) attempt(ctx context.Context, back map[policy.ObjectRef]bool) trial {
	s.trials++
	with := s.replaced(back)
	t := trial{plan: s.next.plan}
	if len(with) > 0 {
		t.plan, _ = policy.Resolve(s.next.input.Substitute(with))
	}
	set, err := s.lane.compiled.CompileFleet(t.plan, s.lane.options)
	if err == nil {
		err = s.lane.group.Rollout(ctx, set)
	}
	t.err, t.rejection = err, s.lane.unresolved(err)
	return t
}

// unresolved is a rejection that something has to be left out for.
func (f *fleetLane) unresolved(err error) *ads.Rejection {
	var partial *ads.PartialError
	var rejection *ads.Rejection
	switch {
	case errors.As(err, &partial):
		// In force, and rejected by some: when others accepted it, it is the one that
		// is odd, and nothing is taken from them. Listeners are left out one by one.
		accepted := f.group.Accepted()
		for _, r := range partial.Rejections {
			if r.Kept == nil && r.TypeURL != envoy.TypeListener && !accepted {
				return r
			}
		}
		return nil
	case errors.As(err, &rejection):
		return rejection
	default:
		return nil
	}
}

// run finds what is to blame for the trial's rejection, puts it back, and
// returns the last trial.
func (s *search) run(ctx context.Context, t trial) trial {
	for t.rejection != nil && !s.lane.loop.noQuarantine && s.trials < maxTrials && ctx.Err() == nil {
		s.rejections = append(s.rejections, t.rejection)
		if next, found := s.suspect(ctx, t); found {
			t = next
			continue
		}
		if s.accepted == nil && !s.lane.group.Fresh() {
			// Nothing is known of what the proxies have from before; trying parts would
			// take it away from them.
			return t
		}
		return s.bisect(ctx, t)
	}
	return t
}

// suspect puts back what the proxy's words point to, and reports whether that
// was it.
func (s *search) suspect(ctx context.Context, t trial) (trial, bool) {
	var suspects []policy.ObjectRef
	origins := s.trace(t)
	for _, origin := range origins {
		if !slices.Contains(suspects, origin.Object) {
			suspects = append(suspects, origin.Object)
		}
	}
	if len(suspects) == 0 || len(suspects) > maxSuspects {
		return t, false
	}
	back := map[policy.ObjectRef]bool{}
	for _, ref := range suspects {
		back[ref] = true
	}
	next := s.attempt(ctx, back)
	if next.rejection != nil && next.rejection.Message == t.rejection.Message {
		return t, false
	}
	// The likelier come first, so the others are cleared first.
	for _, ref := range slices.Backward(suspects) {
		if len(back) == 1 || s.trials >= maxTrials {
			break
		}
		delete(back, ref)
		if cleared := s.attempt(ctx, back); cleared.rejection == nil || cleared.rejection.Message != t.rejection.Message {
			next = cleared
		} else {
			back[ref] = true
		}
	}
	for ref := range back {
		s.blame(ref, t, origins)
	}
	return next, true
}

// trace are the origins that a rejection points to, of what can be to blame.
func (s *search) trace(t trial) []policy.Origin {
	names := t.rejection.Blamed()
	if len(names) == 0 {
		names = t.rejection.Resources
	}
	var origins []policy.Origin
	for _, name := range names {
		for _, origin := range s.lane.compiled.Trace(t.plan, s.lane.options, t.rejection.TypeURL, name, t.rejection.Message) {
			_, blamed := s.blamed[origin.Object]
			if !blamed && (len(s.changed()) == 0 || slices.Contains(s.changed(), origin.Object)) {
				origins = append(origins, origin)
			}
		}
	}
	return origins
}

// blame quarantines an object.
func (s *search) blame(ref policy.ObjectRef, t trial, origins []policy.Origin) {
	origin := policy.Origin{Object: ref}
	if object := s.wanted.of(ref); object != nil {
		origin = object.Origin("")
	}
	for _, traced := range origins {
		if traced.Object == ref {
			origin = traced
			break
		}
	}
	kept := s.accepted.of(ref)
	s.blamed[ref] = Quarantine{
		Origin: origin, Kept: kept != nil && !kept.SameContent(s.wanted.of(ref)), Node: t.rejection.Node,
		Resource: strings.Join(t.rejection.Resources, ", "), Message: t.rejection.Message,
	}
}

// bisect takes in the changed objects bit by bit, those that refer to each other
// together as long as they can be.
func (s *search) bisect(ctx context.Context, rejected trial) trial {
	b := &bisection{search: s, ctx: ctx, in: map[policy.ObjectRef]bool{}, reason: rejected}
	b.halve(s.units())
	if b.last == nil { // Nothing was taken in: it is as it was.
		all := map[policy.ObjectRef]bool{}
		for _, ref := range s.changed() {
			all[ref] = true
		}
		last := s.attempt(ctx, all)
		b.last = &last
	}
	return *b.last
}

type bisection struct {
	*search
	ctx    context.Context //nolint:containedctx // a bisection is one call
	in     map[policy.ObjectRef]bool
	reason trial
	// last is the last trial that was accepted.
	last *trial
}

// take takes units in, or finds which of them are to blame.
func (b *bisection) take(units [][]policy.ObjectRef) {
	if len(units) == 0 {
		return
	}
	if b.trials >= maxTrials || b.ctx.Err() != nil {
		left := slices.Concat(units...)
		for _, ref := range left {
			b.blame(ref, b.reason, nil)
			if len(left) > 1 {
				unsure := b.blamed[ref]
				unsure.Among = len(left)
				b.blamed[ref] = unsure
			}
		}
		return
	}
	back := map[policy.ObjectRef]bool{}
	for _, ref := range b.changed() {
		back[ref] = !b.in[ref]
	}
	for _, ref := range slices.Concat(units...) {
		back[ref] = false
	}
	maps.DeleteFunc(back, func(_ policy.ObjectRef, is bool) bool { return !is })
	t := b.attempt(b.ctx, back)
	if t.rejection == nil {
		for _, ref := range slices.Concat(units...) {
			b.in[ref] = true
		}
		b.last = &t
		return
	}
	b.reason = t
	b.halve(units)
}

// halve takes in units that are known to be rejected as a whole.
func (b *bisection) halve(units [][]policy.ObjectRef) {
	switch {
	case len(units) == 0:
	case len(units) > 1:
		b.take(units[:len(units)/2])
		b.take(units[len(units)/2:])
	case len(units[0]) > 1:
		var single [][]policy.ObjectRef
		for _, ref := range units[0] {
			single = append(single, []policy.ObjectRef{ref})
		}
		b.halve(single)
	default:
		ref := units[0][0]
		b.blame(ref, b.reason, b.trace(b.reason))
	}
}

// units are the changed objects that are not blamed yet, grouped by who refers
// to whom in the new or in the accepted version.
func (s *search) units() [][]policy.ObjectRef {
	var units [][]policy.ObjectRef
	for _, ref := range s.changed() {
		if _, blamed := s.blamed[ref]; blamed {
			continue
		}
		joined := []policy.ObjectRef{ref}
		units = slices.DeleteFunc(units, func(unit []policy.ObjectRef) bool {
			linked := slices.ContainsFunc(unit, func(other policy.ObjectRef) bool { return s.linked(ref, other) })
			if linked {
				joined = append(joined, unit...)
			}
			return linked
		})
		slices.SortFunc(joined, compareRefs)
		units = append(units, joined)
	}
	return units
}

func (s *search) linked(a, b policy.ObjectRef) bool {
	for _, from := range []*versions{s.wanted, s.accepted} {
		if from.of(a) != nil && from.of(a).RefersTo(b) || from.of(b) != nil && from.of(b).RefersTo(a) {
			return true
		}
	}
	return false
}
