//go:build slow

package node_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"weir.dev/e2e/internal/harness"
)

// paying is a route whose rules read bodies, and one that is for requests without.
const paying = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: NAME}
spec:
  parentRefs: [{name: quickstart}]
  rules:
    - name: away
      matches: [{path: {type: PathPrefix, value: /NAME}}]
      filters: [{type: RequestRedirect, requestRedirect: {hostname: other.example.com, statusCode: 302}}]
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: NAME}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: NAME}]
  authentication: [{name: key, apiKey: {}}]
  authorization:
    body: {maxBytes: 1024}
    rules: [{name: small, effect: Allow, when: 'WHEN'}]
---
`

// portOfOwn is the port in a redirect to where the request came in.
var portOfOwn = regexp.MustCompile(`(\.example\.com):808\d\b`)

// readingBodies asks both targets the same of rules that read bodies.
func readingBodies(t *testing.T, w *istioWorld, own, mesh *harness.System, base []string) {
	text := strings.NewReplacer("NAME", "paying", "WHEN", "request.body.amount < 100.0").Replace(paying) +
		strings.NewReplacer("NAME", "empty", "WHEN", "request.body == null").Replace(paying)
	folder := t.TempDir()
	file := filepath.Join(folder, "paying.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	own.Write("paying.yaml", text)
	all := append(append([]string{}, base...), folder)
	w.applied(append([]string{"--force-conflicts"}, all...)...) // kubectl has applied the same routes, so they are its own, too
	out, code := w.weir(append([]string{"doctor", "--target", "istio"}, all...)...)
	require.Equal(t, 0, code, out)
	own.Eventually("Weir's own proxy has the route", time.Minute, func() bool { return own.Get("/empty").Status == http.StatusFound })
	served := func(path string, status int, what string) {
		t.Helper()
		w.everywhere(what, time.Minute, func() bool { return answers(w.address, path, own.Key()...) == status })
	}
	served("/empty", http.StatusFound, "Istio's gateway has the route")

	typed := append(slices.Clone(own.Key()), "Content-Type", "application/json")
	for _, ask := range []ask{
		{name: "a body that is allowed", method: "POST", path: "/paying", body: `{"amount": 5}`, headers: typed, status: 302},
		{name: "one that is not", method: "POST", path: "/paying", body: `{"amount": 500}`, headers: typed, status: 403},
		{name: "one without what is asked for", method: "POST", path: "/paying", body: `{}`, headers: typed, status: 403},
		{name: "no JSON", method: "POST", path: "/paying", body: `{`, headers: typed, status: 400},
		{name: "of another type", method: "POST", path: "/paying", body: `amount=5`, headers: append(slices.Clone(own.Key()), "Content-Type", "text/plain"), status: 400},
		{name: "a name twice", method: "POST", path: "/paying", body: `{"amount": 500, "amount": 5}`, headers: typed, status: 400},
		{name: "as large as may be", method: "POST", path: "/paying", body: `{"amount": 5, "x": "` + strings.Repeat("x", 900) + `"}`, headers: typed, status: 302},
		{name: "too large", method: "POST", path: "/paying", body: `{"amount": 5, "x": "` + strings.Repeat("x", 2000) + `"}`, headers: typed, status: 413},
		{name: "a large one elsewhere", method: "POST", path: "/v1/organizations", body: `{"nonsense": "` + strings.Repeat("x", 2000) + `"}`, headers: typed, status: 400},
		{name: "none", method: "GET", path: "/paying", headers: own.Key(), status: 403},
		{name: "without a key", method: "POST", path: "/paying", body: `{"amount": 5}`, status: 401},
		{name: "none where there should be none", method: "GET", path: "/empty", headers: own.Key(), status: 302},
		{name: "one where there should be none", method: "POST", path: "/empty", body: `{"amount": 5}`, headers: typed, status: 403},
	} {
		t.Run(ask.name, func(t *testing.T) { same(t, own, mesh, ask) })
	}
	// The negative control: bodies that are not sent are taken for none by nobody.
	t.Run("without the EnvoyFilter", func(t *testing.T) {
		w := w.in(t)
		w.kubectl("", "delete", "envoyfilter", "-n", "istio-ingress", "weir-8080-routes")
		served("/empty", http.StatusBadRequest, "bodies are not sent")
		w.eventually("nor by connections that are kept", time.Minute, func() bool {
			return mesh.Do("POST", "/paying", `{"amount": 5}`, typed...).Status == http.StatusBadRequest
		})
		mesh.Get("/empty").Problem(t, http.StatusBadRequest, "REQUEST_BODY_INVALID")
		mesh.Do("POST", "/empty", `{"amount": 5}`, typed...).Problem(t, http.StatusBadRequest, "REQUEST_BODY_INVALID")
		out, code := w.weir(append([]string{"doctor", "--target", "istio"}, all...)...)
		require.Equal(t, 1, code, out)
		require.Contains(t, out, "HTTP_ROUTE httproute/default/paying/away@default/quickstart/http")
	})
	require.NoError(t, os.Remove(file))
	own.Write("paying.yaml", "")
	w.applied(base...)
}

// people may have a page after a login.
const people = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: page}
spec:
  parentRefs: [{name: quickstart}]
  hostnames: [page.example.com]
  rules:
    - name: away
      matches: [{path: {type: PathPrefix, value: /}}]
      filters: [{type: RequestRedirect, requestRedirect: {hostname: other.example.com, path: {type: ReplaceFullPath, replaceFullPath: /served}, statusCode: 301}}]
---
apiVersion: v1
kind: Secret
metadata: {name: page-login}
stringData: {clientSecret: "of-the-page", keys: "KEYS"}
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: page}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: page}]
  authentication:
    - name: people
      login:
        issuer: ISSUER
        clientID: page
        clientSecretRef: {name: page-login, key: clientSecret}
        scopes: [profile]
        session: {keysRef: {name: page-login, key: keys}}
---
`

// provider is an OpenID provider, as far as one login needs it.
type provider struct {
	*testing.T
	issuer string
	key    *ecdsa.PrivateKey
	mu     sync.Mutex
	codes  map[string]url.Values
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	say := func(body any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(body)
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		say(map[string]any{
			"issuer": p.issuer, "authorization_endpoint": p.issuer + "/auth", "token_endpoint": p.issuer + "/token", "jwks_uri": p.issuer + "/jwks",
			"end_session_endpoint": p.issuer + "/end", "response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
			"id_token_signing_alg_values_supported": []string{"ES256"},
		})
	case "/jwks":
		point, err := p.key.PublicKey.Bytes()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		text := base64.RawURLEncoding.EncodeToString
		say(map[string]any{"keys": []any{map[string]any{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "1", "x": text(point[1:33]), "y": text(point[33:])}}})
	case "/token":
		p.mu.Lock()
		asked := p.codes[r.FormValue("code")]
		delete(p.codes, r.FormValue("code"))
		p.mu.Unlock()
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		if asked == nil || asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) {
			w.WriteHeader(http.StatusBadRequest)
			say(map[string]any{"error": "invalid_grant"})
			return
		}
		say(map[string]any{"access_token": "of-ann", "token_type": "Bearer", "expires_in": 300, "scope": "openid profile", "id_token": p.token("JWT", map[string]any{
			"sub": "ann", "sid": asked.Get("state"), "nonce": asked.Get("nonce"),
		})})
	default:
		http.NotFound(w, r)
	}
}

func (p *provider) token(kind string, more map[string]any) string {
	claims := jwt.MapClaims{"iss": p.issuer, "aud": "page", "iat": time.Now().Unix(), "exp": time.Now().Add(2 * time.Minute).Unix()}
	maps.Copy(claims, more)
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["kid"], token.Header["typ"] = "1", kind
	signed, err := token.SignedString(p.key)
	require.NoError(p, err)
	return signed
}

// approve is the person at the provider: it returns where the browser is sent back to.
func (p *provider) approve(location string) (path, sid string) {
	target, err := url.Parse(location)
	require.NoError(p, err)
	asked := target.Query()
	code := rand.Text()
	p.mu.Lock()
	p.codes[code] = asked
	p.mu.Unlock()
	back, err := url.Parse(asked.Get("redirect_uri"))
	require.NoError(p, err)
	return back.Path + "?" + url.Values{"code": {code}, "state": {asked.Get("state")}}.Encode(), asked.Get("state")
}

// besideExtAuthz listens on a loopback address of extauthz's pod: a provider that is
// asked over plain HTTP has to be on the same machine.
func (w *istioWorld) besideExtAuthz(address string) net.Listener {
	w.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(w, err)
	for _, entry := range entries {
		line, err := os.ReadFile(entry)
		if err != nil || !strings.HasPrefix(filepath.Base(strings.SplitN(string(line), "\x00", 2)[0]), "extauthzd") || !strings.Contains(string(line), "/etc/weir/config/extauthzd.yaml") {
			continue
		}
		listener, err := listenIn(filepath.Join(filepath.Dir(entry), "ns", "net"), address)
		require.NoError(w, err)
		return listener
	}
	require.FailNow(w, "extauthz does not run on this machine")
	return nil
}

// listenIn listens in another network namespace.
func listenIn(namespace, address string) (listener net.Listener, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with its namespace
		var there *os.File
		if there, err = os.Open(namespace); err != nil {
			return
		}
		defer there.Close()
		if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err == nil {
			listener, err = net.Listen("tcp", address)
		}
	}()
	<-done
	return listener, err
}

// loggingIn logs a person in and out at both targets.
func loggingIn(t *testing.T, w *istioWorld, own, mesh *harness.System, base []string) {
	here, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	p := &provider{T: t, issuer: "http://" + here.Addr().String(), key: key, codes: map[string]url.Values{}}
	server := &http.Server{Handler: p, ReadHeaderTimeout: 5 * time.Second}
	for _, listener := range []net.Listener{here, w.besideExtAuthz(here.Addr().String())} {
		go func() { _ = server.Serve(listener) }()
	}
	t.Cleanup(func() { _ = server.Close() })
	keys := make([]byte, 32)
	_, _ = rand.Read(keys)
	text := strings.NewReplacer("ISSUER", p.issuer, "KEYS", base64.StdEncoding.EncodeToString(keys)).Replace(people)
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "page.yaml"), []byte(text), 0o600))
	own.Write("page.yaml", text)
	out := w.applied(append(append([]string{"--force-conflicts"}, base...), folder)...)
	require.Contains(t, out, "set its timeout to 16s", "the mesh's provider allows five seconds")
	require.NotContains(t, out, "of-the-page")

	browser := []string{"Host", "page.example.com", "Accept", "text/html", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Sec-Fetch-Site", "none"}
	own.Eventually("Weir's own proxy asks for a login", time.Minute, func() bool { return visit(t, own, "GET", "/orders", "", browser...).StatusCode == http.StatusFound })
	w.eventually("Istio's gateway asks for a login", time.Minute, func() bool { return visit(t, mesh, "GET", "/orders", "", browser...).StatusCode == http.StatusFound })
	steps := map[string][]string{}
	for name, s := range map[string]*harness.System{"own": own, "mesh": mesh} {
		step := func(what string, answer *http.Response) *http.Response {
			var cookies []string
			for _, cookie := range answer.Cookies() {
				cookies = append(cookies, fmt.Sprint(strings.HasPrefix(cookie.Name, "__Host-"), cookie.Secure, cookie.HttpOnly, cookie.SameSite, cookie.MaxAge < 0))
			}
			location, _, _ := strings.Cut(answer.Header.Get("Location"), "?")
			location = portOfOwn.ReplaceAllString(location, "$1") // another one than the policy's where that is taken
			steps[name] = append(steps[name], fmt.Sprint(what, " ", answer.StatusCode, " ", location, " ", cookies, " ", answer.Header.Get("Cache-Control"), " ", answer.Header.Get("Www-Authenticate")))
			return answer
		}
		with := func(cookies []*http.Cookie, more ...string) []string {
			var pairs []string
			for _, cookie := range cookies {
				pairs = append(pairs, cookie.Name+"="+cookie.Value)
			}
			return append(append(slices.Clone(browser), more...), "Cookie", strings.Join(pairs, "; "))
		}
		step("a program", visit(t, s, "GET", "/orders", "", "Host", "page.example.com"))
		begun := step("a browser", visit(t, s, "GET", "/orders", "", browser...))
		require.True(t, strings.HasPrefix(begun.Header.Get("Location"), p.issuer+"/auth?"), "%s %v", name, begun.Header)
		path, sid := p.approve(begun.Header.Get("Location"))
		step("a callback in another browser", visit(t, s, "GET", path, "", browser...))
		done := step("the callback", visit(t, s, "GET", path, "", with(begun.Cookies())...))
		require.Equal(t, "/orders", done.Header.Get("Location"), "%s %v", name, done.Header)
		session := slices.DeleteFunc(done.Cookies(), func(c *http.Cookie) bool { return c.MaxAge < 0 })
		require.NotEmpty(t, session, name)
		served := step("the page", visit(t, s, "GET", "/orders", "", with(session)...))
		require.Equal(t, http.StatusMovedPermanently, served.StatusCode, name)
		step("the callback again", visit(t, s, "GET", path, "", with(begun.Cookies())...))
		step("from another origin", visit(t, s, "POST", "/orders", "", with(session, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example")...))
		form := []string{"Host", "page.example.com", "Content-Type", "application/x-www-form-urlencoded"}
		step("a logout of nobody", visit(t, s, "POST", "/oauth2/backchannel-logout", "logout_token=x", form...))
		step("a logout that is too large", visit(t, s, "POST", "/oauth2/backchannel-logout", "logout_token="+strings.Repeat("x", 20<<10), form...))
		logout := p.token("logout+jwt", map[string]any{
			"sub": "ann", "sid": sid, "jti": rand.Text(), "events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
		})
		step("a link to the logout", visit(t, s, "GET", "/oauth2/logout", "", with(session, "Sec-Fetch-Site", "cross-site")...))
		require.Equal(t, http.StatusMovedPermanently, visit(t, s, "GET", "/orders", "", with(session)...).StatusCode, "%s: the session is still there", name)
		gone := step("a logout", visit(t, s, "POST", "/oauth2/backchannel-logout", "logout_token="+logout, form...))
		require.Equal(t, http.StatusOK, gone.StatusCode, name)
		over := step("afterwards", visit(t, s, "GET", "/orders", "", with(session)...))
		require.Equal(t, http.StatusFound, over.StatusCode, name)
	}
	require.Equal(t, steps["own"], steps["mesh"])
	own.Write("page.yaml", "")
	w.applied(base...)
}

// visit sends a request without following where it is sent.
func visit(t *testing.T, s *harness.System, method, path, body string, headers ...string) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			request.Host = headers[i+1]
			continue
		}
		request.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(request)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	return answer
}
