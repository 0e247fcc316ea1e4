package jose

import (
	"bytes"
	"crypto/fips140"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"

	"filippo.io/bigmod"

	"weir.dev/extauthz/internal/textsum"
)

// keptRSA verifies RSASSA-PKCS1-v1_5 by one key whose modulus is prepared once:
// crypto/rsa prepares it anew for each signature, at a third of the whole price
// (ADR 0043). There is nothing secret in it. Immutable.
type keptRSA struct {
	modulus  *bigmod.Modulus
	exponent uint
	// heads are the encoded messages (RFC 8017 section 9.2) of the modulus's
	// length, by scheme, without the digest that ends them.
	heads [3][]byte
}

// scheme is RSASSA-PKCS1-v1_5 with one hash.
type scheme int

const (
	pkcs1SHA256 scheme = iota
	pkcs1SHA384
	pkcs1SHA512
)

func pkcs1(algorithm string) (scheme, bool) {
	switch algorithm {
	case "RS256":
		return pkcs1SHA256, true
	case "RS384":
		return pkcs1SHA384, true
	case "RS512":
		return pkcs1SHA512, true
	}
	return 0, false
}

// digestInfo is what stands before the digest (RFC 8017 section 9.2, note 1), and
// the digest's length.
func (s scheme) digestInfo() (prefix []byte, length int) {
	switch s {
	case pkcs1SHA256:
		return []byte("\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"), sha256.Size
	case pkcs1SHA384:
		return []byte("\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30"), sha512.Size384
	default:
		return []byte("\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40"), sha512.Size
	}
}

// keep prepares an RSA key that parseRSA has checked; others are left as they are,
// and so are all where only a FIPS 140 module may verify.
func (k *Key) keep() {
	if public, ok := k.Public.(*rsa.PublicKey); ok && !fips140.Enabled() {
		k.kept = newKeptRSA(public)
	}
}

// newKeptRSA is nil for a key that crypto/rsa would refuse: it has to judge that
// one itself.
func newKeptRSA(public *rsa.PublicKey) *keptRSA {
	if bits := public.N.BitLen(); bits < minRSABits || bits > maxRSABits || public.N.Bit(0) == 0 || public.E < 3 || public.E&1 == 0 || public.E > 1<<31-1 {
		return nil
	}
	modulus, err := bigmod.NewModulus(public.N.Bytes())
	if err != nil {
		return nil
	}
	kept := &keptRSA{modulus: modulus, exponent: uint(public.E)}
	for s := range kept.heads {
		prefix, length := scheme(s).digestInfo()
		padding := modulus.Size() - 3 - len(prefix) - length
		kept.heads[s] = bytes.Join([][]byte{{0, 1}, bytes.Repeat([]byte{0xff}, padding), {0}, prefix}, nil)
	}
	return kept
}

// verify is RSASSA-PKCS1-V1_5-VERIFY (RFC 8017 section 8.2.2): the encoded message
// that must be there is made and compared, so that no padding is ever read.
func (k *keptRSA) verify(by scheme, signingInput string, signature []byte) bool {
	if len(signature) != k.modulus.Size() {
		return false
	}
	number, err := bigmod.NewNat().SetBytes(signature, k.modulus)
	if err != nil { // not less than the modulus
		return false
	}
	message := bigmod.NewNat().ExpShortVarTime(number, k.exponent, k.modulus).Bytes(k.modulus)
	head := k.heads[by]
	return subtle.ConstantTimeCompare(message[:len(head)], head)&
		subtle.ConstantTimeCompare(message[len(head):], by.digest(signingInput)) == 1
}

func (s scheme) digest(text string) []byte {
	switch s {
	case pkcs1SHA256:
		sum := textsum.Sum(text)
		return sum[:]
	case pkcs1SHA384:
		sum := sha512.Sum384([]byte(text))
		return sum[:]
	default:
		sum := sha512.Sum512([]byte(text))
		return sum[:]
	}
}
