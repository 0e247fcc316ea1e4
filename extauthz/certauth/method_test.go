package certauth_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/certauth"
	"weir.dev/extauthz/internal/authtest"
)

type (
	terms  = rulesv1.ClientCertificateAuthenticator
	source = rulesv1.ClientCertificateSource
)

const (
	spiffe = "spiffe://td/ns/a"
	hop    = "10.0.0.1"
)

func builder(t testing.TB) *certauth.Builder {
	t.Helper()
	reader, err := certauth.NewReader()
	require.NoError(t, err)
	return certauth.NewBuilder(reader)
}

func build(t testing.TB, source *terms) (extauthz.Method, error) {
	t.Helper()
	return builder(t).Build(&rulesv1.Authenticator{
		Name: "mtls", Method: &rulesv1.Authenticator_ClientCertificate{ClientCertificate: source},
	}, extauthz.Place{})
}

func prove(method extauthz.Method, request *extauthz.Request, now time.Time) (*extauthz.Proof, extauthz.Reason) {
	proof, err := method.Prove(context.Background(), &extauthz.Call{Now: now, Request: request})
	if err == nil {
		return proof, extauthz.ReasonAllowed
	}
	var refusal *extauthz.Refusal
	if !errors.As(err, &refusal) {
		return nil, extauthz.ReasonInternal
	}
	return nil, refusal.Reason
}

func connection(certificates ...*x509.Certificate) *extauthz.Request {
	return &extauthz.Request{Certificate: authtest.EncodedPEM(certificates...), Source: "192.0.2.1"}
}

func told(peer string, headers ...string) *extauthz.Request {
	request := &extauthz.Request{Source: peer}
	for i := 0; i < len(headers); i += 2 {
		request.Headers = append(request.Headers, extauthz.Header{Name: headers[i], Value: headers[i+1]})
	}
	return request
}

func xfcc(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return `By=spiffe://td/edge;Hash=` + hex.EncodeToString(sum[:]) + `;Cert="` + authtest.EncodedPEM(certificate) + `";Subject="CN=x";URI=` + spiffe
}

func TestCertificates(t *testing.T) {
	root, other := authtest.NewAuthority(t, "root"), authtest.NewAuthority(t, "root")
	issuing := root.Intermediate("issuing")
	now := authtest.Now()
	good := root.Client(nil, spiffe, "a.example", "b.example", "CN=alice", "alice@example.com")
	revoked := root.Client(nil, spiffe)
	expiring := root.Client(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-time.Hour), now.Add(time.Minute) }, spiffe)
	server := root.Client(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, spiffe)
	below := issuing.Client(nil, spiffe)
	byURI := func(more func(*terms)) *terms {
		s := &terms{Name: rulesv1.ClientCertificateAuthenticator_NAME_SPIFFE, Names: []string{"spiffe://td/ns/*"}, Authorities: authtest.PEM(root.Cert)}
		if more != nil {
			more(s)
		}
		return s
	}
	by := func(name rulesv1.ClientCertificateAuthenticator_Name, names ...string) *terms {
		return byURI(func(s *terms) { s.Name, s.Names, s.Issuer = name, names, "clients" })
	}
	listed := byURI(func(s *terms) { s.RevocationLists = root.Revoke(nil, revoked) })
	stale := byURI(func(s *terms) {
		s.RevocationLists = root.Revoke(func(l *x509.RevocationList) { l.NextUpdate = now })
	})
	foreignList := byURI(func(s *terms) { s.RevocationLists = other.Revoke(nil) })
	unverified := byURI(func(s *terms) { s.Authorities = nil })
	for name, test := range map[string]struct {
		terms   *terms
		request *extauthz.Request
		now     time.Time
		reason  extauthz.Reason
		subject string
		issuer  string
	}{
		"SPIFFE ID":                     {byURI(nil), connection(good), now, extauthz.ReasonAllowed, spiffe, "spiffe://td"},
		"SPIFFE ID, verified by Envoy":  {unverified, connection(good), now, extauthz.ReasonAllowed, spiffe, "spiffe://td"},
		"named issuer":                  {byURI(func(s *terms) { s.Issuer = "mesh" }), connection(good), now, extauthz.ReasonAllowed, spiffe, "mesh"},
		"DNS name":                      {by(rulesv1.ClientCertificateAuthenticator_NAME_DNS, "c.example", "b.example"), connection(good), now, extauthz.ReasonAllowed, "b.example", "clients"},
		"DNS names, order of patterns":  {by(rulesv1.ClientCertificateAuthenticator_NAME_DNS, "*.example"), connection(good), now, extauthz.ReasonAllowed, "a.example", "clients"},
		"common name":                   {by(rulesv1.ClientCertificateAuthenticator_NAME_COMMON_NAME, "alice"), connection(good), now, extauthz.ReasonAllowed, "alice", "clients"},
		"subject":                       {by(rulesv1.ClientCertificateAuthenticator_NAME_SUBJECT, "CN=alice"), connection(good), now, extauthz.ReasonAllowed, "CN=alice", "clients"},
		"address":                       {by(rulesv1.ClientCertificateAuthenticator_NAME_EMAIL, "*@example.com"), connection(good), now, extauthz.ReasonAllowed, "alice@example.com", "clients"},
		"another name":                  {by(rulesv1.ClientCertificateAuthenticator_NAME_COMMON_NAME, "bob"), connection(good), now, extauthz.ReasonCertificateName, "", ""},
		"no such name":                  {by(rulesv1.ClientCertificateAuthenticator_NAME_DNS, "*"), connection(revoked), now, extauthz.ReasonCertificateName, "", ""},
		"SPIFFE ID of other domain":     {byURI(nil), connection(root.Client(nil, "spiffe://evil/ns/a")), now, extauthz.ReasonCertificateName, "", ""},
		"two URIs":                      {byURI(nil), connection(root.Client(nil, spiffe, "spiffe://td/ns/b")), now, extauthz.ReasonCertificateName, "", ""},
		"a URI that is no SPIFFE ID":    {byURI(nil), connection(root.Client(nil, "spiffe://td/ns/%61")), now, extauthz.ReasonCertificateName, "", ""},
		"authority of the same name":    {byURI(nil), connection(other.Client(nil, spiffe)), now, extauthz.ReasonCertificateInvalid, "", ""},
		"for servers":                   {byURI(nil), connection(server), now, extauthz.ReasonCertificateInvalid, "", ""},
		"expired while connected":       {byURI(nil), connection(expiring), now.Add(2 * time.Minute), extauthz.ReasonCertificateExpired, "", ""},
		"the last second":               {byURI(nil), connection(expiring), now.Add(time.Minute), extauthz.ReasonAllowed, spiffe, "spiffe://td"},
		"expired, verified by Envoy":    {unverified, connection(expiring), now.Add(2 * time.Minute), extauthz.ReasonCertificateExpired, "", ""},
		"not yet valid":                 {byURI(nil), connection(good), now.Add(-2 * time.Hour), extauthz.ReasonCertificateNotYetValid, "", ""},
		"not revoked":                   {listed, connection(good), now, extauthz.ReasonAllowed, spiffe, "spiffe://td"},
		"revoked":                       {listed, connection(revoked), now, extauthz.ReasonCertificateRevoked, "", ""},
		"list out of date":              {stale, connection(good), now, extauthz.ReasonRevocationUnknown, "", ""},
		"list not yet in effect":        {listed, connection(good), now.Add(-2 * time.Minute), extauthz.ReasonRevocationUnknown, "", ""},
		"list of another authority":     {foreignList, connection(good), now, extauthz.ReasonRevocationUnknown, "", ""},
		"not PEM":                       {byURI(nil), &extauthz.Request{Certificate: "abc"}, now, extauthz.ReasonCertificateInvalid, "", ""},
		"chain without the middle":      {byURI(nil), connection(below), now, extauthz.ReasonCertificateInvalid, "", ""},
		"chain of two":                  {byURI(nil), connection(below, issuing.Cert), now, extauthz.ReasonAllowed, spiffe, "spiffe://td"},
		"chain, no list for the middle": {listed, connection(below, issuing.Cert), now, extauthz.ReasonRevocationUnknown, "", ""},
		"chain, middle revoked": {byURI(func(s *terms) {
			s.RevocationLists = append(root.Revoke(nil, issuing.Cert), issuing.Revoke(nil)...)
		}), connection(below, issuing.Cert), now, extauthz.ReasonCertificateRevoked, "", ""},
		"chain, all lists": {byURI(func(s *terms) {
			s.RevocationLists = append(root.Revoke(nil), issuing.Revoke(nil)...)
		}), connection(below, issuing.Cert), now, extauthz.ReasonAllowed, spiffe, "spiffe://td"},
	} {
		t.Run(name, func(t *testing.T) {
			method, err := build(t, test.terms)
			require.NoError(t, err)
			require.Equal(t, extauthz.Present, method.Presence(test.request))
			for range 2 { // the second time what was remembered answers
				proof, reason := prove(method, test.request, test.now)
				require.Equal(t, test.reason, reason)
				if proof != nil {
					require.Equal(t, test.subject, proof.Subject)
					require.Equal(t, test.issuer, proof.Issuer)
					require.Len(t, proof.Certificate.GetFields()["sha256"].GetStringValue(), 64)
				}
			}
			require.Equal(t, extauthz.Absent, method.Presence(&extauthz.Request{}))
			require.Less(t, int(test.reason.Fault().Kind), 17)
			if test.reason != extauthz.ReasonAllowed {
				require.NotContains(t, test.reason.Fault().Message, "could not be authorized")
			}
		})
	}
}

// What is remembered must not outlive its reasons.
func TestMemoryOfChains(t *testing.T) {
	root := authtest.NewAuthority(t, "root")
	now := authtest.Now()
	client := root.Client(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now, now.Add(time.Hour) }, spiffe)
	method, err := build(t, &terms{
		Name: rulesv1.ClientCertificateAuthenticator_NAME_SPIFFE, Names: []string{spiffe},
		Authorities: authtest.PEM(root.Cert), RevocationLists: root.Revoke(nil),
	})
	require.NoError(t, err)
	for _, step := range []struct {
		after  time.Duration
		reason extauthz.Reason
	}{
		{0, extauthz.ReasonAllowed},
		{59 * time.Second, extauthz.ReasonAllowed},
		{time.Minute, extauthz.ReasonRevocationUnknown},
		{0, extauthz.ReasonAllowed}, // the clock stepped back
		{-time.Second, extauthz.ReasonCertificateNotYetValid},
		{2 * time.Hour, extauthz.ReasonCertificateExpired},
		{time.Second, extauthz.ReasonAllowed},
	} {
		_, reason := prove(method, connection(client), now.Add(step.after))
		require.Equal(t, step.reason, reason, step.after)
	}
}

func TestHopsThatTell(t *testing.T) {
	root := authtest.NewAuthority(t, "root")
	issuing := root.Intermediate("issuing")
	good, other := root.Client(nil, spiffe), root.Client(nil, "spiffe://td/ns/admin")
	below := issuing.Client(nil, spiffe)
	evil := authtest.NewAuthority(t, "evil").Client(nil, spiffe)
	b64 := func(c *x509.Certificate) string { return ":" + base64.StdEncoding.EncodeToString(c.Raw) + ":" }
	fromXFCC := &source{From: rulesv1.ClientCertificateSource_FROM_XFCC, TrustedAddresses: []string{"10.0.0.0/8", "fd00::/8"}}
	fromTwo := &source{From: rulesv1.ClientCertificateSource_FROM_XFCC, TrustedAddresses: []string{"10.0.0.0/8"}, Elements: 2}
	from9440 := &source{From: rulesv1.ClientCertificateSource_FROM_CLIENT_CERT, TrustedAddresses: []string{"10.0.0.0/8"}}
	names := "By=spiffe://td/edge;Hash=" + strings.Repeat("0a", 32) + ";URI="
	for name, test := range map[string]struct {
		source   *source
		verified bool
		request  *extauthz.Request
		reason   extauthz.Reason
	}{
		"XFCC":                         {fromXFCC, true, told(hop, "x-forwarded-client-cert", xfcc(good)), extauthz.ReasonAllowed},
		"XFCC, IPv6 hop":               {fromXFCC, true, told("fd00::1", "x-forwarded-client-cert", xfcc(good)), extauthz.ReasonAllowed},
		"XFCC, mapped address":         {fromXFCC, true, told("::ffff:10.0.0.1", "x-forwarded-client-cert", xfcc(good)), extauthz.ReasonAllowed},
		"XFCC of anybody":              {fromXFCC, true, told("192.0.2.1", "x-forwarded-client-cert", xfcc(good)), extauthz.ReasonHopUntrusted},
		"XFCC without a peer":          {fromXFCC, true, told("", "x-forwarded-client-cert", xfcc(good)), extauthz.ReasonHopUntrusted},
		"XFCC, other authority":        {fromXFCC, true, told(hop, "x-forwarded-client-cert", xfcc(evil)), extauthz.ReasonCertificateInvalid},
		"XFCC, hop appends":            {fromXFCC, true, told(hop, "x-forwarded-client-cert", xfcc(good)+","+xfcc(good)), extauthz.ReasonCertificateInvalid},
		"XFCC, two expected":           {fromTwo, true, told(hop, "x-forwarded-client-cert", xfcc(good)+","+names+"spiffe://td/edge"), extauthz.ReasonAllowed},
		"XFCC, two expected, one":      {fromTwo, true, told(hop, "x-forwarded-client-cert", xfcc(good)), extauthz.ReasonCertificateInvalid},
		"XFCC, hash of another":        {fromXFCC, true, told(hop, "x-forwarded-client-cert", strings.Replace(xfcc(good), "Hash=", "Hash=00", 1)), extauthz.ReasonCertificateInvalid},
		"XFCC, names only":             {fromXFCC, true, told(hop, "x-forwarded-client-cert", names+spiffe), extauthz.ReasonCertificateInvalid},
		"XFCC, names the hop verified": {fromXFCC, false, told(hop, "x-forwarded-client-cert", names+spiffe), extauthz.ReasonAllowed},
		"XFCC, name injected":          {fromXFCC, false, told(hop, "x-forwarded-client-cert", names+"spiffe://td/x;URI="+spiffe), extauthz.ReasonCertificateInvalid},
		"XFCC, element injected":       {fromXFCC, false, told(hop, "x-forwarded-client-cert", names+"spiffe://td/x,URI="+spiffe), extauthz.ReasonCertificateInvalid},
		"XFCC, key twice":              {fromXFCC, false, told(hop, "x-forwarded-client-cert", "Hash=00;"+names+spiffe), extauthz.ReasonCertificateInvalid},
		"XFCC, unknown key":            {fromXFCC, false, told(hop, "x-forwarded-client-cert", "Foo=00;"+names+spiffe), extauthz.ReasonCertificateInvalid},
		"XFCC, no end of a quote":      {fromXFCC, false, told(hop, "x-forwarded-client-cert", `Subject="a;`+names+spiffe), extauthz.ReasonCertificateInvalid},
		"XFCC, nothing":                {fromXFCC, false, told(hop, "x-forwarded-client-cert", ""), extauthz.ReasonCertificateInvalid},
		"XFCC, chain": {fromXFCC, true, told(hop, "x-forwarded-client-cert",
			fmt.Sprintf("Cert=%q;Chain=%q", authtest.EncodedPEM(below), authtest.EncodedPEM(below, issuing.Cert))), extauthz.ReasonAllowed},
		"XFCC, chain of another": {fromXFCC, true, told(hop, "x-forwarded-client-cert",
			fmt.Sprintf("Cert=%q;Chain=%q", authtest.EncodedPEM(evil), authtest.EncodedPEM(below, issuing.Cert))), extauthz.ReasonCertificateInvalid},
		"Client-Cert":                   {from9440, true, told(hop, "client-cert", b64(good)), extauthz.ReasonAllowed},
		"Client-Cert of anybody":        {from9440, true, told("11.0.0.1", "client-cert", b64(good)), extauthz.ReasonHopUntrusted},
		"Client-Cert, other authority":  {from9440, true, told(hop, "client-cert", b64(evil)), extauthz.ReasonCertificateInvalid},
		"Client-Cert, other name":       {from9440, true, told(hop, "client-cert", b64(other)), extauthz.ReasonCertificateName},
		"Client-Cert, chain":            {from9440, true, told(hop, "client-cert", b64(below), "client-cert-chain", b64(issuing.Cert)+" , "+b64(root.Cert)), extauthz.ReasonAllowed},
		"Client-Cert, chain of two":     {from9440, true, told(hop, "client-cert", b64(below), "client-cert-chain", b64(issuing.Cert), "client-cert-chain", b64(root.Cert)), extauthz.ReasonAllowed},
		"Client-Cert, no chain":         {from9440, true, told(hop, "client-cert", b64(below)), extauthz.ReasonCertificateInvalid},
		"Client-Cert, parameters":       {from9440, true, told(hop, "client-cert", b64(good)+";a=1"), extauthz.ReasonCertificateInvalid},
		"Client-Cert, PEM":              {from9440, true, told(hop, "client-cert", url.QueryEscape(string(authtest.PEM(good)))), extauthz.ReasonCertificateInvalid},
		"Client-Cert, empty":            {from9440, true, told(hop, "client-cert", "::"), extauthz.ReasonCertificateInvalid},
		"Client-Cert, two certificates": {from9440, true, told(hop, "client-cert", b64(good)+", "+b64(other)), extauthz.ReasonCertificateInvalid},
		"Client-Cert, chain cut off":    {from9440, true, told(hop, "client-cert", b64(good), "client-cert-chain", b64(issuing.Cert)+","), extauthz.ReasonCertificateInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			s := &terms{Source: test.source, Name: rulesv1.ClientCertificateAuthenticator_NAME_SPIFFE, Names: []string{spiffe}}
			if test.verified {
				s.Authorities = authtest.PEM(root.Cert)
			}
			method, err := build(t, s)
			require.NoError(t, err)
			require.Equal(t, extauthz.Present, method.Presence(test.request))
			for range 2 {
				_, reason := prove(method, test.request, authtest.Now())
				require.Equal(t, test.reason, reason)
			}
			require.NotEmpty(t, method.CredentialHeaders(), "the header must not reach the service")
		})
	}
	method, err := build(t, &terms{Source: from9440, Name: rulesv1.ClientCertificateAuthenticator_NAME_SPIFFE, Names: []string{spiffe}, Authorities: authtest.PEM(root.Cert)})
	require.NoError(t, err)
	require.Equal(t, extauthz.Ambiguous, method.Presence(told(hop, "client-cert", b64(good), "client-cert", b64(other))))
	require.Equal(t, extauthz.Absent, method.Presence(connection(good)), "another source is not looked at")
}

func TestTermsThatCannotWork(t *testing.T) {
	root := authtest.NewAuthority(t, "root")
	leaf := root.Client(nil, spiffe)
	pem := authtest.PEM(root.Cert)
	for says, change := range map[string]func(*terms){
		"name: NAME_UNSPECIFIED":                            func(s *terms) { s.Name = 0 },
		"issuer: is required":                               func(s *terms) { s.Name, s.Names = rulesv1.ClientCertificateAuthenticator_NAME_DNS, []string{"a"} },
		"issuer: is not printable":                          func(s *terms) { s.Issuer = "a\nb" },
		"names: there are 0":                                func(s *terms) { s.Names = nil },
		`names[0]: "spiffe://*"`:                            func(s *terms) { s.Names = []string{"spiffe://*"} },
		"authorities: it holds no certificate":              func(s *terms) { s.Authorities = []byte("abc") },
		"no authority's":                                    func(s *terms) { s.Authorities = authtest.PEM(leaf) },
		"revocation lists: there is none in PEM":            func(s *terms) { s.RevocationLists = []byte("abc") },
		"revocation lists: there is a PEM block that is no": func(s *terms) { s.RevocationLists = pem },
		"revocation_lists: need authorities":                func(s *terms) { s.Authorities, s.RevocationLists = nil, root.Revoke(nil) },
		"source.from: 9 is not known":                       func(s *terms) { s.Source = &source{From: 9} },
		"source.trusted_addresses: is required":             func(s *terms) { s.Source = &source{From: rulesv1.ClientCertificateSource_FROM_XFCC} },
		`source.trusted_addresses[0]: "10.0.0.1"`:           func(s *terms) { s.Source = &source{TrustedAddresses: []string{"10.0.0.1"}} },
		"source.elements: is 17":                            func(s *terms) { s.Source = &source{Elements: 17} },
		"authorities: are required where a hop tells of cert": func(s *terms) {
			s.Authorities = nil
			s.Source = &source{From: 3, TrustedAddresses: []string{"10.0.0.0/8"}}
		},
		"authorities: are required where a hop tells of name": func(s *terms) {
			s.Authorities, s.Name, s.Names, s.Issuer = nil, rulesv1.ClientCertificateAuthenticator_NAME_DNS, []string{"a"}, "x"
			s.Source = &source{From: 2, TrustedAddresses: []string{"10.0.0.0/8"}}
		},
	} {
		t.Run(says, func(t *testing.T) {
			s := &terms{Name: rulesv1.ClientCertificateAuthenticator_NAME_SPIFFE, Names: []string{spiffe}, Authorities: pem}
			change(s)
			_, err := build(t, s)
			require.ErrorContains(t, err, "client_certificate.")
			require.ErrorContains(t, err, says)
		})
	}
	method, err := builder(t).Build(authtest.APIKey(), extauthz.Place{})
	require.NoError(t, err)
	require.Nil(t, method)
}

// A delta or partial list, taken for a whole one, would let revoked
// certificates pass.
func TestPartialListsAreRefused(t *testing.T) {
	root := authtest.NewAuthority(t, "root")
	for name, extension := range map[string][]int{"delta": {2, 5, 29, 27}, "issuing distribution point": {2, 5, 29, 28}} {
		t.Run(name, func(t *testing.T) {
			list := root.Revoke(func(l *x509.RevocationList) {
				l.ExtraExtensions = append(l.ExtraExtensions, critical(extension))
			})
			_, err := certauth.NewTrust(authtest.PEM(root.Cert), list)
			require.ErrorContains(t, err, "critical extension")
		})
	}
}

func critical(id []int) pkix.Extension {
	return pkix.Extension{Id: id, Critical: true, Value: []byte{0x30, 0x00}}
}
