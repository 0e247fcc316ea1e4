package authtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Authority is a certificate authority whose certificates are good around Now.
type Authority struct {
	t      testing.TB
	Cert   *x509.Certificate
	Key    *ecdsa.PrivateKey
	serial int64
}

// NewAuthority makes one that signs itself.
func NewAuthority(t testing.TB, name string) *Authority {
	t.Helper()
	a := &Authority{t: t, serial: 1}
	a.Key, a.Cert = a.make(authorityTemplate(name), nil)
	return a
}

func authorityTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

// Intermediate makes an authority below this one.
func (a *Authority) Intermediate(name string) *Authority {
	a.t.Helper()
	below := &Authority{t: a.t, serial: 100}
	below.Key, below.Cert = a.make(authorityTemplate(name), a)
	return below
}

func (a *Authority) make(template *x509.Certificate, signer *Authority) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	a.serial++
	template.SerialNumber = big.NewInt(a.serial)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = Now().Add(-time.Hour), Now().Add(time.Hour)
	}
	parent, private := template, crypto.Signer(key)
	if signer != nil {
		parent, private = signer.Cert, signer.Key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, private)
	require.NoError(a.t, err)
	certificate, err := x509.ParseCertificate(raw)
	require.NoError(a.t, err)
	return key, certificate
}

// Client makes a client certificate with names: those with "://" are URIs, those
// with "@" addresses, those with "=" common names, others DNS names. change may
// be nil.
func (a *Authority) Client(change func(*x509.Certificate), names ...string) *x509.Certificate {
	a.t.Helper()
	template := &x509.Certificate{
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		switch {
		case strings.Contains(name, "://"):
			uri, err := url.Parse(name)
			require.NoError(a.t, err)
			template.URIs = append(template.URIs, uri)
		case strings.Contains(name, "@"):
			template.EmailAddresses = append(template.EmailAddresses, name)
		case strings.HasPrefix(name, "CN="):
			template.Subject.CommonName = name[3:]
		default:
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	if change != nil {
		change(template)
	}
	_, certificate := a.make(template, a)
	return certificate
}

// Revoke makes a revocation list that is current around Now. change may be nil.
func (a *Authority) Revoke(change func(*x509.RevocationList), revoked ...*x509.Certificate) []byte {
	a.t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: Now().Add(-time.Minute), NextUpdate: Now().Add(time.Minute)}
	for _, certificate := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: certificate.SerialNumber, RevocationTime: Now()})
	}
	if change != nil {
		change(template)
	}
	raw, err := x509.CreateRevocationList(rand.Reader, template, a.Cert, a.Key)
	require.NoError(a.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: raw})
}

// PEM is certificates in PEM.
func PEM(certificates ...*x509.Certificate) []byte {
	var all []byte
	for _, certificate := range certificates {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})...)
	}
	return all
}

// EncodedPEM is certificates in PEM, URL-encoded as Envoy does.
func EncodedPEM(certificates ...*x509.Certificate) string {
	return strings.ReplaceAll(url.QueryEscape(string(PEM(certificates...))), "+", "%20")
}
