//go:build slow

package node_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// machines is a port that requires client certificates for one hostname, by their
// names and a revocation list, and takes them for another.
const machines = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: machines}
spec:
  gatewayClassName: weir
  listeners:
    - {name: machines, protocol: HTTPS, port: PORT, hostname: machines.example.com, tls: {certificateRefs: [{name: machines}]}}
    - {name: both, protocol: HTTPS, port: PORT, hostname: both.example.com, tls: {certificateRefs: [{name: both}]}}
---
apiVersion: weir.dev/v1alpha1
kind: TLSPolicy
metadata: {name: machines}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: machines, sectionName: machines}]
  clientCertificates:
    caCertificateRefs: [{kind: ConfigMap, name: clients}]
    crlRefs: [{kind: ConfigMap, name: clients}]
    subjectAltNames:
      - {type: URI, exact: "spiffe://example.com/orders"}
      - {type: DNS, exact: billing.example.com}
---
apiVersion: weir.dev/v1alpha1
kind: TLSPolicy
metadata: {name: both}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: machines, sectionName: both}]
  clientCertificates: {mode: Optional, caCertificateRefs: [{kind: ConfigMap, name: clients}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: machines}
spec:
  parentRefs: [{name: machines}]
  rules:
    - name: away
      matches: [{path: {type: PathPrefix, value: /away}}]
      filters: [{type: RequestRedirect, requestRedirect: {hostname: other.example.com, statusCode: 302}}]
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: machines}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: machines}]
  authentication:
    - {name: machine, clientCertificate: {identity: {from: SPIFFE, match: ["spiffe://example.com/orders"]}}}
    - {name: key, apiKey: {}}
---
`

// authority issues client certificates.
type authority struct {
	*testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	next int64
}

func newAuthority(t *testing.T) *authority {
	a := &authority{T: t, next: 2}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "clients"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	require.NoError(t, err)
	a.cert, err = x509.ParseCertificate(raw)
	require.NoError(t, err)
	return a
}

// issue makes a client's certificate, of a URI where the name is one.
func (a *authority) issue(name string) *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.next), Subject: pkix.Name{CommonName: "client"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	a.next++
	if strings.Contains(name, "://") {
		uri, err := url.Parse(name)
		require.NoError(a, err)
		template.URIs = []*url.URL{uri}
	} else {
		template.DNSNames = []string{name}
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	require.NoError(a, err)
	leaf, err := x509.ParseCertificate(raw)
	require.NoError(a, err)
	return &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: leaf}
}

// configMap holds the authority and its revocation list.
func (a *authority) configMap(number int64, revoked ...*tls.Certificate) string {
	list := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(24 * time.Hour)}
	for _, certificate := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: certificate.Leaf.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)})
	}
	raw, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	require.NoError(a, err)
	indented := func(kind string, content []byte) string {
		return strings.ReplaceAll(strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}))), "\n", "\n    ")
	}
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: clients}\ndata:\n  ca.crt: |\n    %s\n  ca.crl: |\n    %s\n---\n",
		indented("CERTIFICATE", a.cert.Raw), indented("X509 CRL", raw))
}

// clientCertificates asks both targets the same with and without client certificates.
func clientCertificates(t *testing.T, w *istioWorld, own *harness.System, base []string) {
	clients, strangers := newAuthority(t), newAuthority(t)
	orders, billing := clients.issue("spiffe://example.com/orders"), clients.issue("billing.example.com")
	revoked, unlisted, wrong := clients.issue("spiffe://example.com/orders"), clients.issue("spiffe://example.com/others"), strangers.issue("spiffe://example.com/orders")
	machine, machineYAML := selfSigned(t, "machines", "machines.example.com")
	both, bothYAML := selfSigned(t, "both", "both.example.com")
	trusted := x509.NewCertPool()
	trusted.AddCert(machine)
	trusted.AddCert(both)
	folder := t.TempDir()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ownAddress := free.Addr().String()
	require.NoError(t, free.Close())
	_, ownPort, err := net.SplitHostPort(ownAddress)
	require.NoError(t, err)
	all := append(append([]string{}, base...), folder)
	write := func(list string) {
		text := machines + machineYAML + bothYAML + list
		require.NoError(t, os.WriteFile(filepath.Join(folder, "machines.yaml"), []byte(strings.ReplaceAll(text, "PORT", "8443")), 0o600))
		own.Write("machines.yaml", strings.ReplaceAll(text, "PORT", ownPort))
	}
	write(clients.configMap(1, revoked))
	out := w.applied(all...)
	require.NotContains(t, out, "BEGIN")
	out, code := w.weir(append([]string{"doctor", "--target", "istio"}, all...)...)
	require.Equal(t, 0, code, out)

	host, _, err := net.SplitHostPort(w.address)
	require.NoError(t, err)
	meshAddress := join(host, "8443")
	ask := func(address, name string, certificate *tls.Certificate, headers []string) string {
		config := &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12}
		if certificate != nil {
			config.Certificates = []tls.Certificate{*certificate}
		}
		answer, err := tlsAnswer(t, address, name, "/away", config, headers...)
		if err != nil {
			return "no connection"
		}
		return strconv.Itoa(answer.StatusCode) + " " + answer.Header.Get("Www-Authenticate")
	}
	const required, optional = "machines.example.com", "both.example.com"
	own.Eventually("Weir's own proxy serves it", time.Minute, func() bool { return strings.HasPrefix(ask(ownAddress, required, orders, nil), "302") })
	for _, host := range []string{required, optional} {
		w.everywhere("Istio's gateway serves "+host, time.Minute, func() bool { return strings.HasPrefix(ask(meshAddress, host, orders, nil), "302") })
	}
	forged := []string{"X-Forwarded-Client-Cert", `Hash=` + strings.Repeat("0", 64) + `;URI=spiffe://example.com/orders`}
	cases := []struct {
		name, host  string
		certificate *tls.Certificate
		headers     []string
		want        string
	}{
		{"required, none", required, nil, nil, "no connection"},
		{"required, none and a key", required, nil, own.Key(), "no connection"},
		{"required, none and a forged header", required, nil, forged, "no connection"},
		{"required, of another authority", required, wrong, nil, "no connection"},
		{"required, revoked", required, revoked, nil, "no connection"},
		{"required, another name", required, unlisted, own.Key(), "no connection"},
		{"required, the right one", required, orders, nil, "302"},
		{"required, the right one and a forged header", required, orders, forged, "302"},
		{"required, a name of the listener but not of the rules", required, billing, nil, "40"},
		{"required, a name of the listener, and a forged header", required, billing, forged, "40"},
		{"required, a name of the listener, and a key beside it", required, billing, own.Key(), "40"},
		{"optional, none", optional, nil, nil, "401"},
		{"optional, none and a key", optional, nil, own.Key(), "302"},
		{"optional, none and a forged header", optional, nil, forged, "401"},
		{"optional, of another authority", optional, wrong, nil, "no connection"},
		{"optional, another name", optional, unlisted, nil, "403"},
		{"optional, the right one", optional, orders, nil, "302"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			first, second := ask(ownAddress, c.host, c.certificate, c.headers), ask(meshAddress, c.host, c.certificate, c.headers)
			require.True(t, strings.HasPrefix(first, c.want), "Weir's own: %s", first)
			require.Equal(t, first, second, "Istio")
		})
	}

	// resumes reports whether a client's second connection takes up its first, "no
	// connection" without one.
	resumes := func(address string) string {
		config := &tls.Config{
			RootCAs: trusted, MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, ServerName: required,
			Certificates: []tls.Certificate{*orders}, ClientSessionCache: tls.NewLRUClientSessionCache(4),
		}
		resumed := false
		for range 2 {
			connection, err := tls.Dial("tcp", address, config)
			if err != nil {
				return "no connection"
			}
			resumed = connection.ConnectionState().DidResume
			_ = connection.Close()
		}
		return map[bool]string{true: "resumed", false: "anew"}[resumed]
	}
	require.Equal(t, "anew", resumes(ownAddress), "Weir's own")
	require.Equal(t, "anew", resumes(meshAddress), "Istio: a session that is taken up is not looked at again")
	t.Run("a certificate that is revoked after all", func(t *testing.T) {
		w := w.in(t)
		write(clients.configMap(2, revoked, orders))
		w.applied(all...)
		w.everywhere("Istio's gateway has the list", 30*time.Second, func() bool { return ask(meshAddress, required, orders, nil) == "no connection" })
		own.Eventually("Weir's own proxy has it", 30*time.Second, func() bool { return ask(ownAddress, required, orders, nil) == "no connection" })
		require.True(t, strings.HasPrefix(ask(meshAddress, optional, orders, nil), "302"), "the other listener has no list")
	})
	t.Run("a list that is gone", func(t *testing.T) {
		w := w.in(t)
		write(clients.configMap(3, revoked))
		w.applied(all...)
		w.everywhere("it is good again", 30*time.Second, func() bool { return strings.HasPrefix(ask(meshAddress, required, orders, nil), "302") })
	})
	// The negative control: what the patch does, and what does not hang on it.
	t.Run("without the EnvoyFilter", func(t *testing.T) {
		w := w.in(t)
		w.kubectl("", "delete", "envoyfilter", "-n", "istio-ingress", "weir-8443-clients")
		w.eventually("sessions are taken up", time.Minute, func() bool { return resumes(meshAddress) == "resumed" })
		require.Equal(t, "no connection", ask(meshAddress, required, nil, nil), "a certificate is required all the same")
		require.Equal(t, "no connection", ask(meshAddress, required, unlisted, nil))
		out, code := w.weir(append([]string{"doctor", "--target", "istio"}, all...)...)
		require.Equal(t, 1, code, out)
		require.Contains(t, out, "FILTER_CHAIN machines.example.com")
		w.applied(all...)
		w.everywhere("no session is taken up any more", 30*time.Second, func() bool { return resumes(meshAddress) == "anew" })
	})
	require.NoError(t, os.Remove(filepath.Join(folder, "machines.yaml")))
	own.Write("machines.yaml", "")
	w.applied(all...)
	require.Empty(t, w.field("{.items[*].metadata.name}", "secret", "-n", "istio-ingress", "-l", "weir.dev/mesh-set=default"), "no key stays behind")
}
