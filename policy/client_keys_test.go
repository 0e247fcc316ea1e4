package policy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

const exchangePolicy = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: api}
spec: {parentRefs: [{name: edge}], rules: [{name: all, backendRefs: [{group: weir.dev, kind: Backend, name: api}]}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: api}
spec: {endpoints: [{address: 10.0.0.1, port: 80}]}
---
apiVersion: v1
kind: Secret
metadata: {name: sts}
data: {key: %s}
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: callers}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: api}]
  authentication: [{name: key, apiKey: {}}]
  upstream:
    tokenExchange:
      tokenEndpoint: https://sts.example/token
      clientId: weir
      clientSecretRef: {name: sts, key: key}
      clientAuthentication: PrivateKeyJWT
      assertionAudience: https://sts.example
`

// TestClientKeysOfExchanges holds that a key with which nothing can be signed closes
// what it would be used for, by its own code, and says nothing of the key.
func TestClientKeysOfExchanges(t *testing.T) {
	encoded := func(key any) string {
		raw, err := x509.MarshalPKCS8PrivateKey(key)
		require.NoError(t, err)
		return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	odd, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	require.NoError(t, err)
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	for name, test := range map[string]struct {
		secret string
		good   bool
	}{
		"ECDSA": {encoded(ec), true}, "RSA": {encoded(large), true}, "another curve": {encoded(odd), false},
		"a secret": {"s3cret-of-the-client", false}, "half a key": {encoded(ec)[:100], false},
	} {
		t.Run(name, func(t *testing.T) {
			plan, problems := resolveFile(t, "exchange.yaml", fmt.Appendf(nil, exchangePolicy, base64.StdEncoding.EncodeToString([]byte(test.secret))))
			text := ""
			for _, problem := range problems {
				text += problem.Error() + "\n"
			}
			if test.good {
				require.Empty(t, text)
				exchange := plan.AuthRoutes[0].GetUpstream().GetExchange()
				require.Equal(t, rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_PRIVATE_KEY_JWT, exchange.GetClientAuthentication())
				require.Equal(t, "https://sts.example", exchange.GetAssertionAudience())
				require.Equal(t, strings.TrimSpace(test.secret), exchange.GetClientSecret())
				return
			}
			require.Contains(t, text, "WEIR2403")
			require.Contains(t, text, "requests are refused until it is mended")
			require.NotContains(t, text, "s3cret")
		})
	}
}
