package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Backends ask for a certificate, and are shown the Gateway's, or their own
// Backend's.
func TestClientCertificatesTowardsBackends(t *testing.T) {
	servers, clients := newPKI(t, "servers"), newPKI(t, "clients")
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	server.TLS = &tls.Config{
		Certificates: []tls.Certificate{servers.issue("s.example.com")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients.pool(), MinVersion: tls.VersionTLS12,
	}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	port := server.Listener.Addr().(*net.TCPAddr).Port

	p := startEnvoy(t)
	gateway := func(name string, port int, secret string) string {
		identity := ""
		if secret != "" {
			identity = ", tls: {backend: {clientCertificateRef: {name: " + secret + "}}}"
		}
		return fmt.Sprintf("---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: %s}\nspec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: %d}]%s}\n",
			name, port, identity)
	}
	backend := func(name, own string) string {
		return fmt.Sprintf("---\napiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: %s}\nspec: {endpoints: [{address: 127.0.0.1, port: %d}], tls: {hostname: s.example.com, caCertificateRef: {name: ca, key: ca.crt}%s}}\n",
			name, port, own)
	}
	const routes = `---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: one}, {name: two}, {name: none}]
  rules:
    - {matches: [{path: {value: /shared}}], backendRefs: [{group: weir.dev, kind: Backend, name: shared}]}
    - {matches: [{path: {value: /own}}], backendRefs: [{group: weir.dev, kind: Backend, name: own}]}
`
	policy := func(first tls.Certificate) string {
		return gateway("one", 8080, "first") + gateway("two", 8081, "second") + gateway("none", 80, "") + routes +
			backend("shared", "") + backend("own", ", clientCertificateRef: {name: mine}") + configMapYAML("ca", map[string]string{"ca.crt": servers.pem()}) +
			secretYAML(t, "first", first) + secretYAML(t, "second", clients.issue("two")) + secretYAML(t, "mine", clients.issue("mine"))
	}
	ask := func(port int32, path string) string {
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", p.ports[port], path)) //nolint:noctx // bounded by the test
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		if response.StatusCode != http.StatusOK {
			return fmt.Sprint(response.StatusCode)
		}
		return string(body)
	}
	p.requireAccepted(p.compileText(policy(clients.issue("one"))))
	p.listening(8081)
	require.Equal(t, "one", ask(8080, "/shared"))
	require.Equal(t, "two", ask(8081, "/shared"))
	require.Equal(t, "503", ask(80, "/shared"), "the negative control: without one the backend refuses")
	for _, port := range []int32{8080, 8081, 80} {
		require.Equal(t, "mine", ask(port, "/own"))
	}

	// A new certificate is shown on new connections; nothing else changes.
	clusters := p.stats("cds.update_success")
	p.requireAccepted(p.compileText(policy(clients.issue("renewed"))))
	require.Equal(t, clusters, p.stats("cds.update_success"))
	server.CloseClientConnections()
	require.Eventually(t, func() bool { return ask(8080, "/shared") == "renewed" }, patience, 10*time.Millisecond)

	// One that is gone is not done without.
	p.requireAccepted(p.compileText(strings.Replace(policy(clients.issue("one")), "metadata: {name: first}", "metadata: {name: gone}", 1)))
	require.Equal(t, "500", ask(8080, "/shared"))
	require.Equal(t, "two", ask(8081, "/shared"))
}
