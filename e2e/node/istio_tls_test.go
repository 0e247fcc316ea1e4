//go:build slow

package node_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// secure is a port that ends TLS for two hostnames, the second by TLS 1.3 alone, and
// one that sends everybody to it.
const secure = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: secure}
spec:
  gatewayClassName: weir
  listeners:
    - {name: plain, protocol: HTTP, port: 8081}
    - {name: shop, protocol: HTTPS, port: 8443, hostname: shop.example.com, tls: {certificateRefs: [{name: shop}]}}
    - {name: modern, protocol: HTTPS, port: 8443, hostname: "*.modern.example.com", tls: {certificateRefs: [{name: modern}]}}
---
apiVersion: weir.dev/v1alpha1
kind: TLSPolicy
metadata: {name: modern}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: secure, sectionName: modern}]
  minVersion: "1.3"
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: to-https}
spec:
  parentRefs: [{name: secure, sectionName: plain}]
  hostnames: [shop.example.com]
  rules: [{name: all, filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]}]
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: to-https}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: to-https}]
  authentication: [{name: all, anonymous: {}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: secure}
spec:
  parentRefs: [{name: secure, sectionName: shop}, {name: secure, sectionName: modern}]
  rules:
    - name: roles
      matches: [{path: {type: PathPrefix, value: /v1/roles}}]
      backendRefs: [{group: weir.dev, kind: Backend, name: user}]
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: secure}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: secure}]
  authentication: [{name: key, apiKey: {}}]
---
`

// selfSigned is a certificate for a name, and the Secret that holds it.
func selfSigned(t *testing.T, secret, name string) (*x509.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	made, err := x509.ParseCertificate(raw)
	require.NoError(t, err)
	encoded := func(kind string, content []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}))
	}
	return made, fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s}\n---\n",
		secret, encoded("CERTIFICATE", raw), encoded("PRIVATE KEY", private))
}

// tlsAnswer is a status over TLS, with the certificate that was shown; an error is of
// the handshake.
func tlsAnswer(t *testing.T, address, host, path string, config *tls.Config, headers ...string) (*http.Response, error) {
	t.Helper()
	config.ServerName = host
	config.NextProtos = []string{"h2", "http/1.1"}
	client := http.Client{Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: &http.Transport{
		TLSClientConfig: config, DisableKeepAlives: true, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+host+path, nil)
	require.NoError(t, err)
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
		if headers[i] == "Host" {
			request.Host = headers[i+1]
		}
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer, err
}

// endingTLS has Istio's gateway end TLS.
func endingTLS(t *testing.T, w *istioWorld, own *harness.System, base []string) {
	shop, shopYAML := selfSigned(t, "shop", "shop.example.com")
	modern, modernYAML := selfSigned(t, "modern", "a.modern.example.com")
	folder := t.TempDir()
	file := filepath.Join(folder, "secure.yaml")
	require.NoError(t, os.WriteFile(file, []byte(secure+shopYAML+modernYAML), 0o600))
	all := append(append([]string{}, base...), folder)
	w.applied(all...)
	out, code := w.weir(append([]string{"plan", "--target", "istio"}, all...)...)
	require.Equal(t, 0, code, out)
	out, code = w.weir(append([]string{"doctor", "--target", "istio"}, all...)...)
	require.Equal(t, 0, code, out)

	host, _, err := net.SplitHostPort(w.address)
	require.NoError(t, err)
	secured := join(host, "8443")
	pool := func(certificates ...*x509.Certificate) *tls.Config {
		roots := x509.NewCertPool()
		for _, certificate := range certificates {
			roots.AddCert(certificate)
		}
		return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	key := own.Key()
	// Listeners take connections when they have their certificates, each by itself.
	for host, trusted := range map[string]*x509.Certificate{"shop.example.com": shop, "a.modern.example.com": modern} {
		w.everywhere(host+" is served", 30*time.Second, func() bool {
			answer, err := tlsAnswer(t, secured, host, "/v1/roles", pool(trusted), key...)
			return err == nil && answer.StatusCode == http.StatusOK
		})
	}
	for _, c := range []struct {
		host, path string
		trusted    *x509.Certificate
		headers    []string
		status     int
	}{
		{"shop.example.com", "/v1/roles", shop, key, 200},
		{"shop.example.com", "/v1/roles", shop, nil, 401},
		{"shop.example.com", "/v1/roles", shop, []string{"X-API-Key", "nonsense"}, 401},
		{"shop.example.com", "/elsewhere", shop, key, 404},
		{"a.modern.example.com", "/v1/roles", modern, key, 200},
		{"a.modern.example.com", "/v1/roles", modern, nil, 401},
		// A connection for one host does not serve the other's.
		{"shop.example.com", "/v1/roles", shop, append([]string{"Host", "a.modern.example.com"}, key...), 404},
	} {
		answer, err := tlsAnswer(t, secured, c.host, c.path, pool(c.trusted), c.headers...)
		require.NoError(t, err, "%+v", c)
		require.Equal(t, c.status, answer.StatusCode, "%s%s %v", c.host, c.path, answer.Header)
		require.Equal(t, "HTTP/2.0", answer.Proto)
	}
	_, err = tlsAnswer(t, secured, "shop.example.com", "/v1/roles", pool(modern), key...)
	require.ErrorContains(t, err, "x509", "each host has its own certificate")
	_, err = tlsAnswer(t, secured, "other.example.com", "/v1/roles", pool(shop), key...)
	require.Error(t, err, "no listener has the name")
	older := pool(modern)
	older.MaxVersion = tls.VersionTLS12
	_, err = tlsAnswer(t, secured, "a.modern.example.com", "/v1/roles", older, key...)
	require.Error(t, err, "TLS 1.2")
	older = pool(shop)
	older.MaxVersion = tls.VersionTLS12
	answer, err := tlsAnswer(t, secured, "shop.example.com", "/v1/roles", older, key...)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, answer.StatusCode)

	plain := join(host, "8081")
	w.everywhere("nobody is asked for a key first", 30*time.Second, func() bool {
		return answers(plain, "/v1/roles", "Host", "shop.example.com") == http.StatusMovedPermanently
	})

	t.Run("a renewed certificate is shown", func(t *testing.T) {
		renewed, renewedYAML := selfSigned(t, "shop", "shop.example.com")
		require.NoError(t, os.WriteFile(file, []byte(secure+renewedYAML+modernYAML), 0o600))
		w := w.in(t)
		out := w.applied(all...)
		require.NotContains(t, out, "PRIVATE KEY")
		w.eventually("the gateway has it", 30*time.Second, func() bool {
			answer, err := tlsAnswer(t, secured, "shop.example.com", "/v1/roles", pool(renewed), key...)
			return err == nil && answer.StatusCode == http.StatusOK
		})
	})
	// What is open on one port is never so on the one that is guarded, when they change
	// places.
	t.Run("a port that is guarded after all", func(t *testing.T) {
		w := w.in(t)
		closed := strings.Replace(secure, "authentication: [{name: all, anonymous: {}}]", "authentication: [{name: key, apiKey: {}}]", 1)
		closed = strings.Replace(closed, "hostnames: [shop.example.com]", "hostnames: [plain.example.com]", 1)
		require.NoError(t, os.WriteFile(file, []byte(closed+shopYAML+modernYAML), 0o600))
		w.applied(all...)
		w.everywhere("a key is asked for", 30*time.Second, func() bool {
			status := answers(plain, "/v1/roles", "Host", "plain.example.com")
			require.Contains(t, []int{0, http.StatusNotFound, http.StatusUnauthorized}, status)
			return status == http.StatusUnauthorized
		})
	})
	require.NoError(t, os.Remove(file))
	w.applied(all...)
	w.eventually("the port is closed", 30*time.Second, func() bool {
		_, err := tlsAnswer(t, secured, "shop.example.com", "/v1/roles", pool(shop), key...)
		return err != nil
	})
}
