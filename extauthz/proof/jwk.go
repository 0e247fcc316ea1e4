package proof

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"

	"weir.dev/extauthz/jose"
)

// ParseJWK reads one public key for verifying signatures and its thumbprint
// (RFC 7638, SHA-256, base64url). Private and symmetric keys are refused, and so
// is a key that is marked for another use.
func ParseJWK(object map[string]any) (public crypto.PublicKey, thumbprint string, err error) {
	parsed, usable, err := jose.ParseKey(object)
	switch {
	case err != nil:
		return nil, "", err
	case !usable:
		return nil, "", errors.New("is not a key for verifying signatures of a kind that is supported")
	}
	text := func(name string) string { value, _ := object[name].(string); return value }
	var canonical string
	// The values are base64url, which JSON needs no escapes for.
	switch parsed.Public.(type) {
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
	return parsed.Public, base64.RawURLEncoding.EncodeToString(sum[:]), nil
}
