package token_test

import (
	"errors"
	"testing"

	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/token"
)

// FuzzVerify holds that no text which the fuzzer comes to is accepted, unless it
// is the one good token, and that every refusal has a reason.
func FuzzVerify(f *testing.F) {
	ring := authtest.NewRing(f)
	verifier, err := verifiers(f, token.Options{}).Verifier(authtest.Provider(authtest.KeySet(f, ring.All()...)))
	if err != nil {
		f.Fatal(err)
	}
	good := ring.EC.Token(f, nil, authtest.Claims(nil))
	for _, seed := range []string{good, good + ".", good[:40], "", "..", "e30.e30.AA", "eyJhbGciOiJub25lIn0.e30.", hmacToken(`{"alg":"HS256"}`, goodClaims, []byte("k"))} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := verifier.Verify(t.Context(), authtest.Now(), text)
		if err == nil {
			if text != good {
				t.Fatalf("accepted %q", text)
			}
			return
		}
		var refusal *extauthz.Refusal
		if got != nil || !errors.As(err, &refusal) {
			t.Fatalf("got %v and %v", got, err)
		}
	})
}

// FuzzKeySet holds that reading a key set neither breaks nor yields a key that
// verification breaks on.
func FuzzKeySet(f *testing.F) {
	ring := authtest.NewRing(f)
	good := ring.EC.Token(f, nil, authtest.Claims(nil))
	for _, key := range ring.All() {
		f.Add(authtest.KeySet(f, key))
	}
	f.Add(`{"keys":[{"kty":"RSA","n":"AA","e":"AQAB"}]}`)
	f.Add(`{"keys":[{"kty":"EC","crv":"P-256","x":"","y":""}]}`)
	all := verifiers(f, token.Options{})
	f.Fuzz(func(t *testing.T, text string) {
		verifier, err := all.Verifier(authtest.Provider(text))
		if err == nil {
			_, _ = verifier.Verify(t.Context(), authtest.Now(), good)
		}
	})
}
