package extauthz

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/httphost"
)

// maxCandidates bounds those of one route.
const maxCandidates = 4

// candidate is a route's rules as they may come to be.
type candidate struct {
	route
	source *rulesv1.Candidate
	// sameMethods says that callers are identified as by the rules in force.
	sameMethods bool
}

// candidates compiles those of a route.
func (c *Compiler) candidates(previous, set *RouteSet, r *route) error {
	sources := r.source.GetCandidates()
	if len(sources) > maxCandidates {
		return fmt.Errorf("candidates: %d are too many; the most is %d", len(sources), maxCandidates)
	}
	var errs []error
	for i, source := range sources {
		compiled := &candidate{source: source, sameMethods: sameMethods(source.GetAuthenticators(), r.source.GetAuthenticators())}
		live := &rulesv1.AuthRoute{
			RouteId: r.id, Policy: source.GetPolicy(), Digest: source.GetDigest(), Realm: r.source.GetRealm(),
			Authenticators: source.GetAuthenticators(), Rules: source.GetRules(), Metadata: source.GetMetadata(),
			Body: source.GetBody(), Settings: source.GetSettings(),
		}
		made, err := c.route(previous, set, r.id, live)
		if err != nil {
			errs = append(errs, fmt.Errorf("candidates[%d]: %w", i, err))
			continue
		}
		compiled.route = *made
		r.candidates = append(r.candidates, compiled)
	}
	return errors.Join(errs...)
}

func sameMethods(a, b []*rulesv1.Authenticator) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !proto.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// Verdict is what a candidate would have said.
type Verdict struct {
	// Policy and Digest name the candidate.
	Policy, Digest string
	Outcome        Outcome
	// Allowed, Reason and Rule are those of the candidate's decision, but where
	// Outcome is undecided.
	Allowed bool
	Reason  Reason
	Rule    string
}

// Outcome compares a candidate's decision with the one in force.
type Outcome string

// Outcomes.
const (
	OutcomeSame Outcome = "same"
	// OutcomeAllowToDeny and OutcomeDenyToAllow are flips.
	OutcomeAllowToDeny Outcome = "allow-to-deny"
	OutcomeDenyToAllow Outcome = "deny-to-allow"
	// OutcomeUndecided is where the candidate identifies callers in another way,
	// and trying it would have had effects: a proof that counts once would be used
	// up, a server would be asked, a login would begin.
	OutcomeUndecided Outcome = "undecided"
	// OutcomeError is where a rule failed, or whom a method has to ask.
	OutcomeError Outcome = "error"
)

// HasCandidates reports whether anything is to be compared on a route, and
// whether that needs the request's credentials. rules may be nil.
func HasCandidates(rules *Rules, request *Request) (some, credentials bool) {
	if rules == nil {
		return false, false
	}
	route := rules.routes.routes[request.Route]
	if route == nil {
		return false, false
	}
	for _, c := range route.candidates {
		credentials = credentials || !c.sameMethods
	}
	return len(route.candidates) > 0, credentials
}

// Consider asks the candidates of a route about a request that was decided. It
// changes nothing, and what it finds is for counting and showing only.
func Consider(ctx context.Context, now time.Time, rules *Rules, request *Request, decided *Decision) []Verdict {
	if rules == nil {
		return nil
	}
	live := rules.routes.routes[request.Route]
	if live == nil {
		return nil
	}
	verdicts := make([]Verdict, 0, len(live.candidates))
	for _, c := range live.candidates {
		verdicts = append(verdicts, c.consider(ctx, now, rules, request, live, decided))
	}
	return verdicts
}

func (c *candidate) consider(ctx context.Context, now time.Time, rules *Rules, request *Request, live *route, decided *Decision) Verdict {
	verdict := Verdict{Policy: c.policy, Digest: c.digest}
	path, query := splitTarget(request.Target)
	host, ok := httphost.Canonical(request.Authority)
	if !ok || request.Method == "" || !canonicalPath(path) {
		verdict.Outcome, verdict.Reason = OutcomeSame, decided.Reason // refused before any rule
		return verdict
	}
	attempt := attempt{
		ctx: ctx, route: &c.route, request: request,
		call: Call{Now: now, Request: request, Realm: c.realm, Consumers: rules.consumers},
	}
	decision := Decision{}
	switch {
	case c.sameMethods && !decided.identified:
		verdict.Outcome, verdict.Allowed, verdict.Reason = OutcomeSame, decided.Allowed, decided.Reason
		return verdict
	case c.sameMethods:
		decision.Identity, decision.Authenticator, decision.identified = decided.Identity, decided.Authenticator, true
	default:
		known, harmless := c.identify(&attempt, &decision, live, decided)
		if !harmless {
			verdict.Outcome = OutcomeUndecided
			return verdict
		}
		decision.identified = known
	}
	if decision.identified {
		attempt.authorize(&decision, view{path: path, query: query, host: host})
	}
	verdict.Allowed, verdict.Reason, verdict.Rule = decision.Allowed, decision.Reason, decision.Rule
	verdict.Outcome = compare(decided, &decision)
	return verdict
}

// identify finds out who the candidate would take the caller for. What the live
// rules found is taken over where the same method decides; others are tried only
// where that is harmless.
func (c *candidate) identify(attempt *attempt, decision *Decision, live *route, decided *Decision) (known, harmless bool) {
	chosen := -1
	for i := range c.authenticators {
		method := c.authenticators[i].method
		if method == nil {
			continue
		}
		if presence := method.Presence(attempt.request); presence == Ambiguous || chosen < 0 && presence == Present {
			chosen = i
		} else if presence == Foreign && chosen < 0 && !repeatable(c.source.GetAuthenticators()[i], attempt.request) {
			return false, false
		}
	}
	if chosen < 0 {
		if c.invites {
			return false, false // it would begin a login
		}
		return attempt.authenticate(decision), true
	}
	source := c.source.GetAuthenticators()[chosen]
	for i, other := range live.source.GetAuthenticators() {
		if live.authenticators[i].name != decided.Authenticator || !sameMethod(source, other) {
			continue
		}
		decision.Authenticator, decision.Identity = source.GetName(), decided.Identity
		decision.Identity.Authenticator = source.GetName()
		if !decided.identified {
			*decision = decision.deny(decided.Reason, nil)
		}
		return decided.identified, true
	}
	if !repeatable(source, attempt.request) {
		return false, false
	}
	return attempt.authenticate(decision), true
}

// sameMethod compares what two authenticators do, whatever they are called.
func sameMethod(a, b *rulesv1.Authenticator) bool {
	renamed, ok := proto.Clone(a).(*rulesv1.Authenticator)
	if !ok {
		return false
	}
	renamed.Name = b.GetName()
	return proto.Equal(renamed, b)
}

// repeatable reports whether proving a caller a second time has no effect on
// anybody: nothing is used up, and nobody is asked but for keys.
func repeatable(source *rulesv1.Authenticator, request *Request) bool {
	switch source.GetMethod().(type) {
	case *rulesv1.Authenticator_ApiKey, *rulesv1.Authenticator_Anonymous:
		return true
	case *rulesv1.Authenticator_Jwt:
		_, proof := request.Credential("dpop")
		return proof == Absent
	default:
		return false
	}
}

func compare(live, would *Decision) Outcome {
	switch {
	case would.Reason == ReasonRuleError && live.Reason != ReasonRuleError, would.Reason == ReasonInternal && live.Reason != ReasonInternal,
		would.Reason == ReasonProviderUnavailable && live.Reason != ReasonProviderUnavailable:
		return OutcomeError
	case live.Allowed == would.Allowed:
		return OutcomeSame
	case live.Allowed:
		return OutcomeAllowToDeny
	default:
		return OutcomeDenyToAllow
	}
}

// Named names a candidate.
type Named struct{ Policy, Digest string }

// Candidates are those of a request's route.
func Candidates(rules *Rules, request *Request) []Named {
	if rules == nil || rules.routes.routes[request.Route] == nil {
		return nil
	}
	var named []Named
	for _, c := range rules.routes.routes[request.Route].candidates {
		named = append(named, Named{c.policy, c.digest})
	}
	return named
}

// AllCandidates are those of all routes. rules may be nil.
func AllCandidates(rules *Rules) map[Named]bool {
	named := map[Named]bool{}
	if rules == nil {
		return named
	}
	for _, r := range rules.routes.routes {
		for _, c := range r.candidates {
			named[Named{c.policy, c.digest}] = true
		}
	}
	return named
}
