package login

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/claims"
)

// Defaults and bounds, as auth_login.proto documents them.
const (
	defaultLifetime = 12 * time.Hour
	maxLifetime     = 30 * 24 * time.Hour
	// defaultRefresh is for providers that do not say how long a token lives.
	defaultRefresh = 5 * time.Minute
	defaultTimeout = 5 * time.Second
	maxTimeout     = 10 * time.Second
	// pendingFor is how long a person may take to log in.
	pendingFor = 10 * time.Minute
	// maxPending bounds the logins that one browser may have under way.
	maxPending = 6
	// graceFor is how long what a refresh brought is given to requests that come
	// with what was before it.
	graceFor = 5 * time.Minute
	// maxSessions of one subject are kept in a shared store.
	maxSessions = 64
)

// Events hears what happens, for metrics. Methods are called concurrently and
// must not block.
type Events interface {
	// LoginRefresh is called after the provider was asked to renew a session.
	LoginRefresh(err error)
	// LoginRevocationDropped is called when a logout is forgotten before the
	// sessions that it ends, since there are too many.
	LoginRevocationDropped()
}

// Login is an extauthz.Method. Use Builder. Safe for concurrent use.
type Login struct {
	issuer, clientID           string
	claims                     claims.Mapping
	parameters                 []oauth2.AuthCodeOption
	userinfo, forward, redis   bool
	paths                      paths
	trusted                    map[string]bool
	port                       uint32
	lifetime, refresh, timeout time.Duration

	jar      jar
	ring     *keyring
	provider *provider
	// shared is what replicas share, if they share anything; local are the marks
	// that logouts of sessions in cookies leave in this process.
	shared, local Store
	once          *once
	proofs        *proofCache
	events        Events
	// namespace begins every key of the stores and every purpose of a seal, so that
	// nothing of one login is taken for another's.
	namespace string
}

// paths are what a login answers itself.
type paths struct{ callback, login, logout, backchannel, after string }

func (p *paths) own(path string) bool {
	return path == p.callback || path == p.login || path == p.logout || path == p.backchannel
}

// Presence implements extauthz.Method: a session's cookie, or a path that the
// login answers itself.
func (l *Login) Presence(request *extauthz.Request) extauthz.Presence {
	if l.paths.own(pathOf(request.Target)) {
		return extauthz.Present
	}
	switch _, count := cookie(request, l.jar.base); count {
	case 0:
		return extauthz.Absent
	case 1:
		return extauthz.Present
	default:
		return extauthz.Ambiguous
	}
}

// CredentialHeaders implements extauthz.Method.
func (l *Login) CredentialHeaders() []string { return nil }

// HoldsCookie implements extauthz.CookieHolder.
func (l *Login) HoldsCookie(name string) bool { return l.jar.holds(name) }

// Challenge implements extauthz.Method. No scheme is registered for sessions; it
// says where one begins.
func (l *Login) Challenge(realm string) string {
	return `Session realm="` + realm + `", login="` + l.paths.login + `"`
}

// Invite implements extauthz.Inviter: browsers are sent to the provider.
func (l *Login) Invite(ctx context.Context, call *extauthz.Call) *extauthz.Refusal {
	if !navigates(call.Request) {
		return nil
	}
	return l.begin(ctx, call, l.here(call.Request))
}

// here is the request's own target, to come back to.
func (l *Login) here(request *extauthz.Request) string {
	if location, ok := l.returnTo(request, request.Target); ok {
		return location
	}
	return "/"
}

// Prove implements extauthz.Method.
func (l *Login) Prove(ctx context.Context, call *extauthz.Call) (*extauthz.Proof, error) {
	switch pathOf(call.Request.Target) {
	case l.paths.callback:
		return nil, l.callback(ctx, call)
	case l.paths.login:
		return nil, l.start(ctx, call)
	case l.paths.logout:
		return nil, l.logout(ctx, call)
	case l.paths.backchannel:
		return nil, l.backchannel(ctx, call)
	}
	return l.visit(ctx, call)
}

// visit proves the caller of the service by their session.
func (l *Login) visit(ctx context.Context, call *extauthz.Call) (*extauthz.Proof, error) {
	held, err := l.load(ctx, call)
	if err != nil {
		return nil, l.refuse(ctx, call, err)
	}
	if !l.sameOrigin(call.Request) {
		return nil, extauthz.Refuse(extauthz.ReasonCrossOrigin, errors.New("the session came with a request of another origin's page"))
	}
	if !held.session.due(call.Now) {
		return held.proof, nil
	}
	return l.renewed(ctx, call, held)
}

// endedError says that there is no session any more.
type endedError struct {
	reason extauthz.Reason
	cause  error
	// clear says that its cookies are worth nothing, whatever else happens.
	clear bool
}

func (e *endedError) Error() string { return e.cause.Error() }
func (e *endedError) Unwrap() error { return e.cause }

// refuse answers a request whose session cannot be used: a browser logs in
// again, a program is told why.
func (l *Login) refuse(ctx context.Context, call *extauthz.Call, err error) error {
	var ended *endedError
	if !errors.As(err, &ended) {
		return extauthz.Refuse(extauthz.ReasonProviderUnavailable, err)
	}
	var cleared []extauthz.Header
	if ended.clear {
		cleared = l.jar.clear(call.Request)
	}
	if navigates(call.Request) {
		refusal := l.begin(ctx, call, l.here(call.Request))
		if refusal.Cause == nil {
			refusal.Cause = err
		}
		refusal.ResponseHeaders = append(cleared, refusal.ResponseHeaders...)
		return refusal
	}
	return &extauthz.Refusal{Reason: ended.reason, Cause: err, Challenge: l.Challenge(call.Realm), ResponseHeaders: cleared}
}

// redirect answers with a place to go.
func redirect(reason extauthz.Reason, location string, cookies []extauthz.Header) *extauthz.Refusal {
	return &extauthz.Refusal{
		Reason: reason, ResponseHeaders: cookies,
		Answer: &extauthz.Answer{Status: http.StatusFound, Headers: []extauthz.Header{
			{Name: "location", Value: location}, {Name: "cache-control", Value: "no-store"}, {Name: "referrer-policy", Value: "no-referrer"},
		}},
	}
}

// methods refuses all but the given methods.
func methods(call *extauthz.Call, allowed ...string) *extauthz.Refusal {
	for _, method := range allowed {
		if call.Request.Method == method {
			return nil
		}
	}
	return &extauthz.Refusal{Reason: extauthz.ReasonLoginRequest, Answer: &extauthz.Answer{
		Status:  http.StatusMethodNotAllowed,
		Headers: []extauthz.Header{{Name: "allow", Value: strings.Join(allowed, ", ")}, {Name: "cache-control", Value: "no-store"}},
	}}
}
