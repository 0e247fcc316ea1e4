package certauth

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/maypok86/otter/v2"

	"weir.dev/extauthz"
)

// Bounds of a trust's parts.
const (
	maxAuthorities     = 256
	maxRevocationLists = 64
	// maxVerdicts bounds how many chains one trust remembers.
	maxVerdicts = 4096
)

// Trust is a set of authorities, with revocation lists or without. Immutable,
// but for what it remembers; safe for concurrent use.
type Trust struct {
	roots       *x509.CertPool
	authorities []*x509.Certificate
	lists       []*x509.RevocationList
	verdicts    *otter.Cache[[sha256.Size]byte, verdict]
}

// verdict holds for one chain from one time to another.
type verdict struct {
	from, until time.Time
	err         error
}

// NewTrust reads authorities and revocation lists, both in PEM; lists may be
// empty, then nothing is checked for revocation.
func NewTrust(authorities, lists []byte) (*Trust, error) {
	t := &Trust{roots: x509.NewCertPool()}
	var err error
	if t.authorities, err = parsePEM(authorities, maxAuthorities); err != nil {
		return nil, fmt.Errorf("authorities: %w", err)
	}
	for _, authority := range t.authorities {
		if !authority.IsCA {
			return nil, errors.New("authorities: it holds a certificate that is no authority's")
		}
		t.roots.AddCert(authority)
	}
	for rest := lists; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		list, err := parseList(block)
		if err != nil {
			return nil, fmt.Errorf("revocation lists: %w", err)
		}
		if t.lists = append(t.lists, list); len(t.lists) > maxRevocationLists {
			return nil, fmt.Errorf("revocation lists: there are more than %d", maxRevocationLists)
		}
	}
	if len(bytes.TrimSpace(lists)) > 0 && len(t.lists) == 0 {
		return nil, errors.New("revocation lists: there is none in PEM")
	}
	t.verdicts, err = otter.New(&otter.Options[[sha256.Size]byte, verdict]{MaximumSize: maxVerdicts})
	if err != nil {
		return nil, fmt.Errorf("verdicts: %w", err)
	}
	return t, nil
}

// parseList refuses lists that hold for a part of an authority's certificates,
// or of another one's (RFC 5280 sections 5.2.4, 5.2.5 and 5.3.3): taken for a
// whole one, such a list would let revoked certificates pass. They are marked
// by extensions that are critical.
func parseList(block *pem.Block) (*x509.RevocationList, error) {
	if block.Type != "X509 CRL" {
		return nil, errors.New("there is a PEM block that is no revocation list")
	}
	list, err := x509.ParseRevocationList(block.Bytes)
	if err != nil {
		return nil, errors.New("one cannot be read")
	}
	for _, extension := range list.Extensions {
		if extension.Critical {
			return nil, fmt.Errorf("one has the critical extension %s: delta lists, partial and indirect ones are not supported", extension.Id)
		}
	}
	for _, entry := range list.RevokedCertificateEntries {
		for _, extension := range entry.Extensions {
			if extension.Critical {
				return nil, fmt.Errorf("one has an entry with the critical extension %s, which is not supported", extension.Id)
			}
		}
	}
	if list.NextUpdate.IsZero() {
		return nil, errors.New("one has no next update, so that nobody can tell whether it is current")
	}
	return list, nil
}

// Verify holds a certificate to the trust at now: a chain to an authority, for
// the use of client authentication, and with revocation lists a current one of
// each authority in the chain that does not revoke. The error is a Refusal.
func (t *Trust) Verify(evidence *Evidence, now time.Time) error {
	if evidence.Leaf == nil {
		return extauthz.Refuse(extauthz.ReasonCertificateInvalid, errors.New("the hop told of no certificate, so it cannot be verified"))
	}
	if known, ok := t.verdicts.GetIfPresent(evidence.digest); ok && !now.Before(known.from) && now.Before(known.until) {
		return known.err
	}
	found := t.verify(evidence, now)
	if found.until.After(now) {
		t.verdicts.Set(evidence.digest, found)
	}
	return found.err
}

func (t *Trust) verify(evidence *Evidence, now time.Time) verdict {
	if err := checkValidity(evidence.Leaf, now); err != nil {
		return verdict{err: err}
	}
	intermediates := x509.NewCertPool()
	for _, certificate := range evidence.Intermediates {
		intermediates.AddCert(certificate)
	}
	chains, err := evidence.Leaf.Verify(x509.VerifyOptions{
		Roots: t.roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		// An error may be one of time, which passes, so it is kept no longer than
		// it takes to see a flood of the same.
		return verdict{from: now, until: now.Add(negativeTTL), err: extauthz.Refuse(extauthz.ReasonCertificateInvalid, err)}
	}
	// Any chain that holds is enough; the first refusal is told if none does.
	var refused verdict
	for i, chain := range chains {
		found := t.judge(chain, now)
		if found.err == nil {
			return found
		}
		if i == 0 {
			refused = found
		}
	}
	return refused
}

// negativeTTL is how long a chain that does not verify is remembered.
const negativeTTL = 10 * time.Second

// judge looks at revocation, and finds out for how long the answer holds.
func (t *Trust) judge(chain []*x509.Certificate, now time.Time) verdict {
	found := verdict{from: chain[0].NotBefore, until: chain[0].NotAfter}
	for _, certificate := range chain[1:] {
		found.from, found.until = later(found.from, certificate.NotBefore), earlier(found.until, certificate.NotAfter)
	}
	if len(t.lists) == 0 {
		return found
	}
	for i, certificate := range chain[:len(chain)-1] {
		current := false
		for _, list := range t.lists {
			if !bytes.Equal(list.RawIssuer, certificate.RawIssuer) || now.Before(list.ThisUpdate) || !now.Before(list.NextUpdate) ||
				list.CheckSignatureFrom(chain[i+1]) != nil {
				continue
			}
			current = true
			found.from, found.until = later(found.from, list.ThisUpdate), earlier(found.until, list.NextUpdate)
			if revokes(list, certificate) {
				found.err = extauthz.Refuse(extauthz.ReasonCertificateRevoked, fmt.Errorf("serial %s is on the revocation list", certificate.SerialNumber.Text(16)))
				return found
			}
		}
		if !current {
			return verdict{from: now, until: now.Add(negativeTTL), err: extauthz.Refuse(extauthz.ReasonRevocationUnknown,
				errors.New("there is no current revocation list of the authority "+certificate.Issuer.String()))}
		}
	}
	return found
}

func revokes(list *x509.RevocationList, certificate *x509.Certificate) bool {
	for i := range list.RevokedCertificateEntries {
		if list.RevokedCertificateEntries[i].SerialNumber.Cmp(certificate.SerialNumber) == 0 {
			return true
		}
	}
	return false
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// checkValidity holds a certificate to its own times (RFC 5280 section
// 4.1.2.5), the last second included: a connection may outlive them.
func checkValidity(certificate *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(certificate.NotBefore):
		return extauthz.Refuse(extauthz.ReasonCertificateNotYetValid, errors.New("the certificate is not valid before "+certificate.NotBefore.UTC().Format(time.RFC3339)))
	case now.After(certificate.NotAfter):
		return extauthz.Refuse(extauthz.ReasonCertificateExpired, errors.New("the certificate is not valid after "+certificate.NotAfter.UTC().Format(time.RFC3339)))
	}
	return nil
}
