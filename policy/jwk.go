package policy

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

// jwk is a key in JSON (RFC 7517; RFC 7518 section 6, RFC 8037 section 2).
type jwk struct {
	Kind       string          `json:"kty"`
	Curve      string          `json:"crv"`
	Algorithm  string          `json:"alg"`
	Use        string          `json:"use"`
	Operations []string        `json:"key_ops"`
	ID         string          `json:"kid"`
	N          string          `json:"n"`
	E          string          `json:"e"`
	X          string          `json:"x"`
	Y          string          `json:"y"`
	K          string          `json:"k"`
	D          json.RawMessage `json:"d"`
}

// ofJWK returns the value that a JWK stands for, as it would be without one: the
// bytes of a shared key, or a public key in PEM. What is no JWK is returned as it
// is. The error quotes nothing of the key.
func ofJWK(message *rulesv1.SignatureKey, value []byte) ([]byte, error) {
	if trimmed := bytes.TrimSpace(value); len(trimmed) == 0 || trimmed[0] != '{' || !json.Valid(trimmed) {
		return value, nil
	}
	var key jwk
	if json.Unmarshal(value, &key) != nil {
		return nil, errors.New("the JWK has members that are not of the type they have to be")
	}
	if key.Kind == "" {
		if message.GetAlgorithm() == "hmac-sha256" {
			return value, nil // a shared key that happens to be JSON
		}
		return nil, errors.New(`the JWK has no "kty"`)
	}
	if err := key.agrees(message); err != nil {
		return nil, err
	}
	if key.Kind == "oct" {
		if message.GetAlgorithm() != "hmac-sha256" {
			return nil, fmt.Errorf("the JWK is a shared key, and %s takes a public one", message.GetAlgorithm())
		}
		return jwkBytes("k", key.K)
	}
	if message.GetAlgorithm() == "hmac-sha256" {
		return nil, errors.New("the JWK is no shared key (kty oct), which hmac-sha256 takes")
	}
	public, err := key.public()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, errors.New("the JWK cannot be read")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// agrees refuses a JWK that says it is for something else.
func (k *jwk) agrees(message *rulesv1.SignatureKey) error {
	names := map[string][]string{
		"hmac-sha256": {"HS256"}, "ed25519": {"EdDSA", "Ed25519"}, "ecdsa-p256-sha256": {"ES256"}, "ecdsa-p384-sha384": {"ES384"},
		"rsa-pss-sha512": {"PS512"}, "rsa-v1_5-sha256": {"RS256"},
	}
	switch {
	case k.D != nil:
		return errors.New("the JWK is a private key; write its public part, and call this one compromised if others could read it")
	case k.Algorithm != "" && !slices.Contains(names[message.GetAlgorithm()], k.Algorithm):
		return fmt.Errorf("the JWK's alg is %q, which is not %s", k.Algorithm, message.GetAlgorithm())
	case k.Use != "" && k.Use != "sig":
		return fmt.Errorf("the JWK's use is %q, not sig", k.Use)
	case k.Operations != nil && !slices.Contains(k.Operations, "verify"):
		return errors.New("the JWK's key_ops have no verify")
	case k.ID != "" && k.ID != message.GetId():
		return fmt.Errorf("the JWK's kid is %q, and the key's id is %q", k.ID, message.GetId())
	}
	return nil
}

func (k *jwk) public() (crypto.PublicKey, error) {
	switch k.Kind {
	case "RSA":
		return k.rsa()
	case "EC":
		curve, known := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384()}[k.Curve]
		if !known {
			return nil, fmt.Errorf("the JWK's crv is %q; P-256 and P-384 are accepted", k.Curve)
		}
		x, xErr := jwkBytes("x", k.X)
		y, yErr := jwkBytes("y", k.Y)
		if err := errors.Join(xErr, yErr); err != nil {
			return nil, err
		}
		size := (curve.Params().BitSize + 7) / 8
		if len(x) != size || len(y) != size {
			return nil, fmt.Errorf("the JWK's x and y have %d and %d bytes; %s wants %d", len(x), len(y), k.Curve, size)
		}
		// The uncompressed form of SEC 1 section 2.3.3.
		public, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
		if err != nil {
			return nil, errors.New("the JWK is not a point on its curve")
		}
		return public, nil
	case "OKP":
		x, err := jwkBytes("x", k.X)
		if err != nil {
			return nil, err
		}
		if k.Curve != "Ed25519" || len(x) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("the JWK's crv is %q with %d bytes; Ed25519 with %d is accepted", k.Curve, len(x), ed25519.PublicKeySize)
		}
		return ed25519.PublicKey(x), nil
	}
	return nil, fmt.Errorf("the JWK's kty is %q; RSA, EC, OKP and oct are accepted", k.Kind)
}

func (k *jwk) rsa() (crypto.PublicKey, error) {
	modulus, nErr := jwkBytes("n", k.N)
	exponent, eErr := jwkBytes("e", k.E)
	if err := errors.Join(nErr, eErr); err != nil {
		return nil, err
	}
	n, e := new(big.Int).SetBytes(modulus), new(big.Int).SetBytes(exponent)
	if bits := n.BitLen(); bits < 2048 || bits > 8192 || n.Bit(0) == 0 {
		return nil, fmt.Errorf("the JWK's n has %d bits; an odd number of 2048 to 8192 is accepted", bits)
	}
	if e.BitLen() > 31 || e.Int64() < 3 || e.Bit(0) == 0 {
		return nil, errors.New("the JWK's e is not an odd number of at least 3 and at most 31 bits")
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

// jwkBytes decodes a member: base64url without padding or line breaks.
func jwkBytes(name, text string) ([]byte, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) == 0 || bytes.ContainsAny([]byte(text), "\r\n") {
		return nil, fmt.Errorf("the JWK's %s is absent or not base64url", name)
	}
	return raw, nil
}
