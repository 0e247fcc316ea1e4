//go:build slow

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// loginYAML protects a route by a login beside API keys. The words in capitals
// are filled in by the test, which knows the provider.
const loginYAML = `---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: quickstart}]
  rules:
    - name: all
      matches: [{path: {type: PathPrefix, value: /shop}}]
      filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-revision, value: REVISION}]}}]
      backendRefs: [{group: weir.dev, kind: Backend, name: echo}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: open}
spec:
  parentRefs: [{name: quickstart}]
  rules:
    - name: all
      matches: [{path: {type: PathPrefix, value: /open}}]
      filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-revision, value: REVISION}]}}]
      backendRefs: [{group: weir.dev, kind: Backend, name: echo}]
---
apiVersion: v1
kind: Secret
metadata: {name: shop-login}
stringData:
  clientSecret: "CLIENT_SECRET"
  keys: "SESSION_KEYS"
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}]
  authentication:
    - name: key
      apiKey: {}
    - name: people
      login:
        issuer: ISSUER
        clientID: shop
        clientAuthentication: CLIENT_AUTHENTICATION
        clientSecretRef: {name: shop-login, key: clientSecret}
        scopes: [profile, offline_access]
        claims: {tenant: tenant}
        paths: {afterLogout: /open/bye}
        session:
          store: STORE
          keysRef: {name: shop-login, key: keys}
`

// browserModules is where scripts/browser.sh put what the tests in browser/ need.
func browserModules(t *testing.T) (dir, chromium string) {
	t.Helper()
	out, err := exec.Command(filepath.Join(harness.Root(t), "scripts", "browser.sh")).Output()
	require.NoError(t, err, "scripts/browser.sh")
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Len(t, lines, 2)
	return lines[0], lines[1]
}

// TestSlowLogin: people log in with a real browser at a certified provider.
func TestSlowLogin(t *testing.T) {
	modules, chromium := browserModules(t)
	for _, way := range []struct{ store, proof string }{{"Cookie", "Basic"}, {"Redis", "Basic"}, {"Cookie", "PrivateKeyJWT"}} {
		t.Run(way.store+" "+way.proof, func(t *testing.T) {
			var env []string
			if way.store == "Redis" {
				env = append(env, "WEIR_REDIS_URL="+startRedis(t))
			}
			backend := newEcho(t)
			s := harness.Start(t, harness.Files{"echo.yaml": backend.backendYAML() + openYAML("open")}, env...)
			template := filepath.Join(t.TempDir(), "login.yaml")
			policy := filepath.Join(s.Policy, "login.yaml")
			secret, public := loginSecret(t, way.proof)
			text := strings.NewReplacer("STORE", way.store, "CLIENT_AUTHENTICATION", way.proof, "CLIENT_SECRET", secret).Replace(loginYAML)
			require.NoError(t, os.WriteFile(template, []byte(text), 0o600))
			command := exec.CommandContext(t.Context(), "node", "--test", "--test-reporter=spec", "--test-concurrency=1", filepath.Join(modules, "login.test.mjs"))
			command.Env = append(os.Environ(), "APP_URL="+strings.Replace(s.URL, "127.0.0.1", "localhost", 1), "POLICY="+policy, "TEMPLATE="+template,
				"CHROMIUM="+chromium, "API_KEY="+s.APIKey, "CLIENT_JWKS="+public, "NODE_NO_WARNINGS=1")
			out, err := command.CombinedOutput()
			require.NoError(t, err, string(out))
			t.Log(string(out))
		})
	}
}

// loginSecret is what the shop proves itself with, for a text in double quotes,
// and the key set that the provider is given where it signs.
func loginSecret(t *testing.T, proof string) (secret, keySet string) {
	if proof != "PrivateKeyJWT" {
		return "a-secret-of-the-shop/with+odd:characters", ""
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	point, err := key.PublicKey.Bytes()
	require.NoError(t, err)
	text := base64.RawURLEncoding.EncodeToString
	keySet = fmt.Sprintf(`{"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "x": %q, "y": %q}]}`, text(point[1:33]), text(point[33:]))
	return strings.ReplaceAll(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})), "\n", `\n`), keySet
}
