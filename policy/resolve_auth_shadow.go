package policy

import (
	"cmp"
	"fmt"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy/v1alpha1"
)

// openAuthenticator names callers of routes that are checked only because
// something is recorded of them.
const openAuthenticator = "open"

func (c *compiledAuth) setAudit(mode v1alpha1.AuditMode) {
	switch mode {
	case v1alpha1.AuditRequired:
		c.audit = rulesv1.Audit_AUDIT_REQUIRED
	case v1alpha1.AuditBestEffort:
		c.audit = rulesv1.Audit_AUDIT_BEST_EFFORT
	default:
		return
	}
	c.auth.Audit = mode
}

// watched reports whether requests are to be looked at even where everybody is
// let through.
func (c *compiledAuth) watched() bool {
	return c.audit != rulesv1.Audit_AUDIT_UNSPECIFIED || len(c.wouldBe) > 0
}

// watchOpen has a route that is open to everybody checked, because decisions about
// it are recorded or compared; nil when they aren't. What callers send reaches the
// service as it is.
func (r *resolver) watchOpen(rule *ruleSource, compiled *compiledAuth, routeID string) *Auth {
	if !compiled.watched() {
		return nil
	}
	r.addAuthRoute(&authRoute{
		RouteId: routeID, Realm: "weir", KeepCredentials: true, Audit: compiled.audit, Candidates: compiled.candidates(rule),
		Authenticators: []*rulesv1.Authenticator{{Name: openAuthenticator, Method: &rulesv1.Authenticator_Anonymous{Anonymous: &rulesv1.AnonymousAuthenticator{}}}},
	})
	auth := compiled.auth
	auth.RouteID = routeID
	return &auth
}

// addCandidates compiles what is compared with the rules of a place: those rules
// with the ones in the shadow among them, and the policies in the shadow in the
// place of those that they stand in for.
func (r *resolver) addCandidates(set *policySet) {
	live := set.auth
	if live.shadowRule != nil {
		r.addCandidate(live, r.compileAuth(&set.kinds[kindAuth], set.listener, true), *live.shadowRule, nil)
	}
	if set.shadow == nil {
		return
	}
	for _, layer := range set.shadow.layers {
		if layer.shadow && layer.kept > 0 {
			r.addCandidate(live, r.compileAuth(set.shadow, set.listener, true), layer.origin, layer.object)
			return
		}
	}
}

func (r *resolver) addCandidate(live, would *compiledAuth, origin Origin, object *Object) {
	if would.closing != nil || would.policy == "" {
		return
	}
	if why := would.incomparable(live); why != "" {
		if object == nil {
			object = r.byRef[origin.Object]
		}
		if object != nil {
			r.reportOnce(object.problem(CodeShadowSkipped, "spec", "is not compared: "+why))
		}
		return
	}
	if len(would.authenticators) == 0 && object != nil {
		r.reportOnce(object.notice(CodeShadowRefuses, "spec", "in force it would refuse every request: no way to identify callers is left that can be used"))
	}
	live.wouldBe = append(live.wouldBe, would)
	live.auth.Candidates = append(live.auth.Candidates, AuthCandidate{Policy: would.policy, Origin: cmp.Or(origin, would.auth.Origin)})
}

// incomparable is why what would be in force cannot be compared with what is;
// empty when it can.
func (c *compiledAuth) incomparable(live *compiledAuth) string {
	switch {
	case len(c.authenticators) > maxAuthenticators || len(c.rules) > maxAuthRules:
		return fmt.Sprintf("merged with the others that reach the route, there would be %d ways to authenticate and %d rules; the most are %d and %d, and in force it would refuse every request",
			len(c.authenticators), len(c.rules), maxAuthenticators, maxAuthRules)
	case c.unusable != "":
		return c.unusable + "; in force it would refuse every request"
	case c.body != nil && c.auth.BodyBytes > live.auth.BodyBytes:
		return "it reads the request's body, of which the rules in force read less or nothing, so that the proxy sends none to compare with"
	default:
		return ""
	}
}

// candidates are what is compared on a rule's route.
func (c *compiledAuth) candidates(rule *ruleSource) []*rulesv1.Candidate {
	var candidates []*rulesv1.Candidate
	for _, would := range c.wouldBe {
		candidate := &rulesv1.Candidate{Policy: would.policy, Authenticators: would.authenticators, Rules: would.rules}
		candidate.Digest = digestMessage(candidate)
		around := would.around(rule, &authRoute{})
		candidate.Metadata, candidate.Body, candidate.Settings = around.GetMetadata(), around.GetBody(), around.GetSettings()
		candidates = append(candidates, candidate)
	}
	return candidates
}
