package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"
)

// HTTP/3 is offered where it is asked for, and found by alt-svc.
func TestHTTP3(t *testing.T) {
	authority := newPKI(t, "authority")
	p := startEnvoy(t)
	text := gatewayYAML("{name: https, protocol: HTTPS, port: 8443, tls: {certificateRefs: [{name: any}]}}") +
		hostsYAML("HTTPRoute", "any", "{name: edge}", "www.example") + backendYAML(echoServer(t).Listener.Addr()) +
		secretYAML(t, "any", authority.issue("www.example"))
	config := &tls.Config{RootCAs: authority.pool(), ServerName: "www.example"}
	p.requireAccepted(p.compileText(text))
	p.listening(8443)
	_, response, err := p.askTLS(p.client(8443, "www.example", config), 8443, "www.example", "/")
	require.NoError(t, err)
	require.Empty(t, response.Header.Get("Alt-Svc"), "not asked for")

	p.requireAccepted(p.compileText(text + policyYAML("TLSPolicy", "quic", "kind: Gateway, name: edge", "  protocols: [HTTP/2, HTTP/1.1, HTTP/3]\n")))
	require.Eventually(t, func() bool {
		_, response, err = p.askTLS(p.client(8443, "www.example", config), 8443, "www.example", "/")
		return err == nil && response.Header.Get("Alt-Svc") == fmt.Sprintf(`h3=":%d"; ma=86400`, p.ports[8443])
	}, patience, 10*time.Millisecond)
	transport := &http3.Transport{TLSClientConfig: config}
	t.Cleanup(func() { _ = transport.Close() })
	status, response, err := p.askTLS(&http.Client{Transport: transport, Timeout: 5 * time.Second}, 8443, "www.example", "/three")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "HTTP/3.0", response.Proto)
	require.NotEmpty(t, response.Header.Get("X-Request-Id"))
}

// raw sends bytes to a port and reads the answer's status and headers.
func (p *proxied) raw(port int32, request string) (int, http.Header) {
	p.t.Helper()
	connection, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.ports[port]))
	require.NoError(p.t, err)
	defer func() { _ = connection.Close() }()
	require.NoError(p.t, connection.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(connection, strings.ReplaceAll(request, "\n", "\r\n"))
	require.NoError(p.t, err)
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	require.NoError(p.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(p.t, err)
	response.Header.Set("Body", string(body))
	return response.StatusCode, response.Header
}

// Each guard is on by default, and each can be loosened: the second column is the
// negative control.
func TestEdgeGuards(t *testing.T) {
	p := startEnvoy(t)
	base := gatewayYAML("{name: http, protocol: HTTP, port: 8080}", "{name: loose, protocol: HTTP, port: 8081}") +
		hostsYAML("HTTPRoute", "any", "{name: edge}", "www.example") + backendYAML(echoServer(t).Listener.Addr()) +
		policyYAML("EdgePolicy", "loose", "kind: Gateway, name: edge, sectionName: loose", `  paths: {normalize: false, mergeSlashes: false, escapedSlashes: Keep, parameters: Keep}
  headers: {maxKiB: 90, maxCount: 300, underscores: Allow}
  requestID: {accept: true, return: false}
  timeouts: {requestHeaders: 1s}
`) + policyYAML("HeaderPolicy", "loose", "kind: Gateway, name: edge, sectionName: loose", `  clientAddress: {trustedHops: 1}
  forwardedClientCert: {mode: AlwaysForwardOnly}
  server: {mode: PassThrough}
`)
	p.requireAccepted(p.compileText(base))
	p.listening(8080)
	p.listening(8081)
	request := func(path string, headers ...string) string {
		return "GET " + path + " HTTP/1.1\nHost: www.example\nConnection: close\n" + strings.Join(append(headers, ""), "\n") + "\n"
	}
	many := make([]string, 150)
	for i := range many {
		many[i] = fmt.Sprintf("X-%d: 1", i)
	}
	for name, tc := range map[string]struct {
		request         string
		strict, loose   int
		header          string
		isHere, isThere string
	}{
		"dots":              {request: request("/a/../b//c"), strict: 200, loose: 200, header: "Body", isHere: "/b/c", isThere: "/a/../b//c"},
		"escaped slash":     {request: request("/a%2fb"), strict: 400, loose: 200},
		"escaped backslash": {request: request("/a%5Cb"), strict: 400, loose: 200},
		"parameter":         {request: request("/admin;a=b"), strict: 400, loose: 200},
		"empty parameter":   {request: request("/admin;/x"), strict: 400, loose: 200},
		"in the query":      {request: request("/a?b;c=d"), strict: 200, loose: 200},
		"escaped semicolon": {request: request("/a%3bb"), strict: 200, loose: 200},
		"underscore":        {request: request("/", "X_Weir_Consumer: me"), strict: 400, loose: 200},
		"many headers":      {request: request("/", many...), strict: 431, loose: 200},
		"large headers":     {request: request("/", "X-Large: "+strings.Repeat("x", 70<<10)), strict: 431, loose: 200},
		"request id":        {request: request("/", "X-Request-Id: mine"), strict: 200, loose: 200, header: "Got-X-Request-Id", isThere: "mine"},
		"address":           {request: request("/", "X-Forwarded-For: 192.0.2.7"), strict: 200, loose: 200, header: "Got-X-Envoy-External-Address", isThere: "192.0.2.7"},
		"client cert":       {request: request("/", "X-Forwarded-Client-Cert: URI=spiffe://forged"), strict: 200, loose: 200, header: "Got-X-Forwarded-Client-Cert", isHere: "", isThere: "URI=spiffe://forged"},
		"server":            {request: request("/"), strict: 200, loose: 200, header: "Server", isHere: "weir", isThere: "echo"},
		"own headers":       {request: request("/", "X-Weir-Consumer: me"), strict: 200, loose: 200, header: "Got-X-Weir-Consumer", isHere: "", isThere: ""},
	} {
		status, header := p.raw(8080, tc.request)
		require.Equal(t, tc.strict, status, name)
		looseStatus, looseHeader := p.raw(8081, tc.request)
		require.Equal(t, tc.loose, looseStatus, name)
		if tc.header == "" {
			continue
		}
		if tc.isHere != "" || tc.header != "Got-X-Request-Id" && tc.header != "Got-X-Envoy-External-Address" {
			require.Equal(t, tc.isHere, header.Get(tc.header), name)
		} else {
			require.NotEqual(t, tc.isThere, header.Get(tc.header), name)
		}
		require.Equal(t, tc.isThere, looseHeader.Get(tc.header), name)
	}
	_, header := p.raw(8080, request("/"))
	require.NotEmpty(t, header.Get("X-Request-Id"))
	_, header = p.raw(8081, request("/"))
	require.Empty(t, header.Get("X-Request-Id"))
	status, _ := p.raw(8081, "GET / HTTP/1.1\nHost: www.example\n") // the headers never end
	require.Equal(t, http.StatusRequestTimeout, status)
}

// Only proxies of the named ranges are believed.
func TestTrustedRanges(t *testing.T) {
	p := startEnvoy(t)
	text := func(cidr string) string {
		return gatewayYAML("{name: http, protocol: HTTP, port: 8080}") + hostsYAML("HTTPRoute", "any", "{name: edge}", "www.example") +
			backendYAML(echoServer(t).Listener.Addr()) +
			policyYAML("HeaderPolicy", "trust", "kind: Gateway, name: edge", "  clientAddress: {trustedCIDRs: [\""+cidr+"\"]}\n")
	}
	const request = "GET / HTTP/1.1\nHost: www.example\nConnection: close\nX-Forwarded-For: 192.0.2.7\nX-Envoy-Retry-On: 5xx\n\n"
	for cidr, want := range map[string]string{"127.0.0.0/8": "192.0.2.7", "10.0.0.0/8": "127.0.0.1"} {
		p.requireAccepted(p.compileText(text(cidr)))
		p.listening(8080)
		status, header := p.raw(8080, request)
		require.Equal(t, http.StatusOK, status)
		require.True(t, strings.HasPrefix(header.Get("Got-X-Forwarded-For"), "192.0.2.7,"), "the connection's own address is added")
		line := fmt.Sprintf(`"request_id":"%s"`, header.Get("X-Request-Id"))
		require.Eventually(t, func() bool { return strings.Contains(p.access.String(), line) }, patience, 10*time.Millisecond)
		for _, logged := range strings.Split(p.access.String(), "\n") {
			if strings.Contains(logged, line) {
				require.Contains(t, logged, `"client":"`+want+`"`, cidr)
			}
		}
		require.Empty(t, header.Get("Got-X-Envoy-Retry-On"), cidr)
	}
}

// Security headers are on every answer, the edge's own included; a route's stand
// in the place of the Gateway's.
func TestSecurityHeaders(t *testing.T) {
	authority := newPKI(t, "authority")
	p := startEnvoy(t)
	p.requireAccepted(p.compileText(gatewayYAML("{name: http, protocol: HTTP, port: 8080}",
		"{name: https, protocol: HTTPS, port: 8443, tls: {certificateRefs: [{name: any}]}}") +
		hostsYAML("HTTPRoute", "any", "{name: edge}", "www.example") + hostsYAML("HTTPRoute", "own", "{name: edge}", "own.example") +
		hostsYAML("HTTPRoute", "none", "{name: edge}", "none.example") +
		backendYAML(echoServer(t).Listener.Addr()) + secretYAML(t, "any", authority.issue("www.example")) +
		policyYAML("HeaderPolicy", "all", "kind: Gateway, name: edge",
			"  security: {frameOptions: Deny, contentTypeOptions: NoSniff, strictTransportSecurity: {includeSubDomains: true}, contentSecurityPolicy: \"img-src 100%\"}\n") +
		policyYAML("HeaderPolicy", "own", "kind: HTTPRoute, name: own", "  security: {whenPresent: Keep, frameOptions: SameOrigin, referrerPolicy: no-referrer}\n")))
	p.listening(8080)
	p.listening(8443)
	get := func(host, path string) http.Header {
		_, header := p.raw(8080, "GET "+path+" HTTP/1.1\nHost: "+host+"\nConnection: close\n\n")
		return header
	}
	for _, host := range []string{"www.example", "nobody.example"} {
		header := get(host, "/")
		require.Equal(t, []string{"DENY"}, header.Values("X-Frame-Options"), host)
		require.Equal(t, "nosniff", header.Get("X-Content-Type-Options"), host)
		require.Equal(t, "img-src 100%", header.Get("Content-Security-Policy"), host)
		require.Empty(t, header.Get("Strict-Transport-Security"), "never over plain HTTP (RFC 6797, section 7.2)")
	}
	header := get("own.example", "/")
	require.Equal(t, []string{"from the service"}, header.Values("X-Frame-Options"))
	require.Equal(t, "no-referrer", header.Get("Referrer-Policy"))
	require.Empty(t, header.Get("X-Content-Type-Options"), "the Gateway's are replaced, not added to")
	_, response, err := p.askTLS(p.client(8443, "www.example", &tls.Config{RootCAs: authority.pool()}), 8443, "www.example", "/")
	require.NoError(t, err)
	require.Equal(t, "max-age=31536000; includeSubDomains", response.Header.Get("Strict-Transport-Security"))
}
