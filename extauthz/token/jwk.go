package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
)

// Bounds of a key set and its keys.
const (
	maxKeySetBytes = 512 << 10
	maxKeys        = 128
	minRSABits     = 2048
	maxRSABits     = 8192
)

// key is one usable verification key.
type key struct {
	id string
	// algorithm restricts the key when the set says so; empty otherwise.
	algorithm string
	public    crypto.PublicKey
}

// keySet is an immutable set of usable keys.
type keySet struct {
	keys []key
}

// parseKeySet reads a JWK Set (RFC 7517 section 5). Keys for other purposes and
// of kinds that this package does not know are left out, as the RFC asks; a set
// in which nothing is usable is an error, and so is one that publishes a
// private or symmetric key, which no longer proves anything.
func parseKeySet(raw []byte) (*keySet, error) {
	if len(raw) > maxKeySetBytes {
		return nil, fmt.Errorf("the key set is larger than %d bytes", maxKeySetBytes)
	}
	document, err := parseObject(raw)
	if err != nil {
		return nil, fmt.Errorf("the key set %w", err)
	}
	list, ok := document["keys"].([]any)
	if !ok {
		return nil, errors.New(`the key set has no list "keys"`)
	}
	if len(list) > maxKeys {
		return nil, fmt.Errorf("the key set has %d keys; the most is %d", len(list), maxKeys)
	}
	set := &keySet{}
	for i, element := range list {
		object, ok := element.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("keys[%d] is not an object", i)
		}
		parsed, usable, err := parseKey(object)
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if usable {
			set.keys = append(set.keys, parsed)
		}
	}
	if len(set.keys) == 0 {
		return nil, errors.New("the key set has no key that can verify a signature")
	}
	return set, nil
}

func parseKey(object map[string]any) (parsed key, usable bool, err error) {
	if object["d"] != nil || object["k"] != nil {
		return key{}, false, errors.New("is a private or symmetric key; a key set holds public keys only")
	}
	if use, set := object["use"]; set && use != "sig" {
		return key{}, false, nil
	}
	if operations, set := object["key_ops"].([]any); set && !contains(operations, "verify") {
		return key{}, false, nil
	}
	parsed.id, _ = object["kid"].(string)
	parsed.algorithm, _ = object["alg"].(string)
	switch object["kty"] {
	case "RSA":
		parsed.public, err = parseRSA(object)
	case "EC":
		parsed.public, err = parseEC(object)
	case "OKP":
		if object["crv"] != "Ed25519" {
			return key{}, false, nil
		}
		parsed.public, err = parseEd25519(object)
	default:
		return key{}, false, nil
	}
	return parsed, err == nil && parsed.public != nil, err
}

func contains(list []any, wanted string) bool {
	for _, element := range list {
		if element == wanted {
			return true
		}
	}
	return false
}

func member(object map[string]any, name string) ([]byte, error) {
	text, _ := object[name].(string)
	raw, err := decodeBase64(text)
	if err != nil || len(raw) == 0 {
		return nil, fmt.Errorf("%q is absent or not base64url", name)
	}
	return raw, nil
}

func parseRSA(object map[string]any) (crypto.PublicKey, error) {
	modulus, err := member(object, "n")
	if err != nil {
		return nil, err
	}
	exponent, err := member(object, "e")
	if err != nil {
		return nil, err
	}
	n, e := new(big.Int).SetBytes(modulus), new(big.Int).SetBytes(exponent)
	if bits := n.BitLen(); bits < minRSABits || bits > maxRSABits {
		return nil, fmt.Errorf("is an RSA key of %d bits; %d to %d are accepted", bits, minRSABits, maxRSABits)
	}
	if e.BitLen() > 31 || e.Int64() < 3 || e.Bit(0) == 0 {
		return nil, errors.New("has an RSA exponent that is not an odd number of at least 3 and at most 31 bits")
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

func parseEC(object map[string]any) (crypto.PublicKey, error) {
	var curve elliptic.Curve
	switch object["crv"] {
	case "P-256":
		curve = elliptic.P256()
	case "P-384":
		curve = elliptic.P384()
	case "P-521":
		curve = elliptic.P521()
	default:
		return nil, nil // a curve of another algorithm: left out
	}
	size := (curve.Params().BitSize + 7) / 8
	point := []byte{4} // uncompressed form, SEC 1 section 2.3.3
	for _, name := range []string{"x", "y"} {
		coordinate, err := member(object, name)
		if err != nil {
			return nil, err
		}
		if len(coordinate) != size {
			return nil, fmt.Errorf("%q is %d bytes long; the curve's coordinates have %d", name, len(coordinate), size)
		}
		point = append(point, coordinate...)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, errors.New("is not a point on its curve")
	}
	return public, nil
}

func parseEd25519(object map[string]any) (crypto.PublicKey, error) {
	raw, err := member(object, "x")
	if err != nil {
		return nil, err
	}
	if len(raw) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("is an Ed25519 key of %d bytes; it must have %d", len(raw), ed25519.PublicKeySize)
	}
	return ed25519.PublicKey(raw), nil
}

// maxCandidates bounds the signatures that are tried for one token.
const maxCandidates = 4

// candidates are the keys that may have signed: those of the token's kid that
// fit its algorithm. A token without kid is answered only by a set in which one
// key fits, because a choice between keys would be a guess. known is false when
// the set has no key of that kid at all.
func (s *keySet) candidates(id, algorithm string) (fitting []crypto.PublicKey, known bool) {
	for i := range s.keys {
		key := &s.keys[i]
		if id != "" && key.id != id {
			continue
		}
		known = true
		if fits(key, algorithm) && len(fitting) < maxCandidates {
			fitting = append(fitting, key.public)
		}
	}
	if id == "" && len(fitting) > 1 {
		return nil, true
	}
	return fitting, known
}

// fits reports whether a key is of the kind that an algorithm needs (RFC 7518
// section 3.1, RFC 8037 section 3.1). It is total: an unknown algorithm fits
// nothing.
func fits(k *key, algorithm string) bool {
	if k.algorithm != "" && k.algorithm != algorithm {
		return false
	}
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		switch algorithm {
		case "RS256", "RS384", "RS512", "PS256", "PS384", "PS512":
			return true
		}
	case *ecdsa.PublicKey:
		switch algorithm {
		case "ES256":
			return public.Curve == elliptic.P256()
		case "ES384":
			return public.Curve == elliptic.P384()
		case "ES512":
			return public.Curve == elliptic.P521()
		}
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	}
	return false
}
