package jose

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
	// MaxKeySetBytes bounds a document of keys.
	MaxKeySetBytes = 512 << 10
	maxKeys        = 128
	minRSABits     = 2048
	maxRSABits     = 8192
)

// Key is one public key that verifies signatures.
type Key struct {
	// ID is "kid"; empty when the key has none.
	ID string
	// Algorithm restricts the key when its document says so; empty otherwise.
	Algorithm string
	// Public is an *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey.
	Public crypto.PublicKey

	// kept is set for the RSA keys of a set.
	kept *keptRSA
}

// Verify checks a signature; an algorithm that is not known, or not for this kind
// of key, is an error. Safe for concurrent use.
func (k *Key) Verify(algorithm, signingInput string, signature []byte) error {
	if scheme, ok := pkcs1(algorithm); ok && k.kept != nil {
		if !k.kept.verify(scheme, signingInput, signature) {
			return errWrongSignature
		}
		return nil
	}
	return Verify(algorithm, k.Public, signingInput, signature)
}

// KeySet is an immutable set of keys that verify signatures. Safe for concurrent
// use.
type KeySet struct {
	keys []Key
}

// Len is the number of keys.
func (s *KeySet) Len() int { return len(s.keys) }

// ParseKeySet reads a JWK Set (RFC 7517 section 5). Keys for other purposes and
// of kinds that this package does not know are left out, as the RFC asks; a set
// in which nothing is usable is an error. So is one with a key that is broken or
// weak, or that publishes a private or symmetric key, which no longer proves
// anything: whoever wrote that set cannot be trusted with the rest of it.
func ParseKeySet(raw []byte) (*KeySet, error) {
	if len(raw) > MaxKeySetBytes {
		return nil, fmt.Errorf("the key set is larger than %d bytes", MaxKeySetBytes)
	}
	document, err := ParseObject(raw)
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
	set := &KeySet{}
	for i, element := range list {
		object, ok := element.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("keys[%d] is not an object", i)
		}
		parsed, usable, err := ParseKey(object)
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if usable {
			parsed.keep()
			set.keys = append(set.keys, parsed)
		}
	}
	if len(set.keys) == 0 {
		return nil, errors.New("the key set has no key that can verify a signature")
	}
	return set, nil
}

// privateMembers are those of RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1.
func privateMembers() [8]string { return [...]string{"d", "k", "p", "q", "dp", "dq", "qi", "oth"} }

// ParseKey reads one JWK. usable is false, without an error, when the key is for
// another purpose or of a kind that is not known here.
func ParseKey(object map[string]any) (parsed Key, usable bool, err error) {
	for _, name := range privateMembers() {
		if object[name] != nil {
			return Key{}, false, errors.New("is a private or symmetric key; a key set holds public keys only")
		}
	}
	if use, set := object["use"]; set && use != "sig" {
		return Key{}, false, nil
	}
	if operations, set := object["key_ops"]; set {
		if list, ok := operations.([]any); !ok || !contains(list, "verify") {
			return Key{}, false, nil
		}
	}
	for name, into := range map[string]*string{"kid": &parsed.ID, "alg": &parsed.Algorithm} {
		if value, set := object[name]; set {
			var ok bool
			if *into, ok = value.(string); !ok {
				return Key{}, false, fmt.Errorf("%q is not a string", name)
			}
		}
	}
	switch object["kty"] {
	case "RSA":
		parsed.Public, err = parseRSA(object)
	case "EC":
		parsed.Public, err = parseEC(object)
	case "OKP":
		if object["crv"] != "Ed25519" {
			return Key{}, false, nil
		}
		parsed.Public, err = parseEd25519(object)
	default:
		return Key{}, false, nil
	}
	return parsed, err == nil && parsed.Public != nil, err
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
	raw, err := DecodeBase64(text)
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
	if n.Bit(0) == 0 || weakPrimes(n) {
		return nil, errors.New("is an RSA key of a known weak kind; replace it")
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

// Find is the one key that a token of this key id and algorithm can have been
// signed with. It is nil when none fits, and when several different ones do: a
// choice between keys would be a guess, for a token without a key id (id empty)
// as for an id that the set gives to two keys. known is false when the set has no
// key of that id at all.
func (s *KeySet) Find(id, algorithm string) (found *Key, known bool) {
	for i := range s.keys {
		key := &s.keys[i]
		if id != "" && key.ID != id {
			continue
		}
		known = true
		if key.Algorithm != "" && !sameAlgorithm(key.Algorithm, algorithm) || !fits(key.Public, algorithm) {
			continue
		}
		if found != nil && !equal(found.Public, key.Public) {
			return nil, true
		}
		found = key
	}
	return found, known
}

// sameAlgorithm also knows that with an Ed25519 key, which is the only kind of that
// family here, EdDSA is what RFC 9864 calls Ed25519.
func sameAlgorithm(a, b string) bool {
	if a == "EdDSA" {
		a = "Ed25519"
	}
	if b == "EdDSA" {
		b = "Ed25519"
	}
	return a == b
}

func equal(a, b crypto.PublicKey) bool {
	comparable, ok := a.(interface {
		Equal(other crypto.PublicKey) bool
	})
	return ok && comparable.Equal(b)
}

// fits reports whether a key is of the kind that an algorithm needs (RFC 7518
// section 3.1, RFC 8037 section 3.1, RFC 9864 section 2.2). It is total: an unknown algorithm fits
// nothing.
func fits(key crypto.PublicKey, algorithm string) bool {
	switch public := key.(type) {
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
		return algorithm == "EdDSA" || algorithm == "Ed25519"
	}
	return false
}
