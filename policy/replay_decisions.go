package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/authzexpr"
)

// FlipDecision is a recorded request that would be allowed instead of refused, or
// the other way round.
const FlipDecision = "decision"

// RecordedDecision is what a record of a decision tells, in the words of
// weir.decision.v1.
type RecordedDecision struct {
	// Route is the id of the route that Envoy took, without its version.
	Route string
	// Authenticator and Rule are those that decided.
	Allowed                     bool
	Reason, Authenticator, Rule string
	Request                     authzexpr.Request
	// Source is the address of the client.
	Source string
	// Caller is nil unless one was identified.
	Caller *authzexpr.Identity
	Time   time.Time
	// Missing is what rules may read and the record does not have.
	Missing []string
	// Digest is of the rules that decided, and Outcomes are what each of them came
	// to, by name.
	Digest   string
	Outcomes map[string]string
}

// Decision lists what would differ of a recorded decision; nothing when the caller
// is let in or refused as before. What the record does not have is unknown, and
// not guessed.
func (r *Replay) Decision(d *RecordedDecision) []Flip {
	before := outcomeText(d.Allowed, d.Rule, d.Reason)
	after, unknown := r.decide(d)
	switch {
	case unknown != "":
		return []Flip{{Kind: FlipUnknown, Old: before, New: unknown}}
	case after.allowed == d.Allowed:
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
func (r *Replay) decide(d *RecordedDecision) (outcome replayedOutcome, unknown string) {
	next := counterpart(possible(r.after, Recorded{Method: d.Request.Method, Host: d.Request.Host, Path: d.Request.Path}), &Route{ID: d.Route})
	switch {
	case d.Request.Host == "":
		return replayedOutcome{reason: d.Reason}, "" // refused before any rule
	case next == nil:
		return outcome, "the route " + d.Route + " is not among those that the request can reach"
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
	return r.evaluate(d, rules, caller)
}

// recordedCaller is who the proposed rules take the caller for, which is known
// where the way that proved it, or refused, is still there.
func (r *Replay) recordedCaller(d *RecordedDecision, rules *authRoute) (caller *authzexpr.Identity, refused, unknown string) {
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
	old := way(d.Authenticator, r.recordedWays(d))
	anonymous := slices.ContainsFunc(rules.GetAuthenticators(), func(a *rulesv1.Authenticator) bool { return a.GetAnonymous() != nil })
	switch {
	case d.Caller != nil && same(old):
		return d.Caller, "", ""
	case d.Caller != nil && old.GetAnonymous() != nil:
		return nil, "CREDENTIALS_MISSING", ""
	case d.Reason == "CREDENTIALS_MISSING" && anonymous:
		return &authzexpr.Identity{}, "", ""
	case d.Reason == "CREDENTIALS_MISSING" || d.Caller == nil && same(old):
		return nil, d.Reason, ""
	default:
		return nil, "", "callers are identified in another way, and credentials are not recorded"
	}
}

// recordedWays are those that were in force, as far as the running policy still
// has the route.
func (r *Replay) recordedWays(d *RecordedDecision) []*rulesv1.Authenticator {
	for id, route := range r.old {
		if name, _, _ := strings.Cut(id, "~"); name == d.Route {
			return route.GetAuthenticators()
		}
	}
	return nil
}

// evaluate goes through the rules as extauthz does.
func (r *Replay) evaluate(d *RecordedDecision, rules *authRoute, caller *authzexpr.Identity) (outcome replayedOutcome, unknown string) {
	input, roles := recordedInput(d, rules, caller)
	unchanged := r.unchangedRules(d, rules)
	hasAllow, nearly := false, replayedOutcome{}
	for _, rule := range rules.GetRules() {
		allows := rule.GetEffect() == rulesv1.AuthorizationRule_EFFECT_ALLOW
		hasAllow = hasAllow || allows
		verdict, lacking := recordedVerdict(unchanged[rule.GetName()])
		if verdict == verdictUnknown {
			verdict, lacking, unknown = r.judge(d, rule, input, roles)
		}
		switch verdict {
		case verdictUnknown:
			return outcome, unknown
		case verdictError:
			return replayedOutcome{rule: rule.GetName(), reason: "RULE_ERROR"}, ""
		case verdictPasses:
		case verdictLacks:
			outcome := replayedOutcome{rule: rule.GetName(), reason: lacking}
			if !allows {
				return outcome, ""
			}
			if nearly.rule == "" {
				nearly = outcome
			}
		case verdictDecides:
			if allows {
				return replayedOutcome{allowed: true, rule: rule.GetName()}, ""
			}
			return replayedOutcome{rule: rule.GetName(), reason: "PERMISSION_DENIED"}, ""
		}
	}
	if nearly.rule != "" {
		return nearly, ""
	}
	return replayedOutcome{allowed: !hasAllow, reason: "PERMISSION_DENIED"}, ""
}

// judge is what a rule says of the recorded input.
func (r *Replay) judge(d *RecordedDecision, rule *rulesv1.AuthorizationRule, input *authzexpr.Input, roles recordedRoles) (verdict ruleVerdict, lacking, unknown string) {
	holds, unknown, failed := r.holds(d, rule, input, roles)
	switch {
	case unknown != "":
		return verdictUnknown, "", unknown
	case failed:
		return verdictError, "", ""
	case !holds:
		return verdictPasses, "", ""
	}
	lacking, unknown = lacksRecorded(rule, d, &input.Identity, roles)
	switch {
	case unknown != "":
		return verdictUnknown, "", unknown
	case lacking != "":
		return verdictLacks, lacking, ""
	case rule.GetEffect() == rulesv1.AuthorizationRule_EFFECT_REQUIRE:
		return verdictPasses, "", ""
	}
	return verdictDecides, "", ""
}

// holds evaluates a rule's expression, compiled once.
func (r *Replay) holds(d *RecordedDecision, rule *rulesv1.AuthorizationRule, input *authzexpr.Input, roles recordedRoles) (holds bool, unknown string, failed bool) {
	text := rule.GetExpression()
	if text == "" {
		return true, "", false
	}
	program, err := r.program(text)
	if err != nil {
		return false, fmt.Sprintf("rule %q: %v", rule.GetName(), err), false
	}
	if lacking := notRecorded(program.References(), d, roles); lacking != "" {
		return false, fmt.Sprintf("rule %q reads %s, which is not recorded", rule.GetName(), lacking), false
	}
	holds, err = program.Eval(context.Background(), input)
	return holds, "", err != nil
}

func (r *Replay) program(text string) (*authzexpr.Program, error) {
	if program := r.programs[text]; program != nil {
		return program, nil
	}
	environment, err := authzexpr.NewEnvironment()
	if err != nil {
		return nil, err
	}
	program, err := environment.Compile(text)
	if err == nil {
		r.programs[text] = program
	}
	return program, err
}

// notRecorded is the first of what an expression reads that the record lacks.
func notRecorded(reads []string, d *RecordedDecision, roles recordedRoles) string {
	for _, read := range reads {
		known := read
		switch read {
		case "request.raw_query":
			known = "request.query"
		case "identity.roles":
			if roles.unknown != "" {
				return "the roles of " + roles.unknown
			}
		case "request", "identity", "source", "identity.certificate", "request.body", "request.size",
			"source.port", "source.principal", "route":
			return read
		}
		if slices.Contains(d.Missing, known) || read == "metadata" || strings.HasPrefix(read, "metadata.") {
			return read
		}
	}
	return ""
}

func recordedInput(d *RecordedDecision, rules *authRoute, caller *authzexpr.Identity) (*authzexpr.Input, recordedRoles) {
	kind, rest, _ := strings.Cut(d.Route, "/")
	namespace, rest, _ := strings.Cut(rest, "/")
	name, _, _ := strings.Cut(rest, "/")
	input := &authzexpr.Input{
		Request: d.Request, Identity: *caller, Time: d.Time,
		Route:  authzexpr.Route{ID: d.Route, Kind: kind, Namespace: namespace, Name: name, Hostnames: rules.GetSettings().GetHostnames()},
		Source: authzexpr.Source{Address: d.Source},
	}
	input.Identity.Authenticator = d.Authenticator
	roles := rolesOf(d, caller, rules.GetSettings().GetRoleClaims())
	input.Identity.Roles = roles.list
	if caller.Consumer != "" {
		input.Consumer = authzexpr.Consumer{Name: caller.Consumer, Tenant: caller.Tenant, Tier: caller.Tier}
	}
	return input, roles
}
