package token_test

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/token"
)

// Ed25519 is RFC 9864's name for what EdDSA does with that curve. Each name is
// taken where the policy lists it, whichever of the two the key's document has.
func TestEd25519ByBothNames(t *testing.T) {
	ring := authtest.NewRing(t)
	signed := func(algorithm, key string) string {
		text := authtest.B64([]byte(`{"alg":"`+algorithm+`","kid":"`+key+`"}`)) + "." + authtest.B64([]byte(strings.Replace(goodClaims, "1772370000", "1772373600", 1)))
		return text + "." + authtest.B64(ed25519.Sign(ring.Ed.Private.(ed25519.PrivateKey), []byte(text)))
	}
	for _, named := range []string{"EdDSA", "Ed25519", ""} {
		set := strings.Replace(authtest.KeySet(t, ring.Ed, ring.RSA), `"alg":"EdDSA"`, `"alg":"`+named+`"`, 1)
		if named == "" {
			set = strings.Replace(set, `"alg":"",`, "", 1)
		}
		for _, c := range []struct {
			listed []string
			token  string
			good   bool
		}{
			{[]string{"Ed25519"}, signed("Ed25519", "ed"), true},
			{[]string{"EdDSA"}, signed("EdDSA", "ed"), true},
			{[]string{"EdDSA", "Ed25519"}, signed("Ed25519", "ed"), true},
			{[]string{"EdDSA"}, signed("Ed25519", "ed"), false},
			{[]string{"Ed25519"}, signed("EdDSA", "ed"), false},
			{[]string{"Ed25519", "RS256"}, signed("Ed25519", "rsa"), false},
			{[]string{"Ed25519", "RS256"}, signed("RS256", "ed"), false},
			{[]string{"Ed25519"}, signed("ed25519", "ed"), false},
			{[]string{"Ed25519"}, signed("Ed448", "ed"), false},
		} {
			provider := authtest.Provider(set)
			provider.Algorithms = c.listed
			verifier, err := verifiers(t, token.Options{}).Verifier(provider)
			require.NoError(t, err)
			_, err = verifier.Verify(t.Context(), authtest.Now(), c.token)
			if c.good {
				require.NoError(t, err, "%q, %v", named, c.listed)
				continue
			}
			require.Equal(t, extauthz.ReasonTokenInvalid, reasonOf(t, err), "%q, %v: %s", named, c.listed, c.token)
		}
	}
	for _, name := range []string{"Ed448", "ED25519", "ESP256"} {
		provider := authtest.Provider(authtest.KeySet(t, ring.Ed))
		provider.Algorithms = []string{name}
		_, err := verifiers(t, token.Options{}).Verifier(provider)
		require.ErrorContains(t, err, `algorithms[0]: "`+name+`" is not an asymmetric`)
	}
}
