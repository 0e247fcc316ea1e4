package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/controlplane/envoy"
	"weir.dev/policy"
)

// tlsHostsYAML is a route whose rules answer on hostnames of one listener, or of
// all.
func tlsHostsYAML(name, listener, hostnames string) string {
	parent := "{name: edge}"
	if listener != "" {
		parent = "{name: edge, sectionName: " + listener + "}"
	}
	return fmt.Sprintf(`---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s}
spec:
  parentRefs: [%s]
  hostnames: [%s]
  rules:
    - {matches: [{path: {value: /}}], backendRefs: [{group: weir.dev, kind: Backend, name: web}]}
    - {matches: [{path: {value: /v1}, headers: [{name: x-version, value: "2"}]}], backendRefs: [{group: weir.dev, kind: Backend, name: web}]}
`, name, parent, hostnames)
}

// Explain chooses chain, host and route over TLS as Envoy does: by the server
// name of the handshake, and then the request's host, which may be another.
func TestExplainChoosesAsEnvoyDoesOverTLS(t *testing.T) {
	p := startEnvoy(t)
	p.options.ExtAuthzAddress, p.options.RateLimitAddress = "", "" // there are none to ask
	authority := newPKI(t, "authority")
	behind := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "behind") }))
	behind.TLS = &tls.Config{Certificates: []tls.Certificate{authority.issue("behind")}, MinVersion: tls.VersionTLS12}
	behind.Config.ErrorLog = log.New(io.Discard, "", 0)
	behind.StartTLS()
	t.Cleanup(behind.Close)
	listener := func(name, hostname, secret string) string {
		if hostname != "" {
			hostname = "hostname: \"" + hostname + "\", "
		}
		return fmt.Sprintf("{name: %s, protocol: HTTPS, port: 8443, %stls: {certificateRefs: [{name: %s}]}}", name, hostname, secret)
	}
	text := gatewayYAML(listener("any", "", "c"), listener("wild", "*.example.com", "c"), listener("deep", "*.deep.example.com", "c"),
		listener("api", "api.example.com", "c"), listener("lost", "lost.example.com", "nowhere"),
		"{name: pass, protocol: TLS, port: 8443, hostname: pass.example.com, tls: {mode: Passthrough}}", "{name: http, protocol: HTTP, port: 8080}") +
		secretYAML(t, "c", authority.issue("listener")) + backendYAML(behind.Listener.Addr()) +
		tlsHostsYAML("all", "wild", "") + tlsHostsYAML("wild", "wild", `"*.example.com"`) + tlsHostsYAML("api", "api", "api.example.com") +
		tlsHostsYAML("deep", "deep", "a.deep.example.com") + tlsHostsYAML("other", "any", `other.test, "*.other.test"`) +
		hostsYAML("TLSRoute", "pass", "{name: edge, sectionName: pass}", "pass.example.com")
	file := filepath.Join(t.TempDir(), "p.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	plan := p.planOfBroken(file) // One listener's certificate is missing on purpose.
	set, err := envoy.Compile(plan, p.options)
	require.NoError(t, err)
	p.requireAccepted(answeringByName(t, set))
	p.listening(8443)

	names := []string{
		"api.example.com", "x.example.com", "a.deep.example.com", "b.deep.example.com", "deep.example.com", "lost.example.com", "pass.example.com", "example.com",
		"other.test", "x.other.test", "nobody.test", "API.Example.com", "a.b.example.com",
	}
	random := rand.New(rand.NewSource(7))
	answers := map[string]int{}
	for range 1500 {
		q := policy.Question{Method: "GET", Scheme: "https", Port: 8443, Path: pick(random, "/", "/v1", "/v1/users", "/v2"), Host: pick(random, names...)}
		switch random.Intn(8) {
		case 0:
			q.Host = pick(random, "127.0.0.1", "127.0.0.1:8443", q.Host+":8443", q.Host+".")
			q.SNI = pick(random, names...)
		case 1: // an address as the URL's host: no server name is sent
			q.Host = "127.0.0.1"
		default:
			q.SNI = q.Host
			if random.Intn(2) == 0 {
				q.SNI = pick(random, names...)
			}
		}
		if random.Intn(3) == 0 {
			q.Headers = []policy.Header{{Name: "X-Version", Value: "2"}}
		}
		want, got := askOverTLS(t, fmt.Sprintf("127.0.0.1:%d", p.ports[8443]), q), explainedOverTLS(plan, q)
		answers[want]++
		require.Equal(t, want, got, "server name %q, host %q, %s %v", q.SNI, q.Host, q.Path, q.Headers)
	}
	t.Log(answers)
	require.Greater(t, len(answers), 9, "the requests hardly differ")
	for _, must := range []string{"closed", "forwarded", "421", "404"} {
		require.Positive(t, answers[must], must)
	}
}

// planOfBroken is planOf of a policy that has problems.
func (p *proxied) planOfBroken(path string) *policy.Plan {
	p.t.Helper()
	parser, err := policy.NewParser()
	require.NoError(p.t, err)
	raw, err := os.ReadFile(path)
	require.NoError(p.t, err)
	var input policy.Input
	for _, document := range parser.Parse(path, raw) {
		require.Empty(p.t, document.Problems.Errors())
		input.Objects = append(input.Objects, document.Object)
	}
	plan, _ := policy.Resolve(input)
	return plan
}

// explainedOverTLS is what Explain says, in the words of askOverTLS.
func explainedOverTLS(plan *policy.Plan, q policy.Question) string {
	e := policy.Explain(plan, q)
	switch {
	case e.Refused != nil && e.Refused.Status == 0:
		return "closed"
	case e.Refused != nil:
		return fmt.Sprint(e.Refused.Status)
	case e.Destination.Action == "forward" && e.Host == nil:
		return "forwarded"
	}
	return e.Host.Name + " " + e.Route
}

// askOverTLS connects under the question's server name and asks.
func askOverTLS(t *testing.T, address string, q policy.Question) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	//nolint:gosec // Whose certificate it is tells who answered.
	secured := tls.Client(conn, &tls.Config{ServerName: q.SNI, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err := secured.HandshakeContext(t.Context()); err != nil {
		return "closed"
	}
	if secured.ConnectionState().PeerCertificates[0].Subject.CommonName == "behind" {
		return "forwarded"
	}
	return askOn(t, secured, q)
}
