package login

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"html"
	"net/http"
	"net/url"
	"strings"
	"time"

	"weir.dev/extauthz"
)

// logout ends the session here and leads to the provider, which ends its own
// (OpenID Connect RP-Initiated Logout 1.0).
func (l *Login) logout(ctx context.Context, call *extauthz.Call) error {
	if refusal := methods(call, "GET", "POST"); refusal != nil {
		return refusal
	}
	if !l.fromHere(call.Request) {
		if call.Request.Method == http.MethodGet {
			return l.confirm()
		}
		return extauthz.Refuse(extauthz.ReasonCrossOrigin, errors.New("a page of another origin asks for a logout"))
	}
	described, unreachable := l.provider.describe(ctx)
	old, err := l.load(ctx, call)
	var ended *endedError
	switch {
	case err == nil:
		if err := l.end(ctx, old, call.Now); err != nil {
			return l.failed(call, extauthz.ReasonProviderUnavailable, err)
		}
	case !errors.As(err, &ended):
		return l.failed(call, extauthz.ReasonProviderUnavailable, err)
	}
	location := l.paths.after
	if unreachable == nil && described.endSession != "" {
		location = l.endURL(call, described, old)
	}
	if unreachable == nil && old != nil {
		l.provider.revoke(ctx, described, old.session.Refresh)
	}
	return redirect(extauthz.ReasonLoggedOut, location, l.jar.clear(call.Request))
}

func (l *Login) endURL(call *extauthz.Call, d *described, old *held) string {
	query := url.Values{"client_id": {l.clientID}, "post_logout_redirect_uri": {l.origin(call.Request) + l.paths.after}}
	if old != nil {
		query.Set("id_token_hint", old.session.IDToken)
	}
	separator := "?"
	if strings.Contains(d.endSession, "?") {
		separator = "&"
	}
	return d.endSession + separator + query.Encode()
}

// confirm asks the person, since a link on any page can lead here.
func (l *Login) confirm() *extauthz.Refusal {
	return &extauthz.Refusal{Reason: extauthz.ReasonCrossOrigin, Answer: &extauthz.Answer{
		Status: http.StatusOK,
		Headers: []extauthz.Header{
			{Name: "content-type", Value: "text/html; charset=utf-8"},
			{Name: "cache-control", Value: "no-store"},
			{Name: "content-security-policy", Value: "default-src 'none'; frame-ancestors 'none'"},
			{Name: "x-content-type-options", Value: "nosniff"},
		},
		Body: `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Log out</title></head><body><main><h1>Log out?</h1>` +
			`<form method="post" action="` + html.EscapeString(l.paths.logout) + `"><button>Log out</button></form></main></body></html>`,
	}}
}

// maxLogoutBytes bounds the body of a back-channel logout.
const maxLogoutBytes = 16 << 10

// logoutEvent is the member of "events" that makes a logout token.
const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// backchannel takes a logout token from the provider (OpenID Connect
// Back-Channel Logout 1.0 section 2.5).
func (l *Login) backchannel(ctx context.Context, call *extauthz.Call) error {
	if refusal := methods(call, "POST"); refusal != nil {
		return refusal
	}
	text, err := logoutToken(call.Request)
	if err != nil {
		return noStore(extauthz.Refuse(extauthz.ReasonLogoutToken, err))
	}
	described, err := l.provider.describe(ctx)
	if err != nil {
		return noStore(extauthz.Refuse(extauthz.ReasonProviderUnavailable, err))
	}
	who, err := l.checkLogout(ctx, described, text, call.Now)
	if err == nil {
		if err = l.endAll(ctx, who, call.Now); err != nil {
			_ = l.shared.Delete(ctx, who.used) // the provider will try again
		}
	}
	var bad *badLogout
	switch {
	case errors.As(err, &bad):
		return noStore(extauthz.Refuse(extauthz.ReasonLogoutToken, err))
	case err != nil:
		return noStore(extauthz.Refuse(extauthz.ReasonProviderUnavailable, err))
	}
	return noStore(&extauthz.Refusal{Reason: extauthz.ReasonLoggedOut, Answer: &extauthz.Answer{Status: http.StatusOK}})
}

func noStore(refusal *extauthz.Refusal) *extauthz.Refusal {
	refusal.ResponseHeaders = append(refusal.ResponseHeaders, extauthz.Header{Name: "cache-control", Value: "no-store"})
	return refusal
}

func logoutToken(request *extauthz.Request) (string, error) {
	kind, _, _ := strings.Cut(header(request, "content-type"), ";")
	if !strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded") {
		return "", errors.New("the body is not a form")
	}
	if len(request.Body) == 0 {
		return "", errors.New("no body came with the check: the proxy must send it for this path (with_request_body)")
	}
	if len(request.Body) > maxLogoutBytes {
		return "", errors.New("the body is too large")
	}
	form, err := url.ParseQuery(string(request.Body))
	if err != nil || len(form["logout_token"]) != 1 {
		return "", errors.New("the form has not exactly one logout_token")
	}
	return form.Get("logout_token"), nil
}

// badLogout is an error of the logout token itself.
type badLogout struct{ cause error }

func (e *badLogout) Error() string { return e.cause.Error() }
func (e *badLogout) Unwrap() error { return e.cause }

// loggedOut is whom a logout token names: a session of the provider, or all
// sessions of a subject.
type loggedOut struct{ sid, subject, used string }

// checkLogout validates a logout token (section 2.6).
func (l *Login) checkLogout(ctx context.Context, d *described, text string, now time.Time) (loggedOut, error) {
	bad := func(why string) (loggedOut, error) { return loggedOut{}, &badLogout{errors.New(why)} }
	if !logoutType(text) {
		return bad("typ of the logout token is another")
	}
	verified, err := l.provider.verify(ctx, d, text, now)
	if isUnavailable(err) {
		return loggedOut{}, err
	}
	if err != nil {
		return loggedOut{}, &badLogout{err}
	}
	var claims struct {
		ID     string                     `json:"jti"`
		SID    string                     `json:"sid"`
		Nonce  json.RawMessage            `json:"nonce"`
		Events map[string]json.RawMessage `json:"events"`
	}
	if verified.Claims(&claims) != nil {
		return bad("a claim of the logout token has another type than it must have")
	}
	var event map[string]json.RawMessage
	switch {
	case json.Unmarshal(claims.Events[logoutEvent], &event) != nil || event == nil:
		return bad("events does not say that it is a logout token")
	case claims.Nonce != nil:
		return bad("a logout token has no nonce")
	case claims.ID == "":
		return bad("the logout token has no jti")
	case claims.SID == "" && verified.Subject == "":
		return bad("the logout token names neither a session nor a subject")
	case verified.IssuedAt.IsZero() || now.Sub(verified.IssuedAt) > logoutFor:
		return bad("the logout token has no iat, or was issued too long ago")
	}
	used := l.namespace + "jti:" + hashed(claims.ID)
	first, err := l.shared.Add(ctx, used, unique(), logoutFor+2*time.Minute)
	if err != nil {
		return loggedOut{}, err
	}
	if !first {
		return bad("the logout token was used before")
	}
	return loggedOut{claims.SID, verified.Subject, used}, nil
}

// logoutFor is how old a logout token may be.
const logoutFor = 5 * time.Minute

func logoutType(text string) bool {
	head, _, _ := strings.Cut(text, ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return false
	}
	var header struct {
		Type string `json:"typ"`
	}
	if json.Unmarshal(raw, &header) != nil {
		return false
	}
	kind := strings.TrimPrefix(strings.ToLower(header.Type), "application/")
	return kind == "" || kind == "jwt" || kind == "logout+jwt"
}

// endAll ends the sessions that a logout token names: with a sid that session
// alone, else all of the subject.
func (l *Login) endAll(ctx context.Context, who loggedOut, now time.Time) error {
	list, mark := l.listSubject(who.subject), l.goneSubject(who.subject)
	if who.sid != "" {
		list, mark = l.listSID(who.sid), l.goneSID(who.sid)
	}
	if !l.redis {
		return l.mark(ctx, mark, now)
	}
	sessions, err := l.shared.Members(ctx, list)
	if err != nil {
		return err
	}
	return l.shared.Delete(ctx, append(sessions, list)...)
}
