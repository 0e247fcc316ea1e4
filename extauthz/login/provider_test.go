package login_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz/internal/authtest"
)

// op plays an OpenID provider that is strict about refresh tokens: the second
// use of one ends the grant, as RFC 9700 section 4.14.2 wants it.
type op struct {
	t      *testing.T
	server *httptest.Server
	ring   authtest.Ring
	now    func() time.Time

	mu      sync.Mutex
	codes   map[string]grant
	refresh map[string]*grant
	// claims changes ID tokens, answer the token endpoint's answer.
	claims func(map[string]any)
	answer func(map[string]any)
	// sign replaces how ID tokens are signed.
	sign      func(claims map[string]any) string
	lives     int
	noRefresh bool
	hold      chan struct{} // token requests wait for it to be closed, if not nil
	down      atomic.Bool
	renewals  atomic.Int32
	keyReads  atomic.Int32
	revoked   atomic.Int32
	// client reports whether a request is proven to be the client's; unproven
	// counts revocations that are not.
	client   func(r *http.Request) bool
	unproven atomic.Int32
}

func basicClient(r *http.Request) bool {
	id, secret, ok := r.BasicAuth()
	return ok && id == "weir-app" && secret == "s3cret"
}

type grant struct {
	subject, sid, nonce, challenge string
	used, over                     bool
}

// rings are made once: RSA keys take their time.
var ring, foreignRing = sync.OnceValue(newRing), sync.OnceValue(newRing) //nolint:gochecknoglobals // of tests

func newRing() authtest.Ring { return authtest.NewRing(&testing.T{}) }

func newOP(t *testing.T, now func() time.Time) *op {
	p := &op{t: t, ring: ring(), now: now, client: basicClient, codes: map[string]grant{}, refresh: map[string]*grant{}, lives: 300}
	p.server = httptest.NewServer(p)
	t.Cleanup(p.server.Close)
	return p
}

func (p *op) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.down.Load() {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	say := func(status int, body any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		say(200, map[string]any{
			"issuer": p.server.URL, "authorization_endpoint": p.server.URL + "/auth", "token_endpoint": p.server.URL + "/token",
			"jwks_uri": p.server.URL + "/jwks", "userinfo_endpoint": p.server.URL + "/me", "end_session_endpoint": p.server.URL + "/end",
			"revocation_endpoint": p.server.URL + "/revoke", "authorization_response_iss_parameter_supported": true,
		})
	case "/jwks":
		p.keyReads.Add(1)
		_, _ = w.Write([]byte(authtest.KeySet(p.t, p.ring.All()...)))
	case "/token":
		p.token(r, say)
	case "/me":
		say(200, map[string]any{"sub": strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer at-"), "department": "dams"})
	case "/revoke":
		_ = r.ParseForm()
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.client(r) {
			p.unproven.Add(1)
		}
		p.revoked.Add(1)
	default:
		http.NotFound(w, r)
	}
}

func (p *op) token(r *http.Request, say func(int, any)) {
	if hold := p.held(); hold != nil {
		<-hold
	}
	_ = r.ParseForm()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.client(r) {
		say(401, map[string]any{"error": "invalid_client"})
		return
	}
	var g grant
	switch r.Form.Get("grant_type") {
	case "authorization_code":
		found, ok := p.codes[r.Form.Get("code")]
		sum := sha256.Sum256([]byte(r.Form.Get("code_verifier")))
		if !ok || found.used || base64.RawURLEncoding.EncodeToString(sum[:]) != found.challenge {
			say(400, map[string]any{"error": "invalid_grant", "error_description": "secret-of-the-provider"})
			return
		}
		g = found
		found.used = true
		p.codes[r.Form.Get("code")] = found
	case "refresh_token":
		p.renewals.Add(1)
		found, ok := p.refresh[r.Form.Get("refresh_token")]
		if ok && found.used {
			found.over = true
		}
		if !ok || found.used || found.over {
			say(400, map[string]any{"error": "invalid_grant"})
			return
		}
		found.used = true
		g = *found
		g.used, g.nonce = false, ""
	}
	p.grant(&g, say)
}

func (p *op) held() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hold
}

func (p *op) grant(g *grant, say func(int, any)) {
	access := "at-" + g.subject
	sum := sha256.Sum256([]byte(access))
	claims := map[string]any{
		"iss": p.server.URL, "aud": "weir-app", "sub": g.subject, "sid": g.sid, "tenant": "acme", "nonce": g.nonce,
		"iat": p.now().Unix(), "exp": p.now().Add(time.Hour).Unix(), "at_hash": base64.RawURLEncoding.EncodeToString(sum[:16]),
	}
	if g.nonce == "" {
		delete(claims, "nonce")
	}
	if p.claims != nil {
		p.claims(claims)
	}
	maps.DeleteFunc(claims, func(_ string, value any) bool { return value == nil })
	sign := p.sign
	if sign == nil {
		sign = func(claims map[string]any) string { return p.ring.RSA.Token(p.t, nil, claims) }
	}
	answer := map[string]any{
		"access_token": access, "token_type": "Bearer", "expires_in": p.lives, "id_token": sign(claims), "scope": "openid profile",
	}
	if !p.noRefresh {
		next := random()
		p.refresh[next] = g
		answer["refresh_token"] = next
	}
	if p.answer != nil {
		p.answer(answer)
	}
	say(200, answer)
}

// authorize has a person log in at the authorization URL, and returns where the
// provider sends the browser.
func (p *op) authorize(location, subject string) string {
	target, err := url.Parse(location)
	require.NoError(p.t, err)
	query := target.Query()
	require.Equal(p.t, "/auth", target.Path)
	require.Equal(p.t, "code", query.Get("response_type"))
	require.Equal(p.t, "S256", query.Get("code_challenge_method"))
	require.NotEmpty(p.t, query.Get("state"))
	code := random()
	p.mu.Lock()
	p.codes[code] = grant{subject: subject, sid: "sid-" + subject, nonce: query.Get("nonce"), challenge: query.Get("code_challenge")}
	p.mu.Unlock()
	back, err := url.Parse(query.Get("redirect_uri"))
	require.NoError(p.t, err)
	back.RawQuery = url.Values{"code": {code}, "state": {query.Get("state")}, "iss": {p.server.URL}}.Encode()
	return back.String()
}

// logoutToken is a good one with changes.
func (p *op) logoutToken(changes map[string]any) string {
	claims := map[string]any{
		"iss": p.server.URL, "aud": "weir-app", "iat": p.now().Unix(), "exp": p.now().Add(2 * time.Minute).Unix(), "jti": random(),
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, value any) bool { return value == nil })
	return p.ring.RSA.Token(p.t, map[string]any{"typ": "logout+jwt"}, claims)
}
