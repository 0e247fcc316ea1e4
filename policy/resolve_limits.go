package policy

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/limitexpr"
	"weir.dev/policy/v1alpha1"
)

type limitRule = rulesv1.RateLimitRule

// limitsOf are the limits in effect. Routes share them, but for what is counted by
// route.
func (r *resolver) limitsOf(set *policySet, rule *ruleSource) []Limit {
	if set.limits == nil {
		for _, won := range set.kinds[kindLimits].pieces {
			spec, ok := won.value.(*v1alpha1.Limit)
			if !ok {
				continue
			}
			for _, window := range windowsOf(spec) {
				set.limits = append(set.limits, r.limit(won, &window))
			}
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

func (r *resolver) limit(won wonPiece, spec *v1alpha1.Limit) Limit {
	limit := Limit{
		Rule: r.limitRule(won.from.object, spec), By: spec.By, ByTier: len(spec.Tiers) > 0,
		ByClass: len(spec.Reserves) > 0, Ends: spec.Algorithm == v1alpha1.AlgorithmConcurrency,
		FailureMode: cmp.Or(spec.FailureMode, v1alpha1.FailureModeOpen), Origin: won.origin,
		Quota: spec.Mode == v1alpha1.LimitModeQuota, TierFrom: factOf(spec.TierFrom),
	}
	if spec.Override != nil {
		limit.Override = factOf(&spec.Override.LimitSource)
	}
	if spec.Cost != nil {
		limit.CostHeader = strings.ToLower(spec.Cost.RequestHeader)
		limit.SettleHeader = strings.ToLower(spec.Cost.ResponseHeader)
		limit.CostInputs, limit.SettleField = r.costInputs(spec.Cost.Expression), spec.Cost.ResponseField
	}
	return limit
}

// Settles reports whether the response says what a request cost.
func (l *Limit) Settles() bool { return l.SettleHeader != "" || l.SettleField != "" }

// factOf names a fact of the caller, empty for none.
func factOf(source *v1alpha1.LimitSource) string {
	switch {
	case source == nil:
		return ""
	case source.Claim != "":
		return limitexpr.Input{Kind: limitexpr.Claim, Name: source.Claim}.String()
	}
	return limitexpr.Input{Kind: limitexpr.Attribute, Name: source.Attribute}.String()
}

// costInputs is what an expression reads; it compiled before.
func (r *resolver) costInputs(expression string) []limitexpr.Input {
	if expression == "" {
		return nil
	}
	if r.limitExpressions == nil {
		environment, err := limitexpr.NewEnvironment()
		if err != nil { // the parser has made one, too
			return nil
		}
		r.limitExpressions = environment
	}
	program, err := r.limitExpressions.Compile(expression)
	if err != nil {
		return nil
	}
	return program.Inputs()
}

// limitClaims are the paths of claims that limits read.
func limitClaims(limits []Limit) (claims []string) {
	add := func(fact string) {
		if path, ok := strings.CutPrefix(fact, string(limitexpr.Claim)+"."); ok {
			claims = append(claims, path)
		}
	}
	for i := range limits {
		add(limits[i].Override)
		add(limits[i].TierFrom)
		for _, input := range limits[i].CostInputs {
			add(input.String())
		}
	}
	slices.Sort(claims)
	return slices.Compact(claims)
}

func (r *resolver) limitRule(object *Object, spec *v1alpha1.Limit) string {
	id := object.Ref.Namespace + "/" + object.Ref.Name + "/" + spec.Name
	if _, ok := r.limitRules[id]; ok {
		return id
	}
	rule := &limitRule{
		Id: id, Algorithm: ruleAlgorithm(spec.Algorithm), Requests: deref(spec.Requests, 0), Burst: spec.Burst,
		FailureMode: rulesv1.FailureMode_FAILURE_MODE_OPEN, Shadow: spec.Shadow, CountRefused: spec.CountRefused,
		Cost: ruleCost(spec.Cost), LocalShare: spec.LocalShare, Leased: spec.Leased,
	}
	if spec.Calendar == "" {
		window := spec.Window
		rule.Window = durationpb.New(durationOr(&window, time.Minute))
	} else {
		rule.Calendar, rule.TimeZone = ruleCalendar(spec.Calendar), spec.TimeZone
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
	if spec.Override != nil {
		rule.MaxOverride = spec.Override.Max
	}
	for _, reserve := range spec.Reserves {
		rule.Reserves = append(rule.Reserves, &rulesv1.LimitReserve{Tier: reserve.Tier, Percent: reserve.Percent})
	}
	for tier, limit := range spec.Tiers {
		if rule.Tiers == nil {
			rule.Tiers = map[string]*rulesv1.TierLimit{}
		}
		rule.Tiers[tier] = &rulesv1.TierLimit{Requests: deref(limit.Requests, 0), Burst: limit.Burst, Unlimited: limit.Unlimited}
	}
	rule.Digest = digestMessage(rule)
	r.limitRules[id] = rule
	return id
}

func ruleAlgorithm(algorithm v1alpha1.Algorithm) rulesv1.RateLimitRule_Algorithm {
	switch algorithm {
	case v1alpha1.AlgorithmGCRA:
		return rulesv1.RateLimitRule_ALGORITHM_GCRA
	case v1alpha1.AlgorithmSlidingWindow:
		return rulesv1.RateLimitRule_ALGORITHM_SLIDING_WINDOW
	case v1alpha1.AlgorithmConcurrency:
		return rulesv1.RateLimitRule_ALGORITHM_CONCURRENCY
	default:
		return rulesv1.RateLimitRule_ALGORITHM_FIXED_WINDOW
	}
}

func ruleCalendar(calendar v1alpha1.Calendar) rulesv1.RateLimitRule_Calendar {
	switch calendar {
	case v1alpha1.CalendarMonth:
		return rulesv1.RateLimitRule_CALENDAR_MONTH
	case v1alpha1.CalendarWeek:
		return rulesv1.RateLimitRule_CALENDAR_WEEK
	default:
		return rulesv1.RateLimitRule_CALENDAR_DAY
	}
}

// ruleCost is nil where nothing was said.
func ruleCost(spec *v1alpha1.LimitCost) *rulesv1.LimitCost {
	if spec == nil {
		return nil
	}
	cost := &rulesv1.LimitCost{Number: 1, Settles: spec.ResponseHeader+spec.ResponseField != "", Expression: spec.Expression}
	if spec.Number != nil {
		cost.Number = *spec.Number
	}
	cost.Max = max(cmp.Or(spec.Max, cost.Number), 1)
	return cost
}

func (r *resolver) rateLimitRules() []*limitRule {
	rules := make([]*limitRule, 0, len(r.limitRules))
	for _, id := range slices.Sorted(maps.Keys(r.limitRules)) {
		rules = append(rules, r.limitRules[id])
	}
	return rules
}
