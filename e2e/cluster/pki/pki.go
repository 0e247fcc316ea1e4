// Package pki is the certificate authority of a cluster for tests.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// validity of the certificates: a cluster for tests may be left running for days,
// not for longer.
const validity = 7 * 24 * time.Hour

// Authority signs the certificates of a cluster: its servers' and its users'.
// Its methods are safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// PEM is its own certificate, for whom it is to be trusted by.
	PEM []byte
}

// Pair is a certificate with its key, both PEM.
type Pair struct{ Cert, Key []byte }

// New makes an authority with a key of its own.
func New() (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test cluster"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(validity),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &Authority{cert: cert, key: key, PEM: pemOf("CERTIFICATE", der)}, err
}

// Issue makes a certificate for a user with groups (Kubernetes reads the common
// name and the organisations), or for a server that is reached as hosts: names and
// IP addresses.
func (a *Authority) Issue(user string, groups []string, hosts ...string) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return Pair{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: user, Organization: groups},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(validity),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Pair{}, err
	}
	raw, err := x509.MarshalECPrivateKey(key)
	return Pair{Cert: pemOf("CERTIFICATE", der), Key: pemOf("EC PRIVATE KEY", raw)}, err
}

// Write puts the pair into dir as name.crt and name.key.
func (p Pair) Write(dir, name string) error {
	return errors.Join(
		os.WriteFile(filepath.Join(dir, name+".crt"), p.Cert, 0o600),
		os.WriteFile(filepath.Join(dir, name+".key"), p.Key, 0o600))
}

// Write puts the authority itself into dir as name.crt and name.key.
func (a *Authority) Write(dir, name string) error {
	raw, err := x509.MarshalECPrivateKey(a.key)
	if err != nil {
		return err
	}
	return Pair{Cert: a.PEM, Key: pemOf("EC PRIVATE KEY", raw)}.Write(dir, name)
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
