package login

import (
	"context"
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/coreos/go-oidc/v3/oidc"

	"weir.dev/extauthz"
	"weir.dev/kit/fault"
)

// callback answers the provider's redirect (OpenID Connect Core 1.0 section
// 3.1.2.5).
func (l *Login) callback(ctx context.Context, call *extauthz.Call) error {
	if refusal := methods(call, "GET"); refusal != nil {
		return refusal
	}
	_, query, _ := strings.Cut(call.Request.Target, "?")
	values, err := single(query, "state", "code", "error", "iss")
	if err != nil {
		return l.failed(call, extauthz.ReasonLoginRequest, err)
	}
	login, err := l.underWay(call, values["state"])
	if err != nil {
		return l.failed(call, extauthz.ReasonLoginState, err)
	}
	used := l.jar.remove(l.jar.pending(login.State))
	answer := l.complete(ctx, call, login, values)
	answer.ResponseHeaders = append(answer.ResponseHeaders, used)
	return answer
}

// single reads parameters that may be there once.
func single(query string, names ...string) (map[string]string, error) {
	all, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("the query cannot be read")
	}
	values := map[string]string{}
	for _, name := range names {
		if len(all[name]) > 1 {
			return nil, fmt.Errorf("%s is there more than once", name)
		}
		values[name] = all.Get(name)
	}
	return values, nil
}

func (l *Login) complete(ctx context.Context, call *extauthz.Call, login *pending, values map[string]string) *extauthz.Refusal {
	described, err := l.provider.describe(ctx)
	if err != nil {
		return l.failed(call, extauthz.ReasonProviderUnavailable, err)
	}
	// RFC 9207 section 2.4.
	if issuer := values["iss"]; issuer != "" && issuer != l.issuer || issuer == "" && described.namesIssuer {
		return l.failed(call, extauthz.ReasonLoginFailed, errors.New("the callback is not of the provider: iss is another or absent"))
	}
	if code := values["error"]; code != "" {
		return l.failed(call, extauthz.ReasonLoginFailed, errors.New("the provider answered "+printable(code, 64)))
	}
	if values["code"] == "" {
		return l.failed(call, extauthz.ReasonLoginRequest, errors.New("the callback has no code"))
	}
	// A state is good once: providers take a second use of a code for theft and
	// end the session that the first one began.
	first, err := l.shared.Add(ctx, l.namespace+"used:"+hashed(login.State), unique(), pendingFor+time.Minute)
	if err != nil {
		return l.failed(call, extauthz.ReasonProviderUnavailable, err)
	}
	if !first {
		return l.replayed(ctx, call, login)
	}
	made, err := l.identify(ctx, call, described, login, values["code"])
	if err != nil {
		reason := extauthz.ReasonLoginFailed
		if isUnavailable(err) {
			reason = extauthz.ReasonProviderUnavailable
		}
		return l.failed(call, reason, err)
	}
	if _, err := l.proof(made); err != nil {
		return l.failed(call, extauthz.ReasonLoginFailed, err)
	}
	l.forgetOld(ctx, call)
	set, err := l.keep(ctx, call, made)
	if err != nil {
		return l.failed(call, extauthz.ReasonProviderUnavailable, err)
	}
	return redirect(extauthz.ReasonLoginCompleted, login.Return, set)
}

// replayed answers a callback that was seen before: with a session it leads on,
// as after a reload, and without one nowhere.
func (l *Login) replayed(ctx context.Context, call *extauthz.Call, login *pending) *extauthz.Refusal {
	if _, err := l.load(ctx, call); err != nil {
		return l.failed(call, extauthz.ReasonLoginState, errors.New("the callback was used before"))
	}
	return redirect(extauthz.ReasonLoginCompleted, login.Return, nil)
}

// identify asks the provider who logged in.
func (l *Login) identify(ctx context.Context, call *extauthz.Call, d *described, login *pending, code string) (*session, error) {
	tokens, err := l.provider.exchange(ctx, d, l.callbackURL(call.Request), code, login.Verifier)
	if err != nil {
		return nil, err
	}
	verified, text, err := l.idToken(ctx, d, tokens, call.Now)
	if err != nil {
		return nil, err
	}
	if verified == nil {
		return nil, errors.New("the provider gave no ID token")
	}
	if verified.Nonce != login.Nonce {
		return nil, errors.New("the ID token is not of this login: its nonce is another")
	}
	var claims struct {
		SID string `json:"sid"`
	}
	if err := verified.Claims(&claims); err != nil {
		return nil, errors.New("sid of the ID token is not a string")
	}
	made := &session{ID: random(), Subject: verified.Subject, SID: claims.SID, IDToken: text, Begun: call.Now.Unix(), Ends: call.Now.Add(l.lifetime).Unix()}
	return made, l.learn(ctx, d, made, tokens, call.Now)
}

// idToken verifies the ID token that came with others; nil when none came.
func (l *Login) idToken(ctx context.Context, d *described, tokens *oauth2.Token, now time.Time) (*oidc.IDToken, string, error) {
	text, _ := tokens.Extra("id_token").(string)
	if text == "" {
		return nil, "", nil
	}
	verified, err := l.provider.verify(ctx, d, text, now)
	if err != nil {
		return nil, "", err
	}
	if verified.Subject == "" {
		return nil, "", errors.New("the ID token has no subject")
	}
	if verified.AccessTokenHash != "" {
		if err := verified.VerifyAccessToken(tokens.AccessToken); err != nil {
			return nil, "", errors.New("at_hash of the ID token is not of the access token")
		}
	}
	return verified, text, nil
}

// learn takes over what the provider said.
func (l *Login) learn(ctx context.Context, d *described, s *session, tokens *oauth2.Token, now time.Time) error {
	s.update(l, tokens, now)
	if !l.userinfo {
		return nil
	}
	person, err := l.provider.person(ctx, d, tokens.AccessToken, s.Subject)
	if err != nil {
		return err
	}
	s.Userinfo = person
	return nil
}

// failed answers on the login's own paths: a page for browsers, problem details
// for the rest.
func (l *Login) failed(call *extauthz.Call, reason extauthz.Reason, cause error) *extauthz.Refusal {
	refusal := extauthz.Refuse(reason, cause)
	if !strings.Contains(header(call.Request, "accept"), "text/html") {
		return refusal
	}
	answer := reason.Fault()
	status := fault.HTTPStatus(answer.Kind)
	if status == http.StatusUnauthorized {
		status = http.StatusForbidden // a page, not a challenge
	}
	refusal.Answer = &extauthz.Answer{
		Status: status,
		Headers: []extauthz.Header{
			{Name: "content-type", Value: "text/html; charset=utf-8"},
			{Name: "cache-control", Value: "no-store"},
			{Name: "content-security-policy", Value: "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"},
			{Name: "x-content-type-options", Value: "nosniff"},
			{Name: "referrer-policy", Value: "no-referrer"},
		},
		Body: page(answer.Message, answer.Reason, call.Request.ID, l.paths.login),
	}
	return refusal
}

func page(message, code, request, again string) string {
	return `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Login</title>` +
		`<style>body{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:4rem auto;padding:0 1rem}small{color:#555}</style></head><body><main>` +
		`<h1>Login</h1><p>` + html.EscapeString(strings.ToUpper(message[:1])+message[1:]) + `.</p><p><a href="` + html.EscapeString(again) + `">Log in again</a></p>` +
		`<p><small>` + html.EscapeString(code+" "+request) + `</small></p></main></body></html>`
}
