package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Files names a component's certificate, key and trusted authorities, all PEM.
type Files struct {
	CertFile string `yaml:"certFile"`
	KeyFile  string `yaml:"keyFile"`
	CAFile   string `yaml:"caFile"`
}

// FilesIn names the files that Authority.Issue writes into dir.
func FilesIn(dir string) Files {
	return Files{
		CertFile: filepath.Join(dir, CertFileName),
		KeyFile:  filepath.Join(dir, KeyFileName),
		CAFile:   filepath.Join(dir, CAFileName),
	}
}

// Validate reports missing names; all three are needed.
func (f Files) Validate() error {
	var errs []error
	for name, value := range map[string]string{"certFile": f.CertFile, "keyFile": f.KeyFile, "caFile": f.CAFile} {
		if value == "" {
			errs = append(errs, fmt.Errorf("tls.%s: is required: traffic between parts is always mutual TLS", name))
		}
	}
	slices.SortFunc(errs, func(a, b error) int {
		if a.Error() < b.Error() {
			return -1
		}
		return 1
	})
	return errors.Join(errs...)
}

// NotAfter is when the certificate on disk expires.
func (f Files) NotAfter() (time.Time, error) {
	raw, err := os.ReadFile(f.CertFile)
	if err != nil {
		return time.Time{}, err
	}
	cert, err := parseCertificate(raw)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", f.CertFile, err)
	}
	return cert.NotAfter, nil
}

func (f Files) check(authority *Authority, component string) (time.Time, error) {
	pair, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
	if err != nil {
		return time.Time{}, err
	}
	if err := pair.Leaf.CheckSignatureFrom(authority.cert); err != nil {
		return time.Time{}, err
	}
	if !slices.Contains(peerIDs(pair.Leaf), PeerID(component)) {
		return time.Time{}, fmt.Errorf("%s is not for %s", f.CertFile, component)
	}
	if ca, err := os.ReadFile(f.CAFile); err != nil || string(ca) != string(authority.pem) {
		return time.Time{}, fmt.Errorf("%s is not the authority's", f.CAFile)
	}
	return pair.Leaf.NotAfter, nil
}

// ServerConfig is a TLS configuration that requires a client certificate of
// the trusted authorities whose SPIFFE id is one of allowedPeers (full ids, see
// PeerID; one that ends in /* stands for every id below; none means nobody).
// Renewed files are picked up at the next handshake.
func (f Files) ServerConfig(allowedPeers []string) (*tls.Config, error) {
	source := &reloader{files: f}
	if _, err := source.load(); err != nil {
		return nil, err
	}
	allowed := slices.Clone(allowedPeers)
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			loaded, err := source.load()
			if err != nil {
				return nil, err
			}
			return &tls.Config{
				MinVersion:   tls.VersionTLS13,
				NextProtos:   []string{"h2"},
				Certificates: []tls.Certificate{loaded.pair},
				ClientCAs:    loaded.roots,
				ClientAuth:   tls.RequireAndVerifyClientCert,
				VerifyConnection: func(state tls.ConnectionState) error {
					return verifyPeer(state, allowed)
				},
			}, nil
		},
	}, nil
}

// ClientConfig is a TLS configuration that presents the certificate and
// accepts only a server of the trusted authorities whose SPIFFE id is
// serverPeer. The host name is not checked: the id is.
func (f Files) ClientConfig(serverPeer string) (*tls.Config, error) {
	source := &reloader{files: f}
	if _, err := source.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			loaded, err := source.load()
			if err != nil {
				return nil, err
			}
			return &loaded.pair, nil
		},
		// The chain is verified below against the current authorities, and the
		// peer by its SPIFFE id; Go's own check would want a host name.
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection verifies chain and identity.
		VerifyConnection: func(state tls.ConnectionState) error {
			loaded, err := source.load()
			if err != nil {
				return err
			}
			intermediates := x509.NewCertPool()
			for _, cert := range state.PeerCertificates[1:] {
				intermediates.AddCert(cert)
			}
			_, err = state.PeerCertificates[0].Verify(x509.VerifyOptions{
				Roots: loaded.roots, Intermediates: intermediates,
				KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			})
			if err != nil {
				return err
			}
			return verifyPeer(state, []string{serverPeer})
		},
	}, nil
}

func verifyPeer(state tls.ConnectionState, allowed []string) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the peer presented no certificate")
	}
	ids := peerIDs(state.PeerCertificates[0])
	for _, id := range ids {
		if slices.ContainsFunc(allowed, func(pattern string) bool { return Matches(pattern, id) }) {
			return nil
		}
	}
	return fmt.Errorf("the peer is %q, and only %q may connect", ids, allowed)
}

// Matches tells whether a SPIFFE id is the one that pattern says or, where that
// ends in /*, one below it. The path of an id has no empty and no dot segments
// (SPIFFE-ID, section 2.2); one that does matches nothing.
func Matches(pattern, id string) bool {
	parent, below := strings.CutSuffix(pattern, "*")
	if !below || !strings.HasSuffix(parent, "/") {
		return pattern == id
	}
	rest, ok := strings.CutPrefix(id, parent)
	if !ok || strings.ContainsAny(rest, "%?#*") {
		return false
	}
	for segment := range strings.SplitSeq(rest, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return false
		}
	}
	return true
}

func peerIDs(cert *x509.Certificate) []string {
	ids := make([]string, 0, len(cert.URIs))
	for _, uri := range cert.URIs {
		ids = append(ids, uri.String())
	}
	return ids
}

// recheckAfter bounds how often the files are looked at.
const recheckAfter = time.Second

type material struct {
	pair  tls.Certificate
	roots *x509.CertPool
}

// reloader keeps the last good material and looks for newer files at most once
// per recheckAfter. A failed reload keeps the old material.
type reloader struct {
	files Files

	mu      sync.Mutex
	current *material
	stamp   [3]time.Time
	checked time.Time
}

func (r *reloader) load() (*material, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current != nil && time.Since(r.checked) < recheckAfter {
		return r.current, nil
	}
	r.checked = time.Now()
	var stamp [3]time.Time
	for i, path := range []string{r.files.CertFile, r.files.KeyFile, r.files.CAFile} {
		info, err := os.Stat(path)
		if err != nil {
			return r.keep(err)
		}
		stamp[i] = info.ModTime()
	}
	if r.current != nil && stamp == r.stamp {
		return r.current, nil
	}
	pair, err := tls.LoadX509KeyPair(r.files.CertFile, r.files.KeyFile)
	if err != nil {
		return r.keep(err)
	}
	ca, err := os.ReadFile(r.files.CAFile)
	if err != nil {
		return r.keep(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return r.keep(fmt.Errorf("%s: holds no PEM certificate", r.files.CAFile))
	}
	r.current, r.stamp = &material{pair: pair, roots: roots}, stamp
	return r.current, nil
}

func (r *reloader) keep(err error) (*material, error) {
	if r.current != nil {
		return r.current, nil
	}
	return nil, err
}
