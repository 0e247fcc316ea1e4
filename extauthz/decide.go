package extauthz

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"weir.dev/kit/httphost"
	"weir.dev/kit/identity"
)

// Decide decides one request by rules, which may be nil when none have been
// received. It changes nothing, and waits for nothing but what a Method has to
// ask. Safe for concurrent use.
func Decide(ctx context.Context, now time.Time, rules *Rules, request *Request) Decision {
	decision := Decision{Route: routeID(request.Route), CredentialHeaders: nil}
	if rules == nil {
		decision.Reason = ReasonRulesNotLoaded
		return decision
	}
	route := rules.routes.routes[request.Route]
	if route == nil {
		decision.Reason = ReasonRouteUnknown
		return decision
	}
	decision.Policy, decision.Digest, decision.CredentialHeaders = route.policy, route.digest, route.credentialHeaders
	decision.Client = clientOf(route, request)
	decision.CredentialCookie, decision.Audit = route.credentialCookie, route.audit
	path, query := splitTarget(request.Target)
	if !canonicalPath(path) || strings.IndexByte(query, '#') >= 0 {
		return decision.deny(ReasonPathNotCanonical, nil)
	}
	host, ok := httphost.Canonical(request.Authority)
	if !ok || request.Method == "" {
		return decision.deny(ReasonRequestInvalid, nil)
	}
	attempt := attempt{
		ctx: ctx, route: route, request: request,
		call: Call{Now: now, Request: request, Realm: route.realm, Consumers: rules.consumers},
	}
	if !attempt.authenticate(&decision) {
		return decision
	}
	decision.identified = true
	attempt.authorize(&decision, view{path: path, query: query, host: host})
	decision.LimitClaims = limitClaims(decision.Identity.Claims, route.source.GetLimitClaims())
	if decision.Allowed && route.upstream != nil {
		attempt.announce(&decision)
	}
	return decision
}

func (d Decision) deny(reason Reason, cause error) Decision {
	d.Allowed, d.Reason, d.Cause = false, reason, cause
	return d
}

// attempt is one decision under way.
type attempt struct {
	ctx     context.Context //nolint:containedctx // lives for one call of Decide
	call    Call
	route   *route
	request *Request
}

// authenticate establishes decision.Identity or fills in the denial. The first
// authenticator whose credential is present decides; one that finds none leaves
// it to the next.
func (a *attempt) authenticate(decision *Decision) bool {
	authenticators := a.route.authenticators
	if len(authenticators) == 0 {
		return a.refuse(decision, ReasonNoAuthenticator)
	}
	found := &decision.found
	foreign, anonymous, presented := -1, -1, false
	for i := range authenticators {
		if authenticators[i].method == nil {
			anonymous = i
			continue
		}
		found[i] = authenticators[i].method.Presence(a.request)
		presented = presented || found[i] != Absent
		switch {
		case found[i] == Ambiguous:
			decision.Authenticator = authenticators[i].name
			return a.refuse(decision, ReasonCredentialAmbiguous)
		case found[i] == Foreign && foreign < 0:
			foreign = i
		}
	}
	tried := false
	for i := range authenticators {
		if found[i] != Present {
			continue
		}
		tried = true
		if ok, next := a.prove(&authenticators[i], decision); !next {
			return ok
		}
	}
	switch {
	case tried: // the last one could not be asked, and has filled in the denial
		return false
	case foreign >= 0:
		ok, _ := a.prove(&authenticators[foreign], decision)
		return ok
	case anonymous >= 0 && !presented:
		name := authenticators[anonymous].name
		decision.Authenticator, decision.Identity.Authenticator = name, name
		return true
	}
	decision.Challenge = a.route.challenge
	a.refuse(decision, ReasonCredentialsMissing)
	decision.ResponseHeaders = a.route.tells
	if a.route.invites {
		a.invite(decision)
	}
	return false
}

func (a *attempt) refuse(decision *Decision, reason Reason) bool {
	*decision = decision.deny(reason, nil)
	return false
}

// prove has one authenticator judge the credential that it found. next says
// that it could not, and that another one may.
func (a *attempt) prove(authenticator *authenticator, decision *Decision) (ok, next bool) {
	decision.Authenticator = authenticator.name
	ctx := a.ctx
	if authenticator.timeout > 0 {
		bounded, cancel := context.WithTimeout(ctx, authenticator.timeout)
		defer cancel()
		ctx = bounded
	}
	proof, err := authenticator.method.Prove(ctx, &a.call)
	if err != nil {
		known := refusal(err)
		*decision = decision.deny(known.Reason, err)
		decision.Challenge, decision.Answer, decision.ResponseHeaders = known.Challenge, known.Answer, known.ResponseHeaders
		return false, authenticator.failsOver && known.Reason == ReasonProviderUnavailable
	}
	if !authenticator.bound && proof.Claims.GetFields()[claimConfirmation] != nil {
		*decision = decision.deny(ReasonInternal, errors.New("the token is bound and the method does not look at what to"))
		return false, false
	}
	decision.Cause, decision.Challenge, decision.Answer = nil, "", nil
	decision.ResponseHeaders, decision.UpstreamHeaders = proof.ResponseHeaders, proof.UpstreamHeaders
	return a.identify(authenticator.name, proof, decision), false
}

// identify makes the caller's identity of a proof.
func (a *attempt) identify(authenticator string, proof *Proof, decision *Decision) bool {
	caller := identity.Identity{
		Subject: proof.Subject, Tenant: proof.Tenant, Authenticator: authenticator, Scopes: proof.Scopes,
	}
	owner := proof.Consumer
	if owner == nil {
		owner = a.call.Consumers.BySubject(proof.Issuer, cmp.Or(proof.Client, proof.Subject))
	}
	if owner != nil {
		if proof.Tenant != "" && proof.Tenant != owner.Tenant {
			*decision = decision.deny(ReasonTenantMismatch, errors.New("consumer "+owner.Name))
			return false
		}
		caller.Consumer, caller.Tenant, caller.Tier = owner.Name, owner.Tenant, owner.Tier
	}
	if !ValidHeaderValue(caller.Subject) || (caller.Tenant != "" && !ValidHeaderValue(caller.Tenant)) || !ValidScopes(caller.Scopes) {
		*decision = decision.deny(ReasonIdentityInvalid, errors.New("subject, tenant or a scope of the credential cannot be a header value"))
		return false
	}
	decision.Identity = Identity{Identity: caller, Issuer: proof.Issuer, Claims: proof.Claims, Certificate: proof.Certificate}
	if owner != nil {
		decision.Identity.Attributes = owner.Attributes
	}
	return true
}
