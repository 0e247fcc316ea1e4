package policy

import (
	"fmt"
	"slices"

	"weir.dev/policy/v1alpha1"
)

// at is a target, made where there was none.
func (p *policyIndex) at(key targetKey) *target {
	place := p.targets[key]
	if place == nil {
		place = &target{id: int32(len(p.targets) + 1)} //nolint:gosec // bounded by what is parsed
		p.targets[key] = place
	}
	return place
}

// apartShadows puts AuthPolicies in the shadow where they stand, and returns the
// others. On one target and under one heading the oldest stands alone.
func (r *resolver) apartShadows(statements []*statement) (enforced []*statement) {
	for _, s := range statements {
		policy, ok := s.object.Value.(*v1alpha1.AuthPolicy)
		if !ok || policy.Spec.Mode != v1alpha1.ModeShadow {
			enforced = append(enforced, s)
			continue
		}
		s.shadow = true
		for i, ref := range s.targets {
			r.attachShadow(s, i, keyOf(s.namespace(), ref))
		}
	}
	return enforced
}

func (r *resolver) attachShadow(s *statement, i int, key targetKey) {
	field := fmt.Sprintf("spec.targetRefs[%d]", i)
	if !r.targetExists(key) {
		s.missing = append(s.missing, key)
		r.report(s.object.problem(CodeRefNotFound, field, fmt.Sprintf("there is no %s", describeTarget(key))))
		return
	}
	place := r.policies.at(key)
	for _, other := range place.shadows {
		if other.overrides == s.overrides && other != s {
			lost := tie{key, s, other}
			s.ties = append(s.ties, lost)
			r.report(s.object.problem(CodeOverridden, field, fmt.Sprintf("%s already has %s in the shadow, %s: this policy is not compared there",
				describeTarget(key), other.origin.Object, lost.why())))
			return
		}
	}
	if !slices.Contains(place.shadows, s) {
		place.shadows = append(place.shadows, s)
		s.attachedTo = append(s.attachedTo, key)
	}
}

// inShadow is what the AuthPolicies come to when those in the shadow stand in for
// the enforced ones on the same target under the same heading; nil when there are
// none.
func inShadow(targets [levelCount]*target) *effective {
	var levels [levelCount][]*statement
	some := false
	for at, target := range targets {
		if target == nil {
			continue
		}
		some = some || len(target.shadows) > 0
		levels[at] = slices.Clone(target.shadows)
		for _, standing := range target.standing[kindAuth] {
			if !slices.ContainsFunc(target.shadows, func(s *statement) bool { return s.overrides == standing.overrides }) {
				levels[at] = append(levels[at], standing)
			}
		}
		slices.SortStableFunc(levels[at], comparePrecedenceOf)
	}
	if !some {
		return nil
	}
	e := mergeLevels(levels)
	return &e
}

// shadowUses is the part of those in the shadow, for people.
func (e *effective) shadowUses() []PolicyUse {
	if e == nil {
		return nil
	}
	var uses []PolicyUse
	for _, layer := range e.layers {
		if use, ok := layer.use(); ok && layer.shadow {
			if use.Effect != PolicyOverridden {
				use.Effect, use.Reason = PolicyCompared, "in the shadow: what it would decide is compared with what is decided"
			}
			uses = append(uses, use)
		}
	}
	return uses
}

// accountShadows notes what became of those in the shadow.
func (s *policySet) accountShadows(l *listener) {
	if s.shadow == nil {
		return
	}
	compared := policySet{}
	for _, layer := range s.shadow.layers {
		if layer.shadow {
			compared.kinds[kindAuth].layers = append(compared.kinds[kindAuth].layers, layer)
		}
	}
	compared.account(l, kindAuth)
}
