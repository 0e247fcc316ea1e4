package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	decisionv1 "weir.dev/api/gen/weir/decision/v1"
	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/authzexpr"
)

// FlipDecision is a recorded request that would be allowed instead of refused, or
// the other way round.
const FlipDecision = "decision"

// Decision lists what would differ of a recorded decision; nothing when the caller
// is let in or refused as before. What the record does not have is unknown, and
// not guessed.
func (r *Replay) Decision(d *decisionv1.Decision) []Flip {
	before := outcomeText(d.GetAllowed(), d.GetRule(), d.GetReason())
	after, unknown := r.decide(d)
	switch {
	case unknown != "":
		return []Flip{{Kind: FlipUnknown, Old: before, New: unknown}}
	case after.allowed == d.GetAllowed():
		return nil
	default:
		return []Flip{{Kind: FlipDecision, Old: before, New: outcomeText(after.allowed, after.rule, after.reason)}}
	}
}

type replayedOutcome struct {
	allowed      bool
	rule, reason string
}

func outcomeText(allowed bool, rule, reason string) string {
	text := "refused"
	if allowed {
		text = "allowed"
	}
	switch {
	case rule != "":
		return fmt.Sprintf("%s by rule %q", text, rule)
	case allowed || reason == "":
		return text
	default:
		return text + ", " + reason
	}
}

// decide is what the proposed policy says of a recorded request; unknown says why
// that cannot be told.
func (r *Replay) decide(d *decisionv1.Decision) (outcome replayedOutcome, unknown string) {
	request := d.GetRequest()
	next := counterpart(possible(r.after, Recorded{Method: request.GetMethod(), Host: request.GetHost(), Path: request.GetPath()}), &Route{ID: d.GetRoute()})
	switch {
	case request.GetHost() == "":
		return replayedOutcome{reason: d.GetReason()}, "" // refused before any rule
	case next == nil:
		return outcome, "the route " + d.GetRoute() + " is not among those that the request can reach"
	case next.Auth == nil:
		return replayedOutcome{allowed: true}, ""
	case next.Auth.Refuse:
		return replayedOutcome{reason: "the policy is broken"}, ""
	}
	rules := r.new[next.Auth.RouteID]
	if rules == nil {
		return outcome, "the route's rules are not in the plan"
	}
	caller, refused, unknown := r.recordedCaller(d, rules)
	if unknown != "" || refused != "" {
		return replayedOutcome{reason: refused}, unknown
	}
	return evaluateRecorded(d, rules, caller)
}

// recordedCaller is who the proposed rules take the caller for, which is known
// where the way that proved it, or refused, is still there.
func (r *Replay) recordedCaller(d *decisionv1.Decision, rules *authRoute) (caller *decisionv1.Caller, refused, unknown string) {
	way := func(name string, among []*rulesv1.Authenticator) *rulesv1.Authenticator {
		for _, authenticator := range among {
			if authenticator.GetName() == name {
				return authenticator
			}
		}
		return nil
	}
	same := func(authenticator *rulesv1.Authenticator) bool {
		return slices.ContainsFunc(rules.GetAuthenticators(), func(other *rulesv1.Authenticator) bool {
			return authenticator != nil && authenticator.GetName() == other.GetName() && proto.Equal(authenticator, other)
		})
	}
	old := way(d.GetAuthenticator(), r.recordedWays(d))
	anonymous := slices.ContainsFunc(rules.GetAuthenticators(), func(a *rulesv1.Authenticator) bool { return a.GetAnonymous() != nil })
	switch {
	case d.GetCaller() != nil && same(old):
		return d.GetCaller(), "", ""
	case d.GetCaller() != nil && old.GetAnonymous() != nil:
		return nil, "CREDENTIALS_MISSING", ""
	case d.GetReason() == "CREDENTIALS_MISSING" && anonymous:
		return &decisionv1.Caller{}, "", ""
	case d.GetReason() == "CREDENTIALS_MISSING" || d.GetCaller() == nil && same(old):
		return nil, d.GetReason(), ""
	default:
		return nil, "", "callers are identified in another way, and credentials are not recorded"
	}
}

// recordedWays are those that were in force, as far as the running policy still
// has the route.
func (r *Replay) recordedWays(d *decisionv1.Decision) []*rulesv1.Authenticator {
	for id, route := range r.old {
		if name, _, _ := strings.Cut(id, "~"); name == d.GetRoute() {
			return route.GetAuthenticators()
		}
	}
	return nil
}

func evaluateRecorded(d *decisionv1.Decision, rules *authRoute, caller *decisionv1.Caller) (outcome replayedOutcome, unknown string) {
	environment, err := authzexpr.NewEnvironment()
	if err != nil {
		return outcome, err.Error()
	}
	input := recordedInput(d, caller)
	hasAllow := false
	for _, rule := range rules.GetRules() {
		hasAllow = hasAllow || rule.GetEffect() == rulesv1.AuthorizationRule_EFFECT_ALLOW
		holds := true
		if text := rule.GetExpression(); text != "" {
			program, err := environment.Compile(text)
			if err != nil {
				return outcome, fmt.Sprintf("rule %q: %v", rule.GetName(), err)
			}
			if lacking := notRecorded(program.References(), d); lacking != "" {
				return outcome, fmt.Sprintf("rule %q reads %s, which is not recorded", rule.GetName(), lacking)
			}
			if holds, err = program.Eval(context.Background(), input); err != nil {
				return replayedOutcome{rule: rule.GetName(), reason: "RULE_ERROR"}, ""
			}
		}
		switch {
		case !holds:
		case rule.GetRequirements() != nil:
			return outcome, fmt.Sprintf("whether the caller meets what rule %q requires is not evaluated here", rule.GetName())
		default:
			return replayedOutcome{allowed: rule.GetEffect() == rulesv1.AuthorizationRule_EFFECT_ALLOW, rule: rule.GetName(), reason: "PERMISSION_DENIED"}, ""
		}
	}
	return replayedOutcome{allowed: !hasAllow, reason: "PERMISSION_DENIED"}, ""
}

// notRecorded is the first of what an expression reads that the record lacks.
func notRecorded(reads []string, d *decisionv1.Decision) string {
	for _, read := range reads {
		known := read
		switch read {
		case "request.raw_query":
			known = "request.query"
		case "request", "identity", "source", "identity.roles", "identity.certificate", "request.body", "request.size",
			"source.port", "source.principal", "route", "route.hostnames":
			return read
		}
		if slices.Contains(d.GetMissing(), known) || read == "metadata" || strings.HasPrefix(read, "metadata.") {
			return read
		}
	}
	return ""
}

func recordedInput(d *decisionv1.Decision, caller *decisionv1.Caller) *authzexpr.Input {
	request := d.GetRequest()
	headers := authzexpr.MapValues{}
	for name, value := range request.GetHeaders() {
		headers[name] = []string{value}
	}
	kind, rest, _ := strings.Cut(d.GetRoute(), "/")
	namespace, rest, _ := strings.Cut(rest, "/")
	name, _, _ := strings.Cut(rest, "/")
	input := &authzexpr.Input{
		Request: authzexpr.Request{
			Method: request.GetMethod(), Path: request.GetPath(), RawQuery: request.GetQuery(), Host: request.GetHost(),
			Protocol: request.GetProtocol(), Headers: headers,
		},
		Identity: authzexpr.Identity{
			Consumer: caller.GetConsumer(), Subject: caller.GetSubject(), Tenant: caller.GetTenant(), Tier: caller.GetTier(),
			Scopes: caller.GetScopes(), Issuer: caller.GetIssuer(), Authenticator: d.GetAuthenticator(), Claims: caller.GetClaims(),
		},
		Route:  authzexpr.Route{ID: d.GetRoute(), Kind: kind, Namespace: namespace, Name: name},
		Source: authzexpr.Source{Address: request.GetSource()},
		Time:   d.GetTime().AsTime(),
	}
	if caller.GetConsumer() != "" {
		input.Consumer = authzexpr.Consumer{Name: caller.GetConsumer(), Tenant: caller.GetTenant(), Tier: caller.GetTier()}
	}
	return input
}
