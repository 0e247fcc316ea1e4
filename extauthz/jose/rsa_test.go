package jose_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz/jose"
)

// wycheproofRSA is the digest of the vectors of RSASSA-PKCS1-v1_5, file after file.
const wycheproofRSA = "212142d67f92f88aeb104175df15ad50382d82a17c68399e51eb07e6e52182ab"

// TestWycheproofRSA holds the prepared keys of a set to each vector, and to what
// the standard library says of it. What a vector calls acceptable (a digest's
// parameters left out) is refused.
func TestWycheproofRSA(t *testing.T) {
	folder, sum, accepted := download(t), sha256.New(), 0
	for _, size := range []string{"2048", "3072", "4096", "8192"} {
		for _, hash := range []string{"256", "384", "512"} {
			raw, err := os.ReadFile(filepath.Join(folder, "rsa_signature_"+size+"_sha"+hash+"_test.json"))
			require.NoError(t, err)
			sum.Write(raw)
			accepted += rsaVectors(t, raw, "RS"+hash)
		}
	}
	require.Equal(t, wycheproofRSA, hex.EncodeToString(sum.Sum(nil)))
	require.Equal(t, 89, accepted)
}

func rsaVectors(t *testing.T, raw []byte, algorithm string) (accepted int) {
	t.Helper()
	var file struct {
		TestGroups []struct {
			PublicKey struct{ Modulus, PublicExponent string }
			Tests     []struct {
				ID       int `json:"tcId"`
				Comment  string
				Msg, Sig string
				Result   string
			}
		}
	}
	require.NoError(t, json.Unmarshal(raw, &file))
	for _, group := range file.TestGroups {
		n, _ := new(big.Int).SetString(group.PublicKey.Modulus, 16)
		e, _ := new(big.Int).SetString(group.PublicKey.PublicExponent, 16)
		key := prepared(t, n, e, algorithm)
		for _, test := range group.Tests {
			message, err := hex.DecodeString(test.Msg)
			require.NoError(t, err)
			signature, err := hex.DecodeString(test.Sig)
			require.NoError(t, err)
			good := key.Verify(algorithm, string(message), signature) == nil
			name := fmt.Sprintf("%s %d bits, %d %s", algorithm, n.BitLen(), test.ID, test.Comment)
			require.Equal(t, test.Result == "valid", good, name)
			require.Equal(t, jose.Verify(algorithm, key.Public, string(message), signature) == nil, good, name)
			if good {
				accepted++
			}
		}
	}
	return accepted
}

// prepared is the one key of a set.
func prepared(t testing.TB, n, e *big.Int, algorithm string) *jose.Key {
	t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	set, err := jose.ParseKeySet(fmt.Appendf(nil, `{"keys":[{"kty":"RSA","n":%q,"e":%q}]}`, b64(n.Bytes()), b64(e.Bytes())))
	require.NoError(t, err)
	key, known := set.Find("", algorithm)
	require.True(t, known)
	return key
}

// pair is an RSA key of which the tests choose what the library would not make.
type pair struct {
	n, e, d *big.Int
	key     *jose.Key
}

// newPair makes a modulus of bits and an exponent.
func newPair(t testing.TB, bits int, exponent int64) pair {
	t.Helper()
	made, one := pair{e: big.NewInt(exponent)}, big.NewInt(1)
	for made.d == nil || made.n.BitLen() != bits {
		p, err := rand.Prime(rand.Reader, bits/2)
		require.NoError(t, err)
		q, err := rand.Prime(rand.Reader, bits-bits/2)
		require.NoError(t, err)
		made.n = new(big.Int).Mul(p, q)
		phi := new(big.Int).Mul(p.Sub(p, one), q.Sub(q, one))
		made.d = new(big.Int).ModInverse(made.e, phi)
	}
	made.key = prepared(t, made.n, made.e, "RS256")
	return made
}

func (p *pair) size() int { return (p.n.BitLen() + 7) / 8 }

// sign makes a signature of which encoded is what verification comes to, if it is
// less than the modulus.
func (p *pair) sign(encoded []byte) []byte {
	number := new(big.Int).SetBytes(encoded)
	return number.Exp(number, p.d, p.n).FillBytes(make([]byte, p.size()))
}

// encode is EMSA-PKCS1-v1_5 (RFC 8017 section 9.2) with SHA-256, by itself.
func (p *pair) encode(message string) []byte {
	sum := sha256.Sum256([]byte(message))
	info, _ := hex.DecodeString("3031300d060960864801650304020105000420")
	tail := append(append([]byte{0}, info...), sum[:]...)
	return append(append([]byte{0, 1}, bytes.Repeat([]byte{0xff}, p.size()-2-len(tail))...), tail...)
}

// TestRSAOfEachKind holds prepared keys to crypto/rsa for odd lengths, exponents
// and signatures.
func TestRSAOfEachKind(t *testing.T) {
	const message = "header.claims"
	hashes := map[string]func() (crypto.Hash, []byte){
		"RS256": func() (crypto.Hash, []byte) { sum := sha256.Sum256([]byte(message)); return crypto.SHA256, sum[:] },
		"RS384": func() (crypto.Hash, []byte) { sum := sha512.Sum384([]byte(message)); return crypto.SHA384, sum[:] },
		"RS512": func() (crypto.Hash, []byte) { sum := sha512.Sum512([]byte(message)); return crypto.SHA512, sum[:] },
	}
	library, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	key := prepared(t, library.N, big.NewInt(int64(library.E)), "RS256")
	for algorithm, hash := range hashes {
		kind, sum := hash()
		signature, err := rsa.SignPKCS1v15(nil, library, kind, sum)
		require.NoError(t, err)
		for other := range hashes {
			require.Equal(t, other == algorithm, key.Verify(other, message, signature) == nil, "%s as %s", algorithm, other)
		}
		require.Error(t, key.Verify(algorithm, message+".", signature))
		require.Error(t, key.Verify("PS"+algorithm[2:], message, signature))
		require.Error(t, key.Verify("ES256", message, signature))
		require.Error(t, key.Verify("none", message, signature))
	}
	for _, kind := range []struct {
		bits     int
		exponent int64
	}{{2048, 3}, {2048, 1<<31 - 1}, {2049, 65537}, {2056, 17}, {2111, 65537}} {
		p := newPair(t, kind.bits, kind.exponent)
		good := p.sign(p.encode(message))
		above := new(big.Int).Add(new(big.Int).SetBytes(good), p.n)
		for name, signature := range map[string][]byte{
			"good": good, "empty": {}, "short": good[1:], "long": append([]byte{0}, good...), "zero": make([]byte, p.size()),
			"one":         append(make([]byte, p.size()-1), 1),
			"the modulus": p.n.Bytes(), "ones": bytes.Repeat([]byte{0xff}, p.size()), "above the modulus": above.Bytes(),
		} {
			got := p.key.Verify("RS256", message, signature) == nil
			require.Equal(t, name == "good", got, "%v: %s", kind, name)
			require.Equal(t, jose.Verify("RS256", p.key.Public, message, signature) == nil, got, "%v: %s", kind, name)
		}
	}
}

// TestRSAForgeries are messages in which a verifier that reads the padding, and
// does not read all of it, finds the digest: each is one that such a verifier
// takes, which is the test's own control.
func TestRSAForgeries(t *testing.T) {
	const message = "header.claims"
	p := newPair(t, 2048, 3)
	right := p.encode(message)
	tail := right[bytes.IndexByte(right[1:], 0)+1:]
	padded := func(padding int, behind []byte) []byte {
		start := append(append([]byte{0, 1}, bytes.Repeat([]byte{0xff}, padding)...), tail...)
		return append(start, behind...)[:p.size()]
	}
	rest := make([]byte, p.size())
	// careless skips what stands before the first zero and reads no end.
	careless := func(encoded []byte) bool {
		at := bytes.IndexByte(encoded[1:], 0) + 1
		return at > 0 && bytes.HasPrefix(encoded[at:], tail)
	}
	for name, encoded := range map[string][]byte{
		"eight of padding, zeros behind": padded(8, rest),
		"no padding, zeros behind":       padded(0, rest),
		"ones behind":                    padded(8, bytes.Repeat([]byte{0xff}, p.size())),
		"another block type":             append([]byte{0, 2}, right[2:]...),
		"padding of another byte":        append([]byte{0, 1, 0xfe}, right[3:]...),
	} {
		require.True(t, careless(encoded), name)
		signature := p.sign(encoded)
		require.Error(t, p.key.Verify("RS256", message, signature), name)
		require.Error(t, jose.Verify("RS256", p.key.Public, message, signature), name)
	}
	require.True(t, careless(right))
	require.NoError(t, p.key.Verify("RS256", message, p.sign(right)))
}

// FuzzRSA changes the encoded message, signs what came of it, and holds prepared
// keys to crypto/rsa: only the right message is taken.
func FuzzRSA(f *testing.F) {
	const message = "header.claims"
	p := newPair(f, 2048, 65537)
	right := p.encode(message)
	f.Add(0, []byte{})
	f.Add(0, []byte{0, 2})
	f.Add(2, []byte{0xfe})
	f.Add(10, right[len(right)-52:])
	f.Add(204, []byte{0})
	f.Add(len(right)-1, []byte{0})
	f.Fuzz(func(t *testing.T, at int, with []byte) {
		encoded := bytes.Clone(right)
		copy(encoded[uint(at)%uint(len(encoded)):], with) //nolint:gosec // any place will do
		signature := p.sign(encoded)
		got := p.key.Verify("RS256", message, signature) == nil
		if got != (jose.Verify("RS256", p.key.Public, message, signature) == nil) {
			t.Fatalf("the two disagree: %x", encoded)
		}
		// One that is not less than the modulus comes to another message.
		if got != bytes.Equal(encoded, right) && new(big.Int).SetBytes(encoded).Cmp(p.n) < 0 {
			t.Fatalf("accepted %t: %x", got, encoded)
		}
		raw := bytes.Clone(signature)
		copy(raw[uint(at)%uint(len(raw)):], with) //nolint:gosec // any place will do
		if (p.key.Verify("RS256", message, raw) == nil) != (jose.Verify("RS256", p.key.Public, message, raw) == nil) {
			t.Fatalf("the two disagree about the signature %x", raw)
		}
	})
}
