package certauth

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/maypok86/otter/v2"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
)

// Headers of RFC 9440.
const (
	headerClientCert      = "client-cert"
	headerClientCertChain = "client-cert-chain"
)

// Bounds of a source.
const (
	maxTrustedAddresses = 64
	// maxRemembered bounds how many texts a reader remembers the certificates of;
	// they take about 5 KiB each.
	maxRemembered = 8192
)

// Reader reads certificates out of requests and remembers what it has parsed.
// Safe for concurrent use.
type Reader struct {
	known *otter.Cache[[sha256.Size]byte, remembered]
}

// remembered is the outcome of parsing one text.
type remembered struct {
	evidence *Evidence
	err      error
}

// NewReader makes a reader.
func NewReader() (*Reader, error) {
	known, err := otter.New(&otter.Options[[sha256.Size]byte, remembered]{MaximumSize: maxRemembered})
	if err != nil {
		return nil, fmt.Errorf("certificate cache: %w", err)
	}
	return &Reader{known: known}, nil
}

// parsed parses a text, or takes what an equal one came to before. kind keeps
// texts of different forms apart.
func (r *Reader) parsed(kind string, parse func() (*Evidence, error), texts ...string) (*Evidence, error) {
	hash := sha256.New()
	hash.Write([]byte(kind))
	for _, text := range texts {
		if len(text) > maxEvidenceBytes {
			return nil, fmt.Errorf("it has %d bytes; the most is %d", len(text), maxEvidenceBytes)
		}
		sum := sha256.Sum256([]byte(text))
		hash.Write(sum[:])
	}
	key := [sha256.Size]byte(hash.Sum(nil))
	if entry, ok := r.known.GetIfPresent(key); ok {
		return entry.evidence, entry.err
	}
	evidence, err := parse()
	r.known.Set(key, remembered{evidence: evidence, err: err})
	return evidence, err
}

// Source is where a route's client certificates are told of. Immutable.
type Source struct {
	reader   *Reader
	from     rulesv1.ClientCertificateSource_From
	trusted  []netip.Prefix
	elements int
}

// Source compiles a source; nil means the connection. An error begins with the
// field at fault.
func (r *Reader) Source(source *rulesv1.ClientCertificateSource) (*Source, error) {
	s := &Source{reader: r, from: source.GetFrom(), elements: max(1, int(source.GetElements()))}
	switch s.from {
	case rulesv1.ClientCertificateSource_FROM_UNSPECIFIED:
		s.from = rulesv1.ClientCertificateSource_FROM_CONNECTION
	case rulesv1.ClientCertificateSource_FROM_CONNECTION, rulesv1.ClientCertificateSource_FROM_XFCC, rulesv1.ClientCertificateSource_FROM_CLIENT_CERT:
	default:
		return nil, fmt.Errorf("source.from: %s is not known", s.from)
	}
	if s.elements > maxElements {
		return nil, fmt.Errorf("source.elements: is %d; the most is %d", s.elements, maxElements)
	}
	if n := len(source.GetTrustedAddresses()); n > maxTrustedAddresses {
		return nil, fmt.Errorf("source.trusted_addresses: %d are too many; the most is %d", n, maxTrustedAddresses)
	}
	for i, text := range source.GetTrustedAddresses() {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("source.trusted_addresses[%d]: %q is not a range such as 10.0.0.0/8", i, text)
		}
		s.trusted = append(s.trusted, prefix.Masked())
	}
	if s.told() && len(s.trusted) == 0 {
		return nil, errors.New("source.trusted_addresses: is required where a hop tells of the certificate: anybody can send a header")
	}
	return s, nil
}

// told reports whether a hop tells of the certificate, rather than the proxy.
func (s *Source) told() bool { return s.from != rulesv1.ClientCertificateSource_FROM_CONNECTION }

// Headers are the lower-case names of those that tell of certificates.
func (s *Source) Headers() []string {
	switch s.from {
	case rulesv1.ClientCertificateSource_FROM_XFCC:
		return []string{HeaderXFCC}
	case rulesv1.ClientCertificateSource_FROM_CLIENT_CERT:
		return []string{headerClientCert, headerClientCertChain}
	}
	return nil
}

// Presence looks for a certificate.
func (s *Source) Presence(request *extauthz.Request) extauthz.Presence {
	switch s.from {
	case rulesv1.ClientCertificateSource_FROM_XFCC:
		_, presence := request.Credential(HeaderXFCC)
		return presence
	case rulesv1.ClientCertificateSource_FROM_CLIENT_CERT:
		_, presence := request.Credential(headerClientCert)
		return presence
	}
	if request.Certificate == "" {
		return extauthz.Absent
	}
	return extauthz.Present
}

// Read returns the certificate that Presence found, from nobody but who is
// trusted to tell. The error is a Refusal.
func (s *Source) Read(request *extauthz.Request) (*Evidence, error) {
	if s.told() && !s.trusts(request.Source) {
		return nil, extauthz.Refuse(extauthz.ReasonHopUntrusted, errors.New("the peer is in none of the trusted ranges"))
	}
	evidence, err := s.read(request)
	if err != nil {
		return nil, extauthz.Refuse(extauthz.ReasonCertificateInvalid, err)
	}
	return evidence, nil
}

func (s *Source) trusts(peer string) bool {
	address, err := netip.ParseAddr(peer)
	if err != nil {
		return false
	}
	address = address.Unmap()
	for _, prefix := range s.trusted {
		if prefix.Contains(address) {
			return true
		}
	}
	return false
}

func (s *Source) read(request *extauthz.Request) (*Evidence, error) {
	switch s.from {
	case rulesv1.ClientCertificateSource_FROM_XFCC:
		value, _ := request.Credential(HeaderXFCC)
		kind := "xfcc " + string(rune('0'+s.elements))
		return s.reader.parsed(kind, func() (*Evidence, error) { return evidenceOfXFCC(value, s.elements) }, value)
	case rulesv1.ClientCertificateSource_FROM_CLIENT_CERT:
		leaf, _ := request.Credential(headerClientCert)
		chain := ""
		for i := range request.Headers { // a list, so several headers are one
			if request.Headers[i].Name == headerClientCertChain {
				if chain != "" {
					chain += ","
				}
				chain += request.Headers[i].Value
			}
		}
		return s.reader.parsed("rfc9440", func() (*Evidence, error) { return evidenceOfClientCert(leaf, chain) }, leaf, chain)
	}
	return s.reader.parsed("connection", func() (*Evidence, error) {
		certificates, err := parseEncodedPEM(request.Certificate)
		if err != nil {
			return nil, err
		}
		return newEvidence(certificates), nil
	}, request.Certificate)
}

// evidenceOfClientCert reads both headers of RFC 9440: a byte sequence and a
// list of them, which do not repeat the first (section 2.3).
func evidenceOfClientCert(leaf, chain string) (*Evidence, error) {
	first, rest, err := byteSequence(strings.Trim(leaf, " "))
	if err != nil || rest != "" {
		return nil, errors.New(headerClientCert + " is not one byte sequence (RFC 9440 section 2.2)")
	}
	all := first
	for text := strings.Trim(chain, " "); text != ""; {
		var der []byte
		if der, text, err = byteSequence(text); err != nil {
			return nil, errors.New(headerClientCertChain + " is not a list of byte sequences (RFC 9440 section 2.3)")
		}
		all = append(all, der...)
		text = strings.TrimLeft(text, " \t")
		if text == "" {
			break
		}
		after, ok := strings.CutPrefix(text, ",")
		if text = strings.TrimLeft(after, " \t"); !ok || text == "" {
			return nil, errors.New(headerClientCertChain + " is not a list of byte sequences (RFC 9440 section 2.3)")
		}
	}
	certificates, err := parseDER(all)
	if err != nil {
		return nil, err
	}
	return newEvidence(certificates), nil
}

// byteSequence reads one from the front of text (RFC 8941 section 4.2.7), with
// no parameters and in its one canonical form.
func byteSequence(text string) (value []byte, rest string, err error) {
	inner, ok := strings.CutPrefix(text, ":")
	if !ok {
		return nil, "", errors.New("is not a byte sequence")
	}
	encoded, rest, ok := strings.Cut(inner, ":")
	if !ok || encoded == "" || strings.ContainsAny(encoded, "\r\n") {
		return nil, "", errors.New("is not a byte sequence")
	}
	value, err = base64.StdEncoding.Strict().DecodeString(encoded)
	return value, rest, err
}
