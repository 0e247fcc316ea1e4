//go:build slow

package e2e

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

const signedIntrospectionYAML = `---
apiVersion: v1
kind: Secret
metadata: {name: edge-client}
stringData:
  key: "CLIENT_KEY"
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: opaque}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: closed}]
  authentication:
    - name: opaque
      timeout: 5s
      introspection:
        uri: ISSUER/token/introspection
        issuer: ISSUER
        clientID: edge
        clientSecretRef: {name: edge-client, key: key}
        clientAuthentication: PrivateKeyJWT
        signedResponse: {algorithms: [ANSWER_ALG], jwks: {discovery: {}}}
        claims: {subject: client_id}
        cache: {ttl: 1s, refusalTTL: 1s}
`

// startIntrospection starts the provider that signs; it ends with the test.
func startIntrospection(t *testing.T, env ...string) (issuer string) {
	t.Helper()
	modules, _ := browserModules(t)
	command := exec.CommandContext(t.Context(), "node", filepath.Join(modules, "introspection.mjs"))
	command.Env = append(append(os.Environ(), "NODE_NO_WARNINGS=1"), env...)
	command.Stderr = os.Stderr
	stdin, err := command.StdinPipe()
	require.NoError(t, err)
	stdout, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() { _ = stdin.Close(); _ = command.Wait() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	var said struct{ Issuer string }
	require.NoError(t, json.Unmarshal([]byte(line), &said))
	return said.Issuer
}

// askProvider posts a form in the robot's name.
func askProvider(t *testing.T, address string, form url.Values) map[string]any {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, strings.NewReader(form.Encode()))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth("robot", "only-for-tests")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
	said := map[string]any{}
	_ = json.NewDecoder(response.Body).Decode(&said)
	return said
}

// clientKey is a key for the policy, in PEM for a text in double quotes, and its
// public part for the provider.
func clientKey(t *testing.T, algorithm string) (private, keySet string) {
	t.Helper()
	text := base64.RawURLEncoding.EncodeToString
	var key crypto.Signer
	if algorithm == "RS256" {
		made, err := rsa.GenerateKey(rand.Reader, 2048)
		require.NoError(t, err)
		key, keySet = made, fmt.Sprintf(`{"kty": "RSA", "use": "sig", "n": %q, "e": %q}`, text(made.N.Bytes()), text(big.NewInt(int64(made.E)).Bytes()))
	} else {
		made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		point, err := made.PublicKey.Bytes()
		require.NoError(t, err)
		key, keySet = made, fmt.Sprintf(`{"kty": "EC", "crv": "P-256", "use": "sig", "x": %q, "y": %q}`, text(point[1:33]), text(point[33:]))
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return strings.ReplaceAll(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})), "\n", `\n`), `{"keys": [` + keySet + `]}`
}

// TestSlowSignedIntrospection: a certified provider takes our proof and its signed
// word about a token is taken, and what it revokes is refused.
func TestSlowSignedIntrospection(t *testing.T) {
	for _, algorithm := range []string{"ES256", "RS256"} {
		t.Run("client by "+algorithm, func(t *testing.T) {
			private, keySet := clientKey(t, algorithm)
			issuer := startIntrospection(t, "CLIENT_JWKS="+keySet, "CLIENT_ALG="+algorithm, "ANSWER_ALG=RS256")
			text := strings.NewReplacer("ISSUER", issuer, "CLIENT_KEY", private, "ANSWER_ALG", "RS256").Replace(signedIntrospectionYAML)
			s, _ := edge(t, text)
			token, _ := askProvider(t, issuer+"/token", url.Values{"grant_type": {"client_credentials"}})["access_token"].(string)
			require.NotEmpty(t, token)
			bearer := []string{"Authorization", "Bearer " + token}
			// Envoy waits for a check less long than a slow machine may take for the first
			// questions; the answer is there when it is asked again.
			until := func(what string, status int, headers []string) (answer *harness.Response) {
				s.Eventually(what, 15*time.Second, func() bool {
					answer = s.Do(http.MethodGet, "/closed", "", headers...)
					return answer.Status == status
				})
				return answer
			}
			answer := until("the token to be accepted", http.StatusOK, bearer)
			var seen echoed
			require.NoError(t, json.Unmarshal([]byte(answer.Body), &seen))
			require.Equal(t, "robot", seen.Headers.Get("x-weir-subject"))
			until("another to be refused", 401, []string{"Authorization", "Bearer " + token + "x"}).Problem(t, 401, "TOKEN_INVALID")
			askProvider(t, issuer+"/token/revocation", url.Values{"token": {token}})
			until("the revoked token to be refused", 401, bearer)
		})
	}
}
