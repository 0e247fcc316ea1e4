package envoyauth

import (
	"context"
	"time"

	"weir.dev/extauthz"
)

// Checker answers checks. Safe for concurrent use.
type Checker interface {
	// Answer decides about a request, which it takes over.
	Answer(ctx context.Context, request *extauthz.Request) *Answer
	// Refuse denies a request without deciding, and counts and logs it as a
	// decision.
	Refuse(ctx context.Context, request *extauthz.Request, reason extauthz.Reason) *Answer
}

// Refuse implements Checker.
func (s *Server) Refuse(ctx context.Context, request *extauthz.Request, reason extauthz.Reason) *Answer {
	started := time.Now()
	decision := extauthz.Decision{Reason: reason, Route: request.Route}
	answer := newAnswer(request, &decision)
	s.observer.Decided(false, string(reason), time.Since(started))
	s.record(ctx, request, &decision)
	return answer
}

// Chooser chooses a route where Envoy doesn't say which one it has chosen.
type Chooser interface {
	// Choose returns the id of the route that a request is of. An empty id is a
	// refusal, for the reason given.
	Choose(authority, method, target string) (id string, refused extauthz.Reason)
}

// Choosing names the route of checks that name none. A route that Envoy names is
// taken as it is: it comes from Envoy's configuration, never from a client.
func Choosing(inner Checker, chooser Chooser) Checker {
	return &choosing{Checker: inner, chooser: chooser}
}

type choosing struct {
	Checker
	chooser Chooser
}

// Answer implements Checker.
func (c *choosing) Answer(ctx context.Context, request *extauthz.Request) *Answer {
	if request.Route != "" {
		return c.Checker.Answer(ctx, request)
	}
	id, reason := c.chooser.Choose(request.Authority, request.Method, request.Target)
	if id == "" {
		return c.Refuse(ctx, request, reason)
	}
	request.Route = id
	return c.Checker.Answer(ctx, request)
}
