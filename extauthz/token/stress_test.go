package token_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/token"
)

func (p *provider) saysAs(kind, text string) {
	p.answer.Store(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{kind}
		_, _ = io.WriteString(w, text)
	}))
}

func TestKeySetsOfAnotherContentTypeOrHost(t *testing.T) {
	ring := authtest.NewRing(t)
	keys := authtest.KeySet(t, ring.EC)
	for kind, good := range map[string]bool{
		"application/json": true, "application/json; charset=utf-8": true, "application/jwk-set+json": true, "application/octet-stream": true,
		"text/plain": true, "": true, "text/html": false, "application/xml": false, "image/png": false, "text/html, application/json": false, "json": false,
	} {
		t.Run("type "+kind, func(t *testing.T) {
			p := newProvider(t)
			p.saysAs(kind, keys)
			_, err := remote(t, p, token.Options{}).Verify(t.Context(), authtest.Now(), long(ring.EC, t))
			require.Equal(t, good, err == nil, "%v", err)
		})
	}
	elsewhere := newProvider(t)
	elsewhere.says(keys)
	for name, test := range map[string]struct {
		location func(p *provider) string
		good     bool
	}{
		"to another host": {func(*provider) string { return elsewhere.URL + "/keys" }, false},
		"to another path": {func(p *provider) string { return p.URL + "/keys" }, true},
		"to itself":       {func(p *provider) string { return p.URL + "/" }, false},
		"to a file":       {func(*provider) string { return "file:///etc/passwd" }, false},
	} {
		t.Run("redirect "+name, func(t *testing.T) {
			p := newProvider(t)
			location := test.location(p)
			p.answer.Store(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/keys" {
					_, _ = io.WriteString(w, keys)
					return
				}
				http.Redirect(w, r, location, http.StatusFound)
			}))
			_, err := remote(t, p, token.Options{}).Verify(t.Context(), authtest.Now(), long(ring.EC, t))
			require.Equal(t, test.good, err == nil, "%v", err)
		})
	}
	require.Zero(t, elsewhere.calls.Load(), "nobody else is asked")
}

func TestOneIDForTwoKeys(t *testing.T) {
	ring, other := authtest.NewRing(t), authtest.NewRing(t)
	p := newProvider(t)
	verifier := remote(t, p, token.Options{})
	same := other.EC
	same.ID = ring.EC.ID
	p.says(authtest.KeySet(t, ring.EC, same, ring.RSA))
	for _, key := range []authtest.Key{ring.EC, same} {
		_, err := verifier.Verify(t.Context(), authtest.Now(), key.Token(t, nil, authtest.Claims(nil)))
		require.Equal(t, extauthz.ReasonTokenInvalid, reasonOf(t, err), "a choice would be a guess")
	}
	_, err := verifier.Verify(t.Context(), authtest.Now(), ring.RSA.Token(t, nil, authtest.Claims(nil)))
	require.NoError(t, err, "the set's other keys are good")
	// The same key twice is one key; keys of two kinds may share an id.
	rsa := ring.RSA
	rsa.ID = ring.EC.ID
	p.says(authtest.KeySet(t, ring.EC, ring.EC, rsa))
	for _, key := range []authtest.Key{ring.EC, rsa} {
		_, err := verifier.Verify(t.Context(), authtest.Now().Add(11*time.Minute), key.Token(t, nil, authtest.Claims(nil)))
		require.NoError(t, err)
	}
}

func TestWeakAndPrivateKeysSpoilTheirSet(t *testing.T) {
	ring := authtest.NewRing(t)
	for name, change := range map[string]func(jwk map[string]any){
		"private exponent": func(jwk map[string]any) { jwk["d"] = "AAAA" },
		"prime":            func(jwk map[string]any) { jwk["p"] = "AAAA" },
		"even modulus":     func(jwk map[string]any) { jwk["n"] = jwk["n"].(string)[:340] + "-A" },
		"even exponent":    func(jwk map[string]any) { jwk["e"] = "AQAC" },
		"huge exponent":    func(jwk map[string]any) { jwk["e"] = "AQAAAAAB" },
		"kid a number":     func(jwk map[string]any) { jwk["kid"] = 1 },
		"alg a list":       func(jwk map[string]any) { jwk["alg"] = []any{"RS256"} },
	} {
		t.Run(name, func(t *testing.T) {
			jwk := ring.RSA.JWK(t)
			change(jwk)
			raw, err := json.Marshal(map[string]any{"keys": []any{ring.EC.JWK(t), jwk}})
			require.NoError(t, err)
			p := newProvider(t)
			p.says(string(raw))
			_, err = remote(t, p, token.Options{}).Verify(t.Context(), authtest.Now(), long(ring.EC, t))
			require.Equal(t, extauthz.ReasonProviderUnavailable, reasonOf(t, err))
		})
	}
	for name, change := range map[string]func(jwk map[string]any){
		"for encryption":  func(jwk map[string]any) { jwk["use"] = "enc" },
		"for wrapping":    func(jwk map[string]any) { jwk["key_ops"] = []any{"wrapKey"} },
		"operations text": func(jwk map[string]any) { jwk["key_ops"] = "verify" },
		"other kind":      func(jwk map[string]any) { jwk["kty"] = "future" },
		"for another alg": func(jwk map[string]any) { jwk["alg"] = "RSA-OAEP" },
	} {
		t.Run("left out: "+name, func(t *testing.T) {
			jwk := ring.RSA.JWK(t)
			change(jwk)
			raw, err := json.Marshal(map[string]any{"keys": []any{ring.EC.JWK(t), jwk}})
			require.NoError(t, err)
			p := newProvider(t)
			p.says(string(raw))
			verifier := remote(t, p, token.Options{})
			_, err = verifier.Verify(t.Context(), authtest.Now(), long(ring.EC, t))
			require.NoError(t, err)
			_, err = verifier.Verify(t.Context(), authtest.Now(), ring.RSA.Token(t, nil, authtest.Claims(nil)))
			require.Error(t, err)
		})
	}
}

// The clock is stepped by an hour, forth and back, while keys and tokens are
// remembered.
func TestClockSteps(t *testing.T) {
	ring, p := authtest.NewRing(t), newProvider(t)
	p.says(authtest.KeySet(t, ring.EC))
	verifier, at := remote(t, p, token.Options{CacheTTL: time.Hour}), authtest.Now()
	claims := func(expires time.Duration) map[string]any {
		return authtest.Claims(map[string]any{"iat": nil, "exp": at.Add(expires).Unix()})
	}
	short, lasting := ring.EC.Token(t, nil, claims(30*time.Minute)), ring.EC.Token(t, nil, claims(24*time.Hour))
	for _, signed := range []string{short, lasting} {
		_, err := verifier.Verify(t.Context(), at, signed)
		require.NoError(t, err)
	}
	_, err := verifier.Verify(t.Context(), at.Add(time.Hour), short)
	require.Equal(t, extauthz.ReasonTokenExpired, reasonOf(t, err), "forth: what is remembered ends with the token")
	_, err = verifier.Verify(t.Context(), at.Add(time.Hour), lasting)
	require.NoError(t, err)

	// Back: a rotation is seen all the same, not an hour later.
	next := authtest.NewRing(t)
	next.EC.ID = "next"
	p.says(authtest.KeySet(t, next.EC))
	calls := p.calls.Load()
	_, err = verifier.Verify(t.Context(), at, next.EC.Token(t, nil, claims(24*time.Hour)))
	require.NoError(t, err, "an unknown kid asks at once: no cooldown began in the future")
	require.Greater(t, p.calls.Load(), calls)
	_, err = verifier.Verify(t.Context(), at, lasting)
	require.Equal(t, extauthz.ReasonTokenInvalid, reasonOf(t, err))

	// Back, with the source down: the keys serve, and it is asked again.
	p.fails()
	_, err = verifier.Verify(t.Context(), at.Add(-time.Hour), next.EC.Token(t, nil, claims(24*time.Hour)))
	require.NoError(t, err)
}

// Many unknown key ids at once, from many callers, ask the source once.
func TestFloodOfUnknownKeyIDsAtOnce(t *testing.T) {
	ring, p := authtest.NewRing(t), newProvider(t)
	p.says(authtest.KeySet(t, ring.EC))
	verifier, at := remote(t, p, token.Options{}), authtest.Now()
	_, err := verifier.Verify(t.Context(), at, long(ring.EC, t))
	require.NoError(t, err)
	var group sync.WaitGroup
	for i := range 1000 {
		signed := ring.EC.Token(t, map[string]any{"kid": fmt.Sprint("unknown", i)}, authtest.Claims(nil))
		group.Go(func() {
			if _, err := verifier.Verify(t.Context(), at.Add(20*time.Second), signed); err == nil {
				t.Error("accepted")
			}
		})
	}
	group.Wait()
	require.EqualValues(t, 2, p.calls.Load())
}

func TestHungSourceDoesNotHoldUpKnownKeys(t *testing.T) {
	ring, p := authtest.NewRing(t), newProvider(t)
	p.says(authtest.KeySet(t, ring.EC))
	verifier, at := remote(t, p, token.Options{}), authtest.Now()
	_, err := verifier.Verify(t.Context(), at, long(ring.EC, t))
	require.NoError(t, err)
	release := make(chan struct{})
	p.answer.Store(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(func() { close(release) })
	// Before freshness ends, the fetch is behind; nobody waits for it.
	for range 20 {
		_, err = verifier.Verify(t.Context(), at.Add(55*time.Second), ring.EC.Token(t, nil, authtest.Claims(nil)))
		require.NoError(t, err)
	}
}
