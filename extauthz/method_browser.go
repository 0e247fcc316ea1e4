package extauthz

import "context"

// Inviter is a Method that can offer a caller without credentials more than a
// challenge: a person's browser is sent to log in.
type Inviter interface {
	// Invite is asked when no method of the route found a credential and nobody
	// is let in without one. It returns nil where the usual 401 is right, as for
	// programs. It may wait for what it has to ask, never past ctx.
	Invite(ctx context.Context, call *Call) *Refusal
}

// CookieHolder is a Method whose credential is in cookies, which share a header
// with those of the service.
type CookieHolder interface {
	// HoldsCookie reports whether a cookie is the method's, by name. Such cookies
	// do not reach the service, whichever method proved the caller.
	HoldsCookie(name string) bool
}

// invite asks the methods, in order, what to offer a caller without credentials.
func (a *attempt) invite(decision *Decision) {
	for i := range a.route.authenticators {
		inviter, ok := a.route.authenticators[i].method.(Inviter)
		if !ok {
			continue
		}
		if offer := inviter.Invite(a.ctx, &a.call); offer != nil {
			decision.Authenticator = a.route.authenticators[i].name
			*decision = decision.deny(offer.Reason, offer.Cause)
			decision.Challenge, decision.Answer, decision.ResponseHeaders = offer.Challenge, offer.Answer, offer.ResponseHeaders
			return
		}
	}
}

// holdsCookie joins what the methods of a route say; nil when none has cookies.
func holdsCookie(authenticators []authenticator) func(name string) bool {
	var holders []CookieHolder
	for i := range authenticators {
		if holder, ok := authenticators[i].method.(CookieHolder); ok {
			holders = append(holders, holder)
		}
	}
	if len(holders) == 0 {
		return nil
	}
	return func(name string) bool {
		for _, holder := range holders {
			if holder.HoldsCookie(name) {
				return true
			}
		}
		return false
	}
}
