package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"weir.dev/e2e/internal/harness"
)

// translated are the servers and HTTP filters that `weir translate --target istio`
// makes of the policy of client certificates.
func translated(t *testing.T) (servers []any, filters map[string]any) {
	t.Helper()
	file := filepath.Join(harness.Root(t), "cli", "internal", "command", "testdata", "istio-clients.in.yaml")
	out, err := exec.CommandContext(t.Context(), harness.Bin(t, "weir"), "translate", "--alone", "--target", "istio", "-o", "json", file).Output()
	require.NoError(t, err)
	var list struct{ Items []tree }
	require.NoError(t, json.Unmarshal(out, &list))
	filters = map[string]any{}
	for _, object := range list.Items {
		switch {
		case object["kind"] == "Gateway":
			servers = dig(object, "spec", "servers").([]any)
		case dig(object, "metadata", "name") == "weir-8443-filters":
			for _, patch := range dig(object, "spec", "configPatches").([]any) {
				value := dig(patch, "patch", "value").(tree)
				filters[value["name"].(string)] = value
			}
		}
	}
	require.Len(t, servers, 3)
	return servers, filters
}

// What istiod makes of a server's names (pilot/pkg/security/model) and of the mesh's
// settings about X-Forwarded-Client-Cert, with ours on top, in the real Envoy.
func TestClientCertificatesAsIstioHasThem(t *testing.T) {
	servers, filters := translated(t)
	names := dig(servers[1], "tls", "subjectAltNames").([]any)
	require.Equal(t, []any{"spiffe://example.com/ns/shop/sa/orders", "orders.example.com"}, names)
	own := filters["weir.forwarded_client_cert"]
	require.NotNil(t, own)

	clients, strangers, server := newPKI(t, "clients"), newPKI(t, "strangers"), newPKI(t, "servers")
	revoked := clients.issue("orders.example.com")
	told := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-Client-Cert"))
	}))
	t.Cleanup(told.Close)
	raw, err := os.ReadFile(filepath.Join(harness.Root(t), "examples", "standalone", "envoy.yaml"))
	require.NoError(t, err)
	text := strings.NewReplacer("port_value: 9901", "port_value: 0", "port_value: 10000", "port_value: 0",
		"port_value: 8000", "port_value: "+port(told.Listener.Addr().String())).Replace(string(raw))
	var config tree
	require.NoError(t, yaml.Unmarshal([]byte(text), &config))
	certificate := server.issue("localhost")
	key, err := pemKey(certificate)
	require.NoError(t, err)
	matchers := []any{}
	for _, name := range append(names, "192.0.2.1", "https://pay.example.net", "https://pay.example.org/in") {
		matchers = append(matchers, tree{"exact": name})
	}
	inline := func(text string) tree { return tree{"inline_string": text} }
	var listeners []any
	for _, mode := range []string{"SANITIZE_SET", "ALWAYS_FORWARD_ONLY", "unguarded"} {
		listener := clone(t, dig(config, "static_resources", "listeners", 0)).(tree)
		listener["name"] = mode
		listener["filter_chains"].([]any)[0].(tree)["transport_socket"] = tree{"name": "envoy.transport_sockets.tls", "typed_config": tree{
			"@type":                      "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
			"require_client_certificate": true,
			"common_tls_context": tree{
				"tls_certificates": []any{tree{
					"certificate_chain": inline(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}))), "private_key": inline(key),
				}},
				"validation_context": tree{"trusted_ca": inline(clients.pem()), "crl": inline(clients.crl(revoked)), "match_subject_alt_names": matchers},
			},
		}}
		manager := dig(listener, "filter_chains", 0, "filters", 0, "typed_config").(tree)
		router := manager["http_filters"].([]any)[1]
		manager["http_filters"] = []any{own, router}
		manager["forward_client_cert_details"] = mode
		if mode == "unguarded" {
			manager["http_filters"] = []any{router}
			manager["forward_client_cert_details"] = "ALWAYS_FORWARD_ONLY"
		}
		if mode == "SANITIZE_SET" {
			manager["set_current_client_cert_details"] = tree{"subject": true, "cert": true, "dns": true, "uri": true}
		}
		listeners = append(listeners, listener)
	}
	dig(config, "static_resources").(tree)["listeners"] = listeners
	addresses := runEnvoy(t, config)

	ask := func(mode string, certificate *tls.Certificate) string {
		settings := &tls.Config{RootCAs: server.pool(), ServerName: "localhost", MinVersion: tls.VersionTLS12}
		if certificate != nil {
			settings.Certificates = []tls.Certificate{*certificate}
		}
		client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
			TLSClientConfig: settings, DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, addresses[mode])
			},
		}}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://localhost/", nil)
		require.NoError(t, err)
		request.Header.Set("X-Forwarded-Client-Cert", "URI=spiffe://forged")
		answer, err := client.Do(request)
		if err != nil {
			return "no connection"
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, answer.StatusCode, string(body))
		return "told " + string(body)
	}
	issued := func(from *pki, name string) *tls.Certificate {
		made := from.issue(name)
		return &made
	}
	orders := issued(clients, "orders.example.com")
	for name, c := range map[string]struct {
		certificate *tls.Certificate
		want        string
	}{
		"none":                           {nil, "no connection"},
		"a DNS name":                     {orders, "told "},
		"a URI":                          {issued(clients, "spiffe://example.com/ns/shop/sa/orders"), "told "},
		"another name":                   {issued(clients, "spiffe://example.com/ns/shop/sa/other"), "no connection"},
		"the beginning of a name":        {issued(clients, "spiffe://example.com/ns/shop/sa/orders2"), "no connection"},
		"of another authority":           {issued(strangers, "orders.example.com"), "no connection"},
		"revoked":                        {&revoked, "no connection"},
		"a DNS name that reads as an IP": {issued(clients, "192.0.2.1"), "told "},     // why addresses are refused
		"a wildcard that reads as a URI": {issued(clients, "*.example.net"), "told "}, // and URIs that end with a host
		"a wildcard and a URI's path":    {issued(clients, "*.example.org"), "no connection"},
	} {
		require.Equal(t, c.want, ask("SANITIZE_SET", c.certificate), name)
	}
	require.Equal(t, "told ", ask("ALWAYS_FORWARD_ONLY", orders), "whatever the mesh believes")
	require.Equal(t, "told URI=spiffe://forged", ask("unguarded", orders), "the negative control")
}

// pemKey is a certificate's key in PEM.
func pemKey(certificate tls.Certificate) (string, error) {
	raw, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})), err
}
