package certs

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Overlap is how long an authority is trusted before it signs, and after it has
// stopped to: everybody has read the new list of authorities by then. Kubernetes
// brings a changed Secret to its pods within about two minutes.
const Overlap = 24 * time.Hour

// Bounds of what a Mesh issues for.
const (
	MinLifetime = time.Hour
	MaxLifetime = 365 * 24 * time.Hour
)

// Names within what a Mesh is kept as. The authority that signs has the names of
// a component's certificate.
const (
	nextCertName  = "next.crt"
	nextKeyName   = "next.key"
	previousName  = "previous.crt"
	retiredAtName = "retired-at"
)

// Bundle is a set of small files by name: a component's certificate, or a Mesh.
type Bundle map[string][]byte

// Mesh is the authority of several machines, and its successor and predecessor
// while it changes: a successor is trusted for Overlap before it signs, a
// predecessor for Overlap after it did. It is a value of what it was read from and
// the time that it is given; keeping it is its user's. Not safe for concurrent
// use.
type Mesh struct {
	signing, next *Authority
	// previous was trusted before signing was made to sign, at retiredAt.
	previous  []byte
	retiredAt time.Time
}

// NewMesh makes an authority.
func NewMesh(now time.Time) (*Mesh, error) {
	authority, err := NewAuthority(now)
	return &Mesh{signing: authority}, err
}

// ParseMesh reads what Bundle returned. One that is damaged is an error: to
// replace it would cut off everybody that it has signed for.
func ParseMesh(bundle Bundle) (*Mesh, error) {
	signing, err := parseAuthority(CertFileName, bundle[CertFileName], KeyFileName, bundle[KeyFileName])
	if err != nil {
		return nil, fmt.Errorf("the authority is damaged (delete it to have a new one made, which interrupts the parts until they have read it): %w", err)
	}
	mesh := &Mesh{signing: signing, previous: bundle[previousName]}
	if len(bundle[nextCertName])+len(bundle[nextKeyName]) > 0 {
		if mesh.next, err = parseAuthority(nextCertName, bundle[nextCertName], nextKeyName, bundle[nextKeyName]); err != nil {
			return nil, fmt.Errorf("the next authority is damaged (delete %s and %s to have another made): %w", nextCertName, nextKeyName, err)
		}
	}
	if len(mesh.previous) > 0 {
		if mesh.retiredAt, err = time.Parse(time.RFC3339, string(bundle[retiredAtName])); err != nil {
			return nil, fmt.Errorf("%s: %w", retiredAtName, err)
		}
	}
	return mesh, nil
}

// Bundle is what the mesh is kept as; it holds private keys.
func (m *Mesh) Bundle() (Bundle, error) {
	key, err := m.signing.keyPEM()
	if err != nil {
		return nil, err
	}
	bundle := Bundle{CertFileName: m.signing.pem, KeyFileName: key, CAFileName: m.Trust()}
	if m.next != nil {
		if bundle[nextKeyName], err = m.next.keyPEM(); err != nil {
			return nil, err
		}
		bundle[nextCertName] = m.next.pem
	}
	if len(m.previous) > 0 {
		bundle[previousName], bundle[retiredAtName] = m.previous, []byte(m.retiredAt.UTC().Format(time.RFC3339))
	}
	return bundle, nil
}

// Trust is the authorities that peers are to be believed by, PEM: the one that
// signs first, then its successor or predecessor.
func (m *Mesh) Trust() []byte {
	trust := slices.Clone(m.signing.pem)
	if m.next != nil {
		trust = append(trust, m.next.pem...)
	}
	return append(trust, m.previous...)
}

// NotAfter is when the authority that signs expires.
func (m *Mesh) NotAfter() time.Time { return m.signing.cert.NotAfter }

// ErrRotating says that a change of the authority is under way already.
var ErrRotating = errors.New("the authority is being changed already")

// Rotate begins a change of authority: a successor is trusted from now on.
func (m *Mesh) Rotate(now time.Time) error {
	if m.next != nil || len(m.previous) > 0 {
		return ErrRotating
	}
	next, err := NewAuthority(now)
	if err != nil {
		return err
	}
	m.next = next
	return nil
}

// Advance does what time has come for, and says what that was, empty for nothing:
// it begins a change when less than a third of the authority's life is left, lets
// a successor sign that has been trusted for Overlap, and forgets a predecessor
// that has not signed for as long.
func (m *Mesh) Advance(now time.Time) (done string, err error) {
	cert := m.signing.cert
	switch {
	case len(m.previous) > 0 && !now.Before(m.retiredAt.Add(Overlap)):
		m.previous, m.retiredAt = nil, time.Time{}
		return "the authority before is not trusted any more", nil
	case m.next != nil && (!now.Before(m.next.since().Add(Overlap)) || now.After(cert.NotAfter)):
		m.previous, m.retiredAt = m.signing.pem, now.Truncate(time.Second)
		m.signing, m.next = m.next, nil
		return "the next authority signs from now on", nil
	case m.next == nil && len(m.previous) == 0 && !now.Before(renewAt(cert.NotBefore, cert.NotAfter)):
		return "the next authority is trusted from now on", m.Rotate(now)
	}
	return "", nil
}

// since is when the authority was made.
func (a *Authority) since() time.Time { return a.cert.NotBefore.Add(clockSkew) }

// renewAt is when a third of the time is left.
func renewAt(from, to time.Time) time.Time { return to.Add(-to.Sub(from) / 3) }

// Ensure returns what component is to hold, given what it holds: the same while
// that is good for another third of its life, with the authorities of now. why
// says what has changed, empty for nothing. lifetime is that of what is issued,
// MinLifetime to MaxLifetime.
func (m *Mesh) Ensure(component string, held Bundle, lifetime time.Duration, now time.Time) (bundle Bundle, why string, err error) {
	if lifetime < MinLifetime || lifetime > MaxLifetime {
		return nil, "", fmt.Errorf("a lifetime of %s is outside %s to %s", lifetime, MinLifetime, MaxLifetime)
	}
	trust := m.Trust()
	if why = m.unfit(component, held, now); why == "" {
		if bytes.Equal(held[CAFileName], trust) {
			return held, "", nil
		}
		return Bundle{CertFileName: held[CertFileName], KeyFileName: held[KeyFileName], CAFileName: trust}, "the authorities have changed", nil
	}
	cert, key, err := m.signing.issue(component, now, lifetime)
	return Bundle{CertFileName: cert, KeyFileName: key, CAFileName: trust}, why, err
}

// unfit says why held is to be replaced, empty if it is not.
func (m *Mesh) unfit(component string, held Bundle, now time.Time) string {
	if len(held) == 0 {
		return "there was none"
	}
	pair, err := tls.X509KeyPair(held[CertFileName], held[KeyFileName])
	switch {
	case err != nil:
		return "it was damaged"
	case pair.Leaf.CheckSignatureFrom(m.signing.cert) != nil:
		return "it was signed by another authority"
	case !slices.Contains(peerIDs(pair.Leaf), PeerID(component)):
		return "it was for somebody else"
	case !now.Before(renewAt(pair.Leaf.NotBefore, pair.Leaf.NotAfter)):
		return "less than a third of its life was left"
	}
	return ""
}
