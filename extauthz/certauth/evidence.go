package certauth

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"sync"

	"google.golang.org/protobuf/types/known/structpb"
)

// Bounds of what a request may tell about certificates.
const (
	maxEvidenceBytes = 64 << 10
	maxChain         = 8
)

// Evidence is a client certificate as it was told of. It says nothing about
// whether anybody should believe it. Shared by all requests that bring it:
// never changed.
type Evidence struct {
	// Leaf is the client's own; nil when a hop told of names alone.
	Leaf *x509.Certificate
	// Intermediates came with it; unordered.
	Intermediates []*x509.Certificate
	// Thumbprint is the SHA-256 of the leaf in DER (RFC 8705 section 3.1).
	Thumbprint [sha256.Size]byte
	// SPIFFE is the SPIFFE ID that a hop told of without a certificate.
	SPIFFE string

	digest [sha256.Size]byte // of leaf and intermediates

	once      sync.Once
	described *structpb.Struct
}

func newEvidence(certificates []*x509.Certificate) *Evidence {
	e := &Evidence{Leaf: certificates[0], Intermediates: certificates[1:], Thumbprint: sha256.Sum256(certificates[0].Raw)}
	hash := sha256.New()
	for _, certificate := range certificates {
		sum := sha256.Sum256(certificate.Raw)
		hash.Write(sum[:])
	}
	hash.Sum(e.digest[:0])
	return e
}

// parseEncodedPEM reads certificates in PEM, URL-encoded, as Envoy sends them
// in check requests and in X-Forwarded-Client-Cert.
func parseEncodedPEM(text string) ([]*x509.Certificate, error) {
	if len(text) > maxEvidenceBytes {
		return nil, fmt.Errorf("the certificate takes %d bytes; the most is %d", len(text), maxEvidenceBytes)
	}
	raw, err := url.PathUnescape(text)
	if err != nil {
		return nil, errors.New("the certificate is not URL-encoded")
	}
	return parsePEM([]byte(raw), maxChain)
}

// parsePEM reads nothing but certificates: at least one, at most most.
func parsePEM(raw []byte, most int) ([]*x509.Certificate, error) {
	var certificates []*x509.Certificate
	for rest := raw; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("it holds a PEM block that is no certificate")
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("it holds a certificate that cannot be read")
		}
		if certificates = append(certificates, certificate); len(certificates) > most {
			return nil, fmt.Errorf("it holds more than %d certificates", most)
		}
	}
	if len(certificates) == 0 {
		return nil, errors.New("it holds no certificate in PEM")
	}
	return certificates, nil
}

// parseDER reads certificates that follow one another.
func parseDER(raw []byte) ([]*x509.Certificate, error) {
	certificates, err := x509.ParseCertificates(raw)
	if err != nil || len(certificates) == 0 {
		return nil, errors.New("it holds a certificate that cannot be read")
	}
	if len(certificates) > maxChain {
		return nil, fmt.Errorf("it holds more than %d certificates", maxChain)
	}
	return certificates, nil
}
