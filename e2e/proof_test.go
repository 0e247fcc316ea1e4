package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// issueUntil makes a client certificate of a SPIFFE ID that ends at a time.
func (p *pki) issueUntil(id string, until time.Time) tls.Certificate {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(p.t, err)
	uri, err := url.Parse(id)
	require.NoError(p.t, err)
	p.next++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(p.next), Subject: pkix.Name{CommonName: "client"}, URIs: []*url.URL{uri},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, p.cert, &key.PublicKey, p.key)
	require.NoError(p.t, err)
	leaf, err := x509.ParseCertificate(raw)
	require.NoError(p.t, err)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: leaf}
}

// secured is a system with a Gateway that asks for client certificates, and a
// route to an echo behind it.
type secured struct {
	*harness.System
	port      int32
	authority *pki
	echo      *echo
}

const partnerID = "spiffe://partner.example/ns/a"

// clientsYAML is the bundle of the policies' authorities.
func clientsYAML(data map[string]string) string { return configMapYAML("partners", data) }

func startSecured(t *testing.T, policy string, trusted ...*pki) *secured {
	t.Helper()
	s := &secured{port: freePort(t), authority: newPKI(t, "authority"), echo: newEcho(t)}
	bundle := ""
	for _, p := range trusted {
		bundle += p.pem()
	}
	base := strings.Replace(gatewayYAML(fmt.Sprintf("{name: https, protocol: HTTPS, port: %d, tls: {certificateRefs: [{name: any}]}}", s.port)), "name: edge", "name: secure", 1) +
		"---\n" + s.echo.backendYAML() +
		strings.Replace(routeYAML("secure", "/secure"), "name: quickstart", "name: secure", 1) +
		secretYAML(t, "any", s.authority.issue("www.example")) + configMapYAML("connected", map[string]string{"ca.crt": bundle}) +
		policyYAML("TLSPolicy", "clients", "kind: Gateway, name: secure", "  clientCertificates: {mode: Optional, caCertificateRefs: [{name: connected}]}\n")
	s.System = harness.Start(t, harness.Files{"secure.yaml": base, "auth.yaml": policy})
	return s
}

// client keeps its connections.
func (s *secured) client(certificates ...tls.Certificate) *http.Client {
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		RootCAs: s.authority.pool(), ServerName: "www.example",
	}}
	if len(certificates) > 0 { // whatever authorities the server names
		transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificates[0], nil }
	}
	s.T.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Timeout: 10 * time.Second, Transport: transport}
}

func (s *secured) ask(client *http.Client, headers ...string) (int, string, error) {
	request, err := http.NewRequestWithContext(s.T.Context(), http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/secure/a?b=c", s.port), nil)
	if err != nil {
		return 0, "", err
	}
	request.Host = "www.example"
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Add(headers[i], headers[i+1])
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(body), err
}

// eventually waits until a client gets a status.
func (s *secured) eventually(what string, client *http.Client, status int) string {
	s.T.Helper()
	var body string
	s.Eventually(what, 20*time.Second, func() bool {
		got, text, err := s.ask(client)
		body = text
		return err == nil && got == status
	})
	return body
}

func certificatePolicy(more string) string {
	return policyYAML("AuthPolicy", "secure", "kind: Gateway, name: secure", "  authentication:\n    - name: mtls\n      clientCertificate:\n"+
		"        identity: {from: SPIFFE, match: ['spiffe://partner.example/ns/*']}\n"+more)
}

const refsYAML = "        caCertificateRefs: [{name: partners}]\n        crlRefs: [{name: partners}]\n"

// Who the certificate names is who calls; what ends while a connection is open
// ends there, too. Each refusal differs from the good call in one thing.
func TestIdentityByCertificate(t *testing.T) {
	partners, strangers := newPKI(t, "partners"), newPKI(t, "strangers")
	good, revoked := partners.issueUntil(partnerID, time.Now().Add(time.Hour)), partners.issueUntil("spiffe://partner.example/ns/b", time.Now().Add(time.Hour))
	other := partners.issueUntil("spiffe://partner.example/other", time.Now().Add(time.Hour))
	foreign, expired := strangers.issueUntil(partnerID, time.Now().Add(time.Hour)), partners.issueUntil(partnerID, time.Now().Add(-time.Minute))
	lists := func(revoked ...tls.Certificate) string {
		return clientsYAML(map[string]string{"ca.crt": partners.pem(), "ca.crl": partners.crl(revoked...)})
	}
	consumer := "---\napiVersion: weir.dev/v1alpha1\nkind: Consumer\nmetadata: {name: partner}\nspec:\n  tenant: acme\n  tokenSubjects: [{issuer: 'spiffe://partner.example', subject: '" + partnerID + "'}]\n"
	s := startSecured(t, certificatePolicy(refsYAML)+consumer+lists(), partners)

	var seen echoed
	held := s.client(good)
	require.NoError(t, json.Unmarshal([]byte(s.eventually("the good certificate", held, 200)), &seen))
	require.Equal(t, partnerID, seen.Headers.Get("x-weir-subject"))
	require.Equal(t, "default/partner", seen.Headers.Get("x-weir-consumer"))
	require.Equal(t, "acme", seen.Headers.Get("x-weir-tenant"))
	dying := s.client(partners.issueUntil(partnerID, time.Now().Add(12*time.Second))) // from when everything runs
	status, body, err := s.ask(dying)
	require.NoError(t, err)
	require.Equal(t, 200, status, body)
	for name, test := range map[string]struct {
		client *http.Client
		status int
		code   string
	}{
		"none":         {s.client(), 401, "CREDENTIALS_MISSING"},
		"another name": {s.client(other), 403, "CERTIFICATE_NAME_NOT_ACCEPTED"},
	} {
		status, body, err := s.ask(test.client)
		require.NoError(t, err, name)
		require.Equal(t, test.status, status, name)
		require.Contains(t, body, test.code, name)
	}
	for name, certificate := range map[string]tls.Certificate{"of another authority": foreign, "expired": expired} {
		_, _, err := s.ask(s.client(certificate))
		require.Error(t, err, "%s: Envoy ends the handshake", name)
	}
	// A header proves nothing.
	status, _, err = s.ask(s.client(), "X-Forwarded-Client-Cert", "URI="+partnerID, "Client-Cert", ":AAAA:")
	require.NoError(t, err)
	require.Equal(t, 401, status)

	// Revoked while the connection is open: refused on that connection.
	open := s.client(revoked)
	s.eventually("not revoked yet", open, 200)
	s.Write("auth.yaml", certificatePolicy(refsYAML)+consumer+lists(revoked))
	require.Contains(t, s.eventually("revoked", open, 401), "CERTIFICATE_INVALID")
	s.eventually("another one goes on", held, 200)
	require.Contains(t, s.eventually("expired while connected", dying, 401), "CERTIFICATE_EXPIRED")
	// A list that is out of date says nothing.
	stale := &x509.RevocationList{Number: big.NewInt(2), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(-time.Minute)}
	raw, err := x509.CreateRevocationList(rand.Reader, stale, partners.cert, partners.key)
	require.NoError(t, err)
	s.Write("auth.yaml", certificatePolicy(refsYAML)+consumer+clientsYAML(map[string]string{
		"ca.crt": partners.pem(), "ca.crl": string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: raw})),
	}))
	require.Contains(t, s.eventually("list out of date", held, 503), "CERTIFICATE_REVOCATION_UNKNOWN")
	// What it refers to is gone: closed, not open.
	s.Write("auth.yaml", certificatePolicy(refsYAML)+consumer)
	s.eventually("no authorities", held, 503)
	s.Write("auth.yaml", certificatePolicy("")+consumer)
	s.eventually("Envoy's own verification", held, 200)
}

// Authorities are replaced under load: no call of a good client fails, and none
// of an old one's passes once the old authority is gone.
func TestAuthoritiesRotateUnderLoad(t *testing.T) {
	before, after := newPKI(t, "before"), newPKI(t, "after")
	policy := func(trusted ...*pki) string {
		text := ""
		for _, p := range trusted {
			text += p.pem()
		}
		return certificatePolicy("        caCertificateRefs: [{name: partners}]\n") + clientsYAML(map[string]string{"ca.crt": text})
	}
	s := startSecured(t, policy(before), before, after)
	oldClient := s.client(before.issueUntil(partnerID, time.Now().Add(time.Hour)))
	newClient := s.client(after.issueUntil(partnerID, time.Now().Add(time.Hour)))
	s.eventually("the old authority", oldClient, 200)
	s.eventually("the new one is not known", newClient, 401)

	var failed, calls atomic.Int64
	run := func(client func() *http.Client, want int) (stop func()) {
		done := make(chan struct{})
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					calls.Add(1)
					if status, _, err := s.ask(client()); err != nil || status != want {
						failed.Add(1)
					}
				}
			})
		}
		return func() { close(done); all.Wait() }
	}
	stopOld := run(func() *http.Client { return oldClient }, 200)
	s.Write("auth.yaml", policy(before, after))
	s.eventually("both", newClient, 200)
	stopNew := run(func() *http.Client { return newClient }, 200)
	stopOld() // clients change over
	require.Zero(t, failed.Load(), "of %d calls", calls.Load())
	s.Write("auth.yaml", policy(after))
	s.eventually("the old one is gone", oldClient, 401)
	stopGone := run(func() *http.Client { return oldClient }, 401)
	s.Eventually("some more calls", 20*time.Second, func() bool { return calls.Load() > 500 })
	stopGone()
	stopNew()
	require.Zero(t, failed.Load(), "of %d calls", calls.Load())
}

// keyFor makes a client's DPoP key: how it signs, and its thumbprint.
func keyFor(t *testing.T) (key *ecdsa.PrivateKey, jwk map[string]any, jkt string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	b64 := base64.RawURLEncoding.EncodeToString
	x, y := b64(key.X.FillBytes(make([]byte, 32))), b64(key.Y.FillBytes(make([]byte, 32)))
	sum := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + x + `","y":"` + y + `"}`))
	return key, map[string]any{"kty": "EC", "crv": "P-256", "x": x, "y": y}, b64(sum[:])
}

func dpopProof(t *testing.T, key *ecdsa.PrivateKey, jwk map[string]any, method, target, accessToken string, more jwt.MapClaims) string {
	t.Helper()
	sum := sha256.Sum256([]byte(accessToken))
	claims := jwt.MapClaims{"htm": method, "htu": target, "iat": time.Now().Unix(), "jti": rand.Text(), "ath": base64.RawURLEncoding.EncodeToString(sum[:])}
	for name, value := range more {
		claims[name] = value
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["typ"], token.Header["jwk"] = "dpop+jwt", jwk
	signed, err := token.SignedString(key)
	require.NoError(t, err)
	return signed
}

// tokenPolicy is the quickstart's way to take tokens, with a constraint.
func tokenPolicy(route, constraint string) string {
	return policyYAML("AuthPolicy", route+"-tokens", "kind: HTTPRoute, name: "+route, "  authentication:\n    - name: token\n"+constraint+
		"      jwt:\n        issuer: https://issuer.weir.local\n        audiences: [weir]\n        algorithms: [ES256]\n"+
		"        jwks: {configMapRef: {name: weir-development-issuer, key: jwks.json}}\n        claims: {tenant: tenant}\n")
}

// Bound tokens through the real Envoy: over REST as it is and as it is
// transcoded to gRPC, with headers of Envoy's own forged.
func TestDPoPThroughEnvoy(t *testing.T) {
	s, _ := edge(t, routeYAML("bound", "/bound")+tokenPolicy("bound", "      senderConstraint: {require: DPoP, dpop: {scheme: http, requireNonce: true}}\n")+
		tokenPolicy("closed", "      senderConstraint: {dpop: {scheme: http}}\n")+
		tokenPolicy("user-rest", "      senderConstraint: {dpop: {scheme: http}}\n"))
	issuer, kid := developmentKey(t, s)
	key, jwk, jkt := keyFor(t)
	mint := func(cnf any) string {
		return sign(t, issuer, jwt.SigningMethodES256, kid, func(c jwt.MapClaims, _ map[string]any) {
			if cnf != nil {
				c["cnf"] = cnf
			}
		})
	}
	bound := mint(map[string]any{"jkt": jkt})
	headers := func(method, path string, more jwt.MapClaims) []string {
		return []string{"Authorization", "DPoP " + bound, "DPoP", dpopProof(t, key, jwk, method, s.URL+path, bound, more)}
	}
	good := headers("GET", "/closed/a?b=c", nil)
	answer := s.Do(http.MethodGet, "/closed/a?b=c", "", good...)
	require.Equal(t, 200, answer.Status, answer.Body)
	var seen echoed
	require.NoError(t, json.Unmarshal([]byte(answer.Body), &seen))
	require.Empty(t, seen.Headers.Get("Dpop"), "a proof is not for the service")
	require.Empty(t, seen.Headers.Get("Authorization"))
	for name, test := range map[string]struct {
		headers []string
		status  int
		code    string
	}{
		"used before":      {good, 401, "DPOP_PROOF_INVALID"},
		"as bearer":        {[]string{"Authorization", "Bearer " + bound}, 401, "TOKEN_BINDING_MISMATCH"},
		"no proof":         {[]string{"Authorization", "DPoP " + bound}, 401, "DPOP_PROOF_INVALID"},
		"two proofs":       {append(headers("GET", "/closed/a", nil), "DPoP", "x"), 400, "CREDENTIAL_AMBIGUOUS"},
		"another path":     {headers("GET", "/closed", nil), 401, "DPOP_PROOF_INVALID"},
		"another method":   {headers("POST", "/closed/a", nil), 401, "DPOP_PROOF_INVALID"},
		"Envoy's headers":  {append(headers("POST", "/other", nil), "x-envoy-original-path", "/other", "x-envoy-original-method", "POST"), 401, "DPOP_PROOF_INVALID"},
		"unknown binding":  {[]string{"Authorization", "Bearer " + mint(map[string]any{"kid": "a"})}, 401, "TOKEN_BINDING_MISMATCH"},
		"other cert bound": {[]string{"Authorization", "Bearer " + mint(map[string]any{"x5t#S256": jkt})}, 401, "TOKEN_BINDING_MISMATCH"},
	} {
		t.Run(name, func(t *testing.T) {
			s.Do(http.MethodGet, "/closed/a?b=c", "", test.headers...).Problem(t, test.status, test.code)
		})
	}
	require.Equal(t, 200, s.Do(http.MethodGet, "/closed/x%20y", "", headers("GET", "/closed/x%20y", nil)...).Status, "escapes")
	require.Equal(t, 200, s.Do(http.MethodGet, "/closed", "", "Authorization", "Bearer "+mint(nil)).Status, "what is not bound is a bearer token")

	// What is transcoded to gRPC is proven as the client sent it.
	require.Equal(t, 200, s.Do(http.MethodGet, "/v1/organizations?pageSize=2", "", headers("GET", "/v1/organizations", nil)...).Status)
	s.Do(http.MethodGet, "/v1/organizations", "", headers("POST", "/weir.user.v1.UserService/ListOrganizations", nil)...).Problem(t, 401, "DPOP_PROOF_INVALID")

	// Nonces: told with the refusal, good for the next try.
	s.Do(http.MethodGet, "/bound", "", "Authorization", "Bearer "+mint(nil)).Problem(t, 401, "TOKEN_NOT_BOUND")
	answer = s.Do(http.MethodGet, "/bound", "", headers("GET", "/bound", nil)...)
	answer.Problem(t, 401, "DPOP_NONCE_REQUIRED")
	require.Contains(t, answer.Header.Get("WWW-Authenticate"), `error="use_dpop_nonce"`)
	nonce := answer.Header.Get("DPoP-Nonce")
	require.NotEmpty(t, nonce)
	require.Equal(t, 200, s.Do(http.MethodGet, "/bound", "", headers("GET", "/bound", jwt.MapClaims{"nonce": nonce})...).Status)
}

// sfSigned makes the headers of a signed request (RFC 9421) with HMAC.
func sfSigned(secret, keyID string, components [][2]string, parameters string) []string {
	base, names := "", make([]string, len(components))
	for i, component := range components {
		names[i] = `"` + component[0] + `"`
		base += names[i] + ": " + component[1] + "\n"
	}
	input := fmt.Sprintf(`(%s);created=%d;keyid="%s"%s`, strings.Join(names, " "), time.Now().Unix(), keyID, parameters)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(base + `"@signature-params": ` + input))
	return []string{"Signature-Input", "sig=" + input, "Signature", "sig=:" + base64.StdEncoding.EncodeToString(mac.Sum(nil)) + ":"}
}

// Signed requests through the real Envoy, which normalises paths, lower-cases
// names of headers and adds some of its own.
func TestSignedRequestsThroughEnvoy(t *testing.T) {
	const secret = "0123456789abcdef0123456789abcdef"
	s, _ := edge(t, policyYAML("AuthPolicy", "signed", "kind: HTTPRoute, name: closed",
		"  authentication:\n    - name: signed\n      httpSignature: {algorithms: [hmac-sha256], scheme: http}\n")+
		"---\napiVersion: v1\nkind: Secret\nmetadata: {name: signing}\nstringData: {key: "+secret+"}\n"+
		"---\napiVersion: weir.dev/v1alpha1\nkind: Consumer\nmetadata: {name: signer}\nspec:\n  tenant: acme\n"+
		"  signatureKeys: [{name: first, keyId: key-1, algorithm: hmac-sha256, keyRef: {kind: Secret, name: signing}, scopes: [read]}]\n")
	host := strings.TrimPrefix(s.URL, "http://")
	components := func(method, path, query string, more ...[2]string) [][2]string {
		return append([][2]string{{"@method", method}, {"@authority", host}, {"@path", path}, {"@query", query}}, more...)
	}
	var seen echoed
	answer := s.Do(http.MethodGet, "/closed/a?b=c", "", sfSigned(secret, "key-1", components("GET", "/closed/a", "?b=c"), "")...)
	require.Equal(t, 200, answer.Status, answer.Body)
	require.NoError(t, json.Unmarshal([]byte(answer.Body), &seen))
	require.Equal(t, "default/signer", seen.Headers.Get("x-weir-consumer"))
	require.Equal(t, "read", seen.Headers.Get("x-weir-scopes"))
	require.Empty(t, seen.Headers.Get("Signature"), "the service could use it elsewhere")
	require.Equal(t, 200, s.Do(http.MethodGet, "/closed", "", sfSigned(secret, "key-1", [][2]string{{"@method", "GET"}, {"@target-uri", s.URL + "/closed"}}, "")...).Status)
	require.Equal(t, 200, s.Do(http.MethodGet, "/closed", "", append(sfSigned(secret, "key-1", components("GET", "/closed", "?", [2]string{"x-a", "1, 2"}), ""), "X-A", "1", "X-A", " 2 ")...).Status)
	digest := func(body string) string {
		sum := sha256.Sum256([]byte(body))
		return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
	}
	const body = `{"a":1}`
	signedBody := append(sfSigned(secret, "key-1", components("POST", "/closed", "?", [2]string{"content-digest", digest(body)}), ""), "Content-Digest", digest(body))
	require.Equal(t, 200, s.Do(http.MethodPost, "/closed", body, signedBody...).Status)
	once := sfSigned(secret, "key-1", components("GET", "/closed", "?"), `;nonce="n"`)
	require.Equal(t, 200, s.Do(http.MethodGet, "/closed", "", once...).Status)
	for name, test := range map[string]struct {
		method, path string
		headers      []string
		code         string
	}{
		"another path":   {"GET", "/closed/b?b=c", sfSigned(secret, "key-1", components("GET", "/closed/a", "?b=c"), ""), "SIGNATURE_INVALID"},
		"another query":  {"GET", "/closed/a?b=d", sfSigned(secret, "key-1", components("GET", "/closed/a", "?b=c"), ""), "SIGNATURE_INVALID"},
		"another method": {"DELETE", "/closed/a", sfSigned(secret, "key-1", components("GET", "/closed/a", "?"), ""), "SIGNATURE_INVALID"},
		"another secret": {"GET", "/closed", sfSigned(secret+"x", "key-1", components("GET", "/closed", "?"), ""), "SIGNATURE_INVALID"},
		"unknown key":    {"GET", "/closed", sfSigned(secret, "key-2", components("GET", "/closed", "?"), ""), "SIGNATURE_INVALID"},
		"used before":    {"GET", "/closed", once, "SIGNATURE_INVALID"},
		"no query":       {"GET", "/closed", sfSigned(secret, "key-1", components("GET", "/closed", "?")[:3], ""), "SIGNATURE_COVERAGE"},
		// The path reaches us as Envoy's route matching saw it: a client signs the
		// form that is canonical.
		"path not canonical": {"GET", "/closed/%7Ea", sfSigned(secret, "key-1", components("GET", "/closed/%7Ea", "?"), ""), "SIGNATURE_INVALID"},
		"header that Envoy adds to": {"GET", "/closed", append(sfSigned(secret, "key-1", components("GET", "/closed", "?", [2]string{"x-forwarded-for", "192.0.2.1"}), ""),
			"X-Forwarded-For", "192.0.2.1"), "SIGNATURE_INVALID"},
	} {
		t.Run(name, func(t *testing.T) {
			answer := s.Do(test.method, test.path, "", test.headers...)
			answer.Problem(t, 401, test.code)
			require.Contains(t, answer.Header.Get("Accept-Signature"), `"@method"`)
		})
	}
	answer = s.Do(http.MethodPost, "/closed", body, sfSigned(secret, "key-1", components("POST", "/closed", "?"), "")...)
	answer.Problem(t, 401, "SIGNATURE_COVERAGE")
	plan, _, _ := s.TryWeir("plan", "--whole", s.Policy, "--resources")
	for _, shown := range []string{plan, s.Weir("explain", "GET http://127.0.0.1:8080/closed"), s.Weir("translate", "--to", "rules", s.Policy), s.Weir("logs", "-n", "500")} {
		require.NotContains(t, shown, secret)
		require.NotContains(t, shown, base64.StdEncoding.EncodeToString([]byte(secret)))
	}
}

// A hop in front tells of certificates; anybody else's word counts for nothing.
func TestCertificatesThatAHopTells(t *testing.T) {
	partners := newPKI(t, "partners")
	good := partners.issueUntil(partnerID, time.Now().Add(time.Hour))
	policy := func(trusted string) string {
		return policyYAML("HeaderPolicy", "told", "kind: Gateway, name: quickstart", "  forwardedClientCert: {mode: AlwaysForwardOnly}\n") +
			policyYAML("AuthPolicy", "told", "kind: HTTPRoute, name: closed", "  authentication:\n"+
				"    - name: xfcc\n      clientCertificate:\n        source: {from: XFCC, trustedCIDRs: ["+trusted+"]}\n"+
				"        identity: {from: SPIFFE, match: ['spiffe://partner.example/ns/*']}\n        caCertificateRefs: [{name: partners}]\n"+
				"    - name: header\n      clientCertificate:\n        source: {from: ClientCert, trustedCIDRs: ["+trusted+"]}\n"+
				"        identity: {from: SPIFFE, match: ['spiffe://partner.example/ns/*']}\n        caCertificateRefs: [{name: partners}]\n") +
			configMapYAML("partners", map[string]string{"ca.crt": partners.pem()})
	}
	s, _ := edge(t, policy("127.0.0.0/8"))
	encoded := url.QueryEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: good.Leaf.Raw})))
	xfcc := `Cert="` + strings.ReplaceAll(encoded, "+", "%20") + `";URI=` + partnerID
	header := ":" + base64.StdEncoding.EncodeToString(good.Leaf.Raw) + ":"
	for name, headers := range map[string][]string{"XFCC": {"X-Forwarded-Client-Cert", xfcc}, "Client-Cert": {"Client-Cert", header}} {
		answer := s.Do(http.MethodGet, "/closed", "", headers...)
		require.Equal(t, 200, answer.Status, "%s: %s", name, answer.Body)
		var seen echoed
		require.NoError(t, json.Unmarshal([]byte(answer.Body), &seen))
		require.Equal(t, partnerID, seen.Headers.Get("x-weir-subject"), name)
		require.Empty(t, seen.Headers.Get(headers[0]), "%s does not reach the service", name)
		// Who the client says it came from does not matter, only who connects.
		require.Equal(t, 200, s.Do(http.MethodGet, "/closed", "", append(headers, "X-Forwarded-For", "10.1.2.3")...).Status)
	}
	s.Do(http.MethodGet, "/closed", "", "X-Forwarded-Client-Cert", xfcc+","+xfcc).Problem(t, 401, "CERTIFICATE_INVALID")
	s.Do(http.MethodGet, "/closed", "", "X-Forwarded-Client-Cert", "URI="+partnerID).Problem(t, 401, "CERTIFICATE_INVALID")
	s.Do(http.MethodGet, "/closed", "", "Client-Cert", header, "Client-Cert", header).Problem(t, 400, "CREDENTIAL_AMBIGUOUS")
	s.Write("echo.yaml", s.Read("echo.yaml")[:strings.Index(s.Read("echo.yaml"), "---\napiVersion: weir.dev/v1alpha1\nkind: HeaderPolicy")]+policy("10.0.0.0/8"))
	s.Eventually("nobody is trusted", 20*time.Second, func() bool {
		return s.Do(http.MethodGet, "/closed", "", "Client-Cert", header, "X-Forwarded-For", "10.1.2.3").Status == 401
	})
}
