package policy

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy/v1alpha1"
)

type limitRule = rulesv1.RateLimitRule

// limitsOf are the limits in effect. Routes share them, but for what is counted by
// route.
func (r *resolver) limitsOf(set *policySet, rule *ruleSource) []Limit {
	pieces := set.kinds[kindLimits].pieces
	if set.limits == nil {
		for _, won := range pieces {
			spec, ok := won.value.(*v1alpha1.Limit)
			if !ok {
				continue
			}
			set.limits = append(set.limits, Limit{
				Rule: r.limitRule(won.from.object, spec), By: spec.By, ByTier: len(spec.Tiers) > 0,
				FailureMode: cmp.Or(spec.FailureMode, v1alpha1.FailureModeOpen), Origin: won.origin,
			})
		}
	}
	byRoute := func(by v1alpha1.CountBy) bool { return by.Type == v1alpha1.CountByRoute }
	if !slices.ContainsFunc(set.limits, func(l Limit) bool { return slices.ContainsFunc(l.By, byRoute) }) {
		return set.limits
	}
	limits := slices.Clone(set.limits)
	for i := range limits {
		if slices.ContainsFunc(limits[i].By, byRoute) {
			limits[i].Group = rule.group()
		}
	}
	return limits
}

func (r *resolver) limitRule(object *Object, spec *v1alpha1.Limit) string {
	id := object.Ref.Namespace + "/" + object.Ref.Name + "/" + spec.Name
	if _, ok := r.limitRules[id]; ok {
		return id
	}
	window := spec.Window
	rule := &limitRule{
		Id: id, Algorithm: rulesv1.RateLimitRule_ALGORITHM_FIXED_WINDOW, Requests: spec.Requests,
		Window: durationpb.New(durationOr(&window, time.Minute)), Burst: spec.Burst,
		FailureMode: rulesv1.FailureMode_FAILURE_MODE_OPEN, Shadow: spec.Shadow,
	}
	if spec.Algorithm == v1alpha1.AlgorithmGCRA {
		rule.Algorithm = rulesv1.RateLimitRule_ALGORITHM_GCRA
	}
	if spec.FailureMode == v1alpha1.FailureModeClosed {
		rule.FailureMode = rulesv1.FailureMode_FAILURE_MODE_CLOSED
	}
	for _, headers := range spec.Headers {
		rule.Headers = append(rule.Headers, map[v1alpha1.LimitHeaders]rulesv1.RateLimitRule_Headers{
			v1alpha1.LimitHeadersStandard: rulesv1.RateLimitRule_HEADERS_STANDARD, v1alpha1.LimitHeadersOlder: rulesv1.RateLimitRule_HEADERS_OLDER,
			v1alpha1.LimitHeadersXRateLimit: rulesv1.RateLimitRule_HEADERS_X_RATE_LIMIT, v1alpha1.LimitHeadersNone: rulesv1.RateLimitRule_HEADERS_NONE,
		}[headers])
	}
	for tier, limit := range spec.Tiers {
		if rule.Tiers == nil {
			rule.Tiers = map[string]*rulesv1.TierLimit{}
		}
		rule.Tiers[tier] = &rulesv1.TierLimit{Requests: limit.Requests, Burst: limit.Burst}
	}
	rule.Digest = digestMessage(rule)
	r.limitRules[id] = rule
	return id
}

func (r *resolver) rateLimitRules() []*limitRule {
	rules := make([]*limitRule, 0, len(r.limitRules))
	for _, id := range slices.Sorted(maps.Keys(r.limitRules)) {
		rules = append(rules, r.limitRules[id])
	}
	return rules
}
