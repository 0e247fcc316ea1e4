package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
)

// JWS is a JWS in compact form with a JSON object for its payload, taken apart
// strictly; nothing in it is verified.
type JWS struct {
	Header, Claims map[string]any
	signed         string
	signature      []byte
}

// ParseJWS takes a JWS apart. The error holds no part of it.
func ParseJWS(text string) (*JWS, error) {
	taken, err := parse(text)
	if err != nil {
		return nil, err
	}
	return &JWS{Header: taken.header, Claims: taken.claims, signed: taken.signed, signature: taken.signature}, nil
}

// Verify reports whether a key signed by an asymmetric algorithm of RFC 7518 or
// RFC 8037. The error is a Refusal.
func (j *JWS) Verify(algorithm string, public crypto.PublicKey) error {
	verify := method(algorithm)
	if verify == nil || !fits(&key{public: public}, algorithm) {
		return invalid("the key does not fit the algorithm")
	}
	if verify.Verify(j.signed, j.signature, public) != nil {
		return invalid("the signature is wrong")
	}
	return nil
}

// Algorithm reports whether a name is that of an algorithm that Verify knows.
func Algorithm(name string) bool { return method(name) != nil }

// ParseJWK reads one public key for verifying signatures (RFC 7517) and its
// thumbprint (RFC 7638, SHA-256, base64url). Private and symmetric keys are
// refused, and so is a key that is marked for another use or algorithm.
func ParseJWK(object map[string]any, algorithm string) (public crypto.PublicKey, thumbprint string, err error) {
	parsed, usable, err := parseKey(object)
	switch {
	case err != nil:
		return nil, "", err
	case !usable:
		return nil, "", errors.New("is not a key for verifying signatures of a kind that is supported")
	case !fits(&parsed, algorithm):
		return nil, "", errors.New("does not fit the algorithm")
	}
	text := func(name string) string { value, _ := object[name].(string); return value }
	canonical := ""
	switch parsed.public.(type) {
	case *rsa.PublicKey:
		canonical = `{"e":"` + text("e") + `","kty":"RSA","n":"` + text("n") + `"}`
	case *ecdsa.PublicKey:
		canonical = `{"crv":"` + text("crv") + `","kty":"EC","x":"` + text("x") + `","y":"` + text("y") + `"}`
	case ed25519.PublicKey:
		canonical = `{"crv":"` + text("crv") + `","kty":"OKP","x":"` + text("x") + `"}`
	default:
		return nil, "", errors.New("is of a kind without a thumbprint")
	}
	sum := sha256.Sum256([]byte(canonical))
	return parsed.public, base64.RawURLEncoding.EncodeToString(sum[:]), nil
}
