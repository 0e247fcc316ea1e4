package envoyauth

import (
	"context"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"weir.dev/extauthz"
)

// Refuser answers checks that are not decided about by rules. *Server is one.
type Refuser interface {
	authv3.AuthorizationServer
	// Refuse denies a check for a reason, and counts and logs it as a decision.
	Refuse(ctx context.Context, check *authv3.CheckRequest, reason extauthz.Reason) *authv3.CheckResponse
}

var _ Refuser = (*Server)(nil)

// Refuse implements Refuser.
func (s *Server) Refuse(ctx context.Context, check *authv3.CheckRequest, reason extauthz.Reason) *authv3.CheckResponse {
	started := time.Now()
	request := toRequest(check)
	decision := extauthz.Decision{Reason: reason, Route: request.Route}
	response := toResponse(request, &decision)
	s.observer.Decided(false, string(reason), time.Since(started))
	s.record(ctx, request, &decision)
	return response
}

// Chooser chooses a route where Envoy doesn't say which one it has chosen.
type Chooser interface {
	// Choose returns the id of the route that a request is of. An empty id is a
	// refusal, for the reason given.
	Choose(authority, method, target string) (id string, refused extauthz.Reason)
}

// Choosing names the route of checks that name none. A route that Envoy names is
// taken as it is: it comes from Envoy's configuration, never from a client.
func Choosing(inner Refuser, chooser Chooser) Refuser {
	return &choosing{Refuser: inner, chooser: chooser}
}

type choosing struct {
	Refuser
	chooser Chooser
}

// Check implements authv3.AuthorizationServer.
func (c *choosing) Check(ctx context.Context, check *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	attributes := check.GetAttributes()
	if attributes.GetContextExtensions()[RouteExtension] != "" {
		return c.Refuser.Check(ctx, check)
	}
	http := attributes.GetRequest().GetHttp()
	id, reason := c.chooser.Choose(http.GetHost(), http.GetMethod(), http.GetPath())
	if id == "" {
		return c.Refuse(ctx, check, reason), nil
	}
	if attributes.ContextExtensions == nil {
		attributes.ContextExtensions = map[string]string{}
	}
	attributes.ContextExtensions[RouteExtension] = id
	return c.Refuser.Check(ctx, check)
}
