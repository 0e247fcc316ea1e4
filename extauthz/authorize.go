package extauthz

import (
	"errors"
	"fmt"

	"weir.dev/kit/authzexpr"
)

// view is the canonical reading of the request's target.
type view struct{ path, query, host string }

// authorize runs the rules in order. The first ALLOW or DENY rule that holds
// decides, a REQUIRE rule that holds and is not met refuses; an error denies at
// once, because what the rule would have said is unknown.
func (a *attempt) authorize(decision *Decision, view view) {
	if len(a.route.rules) == 0 {
		decision.Allowed, decision.Reason = true, ReasonAllowed
		return
	}
	input, err := a.input(decision, view)
	if err != nil {
		*decision = decision.deny(refusal(err).Reason, err)
		return
	}
	var nearly *rule // the first ALLOW rule that only its requirements kept from holding
	var lacking lack
	for i := range a.route.rules {
		rule := &a.route.rules[i]
		matched, err := a.holds(rule, input)
		if err != nil {
			decision.Rule = rule.name
			reason := refusal(err).Reason
			if reason == ReasonInternal {
				reason = ReasonRuleError
			}
			*decision = decision.deny(reason, fmt.Errorf("rule %q: %w", rule.name, err))
			return
		}
		if !matched {
			continue
		}
		lacks := lackNothing
		if rule.requirements != nil {
			if lacks, err = a.lacks(rule.requirements, decision, input); err != nil {
				decision.Rule = rule.name
				*decision = decision.deny(refusal(err).Reason, fmt.Errorf("rule %q: %w", rule.name, err))
				return
			}
		}
		switch {
		case lacks != lackNothing && rule.effect == effectRequire:
			decision.Rule = rule.name
			a.refuseLacking(decision, rule.requirements, lacks)
			return
		case lacks != lackNothing:
			if nearly == nil {
				nearly, lacking = rule, lacks
			}
		case rule.effect == effectAllow:
			decision.Rule = rule.name
			decision.Allowed, decision.Reason = true, ReasonAllowed
			return
		case rule.effect == effectDeny:
			decision.Rule = rule.name
			a.forbid(decision, rule.aboutScope)
			return
		}
	}
	switch {
	case nearly != nil:
		decision.Rule = nearly.name
		a.refuseLacking(decision, nearly.requirements, lacking)
	case a.route.hasAllow:
		a.forbid(decision, a.route.allowsByScope)
	default:
		decision.Allowed, decision.Reason = true, ReasonAllowed
	}
}

// holds reports whether a rule's expression is true. What it reads of external
// sources is fetched first.
func (a *attempt) holds(rule *rule, input *authzexpr.Input) (bool, error) {
	if rule.program == nil {
		return true, nil
	}
	if err := a.fetch(rule.sources, input); err != nil {
		return false, err
	}
	return rule.program.Eval(a.ctx, input)
}

// forbid denies a verified caller; a token's bearer is told when scopes are the
// only thing that the rules looked at (RFC 6750 section 3.1).
func (a *attempt) forbid(decision *Decision, aboutScope bool) {
	*decision = decision.deny(ReasonPermissionDenied, nil)
	if aboutScope && decision.Identity.Issuer != "" {
		decision.Reason = ReasonInsufficientScope
		decision.Challenge = BearerChallenge(a.route.realm, "insufficient_scope", ReasonInsufficientScope.Fault().Message)
	}
}

// fetch asks the external sources that were not asked yet.
func (a *attempt) fetch(sources []*metadataSource, input *authzexpr.Input) error {
	for _, source := range sources {
		if _, known := input.Metadata.GetFields()[source.name]; known {
			continue
		}
		value, err := source.fetcher.Fetch(a.ctx, a.call.Now, input)
		if err != nil {
			return Refuse(ReasonSourceUnavailable, fmt.Errorf("metadata %q: %w", source.name, err))
		}
		input.SetMetadata(source.name, value)
	}
	return nil
}

var errInputBounds = errors.New("the request is larger than expressions are evaluated over")
