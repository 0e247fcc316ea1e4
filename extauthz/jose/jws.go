package jose

import (
	"crypto"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// MaxTokenBytes bounds a token in compact form.
const MaxTokenBytes = 16 << 10

// Mistakes in a token's form. They quote nothing of it.
var (
	errNotCompact = errors.New("the token is not of the form header.claims.signature")
	errNotBase64  = errors.New("is not base64url")
	errSignature  = errors.New("token signature: is absent or not base64url")
)

// Compact is a signature in compact form taken apart (RFC 7515 section 7.1).
// Nothing in it is verified.
type Compact struct {
	// HeaderText is the header as sent, for telling equal headers.
	HeaderText string
	// SigningInput is what the signature is over.
	SigningInput string
	// Payload is decoded.
	Payload   []byte
	Signature []byte
}

// Split takes a token apart, strictly: exactly three parts of unpadded base64url
// without stray bits or line breaks, a signature that is not empty, at most
// MaxTokenBytes. The header is not decoded: see Header.
func Split(token string) (Compact, error) {
	var c Compact
	if len(token) > MaxTokenBytes {
		return c, fmt.Errorf("the token is %d bytes long; the most is %d", len(token), MaxTokenBytes)
	}
	head, rest, _ := strings.Cut(token, ".")
	body, signature, ok := strings.Cut(rest, ".")
	if !ok || strings.IndexByte(signature, '.') >= 0 {
		return c, errNotCompact
	}
	var err error
	if c.Payload, err = DecodeBase64(body); err != nil {
		return c, fmt.Errorf("token claims: %w", err)
	}
	if c.Signature, err = DecodeBase64(signature); err != nil || len(c.Signature) == 0 {
		return c, errSignature
	}
	c.HeaderText, c.SigningInput = head, token[:len(head)+1+len(body)]
	return c, nil
}

// Header decodes the header.
func (c *Compact) Header() (map[string]any, error) {
	raw, err := DecodeBase64(c.HeaderText)
	if err != nil {
		return nil, fmt.Errorf("token header: %w", err)
	}
	header, err := ParseObject(raw)
	if err != nil {
		return nil, fmt.Errorf("token header: %w", err)
	}
	return header, nil
}

// DecodeBase64 is base64url without padding. Go's decoder skips line breaks,
// which would give one token many spellings, so they are refused first.
func DecodeBase64(text string) ([]byte, error) {
	if strings.IndexByte(text, '\n') >= 0 || strings.IndexByte(text, '\r') >= 0 {
		return nil, errNotBase64
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errNotBase64
	}
	return raw, nil
}

// CheckHeader refuses what no token may say in its header: extensions that must
// be understood (RFC 7515 section 4.1.11), payloads that are not what they seem
// (RFC 7797, RFC 7516, nested tokens), and key ids that are no short text. Keys
// that a header brings along (jwk, jku, x5u, x5c) are not looked at by anyone.
func CheckHeader(header map[string]any) error {
	for _, name := range []string{"crit", "b64", "zip", "enc"} {
		if _, set := header[name]; set {
			return errors.New("token header: " + name + " is not supported")
		}
	}
	if _, nested := header["cty"]; nested {
		return errors.New("token header: cty is set; nested tokens are not supported")
	}
	if id, set := header["kid"]; set {
		if text, ok := id.(string); !ok || text == "" || len(text) > 256 {
			return errors.New("token header: kid is not a string of 1 to 256 bytes")
		}
	}
	return nil
}

// Asymmetric reports whether Verify knows an algorithm.
func Asymmetric(algorithm string) bool { return method(algorithm) != nil }

// errWrongSignature says nothing more on purpose.
var errWrongSignature = errors.New("the signature is wrong")

// Verify checks a signature with a key that fits the algorithm; any other
// algorithm or key is an error.
func Verify(algorithm string, public crypto.PublicKey, signingInput string, signature []byte) error {
	verify := method(algorithm)
	if verify == nil || !fits(public, algorithm) {
		return errors.New("the algorithm is not known or not that of the key")
	}
	if verify.Verify(signingInput, signature, public) != nil {
		return errWrongSignature
	}
	return nil
}

// method is the algorithm by name, nil for any that is not asymmetric. The list
// is closed here on purpose: what a library registers is not what is accepted.
func method(algorithm string) jwt.SigningMethod {
	switch algorithm {
	case "RS256":
		return jwt.SigningMethodRS256
	case "RS384":
		return jwt.SigningMethodRS384
	case "RS512":
		return jwt.SigningMethodRS512
	case "PS256":
		return strictSalt(jwt.SigningMethodPS256)
	case "PS384":
		return strictSalt(jwt.SigningMethodPS384)
	case "PS512":
		return strictSalt(jwt.SigningMethodPS512)
	case "ES256":
		return jwt.SigningMethodES256
	case "ES384":
		return jwt.SigningMethodES384
	case "ES512":
		return jwt.SigningMethodES512
	case "EdDSA", "Ed25519": // the name of RFC 8037, and the one of RFC 9864 in its place
		return jwt.SigningMethodEdDSA
	}
	return nil
}

// strictSalt is an RSASSA-PSS method that takes salts of the hash's length only,
// as RFC 7518 section 3.5 has it; the library's own take any.
func strictSalt(loose *jwt.SigningMethodRSAPSS) *jwt.SigningMethodRSAPSS {
	return &jwt.SigningMethodRSAPSS{
		SigningMethodRSA: loose.SigningMethodRSA,
		Options:          &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash},
	}
}
