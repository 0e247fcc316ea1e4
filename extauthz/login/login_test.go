package login_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
)

func TestLogin(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		w.rules.Userinfo, w.rules.ForwardAccessToken = true, true
		w.rules.AuthorizationParameters = map[string]string{"acr_values": "silver"}
		b := w.browser()
		decision := b.visit("/orders?page=2")
		require.False(t, decision.Allowed)
		require.Equal(t, extauthz.ReasonLoginRequired, decision.Reason)
		begun, err := url.Parse(location(t, &decision))
		require.NoError(t, err)
		require.Equal(t, "https://shop.example/oauth2/callback", begun.Query().Get("redirect_uri"))
		require.Equal(t, "openid profile", begun.Query().Get("scope"))
		require.Equal(t, "silver", begun.Query().Get("acr_values"))
		require.Len(t, b.set, 1)
		require.NotContains(t, b.set[0], begun.Query().Get("nonce"), "what is under way is sealed")

		decision = b.visit(target(w.op.authorize(begun.String(), "alice")))
		require.Equal(t, "/orders?page=2", location(t, &decision), "%v", decision.Cause)
		for name := range b.cookies {
			require.NotContains(t, name, ".login.", "the login's cookie is gone")
		}
		decision = b.visit("/orders?page=2")
		require.True(t, decision.Allowed, "%v", decision.Cause)
		require.Equal(t, "alice", decision.Identity.Subject)
		require.Equal(t, "acme", decision.Identity.Tenant)
		require.Equal(t, w.op.server.URL, decision.Identity.Issuer)
		require.Equal(t, []string{"openid", "profile"}, decision.Identity.Scopes)
		require.Equal(t, "dams", decision.Identity.Claims.GetFields()["department"].GetStringValue())
		require.Equal(t, []extauthz.Header{{Name: "authorization", Value: "Bearer at-alice"}}, decision.UpstreamHeaders)
		require.True(t, decision.CredentialCookie("__Host-weir"))
		require.False(t, decision.CredentialCookie("__Host-weird"))
		require.Empty(t, b.set)

		w.rules.ForwardAccessToken = false
		require.Empty(t, b.visit("/").UpstreamHeaders, "only where it is asked for")
	})
}

func TestOnlyBrowsersAreRedirected(t *testing.T) {
	w := newWorld(t, rulesv1.LoginSession_STORE_COOKIE)
	w.others = []*rulesv1.Authenticator{authtest.APIKey()}
	for name, c := range map[string]struct {
		method   string
		headers  []string
		redirect bool
	}{
		"page":                 {"GET", navigation(), true},
		"page, older browser":  {"GET", []string{"accept", "text/html"}, true},
		"script":               {"GET", []string{"accept", "*/*", "sec-fetch-mode", "cors"}, false},
		"script asks for HTML": {"GET", []string{"accept", "text/html", "sec-fetch-mode", "cors", "sec-fetch-dest", "empty"}, false},
		"frame":                {"GET", []string{"accept", "text/html", "sec-fetch-mode", "navigate", "sec-fetch-dest", "iframe"}, false},
		"prefetch":             {"GET", append(navigation(), "sec-purpose", "prefetch;prerender"), false},
		"form":                 {"POST", navigation(), false},
		"websocket":            {"GET", append(navigation(), "upgrade", "websocket"), false},
		"program":              {"GET", []string{"accept", "application/json"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			decision := w.browser().do(w.replica, c.method, "/", "", c.headers...)
			require.False(t, decision.Allowed)
			if c.redirect {
				location(t, &decision)
				return
			}
			require.Nil(t, decision.Answer)
			require.Equal(t, extauthz.ReasonCredentialsMissing, decision.Reason)
			require.Equal(t, `Session realm="edge", login="/oauth2/login", ApiKey realm="edge", header="x-api-key"`, decision.Challenge)
		})
	}
	decision := w.browser().do(w.replica, "GET", "/", "", append(navigation(), "x-api-key", authtest.GoodKey)...)
	require.True(t, decision.Allowed, "a key beside it still works")
}

func TestTabs(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		b := w.browser()
		first, second := b.visit("/a"), b.visit("/b")
		back1 := w.op.authorize(location(t, &first), "alice")
		back2 := w.op.authorize(location(t, &second), "alice")
		second = b.visit(target(back2))
		require.Equal(t, "/b", location(t, &second))
		first = b.visit(target(back1))
		require.Equal(t, "/a", location(t, &first), "the other tab's login goes on")
		require.True(t, b.visit("/a").Allowed)

		for range 20 {
			w.clock.pass(time.Second)
			b.visit("/oauth2/login")
		}
		pending := 0
		for name := range b.cookies {
			if strings.Contains(name, ".login.") {
				pending++
			}
		}
		require.Equal(t, 6, pending, "logins under way are bounded")
	})
}

func TestCallbackOfAnotherBrowser(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		attacker, victim := w.browser(), w.browser()
		begun := attacker.visit("/")
		back := target(w.op.authorize(location(t, &begun), "mallory"))
		decision := victim.visit(back)
		require.Equal(t, extauthz.ReasonLoginState, decision.Reason)
		require.Empty(t, victim.cookies, "nobody is logged in as somebody else")
		require.Contains(t, decision.Answer.Body, "Log in again")

		victim.visit("/")
		decision = victim.visit(back)
		require.Equal(t, extauthz.ReasonLoginState, decision.Reason, "a login of its own under way does not help")
	})
}

func TestCallbackOnce(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		b := w.browser()
		begun := b.visit("/page")
		before := maps.Clone(b.cookies)
		back := target(w.op.authorize(location(t, &begun), "alice"))
		decision := b.visit(back)
		require.Equal(t, extauthz.ReasonLoginCompleted, decision.Reason)
		require.Equal(t, extauthz.ReasonLoginState, b.visit(back).Reason, "the browser has forgotten it")

		thief := w.browser()
		thief.cookies = maps.Clone(before)
		decision = thief.visit(back)
		require.Equal(t, extauthz.ReasonLoginState, decision.Reason, "with the login's cookie it still counts once")

		maps.Copy(before, b.cookies)
		reload := w.browser()
		reload.cookies = before
		decision = reload.visit(back)
		require.Equal(t, "/page", location(t, &decision), "a reload with the session leads on")
		require.True(t, reload.visit("/page").Allowed, "and the provider was not asked twice, which would have ended it")
	})
}

func TestCallbackRefused(t *testing.T) {
	type change struct {
		do     func(w *world, b *browser, back *url.URL)
		reason extauthz.Reason
	}
	query := func(name, value string) func(*world, *browser, *url.URL) {
		return func(_ *world, _ *browser, back *url.URL) {
			values := back.Query()
			values.Set(name, value)
			if value == "" {
				values.Del(name)
			}
			back.RawQuery = values.Encode()
		}
	}
	claims := func(change func(map[string]any)) func(*world, *browser, *url.URL) {
		return func(w *world, _ *browser, _ *url.URL) { w.op.claims = change }
	}
	set := func(name string, value any) func(*world, *browser, *url.URL) {
		return claims(func(c map[string]any) { c[name] = value })
	}
	for name, c := range map[string]change{
		"no state":          {query("state", ""), extauthz.ReasonLoginState},
		"another state":     {query("state", strings.Repeat("A", 22)), extauthz.ReasonLoginState},
		"odd state":         {query("state", "../../x;y"), extauthz.ReasonLoginState},
		"no code":           {query("code", ""), extauthz.ReasonLoginRequest},
		"wrong code":        {query("code", "guessed"), extauthz.ReasonLoginFailed},
		"error":             {query("error", "access_denied"), extauthz.ReasonLoginFailed},
		"another issuer":    {query("iss", "https://evil.example"), extauthz.ReasonLoginFailed},
		"no issuer":         {query("iss", ""), extauthz.ReasonLoginFailed},
		"state twice":       {func(_ *world, _ *browser, back *url.URL) { back.RawQuery += "&state=x" }, extauthz.ReasonLoginRequest},
		"too late":          {func(w *world, _ *browser, _ *url.URL) { w.clock.pass(10 * time.Minute) }, extauthz.ReasonLoginState},
		"clock went back":   {func(w *world, _ *browser, _ *url.URL) { w.clock.pass(-time.Hour) }, extauthz.ReasonLoginState},
		"nonce of another":  {set("nonce", "other"), extauthz.ReasonLoginFailed},
		"no nonce":          {set("nonce", nil), extauthz.ReasonLoginFailed},
		"another audience":  {set("aud", "other-app"), extauthz.ReasonLoginFailed},
		"token issuer":      {set("iss", "https://evil.example"), extauthz.ReasonLoginFailed},
		"two audiences":     {set("aud", []string{"weir-app", "other"}), extauthz.ReasonLoginFailed},
		"another party":     {set("azp", "other"), extauthz.ReasonLoginFailed},
		"wrong at_hash":     {set("at_hash", "AAAAAAAAAAAAAAAAAAAAAA"), extauthz.ReasonLoginFailed},
		"no subject":        {set("sub", nil), extauthz.ReasonLoginFailed},
		"subject no header": {set("sub", "a\nb"), extauthz.ReasonLoginCompleted},
		"expired":           {claims(func(c map[string]any) { c["exp"] = c["iat"].(int64) - 1 }), extauthz.ReasonLoginFailed},
		"from the future":   {claims(func(c map[string]any) { c["iat"] = c["exp"] }), extauthz.ReasonLoginFailed},
		"tenant no text":    {set("tenant", 7), extauthz.ReasonLoginFailed},
		"no ID token": {func(w *world, _ *browser, _ *url.URL) {
			w.op.answer = func(a map[string]any) { delete(a, "id_token") }
		}, extauthz.ReasonLoginFailed},
		"unsigned": {func(w *world, _ *browser, _ *url.URL) {
			w.op.sign = func(c map[string]any) string { return unsigned(w.t, c) }
		}, extauthz.ReasonLoginFailed},
		"by the client's secret": {func(w *world, _ *browser, _ *url.URL) {
			w.op.sign = func(c map[string]any) string {
				text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(c)).SignedString([]byte("s3cret"))
				require.NoError(w.t, err)
				return text
			}
		}, extauthz.ReasonLoginFailed},
		"algorithm not listed": {func(w *world, _ *browser, _ *url.URL) {
			w.op.sign = func(c map[string]any) string { return w.op.ring.EC.Token(w.t, nil, c) }
		}, extauthz.ReasonLoginFailed},
		"foreign key of the same id": {func(w *world, _ *browser, _ *url.URL) {
			foreign := foreignRing()
			w.op.sign = func(c map[string]any) string { return foreign.RSA.Token(w.t, nil, c) }
		}, extauthz.ReasonLoginFailed},
		"provider down": {func(w *world, _ *browser, _ *url.URL) { w.op.down.Store(true) }, extauthz.ReasonProviderUnavailable},
		"tampered cookie": {func(_ *world, b *browser, _ *url.URL) {
			for name, value := range b.cookies {
				b.cookies[name] = value[:10] + "A" + value[11:]
				if b.cookies[name] == value {
					b.cookies[name] = value[:10] + "B" + value[11:]
				}
			}
		}, extauthz.ReasonLoginState},
		"cookie of another state": {func(_ *world, b *browser, _ *url.URL) {
			for name := range maps.Clone(b.cookies) {
				b.visit("/other")
				for other, value := range b.cookies {
					if other != name {
						b.cookies[name] = value
					}
				}
			}
		}, extauthz.ReasonLoginState},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rulesv1.LoginSession_STORE_COOKIE)
			b := w.browser()
			begun := b.visit("/")
			back, err := url.Parse(w.op.authorize(location(t, &begun), "alice"))
			require.NoError(t, err)
			c.do(w, b, back)
			decision := b.visit(back.RequestURI())
			require.Equal(t, c.reason, decision.Reason, "%v", decision.Cause)
			require.False(t, b.visit("/").Allowed, "nobody is logged in")
			if decision.Cause != nil {
				require.NotContains(t, decision.Cause.Error(), "secret-of-the-provider")
			}
		})
	}
}

func unsigned(t *testing.T, claims map[string]any) string {
	text, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims(claims)).SignedString(jwt.UnsafeAllowNoneSignatureType)
	require.NoError(t, err)
	return text
}

func TestWithoutTheGuardItWorks(t *testing.T) {
	// The control of TestCallbackRefused: with nothing changed the same steps log in.
	w := newWorld(t, rulesv1.LoginSession_STORE_COOKIE)
	b := w.browser()
	begun := b.visit("/")
	require.Equal(t, extauthz.ReasonLoginCompleted, b.visit(target(w.op.authorize(location(t, &begun), "alice"))).Reason)
	require.True(t, b.visit("/").Allowed)
}

func TestProviderDownAtTheStart(t *testing.T) {
	w := newWorld(t, rulesv1.LoginSession_STORE_COOKIE)
	w.op.down.Store(true)
	b := w.browser()
	decision := b.visit("/")
	require.Equal(t, extauthz.ReasonProviderUnavailable, decision.Reason)
	require.Equal(t, extauthz.ReasonCredentialsMissing, b.fetch("/").Reason, "a program's answer needs no provider")
	w.op.down.Store(false)
	w.clock.pass(3 * time.Second)
	b.login("/", "alice")
	w.op.down.Store(true)
	require.True(t, b.visit("/").Allowed, "sessions go on")
	w.clock.pass(2 * time.Hour)
	decision = w.browser().visit("/")
	require.Equal(t, extauthz.ReasonLoginRequired, decision.Reason, "what the provider said of itself is used past its freshness")
}

func TestSessionCookies(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.login("/", "alice")
		good := maps.Clone(b.cookies)
		value := good["__Host-weir"]
		for name, cookies := range map[string]map[string]string{
			"empty":        {"__Host-weir": ""},
			"cut":          {"__Host-weir": value[:len(value)-4]},
			"changed":      {"__Host-weir": flip(value)},
			"no count":     {"__Host-weir": value[2:]},
			"count of 9":   {"__Host-weir": "9" + value[1:]},
			"piece absent": {"__Host-weir": "2" + value[1:]},
			"not base64":   {"__Host-weir": "1.!!!"},
			"random":       {"__Host-weir": "1." + strings.Repeat("QUJD", 40)},
		} {
			t.Run(name, func(t *testing.T) {
				other := w.browser()
				other.cookies = cookies
				decision := other.fetch("/")
				require.False(t, decision.Allowed)
				require.Equal(t, extauthz.ReasonSessionInvalid, decision.Reason, "%v", decision.Cause)
				require.Contains(t, decision.Challenge, "Session")
				require.Empty(t, other.cookies, "what is worth nothing is removed")
				other.cookies = maps.Clone(cookies)
				other.cookies["__Host-weir"] += ""
				decision = other.visit("/")
				require.Equal(t, extauthz.ReasonLoginRequired, decision.Reason, "a browser logs in again")
			})
		}
		request := b.request("GET", "/", "")
		request.Headers = append(request.Headers, request.Headers[0])
		twice := w.decide(request)
		require.Equal(t, extauthz.ReasonCredentialAmbiguous, twice.Reason)

		w.rules.ClientId = "another-app"
		require.Equal(t, extauthz.ReasonSessionInvalid, b.fetch("/").Reason, "a session of one client is worth nothing at another")
	})
}

func flip(value string) string {
	at := len(value) / 2
	c := byte('A')
	if value[at] == c {
		c = 'B'
	}
	return value[:at] + string(c) + value[at+1:]
}

func TestLargeSessions(t *testing.T) {
	w := newWorld(t, rulesv1.LoginSession_STORE_COOKIE)
	groups := func(n int) func(map[string]any) {
		return func(c map[string]any) {
			var list []string
			for i := range n {
				list = append(list, fmt.Sprintf("group-%04d-%s", i, random()))
			}
			c["groups"] = list
		}
	}
	w.op.claims = groups(150)
	b := w.browser()
	b.login("/", "alice")
	require.Len(t, b.cookies, 3, "a session in pieces")
	require.True(t, b.visit("/").Allowed)
	for name := range b.cookies {
		other := w.browser()
		other.cookies = maps.Clone(b.cookies)
		delete(other.cookies, name)
		require.False(t, other.fetch("/").Allowed, "without %s it is not whole", name)
	}
	w.op.claims = nil
	b.visit("/oauth2/login")
	begun := b.visit("/oauth2/login")
	b.visit(target(w.op.authorize(location(t, &begun), "bob")))
	require.Equal(t, "bob", b.visit("/").Identity.Subject, "pieces of the larger one are gone")

	w.op.claims = groups(700)
	b = w.browser()
	begun = b.visit("/")
	decision := b.visit(target(w.op.authorize(location(t, &begun), "alice")))
	require.ErrorContains(t, decision.Cause, "keep sessions in Redis")

	w = newWorld(t, rulesv1.LoginSession_STORE_REDIS)
	w.op.claims = groups(700)
	w.browser().login("/", "alice")
}

func TestKeyRotation(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.login("/", "alice")
		w.rules.Session.Keys = [][]byte{key2, key1}
		require.True(t, b.visit("/").Allowed, "the older key still opens")
		other := w.browser()
		other.login("/", "bob")
		w.rules.Session.Keys = [][]byte{key2}
		require.Equal(t, extauthz.ReasonSessionInvalid, b.fetch("/").Reason, "the key is gone, and so are its sessions")
		require.True(t, other.fetch("/").Allowed, "the newer key seals")
	})
}

func TestLifetime(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.login("/", "alice")
		for range 11 {
			w.clock.pass(time.Hour)
			require.True(t, b.visit("/").Allowed)
		}
		w.clock.pass(time.Hour)
		kept := maps.Clone(b.cookies)
		decision := b.fetch("/")
		require.False(t, decision.Allowed)
		require.Contains(t, []extauthz.Reason{extauthz.ReasonSessionExpired, extauthz.ReasonSessionInvalid}, decision.Reason)
		b.cookies = kept
		require.Equal(t, extauthz.ReasonLoginRequired, b.visit("/").Reason)
	})
}

func TestOfOtherOrigins(t *testing.T) {
	w := newWorld(t, rulesv1.LoginSession_STORE_COOKIE)
	b := w.browser()
	b.login("/", "alice")
	for _, c := range []struct {
		name, method string
		headers      []string
		allowed      bool
	}{
		{"read", "GET", []string{"sec-fetch-site", "cross-site"}, true},
		{"own page", "POST", []string{"sec-fetch-site", "same-origin", "origin", "https://shop.example"}, true},
		{"typed", "POST", []string{"sec-fetch-site", "none"}, true},
		{"program", "DELETE", nil, true},
		{"older browser, own page", "POST", []string{"origin", "https://shop.example"}, true},
		{"trusted", "POST", []string{"sec-fetch-site", "same-site", "origin", "https://app.example"}, true},
		{"trusted, on this machine", "POST", []string{"sec-fetch-site", "cross-site", "origin", "http://localhost:3000"}, true},
		{"sibling", "POST", []string{"sec-fetch-site", "same-site", "origin", "https://blog.example"}, false},
		{"stranger", "POST", []string{"sec-fetch-site", "cross-site", "origin", "https://evil.example"}, false},
		{"older browser, stranger", "PUT", []string{"origin", "https://evil.example"}, false},
		{"trusted name without TLS", "POST", []string{"sec-fetch-site", "cross-site", "origin", "http://app.example"}, false},
		{"trusted name, other port", "POST", []string{"sec-fetch-site", "cross-site", "origin", "https://app.example:8443"}, false},
		{"no origin to tell", "POST", []string{"sec-fetch-site", "cross-site"}, false},
		{"opaque origin", "POST", []string{"sec-fetch-site", "cross-site", "origin", "null"}, false},
		{"older browser, opaque", "POST", []string{"origin", "null"}, false},
		{"socket of a stranger", "GET", []string{"upgrade", "websocket", "sec-fetch-site", "cross-site", "origin", "https://evil.example"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			decision := b.do(w.replica, c.method, "/", "", c.headers...)
			require.Equal(t, c.allowed, decision.Allowed, "%v", decision.Cause)
			if !c.allowed {
				require.Equal(t, extauthz.ReasonCrossOrigin, decision.Reason)
			}
		})
	}
}

func TestStoreDown(t *testing.T) {
	w := newWorld(t, rulesv1.LoginSession_STORE_REDIS)
	b := w.browser()
	b.login("/", "alice")
	w.redis = nil
	w.replica = w.newReplica()
	decision := b.visit("/")
	require.Equal(t, extauthz.ReasonProviderUnavailable, decision.Reason, "no store, no entry")
	require.ErrorContains(t, decision.Cause, "sessions.redis.url")
	require.Len(t, b.cookies, 1, "the session is not lost")
}

func TestNothingSecretIsSaid(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.login("/", "alice")
		w.op.mu.Lock()
		var secrets []string
		for token := range w.op.refresh {
			secrets = append(secrets, token)
		}
		w.op.mu.Unlock()
		secrets = append(secrets, "s3cret", "at-alice")
		for _, cookie := range b.cookies {
			for _, secret := range secrets {
				require.NotContains(t, cookie, secret)
			}
		}
		raw, err := json.Marshal(b.visit("/").Identity.Claims.AsMap())
		require.NoError(t, err)
		for _, secret := range secrets {
			require.NotContains(t, string(raw), secret)
		}
	})
}
