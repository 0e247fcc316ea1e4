package token_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/token"
)

// pair is r and s of a signature, each of 32 bytes.
func pair(r, s *big.Int) []byte {
	raw := make([]byte, 64)
	r.FillBytes(raw[:32])
	s.FillBytes(raw[32:])
	return raw
}

// Each signature is over a good token, by the right key, and wrong or odd in its
// form.
func TestForgedAndOddSignatures(t *testing.T) {
	ring := authtest.NewRing(t)
	provider := authtest.Provider(authtest.KeySet(t, ring.All()...))
	provider.Algorithms = []string{"RS256", "PS256", "ES256", "EdDSA"}
	verifier, err := verifiers(t, token.Options{}).Verifier(provider)
	require.NoError(t, err)
	input := func(header string) string {
		return authtest.B64([]byte(header)) + "." + authtest.B64([]byte(strings.Replace(goodClaims, "1772370000", "1772373600", 1)))
	}
	es, rs, ps, ed := input(`{"alg":"ES256","kid":"ec"}`), input(`{"alg":"RS256","kid":"rsa"}`), input(`{"alg":"PS256","kid":"rsa"}`), input(`{"alg":"EdDSA","kid":"ed"}`)
	digest := func(text string) []byte { sum := sha256.Sum256([]byte(text)); return sum[:] }
	order := elliptic.P256().Params().N
	r, s, err := ecdsa.Sign(rand.Reader, ring.EC.Private.(*ecdsa.PrivateKey), digest(es))
	require.NoError(t, err)
	der, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
	require.NoError(t, err)
	rsaKey := ring.RSA.Private.(*rsa.PrivateKey)
	pkcs1, err := rsa.SignPKCS1v15(rand.Reader, rsaKey, crypto.SHA256, digest(rs))
	require.NoError(t, err)
	pss := func(salt int) []byte {
		raw, err := rsa.SignPSS(rand.Reader, rsaKey, crypto.SHA256, digest(ps), &rsa.PSSOptions{SaltLength: salt})
		require.NoError(t, err)
		return raw
	}
	edKey := ring.Ed.Private.(ed25519.PrivateKey)
	edSigned := ed25519.Sign(edKey, []byte(ed))
	// S + L is another spelling of S, which RFC 8032 section 5.1.7 refuses.
	malleable := append([]byte{}, edSigned...)
	group, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	scalar := append([]byte{}, malleable[32:]...)
	reverse(scalar)
	sum := new(big.Int).Add(new(big.Int).SetBytes(scalar), group).FillBytes(make([]byte, 32))
	reverse(sum)
	copy(malleable[32:], sum)
	zero := new(big.Int)
	for name, test := range map[string]struct {
		input     string
		signature []byte
		good      bool
	}{
		"ES256":                     {es, pair(r, s), true},
		"ES256, the other s":        {es, pair(r, new(big.Int).Sub(order, s)), true}, // JWS has no low-s rule (RFC 7518 section 3.4)
		"ES256, both zero":          {es, pair(zero, zero), false},
		"ES256, r zero":             {es, pair(zero, s), false},
		"ES256, s zero":             {es, pair(r, zero), false},
		"ES256, r the order":        {es, pair(order, s), false},
		"ES256, s the order":        {es, pair(r, order), false},
		"ES256, r and s swapped":    {es, pair(s, r), false},
		"ES256, DER":                {es, der, false},
		"ES256, one byte more":      {es, append(pair(r, s), 0), false},
		"ES256, zeros before":       {es, append(make([]byte, 2), pair(r, s)...), false},
		"ES256, padded to P-384":    {es, append(append(append(make([]byte, 16), pair(r, s)[:32]...), make([]byte, 16)...), pair(r, s)[32:]...), false},
		"ES256, one byte less":      {es, pair(r, s)[:63], false},
		"RS256":                     {rs, pkcs1, true},
		"RS256, zero before":        {rs, append([]byte{0}, pkcs1...), false},
		"RS256, one byte more":      {rs, append(append([]byte{}, pkcs1...), 0), false},
		"RS256, the modulus added":  {rs, new(big.Int).Add(new(big.Int).SetBytes(pkcs1), rsaKey.N).Bytes(), false},
		"RS256, one":                {rs, big.NewInt(1).FillBytes(make([]byte, 256)), false},
		"RS256, zeros":              {rs, make([]byte, 256), false},
		"PS256":                     {ps, pss(rsa.PSSSaltLengthEqualsHash), true},
		"PS256, no salt":            {ps, pss(0), false}, // RFC 7518 section 3.5
		"PS256, long salt":          {ps, pss(48), false},
		"RS256 said, PSS made":      {rs, pss(rsa.PSSSaltLengthEqualsHash), false},
		"EdDSA":                     {ed, edSigned, true},
		"EdDSA, S not reduced":      {ed, malleable, false},
		"EdDSA, zeros":              {ed, make([]byte, 64), false},
		"EdDSA, one byte more":      {ed, append(append([]byte{}, edSigned...), 0), false},
		"EdDSA, hashed (Ed25519ph)": {ed, prehashed(t, edKey, ed), false},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				_, err := verifier.Verify(t.Context(), authtest.Now(), test.input+"."+authtest.B64(test.signature))
				if test.good {
					require.NoError(t, err, "negative control")
					continue
				}
				require.Equal(t, extauthz.ReasonTokenInvalid, reasonOf(t, err))
			}
		})
	}
	// One token has one spelling: no other text with the same bytes passes.
	good := es + "." + authtest.B64(pair(r, s))
	last := good[len(good)-1]
	for _, other := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
		if byte(other) == last {
			continue
		}
		spelled := good[:len(good)-1] + string(other)
		raw, err := base64.RawURLEncoding.DecodeString(spelled[strings.LastIndex(spelled, ".")+1:])
		require.NoError(t, err)
		if string(raw) == string(pair(r, s)) {
			_, err := verifier.Verify(t.Context(), authtest.Now(), spelled)
			require.Equal(t, extauthz.ReasonTokenInvalid, reasonOf(t, err), "stray bits at the end")
		}
	}
}

func reverse(raw []byte) {
	for i, j := 0, len(raw)-1; i < j; i, j = i+1, j-1 {
		raw[i], raw[j] = raw[j], raw[i]
	}
}

func prehashed(t *testing.T, key ed25519.PrivateKey, text string) []byte {
	sum := crypto.SHA512.New()
	sum.Write([]byte(text))
	raw, err := key.Sign(rand.Reader, sum.Sum(nil), crypto.SHA512)
	require.NoError(t, err)
	return raw
}

// What a claim says is one thing, however it is spelled; and what JSON leaves to
// parsers is refused.
func TestClaimsInOddSpellings(t *testing.T) {
	ring := authtest.NewRing(t)
	verifier, err := verifiers(t, token.Options{}).Verifier(authtest.Provider(authtest.KeySet(t, ring.EC)))
	require.NoError(t, err)
	claims := strings.Replace(goodClaims, "1772370000", "1772373600", 1)
	const header = `{"alg":"ES256","kid":"ec"}`
	for name, test := range map[string]struct {
		header, claims string
		subject        string // empty when it is refused
	}{
		"as usual":              {header, claims, "alice"},
		"escaped name":          {header, strings.Replace(claims, `"sub"`, `"\u0073ub"`, 1), "alice"},
		"escaped value":         {header, strings.Replace(claims, `alice`, `\u0061lice`, 1), "alice"},
		"escaped alg":           {`{"alg":"\u0045S256","kid":"ec"}`, claims, "alice"},
		"escaped slashes":       {header, strings.Replace(claims, `https://issuer`, `https:\/\/issuer`, 1), "alice"},
		"exp with an exponent":  {header, strings.Replace(claims, `1772373600`, `17723736E2`, 1), "alice"},
		"white space":           {header, " \n\t" + claims + "\r\n", "alice"},
		"issuer with a zero":    {header, strings.Replace(claims, `issuer.example`, `issuer.example\u0000`, 1), ""},
		"half a character":      {header, strings.Replace(claims, `alice`, `alice\ud800`, 1), ""},
		"two halves, swapped":   {header, strings.Replace(claims, `alice`, `\udc00\ud800`, 1), ""},
		"names in other case":   {header, strings.Replace(claims, `"aud"`, `"AUD"`, 1), ""},
		"twice in other case":   {header, `{"ISS":"https://evil.example",` + claims[1:], "alice"},
		"twice, deep":           {header, `{"a":[{"b":1,"b":2}],` + claims[1:], ""},
		"byte order mark":       {header, "\ufeff" + claims, ""},
		"a comment":             {header, claims[:1] + "/**/" + claims[1:], ""},
		"a trailing comma":      {header, claims[:len(claims)-1] + ",}", ""},
		"single quotes":         {header, strings.ReplaceAll(claims, `"`, `'`), ""},
		"exp infinite":          {header, strings.Replace(claims, `1772373600`, `1e999`, 1), ""},
		"exp hexadecimal":       {header, strings.Replace(claims, `1772373600`, `0x69a4`, 1), ""},
		"exp null":              {header, strings.Replace(claims, `1772373600`, `null`, 1), ""},
		"exp true":              {header, strings.Replace(claims, `1772373600`, `true`, 1), ""},
		"header a list":         {`["ES256"]`, claims, ""},
		"header with a tail":    {header + "{}", claims, ""},
		"alg and a second alg":  {`{"alg":"ES256","\u0061lg":"none","kid":"ec"}`, claims, ""},
		"kid with a zero":       {`{"alg":"ES256","kid":"ec\u0000"}`, claims, ""},
		"deep header":           {`{"alg":"ES256","kid":"ec","x":` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `}`, claims, ""},
		"many members":          {header, `{"` + strings.Repeat(`a":1,"a`, 1) + `x":1,` + claims[1:], "alice"},
		"empty claims":          {header, ``, ""},
		"claims are a JWS":      {header, `"` + ring.EC.Token(t, nil, authtest.Claims(nil)) + `"`, ""},
		"typ a JWE's":           {`{"alg":"ES256","kid":"ec","typ":"JWE"}`, claims, ""},
		"iss empty":             {header, strings.Replace(claims, `https://issuer.example`, ``, 1), ""},
		"sub empty":             {header, strings.Replace(claims, `alice`, ``, 1), ""},
		"aud list with objects": {header, strings.Replace(claims, `"weir"`, `[{"weir":1},["weir"]]`, 1), ""},
	} {
		t.Run(name, func(t *testing.T) {
			proof, err := verifier.Verify(t.Context(), authtest.Now(), ring.EC.Sign(t, test.header, test.claims))
			if test.subject == "" {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.subject, proof.Subject)
		})
	}
}
