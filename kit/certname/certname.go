package certname

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
)

// maxNameBytes bounds a name, as the SPIFFE ID specification (section 2.3)
// does.
const maxNameBytes = 2048

// Kind says which name of a certificate is the caller's.
type Kind uint8

// Kinds of names; the zero value is none of them.
const (
	// SPIFFE is the one URI SAN, which must be a SPIFFE ID (SPIFFE
	// X509-SVID, section 2).
	SPIFFE Kind = iota + 1
	// DNS is a DNS SAN, compared without case.
	DNS
	// Email is an rfc822Name SAN.
	Email
	// CommonName is the only common name of the subject.
	CommonName
	// Subject is the whole subject as text (RFC 4514).
	Subject
)

// Pattern matches whole names. It is no regular expression: every character
// but the stars described at Parse stands for itself.
type Pattern struct {
	kind     Kind
	text     string
	all      bool
	segments []string // of SPIFFE patterns with stars, trust domain first
}

// Parse reads a pattern. In a SPIFFE pattern "*" stands for one whole
// path segment, and "**" as the last segment for one or more; the trust domain
// is always spelled out. "*.example.com" stands for one label before the
// domain, "*@example.com" for every mailbox of it. A lone "*" takes every name,
// except SPIFFE's.
func Parse(kind Kind, text string) (Pattern, error) {
	p := Pattern{kind: kind, text: text}
	switch {
	case text == "" || len(text) > maxNameBytes:
		return p, fmt.Errorf("has %d bytes; 1 to %d are accepted", len(text), maxNameBytes)
	case kind == SPIFFE:
		return p.spiffe()
	case text == "*":
		p.all = true
		return p, nil
	case kind == DNS:
		p.text = strings.ToLower(text)
		if strings.Contains(strings.TrimPrefix(text, "*."), "*") || strings.HasSuffix(text, ".") {
			return p, errors.New(`is neither a DNS name nor "*." and one`)
		}
	case kind == Email:
		if strings.Contains(strings.TrimPrefix(text, "*@"), "*") || strings.Count(text, "@") != 1 {
			return p, errors.New(`is neither an email address nor "*@" and a domain`)
		}
	}
	return p, nil
}

func (p Pattern) spiffe() (Pattern, error) {
	rest, ok := strings.CutPrefix(p.text, spiffeScheme)
	if !ok {
		return p, errors.New("does not begin with spiffe://")
	}
	segments := strings.Split(rest, "/")
	for i, segment := range segments {
		switch {
		case segment == "*" && i > 0:
			segments[i] = "x"
			p.segments = strings.Split(rest, "/")
		case segment == "**" && i > 0 && i == len(segments)-1:
			segments[i] = "x"
			p.segments = strings.Split(rest, "/")
		case strings.Contains(segment, "*"):
			return p, errors.New(`has a star that is not a whole path segment: "*" stands for one, "**" at the end for the rest`)
		}
	}
	if err := CheckSPIFFE(spiffeScheme + strings.Join(segments, "/")); err != nil {
		return p, err
	}
	return p, nil
}

// Matches reports whether a name, as Of returns it, is one that the pattern takes.
func (p *Pattern) Matches(name string) bool {
	switch {
	case p.all:
		return true
	case p.segments != nil:
		return matchSegments(p.segments, strings.TrimPrefix(name, spiffeScheme))
	case p.kind == DNS && strings.HasPrefix(p.text, "*."):
		label, domain, ok := strings.Cut(name, ".")
		return ok && label != "" && label != "*" && domain == p.text[2:]
	case p.kind == Email && strings.HasPrefix(p.text, "*@"):
		at := strings.LastIndexByte(name, '@')
		return at > 0 && strings.EqualFold(name[at+1:], p.text[2:])
	}
	return name == p.text
}

func matchSegments(wanted []string, name string) bool {
	for i, segment := range wanted {
		if segment == "**" && i > 0 {
			return name != ""
		}
		head, rest, more := strings.Cut(name, "/")
		if head == "" || (segment != head && (segment != "*" || i == 0)) {
			return false
		}
		last := i == len(wanted)-1
		if more == last {
			return false
		}
		name = rest
	}
	return true
}

const spiffeScheme = "spiffe://"

// CheckSPIFFE holds a SPIFFE ID to its specification (section 2), which leaves
// one spelling of each.
func CheckSPIFFE(id string) error {
	rest, ok := strings.CutPrefix(id, spiffeScheme)
	if !ok || len(id) > maxNameBytes {
		return errors.New("is not a SPIFFE ID")
	}
	domain, path, hasPath := strings.Cut(rest, "/")
	if domain == "" || len(domain) > 255 {
		return errors.New("has no trust domain of 1 to 255 characters")
	}
	for i := range len(domain) {
		if c := domain[i]; !spiffeChar(c) || 'A' <= c && c <= 'Z' {
			return errors.New("has a trust domain with characters other than a-z, 0-9, '.', '-' and '_'")
		}
	}
	if !hasPath {
		return nil
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return errors.New("has an empty or dot segment in its path")
		}
		for i := range len(segment) {
			if !spiffeChar(segment[i]) {
				return errors.New("has a path with characters other than a-z, A-Z, 0-9, '.', '-' and '_'")
			}
		}
	}
	return nil
}

func spiffeChar(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == '_'
}

// TrustDomain is "spiffe://" and the trust domain of a checked SPIFFE ID.
func TrustDomain(id string) string {
	domain, _, _ := strings.Cut(strings.TrimPrefix(id, spiffeScheme), "/")
	return spiffeScheme + domain
}

// Of are the names of a kind that a certificate holds, as they are to be
// compared. None is an error: a certificate that has no such name is not wrong
// in itself, but names nobody.
func Of(kind Kind, certificate *x509.Certificate) ([]string, error) {
	switch kind {
	case SPIFFE:
		if len(certificate.URIs) != 1 {
			return nil, fmt.Errorf("it holds %d URI names; a SPIFFE certificate holds one", len(certificate.URIs))
		}
		id := certificate.URIs[0].String()
		if err := CheckSPIFFE(id); err != nil {
			return nil, fmt.Errorf("its URI name %w", err)
		}
		return []string{id}, nil
	case DNS:
		names := make([]string, 0, len(certificate.DNSNames))
		for _, name := range certificate.DNSNames {
			names = append(names, strings.ToLower(name))
		}
		return names, nil
	case Email:
		return certificate.EmailAddresses, nil
	case CommonName:
		return commonName(certificate.Subject)
	case Subject:
		subject, err := DistinguishedName(certificate.RawSubject)
		if err != nil || subject == "" {
			return nil, errors.New("its subject is empty or cannot be read")
		}
		return []string{subject}, nil
	}
	return nil, errors.New("no kind of name is asked for")
}

// commonName refuses a subject with several: which one counts is a guess.
func commonName(subject pkix.Name) ([]string, error) {
	var names []string
	for _, part := range subject.Names {
		if part.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, 3}) {
			name, ok := part.Value.(string)
			if !ok {
				return nil, errors.New("its common name is not text")
			}
			names = append(names, name)
		}
	}
	if len(names) > 1 {
		return nil, errors.New("its subject has several common names")
	}
	return names, nil
}

// DistinguishedName is a subject or issuer as text (RFC 4514), most specific
// part first.
func DistinguishedName(raw []byte) (string, error) {
	var sequence pkix.RDNSequence
	rest, err := asn1.Unmarshal(raw, &sequence)
	if err != nil || len(rest) > 0 {
		return "", errors.New("a distinguished name cannot be read")
	}
	return sequence.String(), nil
}
