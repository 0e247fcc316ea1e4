package extauthz

import (
	"context"
	"errors"
	"strings"
	"time"

	"weir.dev/kit/identity"
)

// Decide decides one request by rules, which may be nil when none have been
// received. It changes nothing, and waits for nothing but a key set that a
// TokenVerifier has to fetch. Safe for concurrent use.
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
	path, query := splitTarget(request.Target)
	if !canonicalPath(path) || strings.IndexByte(query, '#') >= 0 {
		return decision.deny(ReasonPathNotCanonical, nil)
	}
	host, ok := canonicalHost(request.Authority)
	if !ok || request.Method == "" {
		return decision.deny(ReasonRequestInvalid, nil)
	}
	attempt := attempt{ctx: ctx, now: now, rules: rules, route: route, request: request}
	if !attempt.authenticate(&decision) {
		return decision
	}
	attempt.authorize(&decision, view{path: path, query: query, host: host})
	return decision
}

func (d Decision) deny(reason Reason, cause error) Decision {
	d.Allowed, d.Reason, d.Cause = false, reason, cause
	return d
}

// attempt is one decision under way.
type attempt struct {
	ctx     context.Context //nolint:containedctx // lives for one call of Decide
	now     time.Time
	rules   *Rules
	route   *route
	request *Request
}

// authenticate establishes decision.Identity or fills in the denial. The first
// authenticator whose credential is present decides; one that finds none leaves
// it to the next.
func (a *attempt) authenticate(decision *Decision) bool {
	if len(a.route.authenticators) == 0 {
		*decision = decision.deny(ReasonNoAuthenticator, nil)
		return false
	}
	for i := range a.route.authenticators {
		if a.ambiguous(&a.route.authenticators[i]) {
			decision.Authenticator = a.route.authenticators[i].name
			*decision = decision.deny(ReasonCredentialAmbiguous, nil)
			return false
		}
	}
	for i := range a.route.authenticators {
		authenticator := &a.route.authenticators[i]
		present, ok := false, false
		switch authenticator.kind {
		case kindAPIKey:
			present, ok = a.apiKey(authenticator, decision)
		case kindToken:
			present, ok = a.token(authenticator, decision)
		case kindAnonymous:
			if present = a.anonymous(); present {
				decision.Authenticator, decision.Identity.Authenticator, ok = authenticator.name, authenticator.name, true
			}
		}
		if present {
			return ok
		}
	}
	*decision = decision.deny(ReasonCredentialsMissing, nil)
	decision.Challenge = a.route.challenge
	return false
}

// ambiguous reports whether the authenticator's credential header is present
// more than once.
func (a *attempt) ambiguous(authenticator *authenticator) bool {
	count := 0
	switch authenticator.kind {
	case kindAPIKey:
		_, count = a.request.header(authenticator.header)
	case kindToken:
		_, count = a.request.header(headerAuthorization)
	}
	return count > 1
}

// anonymous reports whether no authenticator of the route, before or after the
// anonymous one, finds a credential: a credential that is presented is always
// judged.
func (a *attempt) anonymous() bool {
	for i := range a.route.authenticators {
		count := 0
		switch authenticator := &a.route.authenticators[i]; authenticator.kind {
		case kindAPIKey:
			_, count = a.request.header(authenticator.header)
		case kindToken:
			_, count = a.request.header(headerAuthorization)
		}
		if count > 0 {
			return false
		}
	}
	return true
}

func (a *attempt) apiKey(authenticator *authenticator, decision *Decision) (present, ok bool) {
	value, count := a.request.header(authenticator.header)
	if count == 0 {
		return false, false
	}
	decision.Authenticator = authenticator.name
	key := a.rules.consumers.keys.Find(value)
	reason := Reason("")
	switch {
	case key == nil:
		reason = ReasonAPIKeyInvalid
	case key.Expired(a.now):
		reason = ReasonAPIKeyExpired
	}
	if reason != "" {
		*decision = decision.deny(reason, nil)
		if key != nil {
			decision.Cause = errors.New("key " + key.Owner.name + " of consumer " + key.Owner.consumer.name)
		}
		decision.Challenge = apiKeyChallenge(a.route, authenticator)
		return true, false
	}
	owner := key.Owner.consumer
	decision.Identity.Identity = identity.Identity{
		Consumer: owner.name, Subject: key.Owner.name, Tenant: owner.tenant, Tier: owner.tier,
		Authenticator: authenticator.name, Scopes: key.Owner.scopes,
	}
	return true, true
}

func (a *attempt) token(authenticator *authenticator, decision *Decision) (present, ok bool) {
	value, count := a.request.header(headerAuthorization)
	if count == 0 {
		return false, false
	}
	token, err := a.verify(&authenticator, value)
	decision.Authenticator = authenticator.name
	if err != nil {
		a.refuseToken(decision, err)
		return true, false
	}
	caller := identity.Identity{
		Subject: token.Subject, Tenant: token.Tenant, Authenticator: authenticator.name, Scopes: token.Scopes,
	}
	if owner := a.rules.consumers.subjects[tokenSubject{token.Issuer, token.Subject}]; owner != nil {
		if token.Tenant != "" && token.Tenant != owner.tenant {
			*decision = decision.deny(ReasonTenantMismatch, errors.New("consumer "+owner.name))
			return true, false
		}
		caller.Consumer, caller.Tenant, caller.Tier = owner.name, owner.tenant, owner.tier
	}
	if !ValidHeaderValue(caller.Subject) || (caller.Tenant != "" && !ValidHeaderValue(caller.Tenant)) || !ValidScopes(caller.Scopes) {
		*decision = decision.deny(ReasonIdentityInvalid, errors.New("subject, tenant or a scope of the token cannot be a header value"))
		return true, false
	}
	decision.Identity = Identity{Identity: caller, Issuer: token.Issuer, Claims: token.Claims}
	return true, true
}

// verify proves an Authorization value. Of several token authenticators the
// first that expects the token's issuer has to, and stands in *authenticator
// afterwards; when none does, it is refused in the first one's name.
func (a *attempt) verify(chosen **authenticator, value string) (*Token, error) {
	scheme, token, _ := strings.Cut(value, " ")
	token = strings.TrimLeft(token, " ")
	if !strings.EqualFold(scheme, "bearer") || token == "" {
		return nil, Refuse(ReasonTokenInvalid, errors.New("the authorization header is not of the form Bearer TOKEN"))
	}
	if a.route.tokens > 1 {
		issuer, err := a.rules.routes.issuers(token)
		if err != nil {
			return nil, err
		}
		found := false
		for i := range a.route.authenticators {
			candidate := &a.route.authenticators[i]
			if candidate.kind == kindToken && candidate.issuer == issuer {
				*chosen, found = candidate, true
				break
			}
		}
		if !found {
			return nil, Refuse(ReasonTokenIssuer, errors.New("no authenticator of the policy accepts the token's issuer"))
		}
	}
	return (*chosen).verifier.Verify(a.ctx, a.now, token)
}

func (a *attempt) refuseToken(decision *Decision, err error) {
	reason := ReasonTokenInvalid
	var refusal *Refusal
	if errors.As(err, &refusal) {
		reason = refusal.Reason
	}
	*decision = decision.deny(reason, err)
	if reason != ReasonProviderUnavailable {
		decision.Challenge = bearerChallenge(a.route, "invalid_token", reason.Fault().Message)
	}
}
