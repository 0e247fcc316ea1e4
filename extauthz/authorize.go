package extauthz

import (
	"fmt"
	"strings"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/identity"
)

// view is the canonical reading of the request's target.
type view struct{ path, query, host string }

// authorize runs the rules in order. The first that is true decides; an error
// denies at once, because what the rule would have said is unknown.
func (a *attempt) authorize(decision *Decision, view view) {
	if len(a.route.rules) == 0 {
		decision.Allowed, decision.Reason = true, ReasonAllowed
		return
	}
	input := a.input(decision, view)
	for i := range a.route.rules {
		rule := &a.route.rules[i]
		matched, err := rule.program.Eval(a.ctx, input)
		if err != nil {
			decision.Rule = rule.name
			*decision = decision.deny(ReasonRuleError, fmt.Errorf("rule %q: %w", rule.name, err))
			return
		}
		if !matched {
			continue
		}
		decision.Rule = rule.name
		if rule.allow {
			decision.Allowed, decision.Reason = true, ReasonAllowed
			return
		}
		a.forbid(decision, rule.aboutScope)
		return
	}
	if a.route.hasAllow {
		a.forbid(decision, a.route.allowsByScope)
		return
	}
	decision.Allowed, decision.Reason = true, ReasonAllowed
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

func (a *attempt) input(decision *Decision, view view) *rulesv1.AuthzInput {
	caller := &decision.Identity
	input := &rulesv1.AuthzInput{
		Request: &rulesv1.RequestAttributes{
			Method: a.request.Method, Path: view.path, Query: strings.ToValidUTF8(view.query, "\uFFFD"),
			Host: view.host, Protocol: a.request.Protocol,
		},
		Identity: &rulesv1.IdentityAttributes{
			Consumer: caller.Consumer, Subject: caller.Subject, Tenant: caller.Tenant, Tier: caller.Tier,
			Scopes: caller.Scopes, Authenticator: caller.Authenticator, Issuer: caller.Issuer, Claims: caller.Claims,
		},
		Route:  &rulesv1.RouteAttributes{Id: routeID(a.route.id)},
		Source: &rulesv1.SourceAttributes{Address: a.request.Source},
	}
	if a.route.needsHeaders {
		input.Request.Headers = a.visibleHeaders()
	}
	return input
}

// visibleHeaders are the headers that a rule may look at: the first value of
// each, without credentials and without what only the edge may set.
func (a *attempt) visibleHeaders() map[string]string {
	visible := make(map[string]string, len(a.request.Headers))
	for i := range a.request.Headers {
		header := &a.request.Headers[i]
		if _, seen := visible[header.Name]; seen || a.hidden(header.Name) {
			continue
		}
		visible[header.Name] = strings.ToValidUTF8(header.Value, "\uFFFD")
	}
	return visible
}

func (a *attempt) hidden(name string) bool {
	switch name {
	case "", headerAuthorization, "proxy-authorization", "cookie", "set-cookie":
		return true
	}
	if name[0] == ':' || strings.HasPrefix(name, identity.HeaderPrefix) {
		return true
	}
	for _, credential := range a.route.credentialHeaders {
		if name == credential {
			return true
		}
	}
	return false
}
