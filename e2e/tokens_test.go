package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// clientSecret must be seen nowhere but at the issuer.
const clientSecret = "canary-of-the-introspection-secret"

// issuer is an authorization server: discovery, keys, introspection.
type issuer struct {
	*httptest.Server
	key           *ecdsa.PrivateKey
	kid           atomic.Value
	introspected  atomic.Int64
	keysFetched   atomic.Int64
	introspection atomic.Bool // whether it answers
	mu            sync.Mutex
	asked         []string
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	i := &issuer{key: key}
	i.kid.Store("first")
	i.introspection.Store(true)
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, body any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(body)
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys", "id_token_signing_alg_values_supported": []string{"ES256"}})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		i.keysFetched.Add(1)
		point, _ := i.key.PublicKey.Bytes()
		b64 := base64.RawURLEncoding.EncodeToString
		answer(w, map[string]any{"keys": []any{map[string]any{
			"kty": "EC", "crv": "P-256", "use": "sig", "kid": i.kid.Load(), "x": b64(point[1:33]), "y": b64(point[33:]),
		}}})
	})
	mux.HandleFunc("POST /introspect", func(w http.ResponseWriter, r *http.Request) {
		i.introspected.Add(1)
		_, secret, _ := r.BasicAuth()
		if !i.introspection.Load() || secret != clientSecret {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		token := r.PostFormValue("token")
		switch {
		case strings.HasSuffix(token, "-slowly"):
			time.Sleep(slowAnswer)
		case strings.HasSuffix(token, "-never"):
			<-r.Context().Done()
			return
		}
		i.mu.Lock()
		i.asked = append(i.asked, token)
		i.mu.Unlock()
		if !strings.HasPrefix(token, "opaque-good") {
			answer(w, map[string]any{"active": false})
			return
		}
		answer(w, map[string]any{
			"active": true, "sub": "robot", "client_id": "shop-app", "aud": "weir", "scope": "read", "token_type": "Bearer", "exp": time.Now().Add(time.Hour).Unix(),
		})
	})
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	return i
}

// slowAnswer is longer than a check may take that asks nobody.
const slowAnswer = 1500 * time.Millisecond

func (i *issuer) token(t *testing.T, change func(claims jwt.MapClaims, header map[string]any)) string {
	return sign(t, i.key, jwt.SigningMethodES256, i.kid.Load().(string), func(claims jwt.MapClaims, header map[string]any) {
		claims["iss"], claims["sub"], claims["azp"] = i.URL, "alice", "shop-app"
		delete(claims, "tenant")
		if change != nil {
			change(claims, header)
		}
	})
}

func (i *issuer) policyYAML() string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Secret
metadata: {name: edge-client}
stringData: {secret: %[2]s}
---
apiVersion: weir.dev/v1alpha1
kind: Consumer
metadata: {name: shop}
spec:
  tenant: acme
  tier: gold
  tokenSubjects: [{issuer: "%[1]s", subject: shop-app}]
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: tokens}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: closed}]
  authentication:
    - name: signed
      jwt: {issuer: "%[1]s", audiences: [weir], algorithms: [ES256, EdDSA], jwks: {discovery: {}}, claims: {client: azp}}
    - name: opaque
      timeout: 3s
      failureMode: Next
      introspection:
        uri: %[1]s/introspect
        issuer: %[1]s
        audiences: [weir]
        clientID: weir-edge
        clientSecretRef: {name: edge-client, key: secret}
        claims: {client: client_id}
    - name: key
      apiKey: {}
`, i.URL, clientSecret)
}

// TestTokensOfSeveralKinds has one header carry tokens of several kinds, each
// judged by the way that it is for, through a real Envoy.
func TestTokensOfSeveralKinds(t *testing.T) {
	i := newIssuer(t)
	s, backend := edge(t, i.policyYAML())
	bearer := func(token string) []string { return []string{"Authorization", "Bearer " + token} }
	foreign := i.token(t, func(c jwt.MapClaims, _ map[string]any) { c["iss"] = "https://other.example" })

	var seen echoed
	for name, headers := range map[string][]string{
		"signed": bearer(i.token(t, nil)), "opaque": bearer("opaque-good-1"),
	} {
		answer := s.Do(http.MethodGet, "/closed", "", headers...)
		require.Equal(t, http.StatusOK, answer.Status, "%s: %s", name, answer.Body)
		require.NoError(t, json.Unmarshal([]byte(answer.Body), &seen))
		require.Equal(t, name, seen.Headers.Get("x-weir-authenticator"))
		require.Equal(t, "default/shop", seen.Headers.Get("x-weir-consumer"), "found by the client, not the subject")
		require.Equal(t, "acme", seen.Headers.Get("x-weir-tenant"))
		require.Empty(t, seen.Headers.Get("Authorization"))
	}
	for range 20 {
		require.Equal(t, http.StatusOK, s.Do(http.MethodGet, "/closed", "", bearer("opaque-good-1")...).Status)
	}
	require.EqualValues(t, 1, i.introspected.Load(), "the answer is remembered")

	reached := backend.requests.Load()
	for name, test := range map[string]struct {
		headers []string
		status  int
		code    string
	}{
		"inactive":          {bearer("opaque-bad"), 401, "TOKEN_INVALID"},
		"of another issuer": {bearer(foreign), 401, "TOKEN_ISSUER_MISMATCH"},
		"unsigned":          {bearer(strings.Join(strings.Split(i.token(t, nil), ".")[:2], ".") + "."), 401, "TOKEN_INVALID"},
		"alg not listed":    {bearer(sign(t, []byte("secret"), jwt.SigningMethodHS256, "first", func(c jwt.MapClaims, _ map[string]any) { c["iss"] = i.URL })), 401, "TOKEN_INVALID"},
		"basic":             {[]string{"Authorization", "Basic b3BhcXVlLWdvb2QtMTo="}, 401, "TOKEN_INVALID"},
		"nothing":           {nil, 401, "CREDENTIALS_MISSING"},
		// Envoy joins the two by a comma before anyone is asked.
		"two":           {append(bearer("opaque-good-1"), bearer("opaque-good-1")...), 401, "TOKEN_INVALID"},
		"bad and a key": {append(bearer("opaque-bad"), s.Key()...), 401, "TOKEN_INVALID"},
	} {
		answer := s.Do(http.MethodGet, "/closed", "", test.headers...)
		t.Run(name, func(t *testing.T) {
			answer.Problem(t, test.status, test.code)
			if test.status == 401 {
				require.Contains(t, answer.Header.Get("WWW-Authenticate"), "Bearer realm=")
			}
		})
	}
	require.Equal(t, reached, backend.requests.Load(), "none of them got through")
	require.NotContains(t, strings.Join(i.asked, " "), foreign, "no token is sent to an endpoint that it is not for")

	t.Run("keys are rotated", func(t *testing.T) {
		i.kid.Store("second")
		s.Eventually("the new key to be known", 15*time.Second, func() bool {
			return s.Do(http.MethodGet, "/closed", "", bearer(i.token(t, nil))...).Status == http.StatusOK
		})
	})
	t.Run("an answer takes longer than a check that asks nobody", func(t *testing.T) {
		answer := s.Do(http.MethodGet, "/closed", "", bearer("opaque-good-slowly")...)
		require.Equal(t, http.StatusOK, answer.Status, "%s", answer.Body)
		s.Do(http.MethodGet, "/closed", "", bearer("opaque-good-never")...).Problem(t, 503, "IDENTITY_PROVIDER_UNAVAILABLE")
	})
	t.Run("introspection is down", func(t *testing.T) {
		i.introspection.Store(false)
		require.Equal(t, http.StatusOK, s.Do(http.MethodGet, "/closed", "", bearer("opaque-good-1")...).Status, "what is remembered serves")
		s.Do(http.MethodGet, "/closed", "", bearer("opaque-good-2")...).Problem(t, 503, "IDENTITY_PROVIDER_UNAVAILABLE")
		answer := s.Do(http.MethodGet, "/closed", "", append(bearer("opaque-good-3"), s.Key()...)...)
		require.Equal(t, http.StatusOK, answer.Status, "failureMode Next leaves it to the key")
		require.NoError(t, json.Unmarshal([]byte(answer.Body), &seen))
		require.Equal(t, "key", seen.Headers.Get("x-weir-authenticator"))
	})
	require.Contains(t, s.Weir("explain", "GET http://127.0.0.1:8080/closed"), "an opaque bearer token that "+i.URL+"/introspect says is active")
	t.Run("the secret is shown nowhere", func(t *testing.T) { secretIsShownNowhere(t, s) })
}

// secretIsShownNowhere looks at what commands print and at what is written down:
// logs, and the state that others may read.
func secretIsShownNowhere(t *testing.T, s *harness.System) {
	for _, args := range [][]string{
		{"status", "-o", "json"},
		{"explain", "GET http://127.0.0.1:8080/closed", "-o", "json"},
		{"get", "secrets"},
		{"get", "authpolicies", "-o", "yaml"},
		{"translate", s.Policy},
		{"diff", "--dir", s.Policy},
		{"plan", s.Policy},
	} {
		stdout, stderr, _ := s.TryWeir(args...)
		require.NotContains(t, stdout+stderr, clientSecret, "weir %s", strings.Join(args, " "))
	}
	require.NoError(t, filepath.WalkDir(s.State, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(raw), clientSecret) {
			return err
		}
		info, err := entry.Info()
		require.NoError(t, err)
		require.Zero(t, info.Mode().Perm()&0o077, "%s holds the secret, and others may read it", path)
		require.NotContains(t, path, ".log")
		return nil
	}))
}
