package proof_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
)

// FuzzProof holds that no text but a proof signed by the one key is taken, and
// that nothing breaks.
func FuzzProof(f *testing.F) {
	x := newFixture(f, nil)
	bound := x.token(x.jkt())
	good := x.proof(x.client, bound, nil, nil)
	signed, signature := good[:strings.LastIndexByte(good, '.')], good[strings.LastIndexByte(good, '.'):]
	f.Add(good)
	f.Add(x.proof(x.other, bound, nil, nil))
	f.Add(x.proof(x.client, bound, map[string]any{"jwk": map[string]any{"kty": "oct", "k": "AAAA"}}, nil))
	f.Add(signed + ".AAAA")
	f.Add("a.b.c")
	f.Add("e30.e30." + signature)
	method := x.method(nil)
	f.Fuzz(func(t *testing.T, text string) {
		_, refusal := outcome(method, request("authorization", "DPoP "+bound, "dpop", text), authtest.Now())
		if refusal == nil {
			require.True(t, strings.HasPrefix(text, signed+"."), text)
			return
		}
		require.NotEqual(t, extauthz.ReasonInternal, refusal.Reason)
	})
}

// What a token without a binding pays for the guard.
func BenchmarkGuard(b *testing.B) {
	x := newFixture(b, nil)
	plain := x.token(nil)
	method := x.method(nil)
	r := request("authorization", "Bearer "+plain)
	b.Run("not bound, in cache", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, refusal := outcome(method, r, authtest.Now()); refusal != nil {
				b.Fatal(refusal)
			}
		}
	})
	sealed := x.token(x.x5t())
	bound := request("authorization", "Bearer "+sealed)
	bound.Certificate = authtest.EncodedPEM(x.cert)
	b.Run("bound to a certificate", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, refusal := outcome(method, bound, authtest.Now()); refusal != nil {
				b.Fatal(refusal)
			}
		}
	})
	jkt := x.token(x.jkt())
	proofs := make([]string, 0, 4096)
	for i := range cap(proofs) {
		proofs = append(proofs, x.proof(x.client, jkt, nil, map[string]any{"jti": strconv.Itoa(i)}))
	}
	b.Run("bound to a DPoP key", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			// A proof that was used before takes the same way to its refusal.
			_, _ = outcome(method, request("authorization", "DPoP "+jkt, "dpop", proofs[i%len(proofs)]), authtest.Now())
			i++
		}
	})
}
