package login_test

import (
	"maps"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
)

func TestLogout(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.login("/", "alice")
		stolen := w.browser()
		stolen.cookies = maps.Clone(b.cookies)
		decision := b.do(w.replica, "POST", "/oauth2/logout", "", "accept", "text/html", "sec-fetch-site", "same-origin")
		require.Equal(t, extauthz.ReasonLoggedOut, decision.Reason)
		end, err := url.Parse(location(t, &decision))
		require.NoError(t, err)
		require.Equal(t, "/end", end.Path)
		require.Equal(t, "https://shop.example/bye", end.Query().Get("post_logout_redirect_uri"))
		require.Equal(t, "weir-app", end.Query().Get("client_id"))
		require.NotEmpty(t, end.Query().Get("id_token_hint"))
		require.Empty(t, b.cookies)
		require.EqualValues(t, 1, w.op.revoked.Load(), "the refresh token, too")
		require.False(t, stolen.fetch("/").Allowed, "a copy of the cookies is worth nothing")

		decision = b.visit("/oauth2/logout")
		require.Equal(t, "/end", mustURL(t, location(t, &decision)).Path, "without a session the provider's can still be ended")
		w.op.down.Store(true)
		b = w.browser()
		fresh := w.newReplica()
		decision = b.do(fresh, "GET", "/oauth2/logout", "", navigation()...)
		require.Equal(t, "/bye", location(t, &decision), "nor does it need the provider")
	})
}

func mustURL(t *testing.T, text string) *url.URL {
	parsed, err := url.Parse(text)
	require.NoError(t, err)
	return parsed
}

func TestLogoutOfOtherOrigins(t *testing.T) {
	w := newWorld(t, rulesv1.LoginSession_STORE_COOKIE)
	b := w.browser()
	b.login("/", "alice")
	decision := b.do(w.replica, "POST", "/oauth2/logout", "", "origin", "https://evil.example", "sec-fetch-site", "cross-site")
	require.Equal(t, extauthz.ReasonCrossOrigin, decision.Reason)
	decision = b.do(w.replica, "GET", "/oauth2/logout", "", "accept", "text/html", "sec-fetch-site", "cross-site")
	require.Contains(t, decision.Answer.Body, `<form method="post" action="/oauth2/logout">`, "the person is asked")
	require.True(t, b.visit("/").Allowed, "nothing ended")
	decision = b.do(w.replica, "PUT", "/oauth2/logout", "")
	require.Equal(t, 405, decision.Answer.Status)
}

func backchannel(r *replica, token string) extauthz.Decision {
	return r.decide(&extauthz.Request{
		Method: "POST", Target: "/oauth2/backchannel-logout", Authority: "shop.example", Scheme: "https",
		Headers: []extauthz.Header{{Name: "content-type", Value: "application/x-www-form-urlencoded"}},
		Body:    []byte(url.Values{"logout_token": {token}}.Encode()),
	})
}

func TestBackChannelLogout(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		alice, bob := w.browser(), w.browser()
		alice.login("/", "alice")
		bob.login("/", "bob")
		decision := backchannel(w.replica, w.op.logoutToken(map[string]any{"sid": "sid-alice"}))
		require.Equal(t, extauthz.ReasonLoggedOut, decision.Reason, "%v", decision.Cause)
		require.Equal(t, 200, decision.Answer.Status)
		require.Contains(t, decision.ResponseHeaders, extauthz.Header{Name: "cache-control", Value: "no-store"})
		require.False(t, alice.fetch("/").Allowed)
		require.True(t, bob.fetch("/").Allowed, "others go on")

		w.clock.pass(time.Second)
		alice.login("/", "alice")
		require.True(t, alice.fetch("/").Allowed, "a new login is another session")
		again := w.browser()
		again.login("/", "alice")
		require.Equal(t, extauthz.ReasonLoggedOut, backchannel(w.replica, w.op.logoutToken(map[string]any{"sub": "alice"})).Reason)
		require.False(t, alice.fetch("/").Allowed)
		require.False(t, again.fetch("/").Allowed, "all of the person's sessions")
		require.True(t, bob.fetch("/").Allowed)
	})
}

func TestBackChannelLogoutEndsRefreshes(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.login("/", "alice")
		before := maps.Clone(b.cookies)
		w.clock.pass(5 * time.Minute)
		require.True(t, b.fetch("/").Allowed)
		require.Equal(t, extauthz.ReasonLoggedOut, backchannel(w.replica, w.op.logoutToken(map[string]any{"sub": "alice"})).Reason)
		require.False(t, b.fetch("/").Allowed)
		b.cookies = before
		require.False(t, b.fetch("/").Allowed, "nor does what a refresh brought revive it")
	})
}

func TestBadLogoutTokens(t *testing.T) {
	w := newWorld(t, rulesv1.LoginSession_STORE_REDIS)
	b := w.browser()
	b.login("/", "alice")
	event := "http://schemas.openid.net/event/backchannel-logout"
	good := map[string]any{"sub": "alice"}
	with := func(name string, value any) string {
		changes := maps.Clone(good)
		changes[name] = value
		return w.op.logoutToken(changes)
	}
	foreign := foreignRing()
	begun := w.clock.now().Unix()
	for name, token := range map[string]string{
		"empty":            "",
		"no token":         "x",
		"another issuer":   with("iss", "https://evil.example"),
		"another audience": with("aud", "other"),
		"no events":        with("events", nil),
		"other event":      with("events", map[string]any{"http://other": map[string]any{}}),
		"event no object":  with("events", map[string]any{event: true}),
		"event null":       with("events", map[string]any{event: nil}),
		"events a list":    with("events", []any{event}),
		"nonce":            with("nonce", "n"),
		"nonce empty":      with("nonce", ""),
		"no jti":           with("jti", nil),
		"no one":           with("sub", nil),
		"no iat":           with("iat", nil),
		"old":              with("iat", begun-301),
		"future":           with("iat", begun+120),
		"expired":          with("exp", begun-1),
		"no exp":           with("exp", nil),
		"sid a number":     with("sid", 7),
		"foreign key":      foreign.RSA.Token(t, nil, map[string]any{"iss": w.op.server.URL, "aud": "weir-app", "sub": "alice", "iat": begun, "exp": begun + 60, "jti": "j", "events": map[string]any{event: map[string]any{}}}),
		"typ of another":   w.op.ring.RSA.Token(t, map[string]any{"typ": "at+jwt"}, map[string]any{"iss": w.op.server.URL, "aud": "weir-app", "sub": "alice", "iat": begun, "exp": begun + 60, "jti": "j", "events": map[string]any{event: map[string]any{}}}),
		"other algorithm":  w.op.ring.EC.Token(t, nil, map[string]any{"iss": w.op.server.URL, "aud": "weir-app", "sub": "alice", "iat": begun, "exp": begun + 60, "jti": "j", "events": map[string]any{event: map[string]any{}}}),
		"unsigned":         unsigned(t, map[string]any{"iss": w.op.server.URL, "aud": "weir-app", "sub": "alice", "iat": begun, "exp": begun + 60, "jti": "j", "events": map[string]any{event: map[string]any{}}}),
	} {
		t.Run(name, func(t *testing.T) {
			decision := backchannel(w.replica, token)
			require.Equal(t, extauthz.ReasonLogoutToken, decision.Reason, "%v", decision.Cause)
			require.True(t, b.fetch("/").Allowed, "nobody is logged out")
		})
	}
	reads := w.op.keyReads.Load()
	for range 20 {
		backchannel(w.replica, w.op.ring.RSA.Token(t, map[string]any{"kid": random()}, map[string]any{"iss": w.op.server.URL, "aud": "weir-app", "iat": begun, "exp": begun + 60}))
	}
	require.LessOrEqual(t, w.op.keyReads.Load(), reads+1, "unknown key ids cause one look at the provider")

	for name, request := range map[string]*extauthz.Request{
		"no body":   {Method: "POST", Headers: []extauthz.Header{{Name: "content-type", Value: "application/x-www-form-urlencoded"}}},
		"JSON":      {Method: "POST", Headers: []extauthz.Header{{Name: "content-type", Value: "application/json"}}, Body: []byte(`{}`)},
		"two":       {Method: "POST", Headers: []extauthz.Header{{Name: "content-type", Value: "application/x-www-form-urlencoded"}}, Body: []byte("logout_token=a&logout_token=b")},
		"too large": {Method: "POST", Headers: []extauthz.Header{{Name: "content-type", Value: "application/x-www-form-urlencoded"}}, Body: make([]byte, 20<<10)},
	} {
		request.Target, request.Authority = "/oauth2/backchannel-logout", "shop.example"
		require.Equal(t, extauthz.ReasonLogoutToken, w.decide(request).Reason, name)
	}
	token := w.op.logoutToken(good)
	require.Equal(t, extauthz.ReasonLoggedOut, backchannel(w.replica, token).Reason, "the control: a good one works")
	require.False(t, b.fetch("/").Allowed)
	require.Equal(t, extauthz.ReasonLogoutToken, backchannel(w.replica, token).Reason, "once")
}
