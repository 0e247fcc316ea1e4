package token_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/token"
)

// TestKnownHeaders holds that a header that is not read anew accepts nothing that a
// new one would not: not another's signature, nor a key that is gone.
func TestKnownHeaders(t *testing.T) {
	ring, other := authtest.NewRing(t), authtest.NewRing(t)
	all := verifiers(t, token.Options{})
	verifier, err := all.Verifier(authtest.Provider(authtest.KeySet(t, ring.All()...)))
	require.NoError(t, err)
	verify := func(v *token.Verifier, text string) error {
		_, err := v.Verify(t.Context(), authtest.Now(), text)
		return err
	}
	for _, key := range []authtest.Key{ring.RSA, ring.EC, ring.RSA} { // twice the same in turn with another
		for i := range 3 {
			require.NoError(t, verify(verifier, key.Token(t, nil, authtest.Claims(map[string]any{"jti": i}))))
		}
		header, _, _ := strings.Cut(key.Token(t, nil, authtest.Claims(nil)), ".")
		for name, signed := range map[string]string{
			"another key's":  other.RSA.Token(t, map[string]any{"alg": key.Algorithm, "kid": key.ID}, authtest.Claims(nil)),
			"another method": header + "." + strings.SplitN(ring.Ed.Token(t, nil, authtest.Claims(nil)), ".", 2)[1],
			"no signature":   header + "." + authtest.B64([]byte(goodClaims)) + ".",
			"more behind":    header + "A." + authtest.B64([]byte(goodClaims)) + ".AAAA",
		} {
			require.Equal(t, extauthz.ReasonTokenInvalid, reasonOf(t, verify(verifier, signed)), name)
		}
	}
	// The rules of one provider say nothing about the header of another's tokens.
	strict := authtest.Provider(authtest.KeySet(t, ring.All()...))
	strict.Types = []string{"at+jwt"}
	second, err := all.Verifier(strict)
	require.NoError(t, err)
	require.Equal(t, extauthz.ReasonTokenInvalid, reasonOf(t, verify(second, ring.RSA.Token(t, nil, authtest.Claims(nil)))))
}

// TestOneSightIsCheap bounds what reading and verifying a token allocates, and with
// it what a flood of new ones costs the collector.
func TestOneSightIsCheap(t *testing.T) {
	ring := authtest.NewRing(t)
	verifier, err := verifiers(t, token.Options{}).Verifier(authtest.Provider(authtest.KeySet(t, ring.RSA)))
	require.NoError(t, err)
	tokens := make([]string, 200)
	for i := range tokens {
		tokens[i] = ring.RSA.Token(t, nil, authtest.Claims(map[string]any{"jti": i}))
	}
	next := 0
	allocations := testing.AllocsPerRun(len(tokens)-1, func() {
		_, err := verifier.Verify(t.Context(), authtest.Now(), tokens[next])
		require.NoError(t, err)
		next++
	})
	require.LessOrEqual(t, allocations, 24.0)
}
