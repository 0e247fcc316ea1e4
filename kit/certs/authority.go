// Package certs makes and uses the certificates by which Weir's parts know each
// other: a private authority for one machine, SPIFFE identities, and TLS
// configurations that check the peer's identity and pick up renewed files.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"weir.dev/kit/atomicfile"
)

// TrustDomain is the SPIFFE trust domain of a stand-alone Weir.
const TrustDomain = "weir.local"

// Lifetimes of what the authority issues.
const (
	AuthorityLifetime   = 5 * 365 * 24 * time.Hour
	CertificateLifetime = 90 * 24 * time.Hour
	// clockSkew backdates certificates so that a peer with a slow clock
	// accepts them.
	clockSkew = 5 * time.Minute
)

// File names within a component's folder.
const (
	CertFileName = "tls.crt"
	KeyFileName  = "tls.key"
	CAFileName   = "ca.crt"
)

// PeerID is the SPIFFE id of a component, such as "extauthz".
func PeerID(component string) string { return "spiffe://" + TrustDomain + "/" + component }

// Authority signs component certificates. Where it is kept in files, its key is
// of mode 0600.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// OpenAuthority reads the authority kept in dir, or makes one when dir holds
// none. A half-present or unreadable authority is an error, never replaced
// silently.
func OpenAuthority(dir string, now time.Time) (*Authority, error) {
	certPath, keyPath := filepath.Join(dir, CAFileName), filepath.Join(dir, "ca.key")
	certPEM, certErr := os.ReadFile(certPath)
	keyPEM, keyErr := os.ReadFile(keyPath)
	if errors.Is(certErr, os.ErrNotExist) && errors.Is(keyErr, os.ErrNotExist) {
		return createAuthority(dir, certPath, keyPath, now)
	}
	if err := errors.Join(certErr, keyErr); err != nil {
		return nil, fmt.Errorf("certificate authority in %s is incomplete (remove the folder to make a new one): %w", dir, err)
	}
	return parseAuthority(certPath, certPEM, keyPath, keyPEM)
}

// parseAuthority reads an authority whose parts are called by these names in
// errors.
func parseAuthority(certName string, certPEM []byte, keyName string, keyPEM []byte) (*Authority, error) {
	cert, err := parseCertificate(certPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certName, err)
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, fmt.Errorf("%s: holds no PEM block", keyName)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyName, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s does not belong to %s", keyName, certName)
	}
	return &Authority{cert: cert, key: key, pem: certPEM}, nil
}

func createAuthority(dir, certPath, keyPath string, now time.Time) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	authority, err := NewAuthority(now)
	if err != nil {
		return nil, err
	}
	keyPEM, err := authority.keyPEM()
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Write(keyPath, keyPEM, 0o600); err != nil {
		return nil, err
	}
	return authority, atomicfile.Write(certPath, authority.pem, 0o644)
}

// NewAuthority makes an authority that is kept nowhere yet.
func NewAuthority(now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Weir local authority"},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(AuthorityLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: TrustDomain}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{cert: cert, key: key, pem: pemOf(typeCertificate, der)}, nil
}

func (a *Authority) keyPEM() ([]byte, error) { return pemOfKey(a.key) }

// NotAfter is when the authority itself expires.
func (a *Authority) NotAfter() time.Time { return a.cert.NotAfter }

// Issue writes a certificate, key and the authority's certificate for
// component into dir, for use as client and server on localhost. Files are
// replaced by rename, key first, and the pair is checked by whoever loads it.
func (a *Authority) Issue(component, dir string, now time.Time) (Files, error) {
	files := FilesIn(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return files, err
	}
	certPEM, keyPEM, err := a.issue(component, now, CertificateLifetime)
	if err != nil {
		return files, err
	}
	if err := atomicfile.Write(files.KeyFile, keyPEM, 0o600); err != nil {
		return files, err
	}
	if err := atomicfile.Write(files.CertFile, certPEM, 0o644); err != nil {
		return files, err
	}
	return files, atomicfile.Write(files.CAFile, a.pem, 0o644)
}

// issue makes a certificate and its key, both PEM.
func (a *Authority) issue(component string, now time.Time, lifetime time.Duration) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: component},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(lifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{{Scheme: "spiffe", Host: TrustDomain, Path: "/" + component}},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	if !strings.Contains(component, "/") { // Else it is no host's name.
		template.DNSNames = append(template.DNSNames, component)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err = pemOfKey(key)
	return pemOf(typeCertificate, der), keyPEM, err
}

// Ensure issues a certificate unless dir holds one of this authority that is
// good for at least another third of its life. It reports whether it wrote.
func (a *Authority) Ensure(component, dir string, now time.Time) (files Files, issued bool, err error) {
	files = FilesIn(dir)
	if expiry, err := files.check(a, component); err == nil && now.Add(CertificateLifetime/3).Before(expiry) {
		return files, false, nil
	}
	files, err = a.Issue(component, dir, now)
	return files, err == nil, err
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

const typeCertificate = "CERTIFICATE"

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func pemOfKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pemOf("PRIVATE KEY", der), nil
}

func parseCertificate(raw []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != typeCertificate {
		return nil, errors.New("holds no PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}
