package certauth

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"weir.dev/kit/certname"
)

// HeaderXFCC is the header in which Envoy tells of client certificates.
const HeaderXFCC = "x-forwarded-client-cert"

// maxElements bounds the hops that one header tells of.
const maxElements = 16

// xfccElement is what one hop tells of the client of its own.
type xfccElement struct {
	hash, cert, chain string
	uris              []string
	keys              map[string]int
}

// parseXFCC takes the header apart: elements separated by commas, pairs within
// by semicolons, values in quotes where they hold one of ,;= (Envoy, "HTTP
// header manipulation"). Anything outside of that form is an error, since
// another reader might see other elements in it. Keys may not repeat, but URI
// and DNS.
func parseXFCC(value string) ([]xfccElement, error) {
	if len(value) > maxEvidenceBytes {
		return nil, fmt.Errorf("it has %d bytes; the most is %d", len(value), maxEvidenceBytes)
	}
	var elements []xfccElement
	for {
		element, rest, more, err := parseElement(value)
		if err != nil {
			return nil, err
		}
		if elements = append(elements, element); len(elements) > maxElements {
			return nil, fmt.Errorf("it has more than %d elements", maxElements)
		}
		if !more {
			return elements, nil
		}
		value = strings.TrimLeft(rest, " \t")
	}
}

func parseElement(text string) (element xfccElement, rest string, more bool, err error) {
	element.keys = map[string]int{}
	for {
		key, after, ok := strings.Cut(text, "=")
		if !ok {
			return element, "", false, errors.New("it holds a part that is not of the form key=value")
		}
		value, after, err := parseValue(after)
		if err != nil {
			return element, "", false, err
		}
		if err := element.set(strings.ToLower(key), value); err != nil {
			return element, "", false, err
		}
		if after == "" {
			return element, "", false, nil
		}
		text = after[1:]
		if after[0] == ',' {
			return element, text, true, nil
		}
	}
}

// parseValue reads up to the next semicolon or comma, which stays in rest. A
// backslash keeps a quote from ending a quoted value; both stay in the value.
func parseValue(text string) (value, rest string, err error) {
	if !strings.HasPrefix(text, `"`) {
		end := strings.IndexAny(text, ",;")
		if end < 0 {
			end = len(text)
		}
		if value = text[:end]; strings.ContainsAny(value, `"\`) {
			return "", "", errors.New("it holds a quote or backslash outside of a quoted value")
		}
		return strings.TrimRight(value, " \t"), text[end:], nil
	}
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			rest = text[i+1:]
			if rest != "" && rest[0] != ',' && rest[0] != ';' {
				return "", "", errors.New("it holds text after a quoted value")
			}
			return text[1:i], rest, nil
		}
	}
	return "", "", errors.New("it holds a quoted value without an end")
}

func (e *xfccElement) set(key, value string) error {
	switch key {
	case "by", "subject", "dns":
	case "hash":
		e.hash = value
	case "cert":
		e.cert = value
	case "chain":
		e.chain = value
	case "uri":
		e.uris = append(e.uris, value)
	default:
		return errors.New("it holds a key that is none of By, Hash, Cert, Chain, Subject, URI and DNS")
	}
	if e.keys[key]++; e.keys[key] > 1 && key != "uri" && key != "dns" && key != "by" {
		return errors.New("it holds the key " + key + " twice")
	}
	return nil
}

// evidenceOfXFCC is what the header tells of the client whose connection the
// first of hops trusted hops ended. Any other number of elements is refused:
// then a hop does not sanitise, and the first element may be the client's own
// words.
func evidenceOfXFCC(value string, hops int) (*Evidence, error) {
	elements, err := parseXFCC(value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", HeaderXFCC, err)
	}
	if len(elements) != hops {
		return nil, fmt.Errorf("%s has %d elements where %d are expected: a hop appends to what clients send instead of replacing it", HeaderXFCC, len(elements), hops)
	}
	evidence, err := elements[0].evidence()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", HeaderXFCC, err)
	}
	return evidence, nil
}

func (e *xfccElement) evidence() (*Evidence, error) {
	if e.cert == "" {
		return e.names()
	}
	certificates, err := parseEncodedPEM(e.cert)
	if err != nil {
		return nil, err
	}
	if len(certificates) > 1 {
		return nil, errors.New("its Cert holds more than one certificate")
	}
	if e.chain != "" {
		chain, err := parseEncodedPEM(e.chain)
		if err != nil {
			return nil, err
		}
		if !chain[0].Equal(certificates[0]) {
			return nil, errors.New("its Chain does not begin with its Cert")
		}
		certificates = chain
	}
	evidence := newEvidence(certificates)
	if e.hash != "" && !strings.EqualFold(e.hash, hex.EncodeToString(evidence.Thumbprint[:])) {
		return nil, errors.New("its Hash is not that of its Cert")
	}
	return evidence, nil
}

// names is for hops that tell no certificate, as in a mesh. The URI alone is
// taken: a DNS name or subject beside it could be part of a URI name that holds
// a semicolon, which Envoy writes as it is. A second URI is refused for the
// same reason.
func (e *xfccElement) names() (*Evidence, error) {
	if len(e.uris) != 1 {
		return nil, fmt.Errorf("it holds no Cert, and %d URIs instead of one", len(e.uris))
	}
	if err := certname.CheckSPIFFE(e.uris[0]); err != nil {
		return nil, fmt.Errorf("its URI %w", err)
	}
	evidence := &Evidence{SPIFFE: e.uris[0]}
	if e.hash != "" {
		raw, err := hex.DecodeString(e.hash)
		if err != nil || len(raw) != len(evidence.Thumbprint) {
			return nil, errors.New("its Hash is not a SHA-256 in hex")
		}
		copy(evidence.Thumbprint[:], raw)
	}
	return evidence, nil
}
