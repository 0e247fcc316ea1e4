package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// authorizers play what rules ask: a source of metadata, a relationship store
// (OpenFGA's "Check") and a token service.
type authorizers struct {
	*httptest.Server
	down  atomic.Bool
	plans atomic.Int32
}

func newAuthorizers(t *testing.T) *authorizers {
	a := &authorizers{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /plans/{tenant}", func(w http.ResponseWriter, r *http.Request) {
		a.plans.Add(1)
		if r.Header.Get("Authorization") != "Bearer plans-token" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		_, _ = fmt.Fprintf(w, `{"name": "gold", "tenant": %q}`, r.PathValue("tenant"))
	})
	mux.HandleFunc("POST /stores/s1/check", func(w http.ResponseWriter, r *http.Request) {
		var asked struct {
			Key struct{ User, Relation, Object string } `json:"tuple_key"`
		}
		_ = json.NewDecoder(r.Body).Decode(&asked)
		allowed := asked.Key.User == "user:quickstart-user" && asked.Key.Relation == "viewer" && asked.Key.Object == "doc:mine"
		_ = json.NewEncoder(w).Encode(map[string]any{"allowed": allowed})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		if _, secret, _ := r.BasicAuth(); secret != "client-secret" || r.PostFormValue("subject_token") == "" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		_, _ = w.Write([]byte(`{"access_token": "exchanged", "token_type": "Bearer", "expires_in": 300}`))
	})
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if a.down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(a.Close)
	return a
}

// authorizationYAML is a route with everything that rules can ask for.
func authorizationYAML(t *testing.T, base string) string {
	t.Helper()
	issuer := `      jwt: {issuer: "https://issuer.weir.local", audiences: [weir], algorithms: [ES256], claims: {tenant: tenant}, jwks: {configMapRef: {name: weir-development-issuer, key: jwks.json}}}
`
	policy := func(name, authorization, upstream string) string {
		return routeYAML(name, "/"+name) + `---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: ` + name + `}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: ` + name + `}]
  authentication:
    - name: token
` + issuer + `    - {name: key, apiKey: {}}
` + authorization + upstream
	}
	return `---
apiVersion: v1
kind: Secret
metadata: {name: tokens}
stringData: {plans: plans-token, client: client-secret}
` + policy("words", `  authorization:
    roleClaims: [realm.roles]
    rules:
      - {name: write, effect: Require, when: "request.method == 'PUT'", requireScopes: {allOf: [docs.write]}}
      - {name: ops, effect: Require, when: "request.path == '/words/ops'", requireRoles: {anyOf: [ops]}}
      - {name: fresh, effect: Require, when: "request.method == 'DELETE'", requireAuthentication: {acrValues: [mfa], maxAge: 10m}}
      - {name: debug, effect: Deny, when: "request.param('debug') == 'on' || request.header('x-debug') == 'on'"}
      - {name: here, effect: Allow, when: "cidr('127.0.0.0/8').containsIP(source.address) || cidr('::1/128').containsIP(source.address)"}
`, "") + policy("asking", `  authorization:
    metadata: [{name: plan, url: "`+base+`", path: "/plans/{identity.tenant}", tokenRef: {name: tokens, key: plans}, cacheDuration: 1m}]
    rules: [{name: gold, effect: Allow, when: "metadata.plan.name == 'gold' && metadata.plan.tenant == identity.tenant"}]
`, "") + policy("docs", `  authorization:
    relationships: {url: "`+base+`", storeId: s1}
    rules: [{name: viewer, effect: Allow, requireRelationship: {user: "user:{identity.subject}", relation: viewer, object: "doc:{request.path.split('/')[2]}"}}]
`, "") + policy("pay", `  authorization:
    body: {maxBytes: 300}
    rules: [{name: small, effect: Allow, when: "request.body.amount < 10.0"}]
`, "") + policy("told", "", `  upstream:
    identityHeaders: [Tenant]
    claimHeaders: [{claim: email, header: X-User-Email}]
    assertion: {audiences: [echo], claims: [email]}
`) + policy("exchanged", "", `  upstream:
    identityHeaders: [None]
    tokenExchange: {tokenEndpoint: "`+base+`/token", clientId: weir, clientSecretRef: {name: tokens, key: client}, audience: echo}
`)
}

func TestAuthorization(t *testing.T) {
	others := newAuthorizers(t)
	s, backend := edge(t, authorizationYAML(t, others.URL))
	key, kid := developmentKey(t, s)
	bearer := func(changes map[string]any) []string {
		return []string{"Authorization", "Bearer " + sign(t, key, jwt.SigningMethodES256, kid, func(claims jwt.MapClaims, _ map[string]any) {
			for name, value := range changes {
				claims[name] = value
			}
		})}
	}
	served := int64(0)
	seen := func(answer *harness.Response) http.Header {
		t.Helper()
		require.Equal(t, http.StatusOK, answer.Status, answer.Body)
		served++
		var echo echoed
		require.NoError(t, json.Unmarshal([]byte(answer.Body), &echo))
		return echo.Headers
	}
	refused := func(answer *harness.Response, status int, code string) *harness.Response {
		t.Helper()
		answer.Problem(t, status, code)
		return answer
	}
	reached := backend.requests.Load()

	t.Run("scopes, roles, logins", func(t *testing.T) {
		seen(s.Do("PUT", "/words", "", bearer(map[string]any{"scope": "docs.write"})...))
		answer := refused(s.Do("PUT", "/words", "", bearer(nil)...), 403, "INSUFFICIENT_SCOPE")
		require.Contains(t, answer.Header.Get("WWW-Authenticate"), `error="insufficient_scope"`)
		require.Contains(t, answer.Header.Get("WWW-Authenticate"), `scope="docs.write"`)
		seen(s.Do("GET", "/words/ops", "", bearer(map[string]any{"realm": map[string]any{"roles": []string{"ops"}}})...))
		refused(s.Do("GET", "/words/ops", "", bearer(map[string]any{"roles": []string{"ops"}})...), 403, "PERMISSION_DENIED")
		seen(s.Do("DELETE", "/words", "", bearer(map[string]any{"acr": "mfa", "auth_time": time.Now().Unix()})...))
		answer = refused(s.Do("DELETE", "/words", "", bearer(map[string]any{"acr": "mfa", "auth_time": time.Now().Add(-time.Hour).Unix()})...), 401, "INSUFFICIENT_AUTHENTICATION")
		require.Contains(t, answer.Header.Get("WWW-Authenticate"), `error="insufficient_user_authentication"`)
		require.Contains(t, answer.Header.Get("WWW-Authenticate"), `acr_values="mfa", max_age="600"`)
	})
	t.Run("query, headers, addresses", func(t *testing.T) {
		seen(s.Get("/words?debug=off", bearer(nil)...))
		refused(s.Get("/words?debug=%6fn", bearer(nil)...), 403, "PERMISSION_DENIED")
		refused(s.Get("/words?debug=off&debug=on", bearer(nil)...), 403, "PERMISSION_DENIED")
		refused(s.Get("/words?a=%zz", bearer(nil)...), 403, "PERMISSION_DENIED")
		refused(s.Get("/words", append(bearer(nil), "X-Debug", "on")...), 403, "PERMISSION_DENIED")
		refused(s.Get("/words", append(bearer(nil), "X-Debug", "off", "X-Debug", "on")...), 403, "PERMISSION_DENIED")
	})
	t.Run("metadata", func(t *testing.T) {
		seen(s.Get("/asking", bearer(nil)...))
		seen(s.Get("/asking", bearer(nil)...))
		require.EqualValues(t, 1, others.plans.Load(), "the answer is kept")
		others.down.Store(true)
		defer others.down.Store(false)
		seen(s.Get("/asking", bearer(nil)...))
		refused(s.Get("/asking", bearer(map[string]any{"sub": "other", "tenant": "other"})...), 503, "AUTHORIZATION_SOURCE_UNAVAILABLE")
	})
	t.Run("relationships", func(t *testing.T) {
		seen(s.Get("/docs/mine", bearer(nil)...))
		refused(s.Get("/docs/theirs", bearer(nil)...), 403, "PERMISSION_DENIED")
		refused(s.Get("/docs/mine", bearer(map[string]any{"sub": "mallory"})...), 403, "PERMISSION_DENIED")
		refused(s.Get("/docs/mine", bearer(map[string]any{"sub": "*"})...), 403, "PERMISSION_DENIED")
		others.down.Store(true)
		defer others.down.Store(false)
		refused(s.Get("/docs/mine", bearer(nil)...), 503, "AUTHORIZATION_SOURCE_UNAVAILABLE")
	})
	t.Run("bodies", func(t *testing.T) {
		send := func(body string) *harness.Response {
			return s.Do("POST", "/pay", body, append(bearer(nil), "Content-Type", "application/json")...)
		}
		seen(send(`{"amount": 5}`))
		refused(send(`{"amount": 50}`), 403, "PERMISSION_DENIED")
		refused(send(`{"amount": 5, "amount": 50}`), 400, "REQUEST_BODY_INVALID")
		refused(send(`{"amount": `), 400, "REQUEST_BODY_INVALID")
		require.Equal(t, http.StatusRequestEntityTooLarge, send(`{"amount": 5, "note": "`+strings.Repeat("a", 400)+`"}`).Status)
		refused(s.Do("POST", "/pay", "amount=5", append(bearer(nil), "Content-Type", "text/plain")...), 400, "REQUEST_BODY_INVALID")
		refused(s.Do("GET", "/pay", "", bearer(nil)...), 403, "PERMISSION_DENIED")
	})
	t.Run("upstream", func(t *testing.T) {
		forged := []string{"X-User-Email", "evil@example.com", "X-Weir-Assertion", "forged", "X-Weir-Subject", "root"}
		headers := seen(s.Get("/told", append(bearer(map[string]any{"email": "a@example.com"}), forged...)...))
		require.Equal(t, []string{"a@example.com"}, headers.Values("X-User-Email"))
		require.Equal(t, []string{"demo"}, headers.Values("X-Weir-Tenant"))
		require.Empty(t, headers.Values("X-Weir-Subject"), "not on the list")
		require.Len(t, headers.Values("X-Weir-Assertion"), 1)
		raw, err := base64.RawURLEncoding.DecodeString(strings.Split(headers.Get("X-Weir-Assertion"), ".")[1])
		require.NoError(t, err)
		var said map[string]any
		require.NoError(t, json.Unmarshal(raw, &said))
		require.Equal(t, "quickstart-user", said["caller"])
		require.Equal(t, []any{"echo"}, said["aud"])
		require.Equal(t, map[string]any{"email": "a@example.com"}, said["claims"])
		headers = seen(s.Get("/told", append(bearer(nil), forged...)...))
		require.Empty(t, headers.Values("X-User-Email"), "a client's own does not stand in for an absent claim")

		headers = seen(s.Get("/exchanged", bearer(nil)...))
		require.Equal(t, []string{"Bearer exchanged"}, headers.Values("Authorization"))
		require.Empty(t, headers.Values("X-Weir-Tenant"))
		refused(s.Get("/exchanged"), 403, "PERMISSION_DENIED")
	})
	require.Equal(t, reached+served, backend.requests.Load(), "a refused request reached the service")
	explained := s.Weir("explain", "GET http://localhost/docs/mine")
	require.Contains(t, explained, "relationship user:{identity.subject} viewer")
	require.NotContains(t, s.Weir("translate", "--type", "auth", s.Policy), "client-secret")
}
