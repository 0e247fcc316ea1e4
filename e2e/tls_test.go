package e2e

import (
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
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"weir.dev/controlplane/envoy"
)

// pki is a certificate authority of a test.
type pki struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newPKI(t *testing.T, name string) *pki {
	t.Helper()
	p := &pki{t: t, next: 2}
	var err error
	p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:  x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &p.key.PublicKey, p.key)
	require.NoError(t, err)
	p.cert, err = x509.ParseCertificate(raw)
	require.NoError(t, err)
	return p
}

func (p *pki) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw}))
}

func (p *pki) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.cert)
	return pool
}

// issue makes a certificate for names; those with "://" are URIs.
func (p *pki) issue(names ...string) tls.Certificate {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(p.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(p.next), Subject: pkix.Name{CommonName: names[0]},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	p.next++
	for _, name := range names {
		if strings.Contains(name, "://") {
			uri, err := url.Parse(name)
			require.NoError(p.t, err)
			template.URIs = append(template.URIs, uri)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, p.cert, &key.PublicKey, p.key)
	require.NoError(p.t, err)
	leaf, err := x509.ParseCertificate(raw)
	require.NoError(p.t, err)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: leaf}
}

func (p *pki) crl(revoked ...tls.Certificate) string {
	p.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, certificate := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: certificate.Leaf.SerialNumber, RevocationTime: time.Now().Add(-time.Minute),
		})
	}
	raw, err := x509.CreateRevocationList(rand.Reader, list, p.cert, p.key)
	require.NoError(p.t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: raw}))
}

// secretYAML is a Secret of type kubernetes.io/tls.
func secretYAML(t *testing.T, name string, certificate tls.Certificate) string {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	require.NoError(t, err)
	encode := func(kind string, raw []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}))
	}
	return fmt.Sprintf("---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s}\n",
		name, encode("CERTIFICATE", certificate.Certificate[0]), encode("PRIVATE KEY", key))
}

func configMapYAML(name string, data map[string]string) string {
	text := fmt.Sprintf("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata:\n", name)
	for key, value := range data {
		text += "  " + key + ": |\n    " + strings.ReplaceAll(strings.TrimSpace(value), "\n", "\n    ") + "\n"
	}
	return text
}

// gatewayYAML is a Gateway whose listeners are in YAML's flow style.
func gatewayYAML(listeners ...string) string {
	return "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  gatewayClassName: weir\n  listeners:\n    - " +
		strings.Join(listeners, "\n    - ") + "\n"
}

// hostsYAML is a route to Backend web.
func hostsYAML(kind, name, parent string, hostnames string) string {
	return fmt.Sprintf("---\napiVersion: gateway.networking.k8s.io/v1\nkind: %s\nmetadata: {name: %s}\nspec:\n  parentRefs: [%s]\n  hostnames: [%s]\n  rules: [{backendRefs: [{group: weir.dev, kind: Backend, name: web}]}]\n",
		kind, name, parent, hostnames)
}

func backendYAML(address net.Addr) string {
	return fmt.Sprintf("---\napiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: web}\nspec: {endpoints: [{address: 127.0.0.1, port: %d}]}\n", address.(*net.TCPAddr).Port)
}

func policyYAML(kind, name, target, spec string) string {
	return fmt.Sprintf("---\napiVersion: weir.dev/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec:\n  targetRefs: [{group: gateway.networking.k8s.io, %s}]\n%s", kind, name, target, spec)
}

// client speaks to a port under a server name.
func (p *proxied) client(port int32, name string, config *tls.Config) *http.Client {
	config = config.Clone()
	config.ServerName = name
	if config.NextProtos == nil {
		config.NextProtos = []string{"h2", "http/1.1"}
	}
	transport := &http.Transport{
		TLSClientConfig: config, ForceAttemptHTTP2: true,
		DialContext: (&net.Dialer{}).DialContext,
	}
	p.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Timeout: 5 * time.Second, Transport: transport}
}

// askTLS sends a request over TLS with a Host of its own, until somebody listens.
func (p *proxied) askTLS(client *http.Client, port int32, host, path string) (status int, response *http.Response, err error) {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d%s", p.ports[port], path), nil)
	require.NoError(p.t, err)
	request.Host = host
	response, err = client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	_, err = io.ReadAll(response.Body)
	return response.StatusCode, response, err
}

// listening waits until a port takes connections.
func (p *proxied) listening(port int32) {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		connection, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.ports[port]))
		if err == nil {
			_ = connection.Close()
		}
		return err == nil
	}, patience, 10*time.Millisecond)
}

func echoServer(t *testing.T) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, values := range r.Header {
			if len(r.Header) > 50 {
				break // Envoy bounds responses, too.
			}
			w.Header()["Got-"+name] = values
		}
		w.Header().Set("Server", "echo")
		w.Header().Set("X-Frame-Options", "from the service")
		_, _ = io.WriteString(w, r.RequestURI)
	}))
	t.Cleanup(server.Close)
	return server
}

// The certificate, the routes and the isolation of each listener on one port,
// over HTTP/1.1 and HTTP/2.
func TestListenersOverTLS(t *testing.T) {
	authority := newPKI(t, "authority")
	p := startEnvoy(t)
	text := gatewayYAML(
		"{name: any, protocol: HTTPS, port: 8443, tls: {certificateRefs: [{name: any}]}}",
		`{name: shop, protocol: HTTPS, port: 8443, hostname: "*.shop.example", tls: {certificateRefs: [{name: shop}]}}`,
		"{name: lost, protocol: HTTPS, port: 8443, hostname: lost.example, tls: {certificateRefs: [{name: missing}]}}") +
		hostsYAML("HTTPRoute", "shop", "{name: edge}", `www.shop.example`) + hostsYAML("HTTPRoute", "any", "{name: edge, sectionName: any}", `www.example`) +
		backendYAML(echoServer(t).Listener.Addr()) + secretYAML(t, "any", authority.issue("www.example", "lost.example"))
	first := authority.issue("*.shop.example")
	set := p.compileText(text + secretYAML(t, "shop", first))
	p.requireAccepted(set)
	p.listening(8443)
	trust := &tls.Config{RootCAs: authority.pool()}
	for name, tc := range map[string]struct {
		sni, host string
		alpn      []string
		status    int
		protocol  string
	}{
		"HTTP/2":                         {"www.shop.example", "www.shop.example", nil, 200, "HTTP/2.0"},
		"HTTP/1.1":                       {"www.shop.example", "www.shop.example", []string{"http/1.1"}, 200, "HTTP/1.1"},
		"another listener":               {"www.example", "www.example", nil, 200, "HTTP/2.0"},
		"no route":                       {"www.shop.example", "x.shop.example", nil, 404, "HTTP/2.0"},
		"the host of another chain":      {"www.shop.example", "www.example", nil, 421, "HTTP/2.0"},
		"a more specific chain's":        {"www.example", "www.shop.example", nil, 421, "HTTP/2.0"},
		"a host of nobody on the widest": {"www.example", "other.example", nil, 404, "HTTP/2.0"},
	} {
		config := trust.Clone()
		config.NextProtos = tc.alpn
		client := p.client(8443, tc.sni, config)
		if len(tc.alpn) > 0 {
			client.Transport.(*http.Transport).ForceAttemptHTTP2 = false
		}
		status, response, err := p.askTLS(client, 8443, tc.host, "/")
		require.NoError(t, err, name)
		require.Equal(t, tc.status, status, name)
		require.Equal(t, tc.protocol, response.Proto, name)
		if tc.status == 421 {
			require.Equal(t, "application/problem+json", response.Header.Get("Content-Type"), name)
		}
	}
	_, _, err := p.askTLS(p.client(8443, "lost.example", trust), 8443, "lost.example", "/")
	require.Error(t, err, "a listener without a certificate takes no connection, nor does a wider one for it")
	_, err = http.Get(fmt.Sprintf("http://127.0.0.1:%d/", p.ports[8443]))
	require.Error(t, err, "plain text is not served")
	old := trust.Clone()
	old.MaxVersion = tls.VersionTLS11
	_, _, err = p.askTLS(p.client(8443, "www.example", old), 8443, "www.example", "/")
	require.Error(t, err, "TLS 1.1 is not offered")

	// A new certificate serves new connections; the old ones stay.
	held := p.client(8443, "www.shop.example", trust)
	_, response, err := p.askTLS(held, 8443, "www.shop.example", "/")
	require.NoError(t, err)
	require.Equal(t, first.Leaf.SerialNumber, response.TLS.PeerCertificates[0].SerialNumber)
	second := authority.issue("*.shop.example")
	next := p.compileText(text + secretYAML(t, "shop", second))
	require.Equal(t, set[envoy.TypeListener]["port-8443"].Version, next[envoy.TypeListener]["port-8443"].Version, "the listener is as it was")
	drained := p.stats("listener_manager.listener_modified")["listener_manager.listener_modified"]
	p.requireAccepted(next)
	require.Eventually(t, func() bool {
		_, response, err := p.askTLS(p.client(8443, "www.shop.example", trust), 8443, "www.shop.example", "/")
		return err == nil && response.TLS.PeerCertificates[0].SerialNumber.Cmp(second.Leaf.SerialNumber) == 0
	}, patience, 10*time.Millisecond, "the new certificate")
	_, response, err = p.askTLS(held, 8443, "www.shop.example", "/")
	require.NoError(t, err)
	require.Equal(t, first.Leaf.SerialNumber, response.TLS.PeerCertificates[0].SerialNumber, "the connection was kept")
	require.Equal(t, drained, p.stats("listener_manager.listener_modified")["listener_manager.listener_modified"])
}

// Who gets in with which certificate; the negative control is the same client
// with another certificate each time.
func TestClientCertificates(t *testing.T) {
	authority, partners, strangers := newPKI(t, "authority"), newPKI(t, "partners"), newPKI(t, "strangers")
	p := startEnvoy(t)
	good, revoked := partners.issue("spiffe://partner.example/a"), partners.issue("spiffe://partner.example/b")
	other, foreign := partners.issue("spiffe://elsewhere.example/a"), strangers.issue("spiffe://partner.example/a")
	policy := func(mode string) string {
		text := "  clientCertificates:\n    mode: " + mode + "\n    caCertificateRefs: [{name: partners}]\n    crlRefs: [{name: partners}]\n"
		if mode == "Required" {
			text += "    subjectAltNames: [{type: URI, prefix: 'spiffe://partner.example/'}]\n"
		}
		return policyYAML("TLSPolicy", "clients", "kind: Gateway, name: edge", text)
	}
	base := gatewayYAML("{name: https, protocol: HTTPS, port: 8443, tls: {certificateRefs: [{name: any}]}}") +
		hostsYAML("HTTPRoute", "any", "{name: edge}", "www.example") + backendYAML(echoServer(t).Listener.Addr()) +
		secretYAML(t, "any", authority.issue("www.example")) +
		policyYAML("HeaderPolicy", "told", "kind: Gateway, name: edge", "  forwardedClientCert: {mode: SanitizeSet, details: [URI]}\n")
	lists := func(revoked ...tls.Certificate) string {
		return configMapYAML("partners", map[string]string{"ca.crt": partners.pem(), "ca.crl": partners.crl(revoked...)})
	}
	ask := func(certificates ...tls.Certificate) (string, error) {
		client := p.client(8443, "www.example", &tls.Config{RootCAs: authority.pool(), Certificates: certificates})
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/", p.ports[8443]), nil)
		require.NoError(t, err)
		request.Host = "www.example"
		request.Header.Set("X-Forwarded-Client-Cert", "URI=spiffe://forged.example/x")
		response, err := client.Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		require.Equal(t, http.StatusOK, response.StatusCode)
		return response.Header.Get("Got-X-Forwarded-Client-Cert"), nil
	}
	p.requireAccepted(p.compileText(base + policy("Required") + lists(revoked)))
	p.listening(8443)
	told, err := ask(good)
	require.NoError(t, err)
	require.Contains(t, told, "URI=spiffe://partner.example/a")
	require.NotContains(t, told, "forged")
	for name, certificates := range map[string][]tls.Certificate{
		"none": nil, "revoked": {revoked}, "another name": {other}, "of another authority": {foreign},
	} {
		_, err := ask(certificates...)
		require.Error(t, err, name)
	}
	// The list of revoked ones changes without the listener.
	before := p.stats("listener_manager.listener_modified")
	p.requireAccepted(p.compileText(base + policy("Required") + lists(good)))
	require.Equal(t, before, p.stats("listener_manager.listener_modified"))
	_, err = ask(revoked)
	require.NoError(t, err, "no longer revoked")
	_, err = ask(good)
	require.Error(t, err, "revoked now")

	p.requireAccepted(p.compileText(base + policy("Optional") + lists(revoked)))
	require.EventuallyWithT(t, func(c *assert.CollectT) { _, err := ask(); assert.NoError(c, err, "none is needed") }, patience, 10*time.Millisecond)
	_, err = ask(revoked)
	require.Error(t, err, "a bad one is refused nevertheless")

	// What the policy refers to is gone: closed, not open.
	p.requireAccepted(p.compileText(base + policy("Required")))
	require.Eventually(t, func() bool { _, err := ask(good); return err != nil }, patience, 10*time.Millisecond)
	_, err = ask()
	require.Error(t, err)
	// A policy that cannot be read closes, too.
	p.requireAccepted(p.compileText(base + policy("Sometimes") + lists()))
	_, err = ask()
	require.Error(t, err)
}

// Connections that are passed on as they are, and ones whose TLS ends at the
// edge, by the name that the client asks for.
func TestStreamsOverTLS(t *testing.T) {
	authority, own := newPKI(t, "authority"), newPKI(t, "the service's own")
	p := startEnvoy(t)
	secured := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.TLS.ServerName) }))
	secured.TLS = &tls.Config{Certificates: []tls.Certificate{own.issue("db.raw.example")}}
	secured.StartTLS()
	t.Cleanup(secured.Close)
	plain := echoServer(t)
	p.requireAccepted(p.compileText(gatewayYAML(
		`{name: raw, protocol: TLS, port: 8443, hostname: "*.raw.example", tls: {mode: Passthrough}}`,
		`{name: ended, protocol: TLS, port: 8443, hostname: ended.example, tls: {mode: Terminate, certificateRefs: [{name: any}]}}`,
		"{name: any, protocol: HTTPS, port: 8443, tls: {certificateRefs: [{name: any}]}}") +
		hostsYAML("TLSRoute", "raw", "{name: edge}", "db.raw.example") +
		strings.Replace(hostsYAML("TLSRoute", "ended", "{name: edge}", "ended.example"), "name: web}", "name: plain}", 1) +
		hostsYAML("HTTPRoute", "all", "{name: edge, sectionName: any}", "www.example") +
		backendYAML(secured.Listener.Addr()) + strings.Replace(backendYAML(plain.Listener.Addr()), "name: web", "name: plain", 1) +
		secretYAML(t, "any", authority.issue("www.example", "ended.example", "other.raw.example"))))
	p.listening(8443)
	status, response, err := p.askTLS(p.client(8443, "db.raw.example", &tls.Config{RootCAs: own.pool()}), 8443, "db.raw.example", "/")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, []string{"db.raw.example"}, response.TLS.PeerCertificates[0].DNSNames, "the service's own certificate")
	client := p.client(8443, "ended.example", &tls.Config{RootCAs: authority.pool()})
	status, response, err = p.askTLS(client, 8443, "ended.example", "/x")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "echo", response.Header.Get("Server"), "nothing was read of HTTP")
	_, _, err = p.askTLS(p.client(8443, "other.raw.example", &tls.Config{RootCAs: authority.pool()}), 8443, "other.raw.example", "/")
	require.Error(t, err, "a name of the listener without a route falls to nobody else")
}
