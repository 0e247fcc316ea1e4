package token_test

import (
	"fmt"
	"testing"

	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/token"
)

func BenchmarkVerify(b *testing.B) {
	ring := authtest.NewRing(b)
	verifier, err := verifiers(b, token.Options{}).Verifier(authtest.Provider(authtest.KeySet(b, ring.All()...)))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("cached", func(b *testing.B) {
		signed := ring.RSA.Token(b, nil, authtest.Claims(nil))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := verifier.Verify(b.Context(), authtest.Now(), signed); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, key := range ring.All() {
		b.Run("first-sight-"+key.Algorithm, func(b *testing.B) {
			tokens := make([]string, 512)
			for i := range tokens {
				tokens[i] = key.Token(b, nil, authtest.Claims(map[string]any{"jti": fmt.Sprint(i)}))
			}
			b.ReportAllocs()
			i, round := 0, verifier
			for b.Loop() {
				if i%len(tokens) == 0 {
					b.StopTimer()
					round, err = verifiers(b, token.Options{}).Verifier(authtest.Provider(authtest.KeySet(b, ring.All()...)))
					if err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
				if _, err := round.Verify(b.Context(), authtest.Now(), tokens[i%len(tokens)]); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}
