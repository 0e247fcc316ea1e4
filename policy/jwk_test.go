package policy

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

// A key as a JWK is the key that its PEM, or its bytes, would be; one that says it
// is for something else is refused, and so is what cannot be read.
func TestSignatureKeysAsJWK(t *testing.T) {
	b64 := base64.RawURLEncoding.EncodeToString
	edPublic, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	point, err := ecKey.PublicKey.Bytes()
	require.NoError(t, err)
	secret := []byte("0123456789abcdef0123456789abcdef")
	object := func(members map[string]any, changes ...any) string {
		all := map[string]any{}
		for name, value := range members {
			all[name] = value
		}
		for i := 0; i < len(changes); i += 2 {
			all[changes[i].(string)] = changes[i+1]
		}
		raw, err := json.Marshal(all)
		require.NoError(t, err)
		return string(raw)
	}
	ed := map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64(edPublic)}
	ec := map[string]any{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}
	rs := map[string]any{"kty": "RSA", "n": b64(rsaKey.N.Bytes()), "e": "AQAB"}
	oct := map[string]any{"kty": "oct", "k": b64(secret)}
	even := new(big.Int).Add(rsaKey.N, big.NewInt(1))

	for name, c := range map[string]struct {
		algorithm, value string
		public           any
		problem          string
	}{
		"OKP":               {"ed25519", object(ed, "alg", "EdDSA", "use", "sig", "kid", "k1", "key_ops", []string{"verify"}), edPublic, ""},
		"OKP, RFC 9864":     {"ed25519", "\n " + object(ed, "alg", "Ed25519"), edPublic, ""},
		"EC":                {"ecdsa-p256-sha256", object(ec, "alg", "ES256"), &ecKey.PublicKey, ""},
		"RSA":               {"rsa-pss-sha512", object(rs, "alg", "PS512"), &rsaKey.PublicKey, ""},
		"RSA, PKCS 1":       {"rsa-v1_5-sha256", object(rs), &rsaKey.PublicKey, ""},
		"oct":               {"hmac-sha256", object(oct, "alg", "HS256"), nil, ""},
		"another algorithm": {"ed25519", object(ed, "alg", "ES256"), nil, `alg is "ES256", which is not ed25519`},
		"RS256 for PSS":     {"rsa-pss-sha512", object(rs, "alg", "RS256"), nil, `alg is "RS256"`},
		"another kind":      {"ed25519", object(ec), nil, "of a kind that ed25519 does not take"},
		"public as shared":  {"hmac-sha256", object(rs), nil, "no shared key"},
		"shared as public":  {"ed25519", object(oct), nil, "the JWK is a shared key"},
		"short secret":      {"hmac-sha256", object(oct, "k", b64(secret[:31])), nil, "has 31 bytes"},
		"empty secret":      {"hmac-sha256", object(oct, "k", ""), nil, "k is absent"},
		"private":           {"ed25519", object(ed, "d", b64(edPublic)), nil, "is a private key"},
		"for encryption":    {"ecdsa-p256-sha256", object(ec, "use", "enc"), nil, `use is "enc"`},
		"for signing only":  {"ecdsa-p256-sha256", object(ec, "key_ops", []string{"sign"}), nil, "key_ops have no verify"},
		"another id":        {"ecdsa-p256-sha256", object(ec, "kid", "other"), nil, `kid is "other", and the key's id is "k1"`},
		"no kind":           {"ed25519", object(ed, "kty", ""), nil, `no "kty"`},
		"unknown kind":      {"ed25519", object(ed, "kty", "AKP"), nil, `kty is "AKP"`},
		"another curve":     {"ed25519", object(ed, "crv", "Ed448"), nil, `crv is "Ed448"`},
		"P-521":             {"ecdsa-p256-sha256", object(ec, "crv", "P-521"), nil, `crv is "P-521"`},
		"not on the curve":  {"ecdsa-p256-sha256", object(ec, "y", b64(make([]byte, 32))), nil, "not a point"},
		"short coordinate":  {"ecdsa-p256-sha256", object(ec, "y", b64(point[34:])), nil, "32 and 31 bytes"},
		"padded":            {"ed25519", object(ed, "x", b64(edPublic)+"="), nil, "x is absent or not base64url"},
		"a line break":      {"ed25519", object(ed, "x", b64(edPublic)+"\n"), nil, "x is absent or not base64url"},
		"small RSA":         {"rsa-pss-sha512", object(rs, "n", b64(rsaKey.N.Bytes()[:128])), nil, "n has"},
		"even RSA":          {"rsa-pss-sha512", object(rs, "n", b64(even.Bytes())), nil, "n has"},
		"RSA with e of 1":   {"rsa-pss-sha512", object(rs, "e", "AQ"), nil, "e is not an odd number"},
		"a number":          {"ed25519", object(ed, "x", 7), nil, "not of the type"},
		"no JSON":           {"ed25519", "{" + object(ed), nil, "nor a JWK"},
	} {
		t.Run(name, func(t *testing.T) {
			message := &rulesv1.SignatureKey{Id: "k1", Algorithm: c.algorithm}
			err := setSignatureKey(message, []byte(c.value))
			if c.problem != "" {
				require.ErrorContains(t, err, c.problem)
				require.Nil(t, message.GetKey())
				require.NotContains(t, err.Error(), b64(secret), "no error quotes a key")
				return
			}
			require.NoError(t, err)
			if c.public == nil {
				require.Equal(t, secret, message.GetSecret())
				return
			}
			der, err := x509.MarshalPKIXPublicKey(c.public)
			require.NoError(t, err)
			require.Equal(t, der, message.GetPublicKey())
		})
	}
	// A shared key that is JSON and no JWK is its bytes, as it has always been.
	raw := `{"secret": "` + strings.Repeat("x", 32) + `"}`
	message := &rulesv1.SignatureKey{Algorithm: "hmac-sha256"}
	require.NoError(t, setSignatureKey(message, []byte(raw)))
	require.Equal(t, raw, string(message.GetSecret()))
}
