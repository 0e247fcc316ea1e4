//go:build slow

package node_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// tokens is a policy of two routes with the same rules: Istio decides about /native,
// extauthz about /asked.
const tokens = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: tokens}
spec:
  gatewayClassName: weir
  listeners: [{name: http, protocol: HTTP, port: 8081}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: tokens}
spec:
  parentRefs: [{name: tokens}]
  hostnames: [tokens.example.com]
  rules:
    - {name: admin, matches: [{path: {type: PathPrefix, value: /native/admin}}], backendRefs: [{group: weir.dev, kind: Backend, name: peer}]}
    - {name: native, matches: [{path: {type: PathPrefix, value: /native}}], backendRefs: [{group: weir.dev, kind: Backend, name: peer}]}
    - {name: asked, matches: [{path: {type: PathPrefix, value: /asked}}], backendRefs: [{group: weir.dev, kind: Backend, name: peer}]}
    - {name: scoped, matches: [{path: {type: Exact, value: /scoped/native}, method: GET}], backendRefs: [{group: weir.dev, kind: Backend, name: peer}]}
    - {name: scoped-asked, matches: [{path: {type: Exact, value: /scoped/asked}, method: GET}], backendRefs: [{group: weir.dev, kind: Backend, name: peer}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: peer}
spec: {endpoints: [{address: peer.weir-system.svc.cluster.local, port: 8080}]}
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: admin}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: tokens, sectionName: admin}]
  authentication: [{name: key, apiKey: {}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: issuer-of-tokens}
data: {jwks: '%[1]s'}
---
`

// policyOf is one of them. Tokens have to be for "shop", with a role or a scope.
const policyOf = `apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: %[1]s, annotations: {istio.weir.dev/decide: %[2]s}}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: tokens, sectionName: %[1]s}]
  authentication:
    - name: staff
      jwt: {issuer: "https://id.example", audiences: [shop], algorithms: [ES256], leeway: 60s, jwks: {configMapRef: {name: issuer-of-tokens, key: jwks}}}
  authorization: {roleClaims: [realm.roles, groups], rules: [%[3]s]}
  upstream: {identityHeaders: [Authenticator]}
---
`

const (
	byRole  = "{name: clerks, effect: Require, requireRoles: {anyOf: [clerk, manager]}}, {name: guests, effect: Deny, when: identity.hasRole('guest')}"
	byScope = "{name: reads, effect: Require, requireScopes: {allOf: [read]}}"
)

// peerObjects are what stands behind the routes.
const peerObjects = `apiVersion: apps/v1
kind: Deployment
metadata: {name: peer, namespace: weir-system}
spec:
  selector: {matchLabels: {app: peer}}
  template:
    metadata: {labels: {app: peer}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: peer, image: docker.io/weir/peer:dev, imagePullPolicy: IfNotPresent, readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}]
---
apiVersion: v1
kind: Service
metadata: {name: peer, namespace: weir-system}
spec: {selector: {app: peer}, ports: [{name: http, port: 8080}]}
`

// issuer signs tokens.
type issuer struct {
	*testing.T
	key *ecdsa.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return &issuer{t, key}
}

func (i *issuer) jwks() string {
	point, err := i.key.PublicKey.Bytes()
	require.NoError(i.T, err)
	half := (len(point) - 1) / 2
	encode := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"%s","y":"%s"}]}`, encode(point[1:1+half]), encode(point[1+half:]))
}

// token is a good one with changes; a claim that is changed to nil goes.
func (i *issuer) token(changes map[string]any) string {
	i.Helper()
	claims := jwt.MapClaims{
		"iss": "https://id.example", "aud": "shop", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(),
		"realm": map[string]any{"roles": []string{"clerk"}}, "scope": "write read",
	}
	for name, value := range changes {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	made := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	made.Header["kid"] = "a"
	signed, err := made.SignedString(i.key)
	require.NoError(i.T, err)
	return signed
}

// judging asks the same of routes that Istio decides about and of those that extauthz
// does, and watches who is asked.
func judging(t *testing.T, w *istioWorld, base []string) {
	host, _, err := net.SplitHostPort(w.address)
	require.NoError(t, err)
	w.address = join(host, "8081") // a Gateway of its own
	by := newIssuer(t)
	other := newIssuer(t)
	w.loadPeer(t.Context())
	w.kubectl(peerObjects, "apply", "-f", "-")
	w.kubectl("", "rollout", "status", "-n", "weir-system", "deployment/peer", "--timeout", "3m")
	extra := t.TempDir()
	all := append(append([]string{}, base...), extra)
	write := func(native, asked string) {
		text := fmt.Sprintf(tokens, by.jwks()) + fmt.Sprintf(policyOf, "native", native, byRole) + fmt.Sprintf(policyOf, "asked", asked, byRole) +
			fmt.Sprintf(policyOf, "scoped", native, byScope) + fmt.Sprintf(policyOf, "scoped-asked", asked, byScope)
		require.NoError(t, os.WriteFile(filepath.Join(extra, "tokens.yaml"), []byte(text), 0o600))
	}
	write("istio", "extauthz")
	w.applied(all...)
	ask := func(path, token string, more ...string) *harness.Response {
		if token != "" {
			more = append(more, "Authorization", "Bearer "+token)
		}
		return w.get(path, more...)
	}
	// inForce waits until every worker of the gateway answers so for what both decide about.
	inForce := func(w *istioWorld, what string, token string, status int) {
		w.Helper()
		for _, path := range []string{"/native/x", "/asked/x", "/scoped/native", "/scoped/asked"} {
			w.everywhere(what+" at "+path, time.Minute, func() bool {
				return answers(w.address, path, "Host", "tokens.example.com", "Authorization", "Bearer "+token) == status
			})
		}
	}
	inForce(w, "Istio decides", by.token(nil), http.StatusOK)
	unsigned := strings.Join([]string{base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)), strings.Split(by.token(nil), ".")[1], ""}, ".")
	soon := time.Now().Unix()
	cases := []struct {
		name, token string
		status      int
	}{
		{"valid", by.token(nil), 200},
		{"audience in a list", by.token(map[string]any{"aud": []string{"x", "shop"}}), 200},
		{"ends within the leeway", by.token(map[string]any{"exp": soon - 20}), 200},
		{"missing", "", 401},
		{"expired", by.token(map[string]any{"exp": soon - 90}), 401},
		{"not valid yet", by.token(map[string]any{"nbf": soon + 300}), 401},
		{"without an end", by.token(map[string]any{"exp": nil}), 401},
		{"an end that is none", by.token(map[string]any{"exp": 0}), 401},
		{"wrong issuer", by.token(map[string]any{"iss": "https://other.example"}), 401},
		{"without an issuer", by.token(map[string]any{"iss": nil}), 401},
		{"wrong audience", by.token(map[string]any{"aud": "other"}), 401},
		{"an audience that looks like it", by.token(map[string]any{"aud": "https://shop/"}), 401},
		{"without an audience", by.token(map[string]any{"aud": nil}), 401},
		{"alg none", unsigned, 401},
		{"another's key", other.token(nil), 401},
		{"no token at all", "x.y.z", 401},
		{"without a subject", by.token(map[string]any{"sub": nil}), 401},
		{"a bound token", by.token(map[string]any{"cnf": map[string]any{"jkt": "x"}}), 401},
	}
	roles := []struct {
		name   string
		claims map[string]any
		status int
	}{
		{"a role in another claim, as a text", map[string]any{"realm": nil, "groups": "manager"}, 200},
		{"one of a list", map[string]any{"realm": nil, "groups": []string{"x", "manager"}}, 200},
		{"no role", map[string]any{"realm": nil}, 403},
		{"another role", map[string]any{"realm": map[string]any{"roles": []string{"reader"}}}, 403},
		{"a role that looks like it", map[string]any{"realm": map[string]any{"roles": []string{"clerks"}}}, 403},
		{"a text that holds it", map[string]any{"realm": nil, "groups": "clerk manager"}, 403},
		{"a role that is refused", map[string]any{"groups": []string{"guest"}}, 403},
	}
	scopes := []struct {
		name   string
		claims map[string]any
		status int
	}{
		{"a scope of several", nil, 200},
		{"a list of scopes", map[string]any{"scope": []string{"read", "x"}}, 200},
		{"no scope", map[string]any{"scope": nil}, 403},
		{"a scope that looks like it", map[string]any{"scope": "reads"}, 403},
	}
	alike := func(t *testing.T, w *istioWorld, native, asked, token string, status int) {
		t.Helper()
		before := w.decisions()
		one := ask(native, token)
		require.Equal(t, before, w.decisions(), "extauthz was asked about %s", native)
		two := ask(asked, token)
		require.Greater(t, w.decisions(), before, "extauthz was not asked about %s", asked)
		require.Equal(t, status, two.Status, "extauthz: %s", two.Body)
		require.Equal(t, status, one.Status, "Istio: %s", one.Body)
		require.Equal(t, two.Header.Get("Content-Type"), one.Header.Get("Content-Type"))
		require.Equal(t, two.Header.Get("Www-Authenticate") != "", one.Header.Get("Www-Authenticate") != "", "%v\n%v", one.Header, two.Header)
		if status != http.StatusOK {
			require.Equal(t, problemOf(two)["status"], problemOf(one)["status"])
			require.NotEmpty(t, problemOf(one)["code"], "%s", one.Body)
		}
	}
	for _, c := range cases {
		t.Run("token: "+c.name, func(t *testing.T) { alike(t, w.in(t), "/native/x", "/asked/x", c.token, c.status) })
	}
	for _, c := range roles {
		t.Run("roles: "+c.name, func(t *testing.T) { alike(t, w.in(t), "/native", "/asked", by.token(c.claims), c.status) })
	}
	for _, c := range scopes {
		t.Run("scopes: "+c.name, func(t *testing.T) {
			alike(t, w.in(t), "/scoped/native", "/scoped/asked", by.token(c.claims), c.status)
		})
	}
	t.Run("what is told is not what a client says", func(t *testing.T) {
		var told [2]map[string][]string
		for i, path := range []string{"/native/x", "/asked/x"} {
			answer := ask(path, by.token(nil), "x-weir-subject", "root", "x-weir-authenticator", "root", "x-weir-scopes", "all", "x-weir-consumer", "default/root",
				"weir-verified-exp", "9", "weir-verified-cnf", "")
			require.Equal(t, http.StatusOK, answer.Status)
			require.NoError(t, json.Unmarshal([]byte(answer.Body), &told[i]), answer.Body)
			for _, name := range []string{"X-Request-Id", "Traceparent", "X-Envoy-Original-Path"} {
				delete(told[i], name)
			}
		}
		require.NotContains(t, told[0], "X-Weir-Subject")
		require.Equal(t, []string{"staff"}, told[0]["X-Weir-Authenticator"])
		for _, name := range []string{"Authorization", "X-Weir-Scopes", "X-Weir-Consumer", "Weir-Verified-Exp", "Weir-Verified-Cnf"} {
			require.NotContains(t, told[0], name)
			require.NotContains(t, told[1], name)
		}
	})
	t.Run("an end is nothing that a client could say", func(t *testing.T) {
		require.Equal(t, http.StatusUnauthorized, ask("/native/x", by.token(map[string]any{"exp": nil}), "weir-verified-exp", "9").Status)
	})
	t.Run("what is below is extauthz's, however it is spelt", func(t *testing.T) {
		for _, path := range []string{"/native/admin", "/native/admin/x", "/native/x/../admin", "/native//admin", "/native/%61dmin", "/native/admin;x", "/native/x/..%2fadmin", "/native/%2561dmin"} {
			answer := ask(path, by.token(nil))
			require.Contains(t, []int{http.StatusUnauthorized, http.StatusBadRequest}, answer.Status, path)
			require.Contains(t, []any{"CREDENTIALS_MISSING", "PATH_NOT_CANONICAL", "BAD_REQUEST"}, problemOf(answer)["code"], path)
		}
		require.Equal(t, http.StatusOK, ask("/native/caf%C3%A9", by.token(nil)).Status)
	})
	t.Run("all of it is in the gateway, and Istio finds nothing wrong", func(t *testing.T) {
		w := w.in(t)
		out, code := w.weir(append([]string{"doctor", "--target", "istio"}, all...)...)
		require.Equal(t, 0, code, out)
		require.Regexp(t, `ok +tokens: every gateway judges tokens`, out)
		w.analyze("istio-ingress")
	})
	t.Run("where both decide, whom extauthz let in is not judged again", func(t *testing.T) {
		w := w.in(t)
		w.kubectl("", "patch", "authorizationpolicy", "-n", "istio-ingress", "weir-extauthz", "--type=merge", "-p", `{"spec": {"rules": [{}]}}`)
		w.eventually("extauthz is asked, too", time.Minute, func() bool {
			before := w.decisions()
			ask("/native/x", by.token(nil))
			return w.decisions() > before
		})
		for range 20 {
			require.Equal(t, http.StatusOK, ask("/native/x", by.token(nil)).Status)
			require.Equal(t, http.StatusUnauthorized, ask("/native/x", "").Status)
			require.Equal(t, http.StatusUnauthorized, ask("/native/x", other.token(nil)).Status)
		}
		// The control: without the condition the token, which extauthz took away, is missing.
		rules := strings.Count(w.field("{.spec.rules[*].to}", "authorizationpolicy", "-n", "istio-ingress", "weir-by-token-1-credentials"), "operation")
		require.Positive(t, rules)
		var patches []string
		for i := range rules {
			patches = append(patches, fmt.Sprintf(`{"op": "remove", "path": "/spec/rules/%d/when"}`, i))
		}
		w.kubectl("", "patch", "authorizationpolicy", "-n", "istio-ingress", "weir-by-token-1-credentials", "--type=json", "-p", "["+strings.Join(patches, ",")+"]")
		w.eventually("a valid token is refused", time.Minute, func() bool { return ask("/native/x", by.token(nil)).Status == http.StatusUnauthorized })
		w.applied(append([]string{"--force-conflicts"}, all...)...)
		// A connection that was there has one more answer of what the gateway had.
		w.eventually("nobody is any more", time.Minute, func() bool { return ask("/native/x", by.token(nil)).Status == http.StatusOK })
		inForce(w, "nobody is any more", by.token(nil), http.StatusOK)
	})
	t.Run("who decides changes under load, and is put back: nobody is let in, and nobody is refused who has a token", func(t *testing.T) {
		w := w.in(t)
		under := w.load("/native/x", "/asked/x", by)
		write("extauthz", "istio")
		w.applied(all...)
		write("istio", "extauthz")
		w.applied(all...)
		w.kubectl(removing, "apply", "-f", "-")
		for _, decide := range []string{"istio", "extauthz"} { // Istio decides about more, and about less
			write(decide, decide)
			out, code := w.weir(append([]string{"apply", "--target", "istio", "--wait", "60s"}, all...)...)
			require.Equal(t, 1, code, out)
			require.Contains(t, out, "HTTP_FILTER weir.cors is there 0 times")
			require.Contains(t, out, "everything was put back as it was")
		}
		w.kubectl(removing, "delete", "-f", "-")
		write("istio", "extauthz")
		w.applied(all...)
		seen := under.end()
		w.Logf("answers while it changed: %v", seen)
		require.Greater(t, seen["without 401"], 100)
		require.Greater(t, seen["with 200"], 100)
		require.Greater(t, seen["kept with 200"], 20)
		require.Len(t, seen, 3, "without a token all is 401, with one all is 200, and no service was sent one")
	})
	t.Run("what refuses is what is applied", func(t *testing.T) { // the control of all of the above
		w := w.in(t)
		w.kubectl("", "delete", "authorizationpolicy", "-n", "istio-ingress", "weir-by-token-1-credentials", "weir-by-token-2-issuer", "weir-by-token-3-audience", "weir-by-token-4-token", "weir-by-token-6-rule")
		w.eventually("anybody is let in", time.Minute, func() bool { return ask("/native/x", "").Status == http.StatusOK })
		require.Equal(t, http.StatusUnauthorized, ask("/asked/x", "").Status)
		out, code := w.weir(append([]string{"doctor", "--target", "istio"}, all...)...)
		require.Equal(t, 1, code, out)
		require.Contains(t, out, "does not refuse by rule 0 of AuthorizationPolicy istio-ingress/weir-by-token-1-credentials")
		w.applied(all...)
		w.eventually("nobody is any more", time.Minute, func() bool { return ask("/native/x", "").Status == http.StatusUnauthorized })
	})
	require.NoError(t, os.Remove(filepath.Join(extra, "tokens.yaml")))
	w.applied(all...)
}

// tokenLoad asks with and without tokens, on and on.
type tokenLoad struct {
	stop    chan struct{}
	running sync.WaitGroup
	mu      sync.Mutex
	seen    map[string]int
}

// load asks for paths of tokens.example.com: by connections that are made for one
// request, and by some that are kept, with time between their requests.
func (w *istioWorld) load(one, two string, by *issuer) *tokenLoad {
	w.Helper()
	l := &tokenLoad{stop: make(chan struct{}), seen: map[string]int{}}
	token := by.token(nil)
	run := func(what string, pause time.Duration, kept bool, authorization string) {
		client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: !kept}}
		defer client.CloseIdleConnections()
		for {
			for _, path := range []string{one, two} {
				request, err := http.NewRequestWithContext(w.Context(), http.MethodGet, "http://"+w.address+path, nil)
				if err != nil {
					l.note(what + " " + err.Error())
					return
				}
				request.Host = "tokens.example.com"
				if authorization != "" {
					request.Header.Set("Authorization", authorization)
				}
				l.note(what + " " + outcome(&client, request, token))
			}
			select {
			case <-l.stop:
				return
			case <-time.After(pause):
			}
		}
	}
	l.running.Go(func() { run("without", 10*time.Millisecond, false, "") })
	l.running.Go(func() { run("with", 10*time.Millisecond, false, "Bearer "+token) })
	for _, pause := range []time.Duration{time.Second, 3 * time.Second, 6 * time.Second} {
		l.running.Go(func() { run("kept with", pause, true, "Bearer "+token) })
	}
	return l
}

func (l *tokenLoad) note(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[what]++
}

func (l *tokenLoad) end() map[string]int {
	close(l.stop)
	l.running.Wait()
	return l.seen
}

// outcome is a status, and whether the peer, which answers with the headers that it was
// sent, was sent the token.
func outcome(client *http.Client, request *http.Request, token string) string {
	answer, err := client.Do(request)
	if err != nil {
		return err.Error()
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return err.Error()
	case strings.Contains(string(raw), token):
		return "the service was sent the token"
	case answer.StatusCode == http.StatusOK && !strings.Contains(string(raw), "X-Weir-Authenticator"):
		return "the service was not told who decided: " + string(raw)
	case answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusUnauthorized:
		return fmt.Sprintf("%d of %s: %s", answer.StatusCode, request.URL.Path, raw[:min(len(raw), 300)])
	}
	return strconv.Itoa(answer.StatusCode)
}

// get asks the gateway for a path of tokens.example.com, with pairs of headers.
func (w *istioWorld) get(path string, headers ...string) *harness.Response {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.address+path, nil)
	require.NoError(w.T, err)
	request.Host = "tokens.example.com"
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	answer, err := http.DefaultTransport.RoundTrip(request)
	require.NoError(w.T, err)
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	require.NoError(w.T, err)
	return &harness.Response{Status: answer.StatusCode, Header: answer.Header, Body: string(raw)}
}

// decisions is how many requests extauthz has decided.
func (w *istioWorld) decisions() (total float64) {
	w.Helper()
	pod := strings.TrimSpace(w.kubectl("", "get", "pod", "-n", "weir-system", "-l", "app=weir-extauthz", "-o", "jsonpath={.items[0].metadata.name}"))
	metrics := w.kubectl("", "get", "--raw", "/api/v1/namespaces/weir-system/pods/"+pod+":9002/proxy/metrics")
	for line := range strings.Lines(metrics) {
		var value float64
		if name, rest, found := strings.Cut(line, "{"); found && name == "weir_extauthz_decisions_total" {
			_, err := fmt.Sscan(rest[strings.LastIndex(rest, "}")+1:], &value)
			require.NoError(w.T, err, line)
			total += value
		}
	}
	return total
}
