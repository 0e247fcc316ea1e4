package login_test

import (
	"crypto/rand"
	"encoding/base64"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/login"
)

func random() string {
	var raw [12]byte
	_, _ = rand.Read(raw[:])
	return base64.RawURLEncoding.EncodeToString(raw[:])
}

// clock is moved by hand.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time       { return time.Unix(0, c.at.Load()) }
func (c *clock) pass(d time.Duration) { c.at.Add(int64(d)) }

var key1, key2 = []byte(strings.Repeat("1", 32)), []byte(strings.Repeat("2", 32))

// world is a provider, and a replica that is asked about requests.
type world struct {
	t     *testing.T
	clock *clock
	op    *op
	redis login.Store
	rules *rulesv1.LoginAuthenticator
	*replica
}

// replica is one extauthz.
type replica struct {
	w        *world
	builder  *login.Builder
	compiler *extauthz.Compiler
	others   []*rulesv1.Authenticator
}

func newWorld(t *testing.T, store rulesv1.LoginSession_Store) *world {
	w := &world{t: t, clock: newClock()}
	w.op = newOP(t, w.clock.now)
	if store == rulesv1.LoginSession_STORE_REDIS {
		w.redis = login.NewMemory(10_000, w.clock.now, nil)
	}
	w.rules = &rulesv1.LoginAuthenticator{
		Issuer: w.op.server.URL, ClientId: "weir-app", ClientSecret: "s3cret", Scopes: []string{"profile"}, Claims: &rulesv1.ClaimMapping{Tenant: "tenant"},
		Algorithms: []string{"RS256"},
		Paths: &rulesv1.LoginPaths{
			Callback: "/oauth2/callback", Login: "/oauth2/login", Logout: "/oauth2/logout", BackchannelLogout: "/oauth2/backchannel-logout", AfterLogout: "/bye",
		},
		Session: &rulesv1.LoginSession{Store: store, Keys: [][]byte{key1}, Cookie: "weir"}, TrustedHosts: []string{"app.example", "localhost:3000"},
	}
	w.replica = w.newReplica()
	return w
}

// both runs a test with each store.
func both(t *testing.T, test func(t *testing.T, w *world)) {
	t.Run("cookie", func(t *testing.T) { test(t, newWorld(t, rulesv1.LoginSession_STORE_COOKIE)) })
	t.Run("redis", func(t *testing.T) { test(t, newWorld(t, rulesv1.LoginSession_STORE_REDIS)) })
}

func (w *world) newReplica() *replica {
	builder := login.NewBuilder(login.Options{Redis: w.redis, Clock: w.clock.now})
	compiler, err := extauthz.NewCompiler(builder)
	require.NoError(w.t, err)
	return &replica{w: w, builder: builder, compiler: compiler}
}

// decide asks about a request with the world's rules as they are now.
func (r *replica) decide(request *extauthz.Request) extauthz.Decision {
	t := r.w.t
	way := &rulesv1.Authenticator{Name: "people", Method: &rulesv1.Authenticator_Login{Login: r.w.rules}}
	routes, err := r.compiler.Routes(nil, map[string]*rulesv1.AuthRoute{"r": authtest.Route("r", append([]*rulesv1.Authenticator{way}, r.others...)...)})
	require.NoError(t, err)
	consumers, err := r.compiler.Consumers(authtest.Consumers())
	require.NoError(t, err)
	request.Route = "r"
	return extauthz.Decide(t.Context(), r.w.clock.now(), extauthz.NewRules(routes, consumers), request)
}

// browser keeps cookies as browsers do.
type browser struct {
	w  *world
	mu sync.Mutex
	// cookies by name; set are the raw headers of the last answer.
	cookies map[string]string
	set     []string
}

func (w *world) browser() *browser { return &browser{w: w, cookies: map[string]string{}} }

func navigation() []string {
	return []string{"accept", "text/html,application/xhtml+xml", "sec-fetch-mode", "navigate", "sec-fetch-dest", "document", "sec-fetch-site", "none"}
}

func (b *browser) request(method, target, body string, headers ...string) *extauthz.Request {
	request := &extauthz.Request{Method: method, Target: target, Authority: "shop.example", Scheme: "https", Body: []byte(body), ID: "req-1"}
	b.mu.Lock()
	var pairs []string
	for name, value := range b.cookies {
		pairs = append(pairs, name+"="+value)
	}
	b.mu.Unlock()
	if len(pairs) > 0 {
		request.Headers = append(request.Headers, extauthz.Header{Name: "cookie", Value: strings.Join(pairs, "; ")})
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Headers = append(request.Headers, extauthz.Header{Name: headers[i], Value: headers[i+1]})
	}
	return request
}

func (b *browser) take(decision *extauthz.Decision) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.set = nil
	for _, header := range decision.ResponseHeaders {
		if header.Name != "set-cookie" {
			continue
		}
		b.set = append(b.set, header.Value)
		pair, attributes, _ := strings.Cut(header.Value, "; ")
		name, value, _ := strings.Cut(pair, "=")
		require.Contains(b.w.t, attributes, "Secure; HttpOnly; SameSite=")
		require.True(b.w.t, strings.HasPrefix(name, "__Host-"))
		require.Contains(b.w.t, attributes, "Path=/;")
		require.NotContains(b.w.t, attributes, "Domain")
		require.Less(b.w.t, len(header.Value), 4096)
		if b.cookies[name] = value; strings.Contains(attributes, "Max-Age=0;") {
			delete(b.cookies, name)
		}
	}
}

func (b *browser) do(r *replica, method, target, body string, headers ...string) extauthz.Decision {
	decision := r.decide(b.request(method, target, body, headers...))
	b.take(&decision)
	return decision
}

// visit opens a page.
func (b *browser) visit(target string) extauthz.Decision {
	return b.do(b.w.replica, "GET", target, "", navigation()...)
}

// fetch is what a page's script does.
func (b *browser) fetch(target string) extauthz.Decision {
	return b.do(b.w.replica, "GET", target, "", "accept", "*/*", "sec-fetch-mode", "cors", "sec-fetch-dest", "empty", "sec-fetch-site", "same-origin")
}

// login logs a person in on the way to a page, and requires that it works.
func (b *browser) login(page, subject string) {
	b.w.t.Helper()
	decision := b.visit(page)
	require.Equal(b.w.t, extauthz.ReasonLoginRequired, decision.Reason, "%v", decision.Cause)
	decision = b.visit(target(b.w.op.authorize(location(b.w.t, &decision), subject)))
	require.Equal(b.w.t, extauthz.ReasonLoginCompleted, decision.Reason, "%v", decision.Cause)
	require.Equal(b.w.t, page, location(b.w.t, &decision))
}

func location(t *testing.T, decision *extauthz.Decision) string {
	t.Helper()
	require.NotNil(t, decision.Answer, "%s: %v", decision.Reason, decision.Cause)
	require.Equal(t, 302, decision.Answer.Status)
	for _, header := range decision.Answer.Headers {
		if header.Name == "location" {
			return header.Value
		}
	}
	t.Fatal("no location")
	return ""
}

func target(text string) string {
	parsed, err := url.Parse(text)
	if err != nil {
		return text
	}
	return parsed.RequestURI()
}
