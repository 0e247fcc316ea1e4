package token_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/token"
)

// provider is an identity provider whose behaviour a test can change.
type provider struct {
	*httptest.Server
	calls  atomic.Int64
	answer atomic.Value // http.HandlerFunc
}

func newProvider(t *testing.T) *provider {
	p := &provider{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.calls.Add(1)
		p.answer.Load().(http.HandlerFunc)(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) says(text string) {
	p.answer.Store(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }))
}

func (p *provider) fails() {
	p.answer.Store(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
}

// remote is a verifier over p: fresh for a minute, stale for ten more.
func remote(t *testing.T, p *provider, options token.Options) *token.Verifier {
	return remoteWithin(t, p, options, 10*time.Second)
}

// remoteWithin is remote with another time in which the provider has to answer.
func remoteWithin(t *testing.T, p *provider, options token.Options, timeout time.Duration) *token.Verifier {
	verifier, err := verifiers(t, options).Verifier(
		authtest.Remote(authtest.Provider(""), p.URL, time.Minute, 10*time.Minute, timeout))
	require.NoError(t, err)
	return verifier
}

func long(key authtest.Key, t testing.TB) string {
	return key.Token(t, nil, authtest.Claims(map[string]any{"exp": authtest.Now().Add(24 * time.Hour).Unix()}))
}

func TestRemoteKeysAreFetchedOnce(t *testing.T) {
	ring, p := authtest.NewRing(t), newProvider(t)
	p.says(authtest.KeySet(t, ring.EC))
	verifier := remote(t, p, token.Options{})
	var group sync.WaitGroup
	for i := range 50 {
		signed := ring.EC.Token(t, nil, authtest.Claims(map[string]any{"jti": fmt.Sprint(i)}))
		group.Go(func() {
			_, err := verifier.Verify(t.Context(), authtest.Now(), signed)
			require.NoError(t, err)
		})
	}
	group.Wait()
	require.EqualValues(t, 1, p.calls.Load())
}

func TestProviderDownFromTheStart(t *testing.T) {
	ring, p := authtest.NewRing(t), newProvider(t)
	p.fails()
	verifier, now := remote(t, p, token.Options{}), authtest.Now()
	signed := long(ring.EC, t)
	_, err := verifier.Verify(t.Context(), now, signed)
	require.Equal(t, extauthz.ReasonProviderUnavailable, reasonOf(t, err))
	for range 100 { // no stampede while it is known to fail
		_, err = verifier.Verify(t.Context(), now, signed)
		require.Equal(t, extauthz.ReasonProviderUnavailable, reasonOf(t, err))
	}
	require.EqualValues(t, 1, p.calls.Load())
	p.says(authtest.KeySet(t, ring.EC))
	_, err = verifier.Verify(t.Context(), now.Add(2*time.Second), signed)
	require.NoError(t, err, "recovers within two seconds of the provider")
}

func TestStaleKeysServeUntilTheBoundAndNotAfter(t *testing.T) {
	ring, p := authtest.NewRing(t), newProvider(t)
	p.says(authtest.KeySet(t, ring.EC))
	counter := &authtest.Counter{}
	verifier, now := remote(t, p, token.Options{CacheTTL: time.Hour, Events: counter}), authtest.Now()
	signed := long(ring.EC, t)
	_, err := verifier.Verify(t.Context(), now, signed)
	require.NoError(t, err)
	p.fails()
	for after := 61 * time.Second; after < 11*time.Minute; after += 20 * time.Second {
		_, err = verifier.Verify(t.Context(), now.Add(after), signed)
		require.NoError(t, err, after)
	}
	// The token is in the cache; keys past their bound close that way too.
	_, err = verifier.Verify(t.Context(), now.Add(11*time.Minute), signed)
	require.Equal(t, extauthz.ReasonProviderUnavailable, reasonOf(t, err))
	p.says(authtest.KeySet(t, ring.EC))
	_, err = verifier.Verify(t.Context(), now.Add(12*time.Minute), signed)
	require.NoError(t, err)
}

func TestRotation(t *testing.T) {
	before, after, p := authtest.NewRing(t), authtest.NewRing(t), newProvider(t)
	after.EC.ID = "next"
	p.says(authtest.KeySet(t, before.EC))
	verifier, now := remote(t, p, token.Options{CacheTTL: time.Hour}), authtest.Now()
	old, fresh := long(before.EC, t), long(after.EC, t)
	_, err := verifier.Verify(t.Context(), now, old)
	require.NoError(t, err)
	p.says(authtest.KeySet(t, after.EC))
	_, err = verifier.Verify(t.Context(), now.Add(11*time.Second), fresh)
	require.NoError(t, err, "a new kid is looked for at once, past the cooldown")
	_, err = verifier.Verify(t.Context(), now.Add(12*time.Second), old)
	require.Equal(t, extauthz.ReasonTokenInvalid, reasonOf(t, err), "a key that was withdrawn takes its cached tokens with it")
	require.EqualValues(t, 2, p.calls.Load())
}

func TestUnknownKeyIDFlood(t *testing.T) {
	ring, p := authtest.NewRing(t), newProvider(t)
	p.says(authtest.KeySet(t, ring.EC))
	verifier, now := remote(t, p, token.Options{Cooldown: 10 * time.Second}), authtest.Now()
	_, err := verifier.Verify(t.Context(), now, long(ring.EC, t))
	require.NoError(t, err)
	for i := range 500 { // 500 requests over 25 seconds
		signed := ring.EC.Token(t, map[string]any{"kid": fmt.Sprint("k", i)}, authtest.Claims(nil))
		_, err := verifier.Verify(t.Context(), now.Add(time.Duration(i)*50*time.Millisecond), signed)
		require.Equal(t, extauthz.ReasonTokenInvalid, reasonOf(t, err))
	}
	require.LessOrEqual(t, p.calls.Load(), int64(3), "one to begin with, one per cooldown")
	foreign := authtest.Claims(map[string]any{"iss": "https://other.example"})
	_, err = verifier.Verify(t.Context(), now.Add(50*time.Second), ring.EC.Token(t, map[string]any{"kid": "z"}, foreign))
	require.Equal(t, extauthz.ReasonTokenIssuer, reasonOf(t, err))
	require.LessOrEqual(t, p.calls.Load(), int64(3), "another issuer's token fetches nothing")
}

func TestSlowProvider(t *testing.T) {
	ring, p := authtest.NewRing(t), newProvider(t)
	release := make(chan struct{})
	p.answer.Store(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { close(release) })
	verifier := remoteWithin(t, p, token.Options{}, 300*time.Millisecond)
	_, err := verifier.Verify(t.Context(), authtest.Now(), long(ring.EC, t))
	require.Equal(t, extauthz.ReasonProviderUnavailable, reasonOf(t, err))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = verifier.Verify(ctx, authtest.Now().Add(time.Minute), long(ring.EC, t))
	require.Equal(t, extauthz.ReasonProviderUnavailable, reasonOf(t, err), "the request's own end is respected")
}

func TestLyingProvider(t *testing.T) {
	ring := authtest.NewRing(t)
	jwk := ring.EC.JWK(t)
	jwk["d"] = "AAAA" // otherwise the very key that verifies
	private, err := json.Marshal(map[string]any{"keys": []any{jwk}})
	require.NoError(t, err)
	for name, answer := range map[string]string{
		"huge":         `{"keys":[` + strings.Repeat(" ", 1<<20) + `]}`,
		"not JSON":     "<html>login</html>",
		"empty":        "",
		"no keys":      `{"keys":[]}`,
		"keys a map":   `{"keys":{}}`,
		"twice":        `{"keys":[],"keys":[]}`,
		"private":      string(private),
		"symmetric":    `{"keys":[{"kty":"oct","k":"AAAA","kid":"ec"}]}`,
		"bad point":    `{"keys":[{"kty":"EC","crv":"P-256","kid":"ec","x":"` + strings.Repeat("A", 43) + `","y":"` + strings.Repeat("A", 43) + `"}]}`,
		"short RSA":    `{"keys":[{"kty":"RSA","kid":"ec","n":"` + strings.Repeat("_", 100) + `","e":"AQAB"}]}`,
		"exponent one": `{"keys":[{"kty":"RSA","kid":"ec","n":"` + strings.Repeat("_", 342) + `","e":"AQ"}]}`,
		"only enc":     `{"keys":[{"kty":"EC","use":"enc"}]}`,
		"many":         `{"keys":[` + strings.Repeat(`{"kty":"x"},`, 200) + `{"kty":"x"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			p := newProvider(t)
			p.says(answer)
			verifier := remote(t, p, token.Options{})
			_, err := verifier.Verify(t.Context(), authtest.Now(), long(ring.EC, t))
			require.Equal(t, extauthz.ReasonProviderUnavailable, reasonOf(t, err))
			// A lie after the truth does not replace it.
			p.says(authtest.KeySet(t, ring.EC))
			_, err = verifier.Verify(t.Context(), authtest.Now().Add(time.Minute), long(ring.EC, t))
			require.NoError(t, err)
			p.says(answer)
			_, err = verifier.Verify(t.Context(), authtest.Now().Add(3*time.Minute), long(ring.EC, t))
			require.NoError(t, err)
		})
	}
}

func TestProviderConfigurationIsRefusedByField(t *testing.T) {
	ring := authtest.NewRing(t)
	good := authtest.KeySet(t, ring.EC)
	for name, test := range map[string]struct {
		change func(p *rulesv1.JwtAuthenticator)
		says   string
	}{
		"issuer":        {func(p *rulesv1.JwtAuthenticator) { p.Issuer = "" }, "issuer: is required"},
		"audiences":     {func(p *rulesv1.JwtAuthenticator) { p.Audiences = nil }, "audiences: at least one"},
		"audience ''":   {func(p *rulesv1.JwtAuthenticator) { p.Audiences = []string{""} }, "audiences: at least one"},
		"algorithms":    {func(p *rulesv1.JwtAuthenticator) { p.Algorithms = nil }, "algorithms: at least one"},
		"none":          {func(p *rulesv1.JwtAuthenticator) { p.Algorithms = []string{"ES256", "none"} }, `algorithms[1]: "none"`},
		"HS256":         {func(p *rulesv1.JwtAuthenticator) { p.Algorithms = []string{"HS256"} }, `algorithms[0]: "HS256"`},
		"leeway":        {func(p *rulesv1.JwtAuthenticator) { p.Leeway.Seconds = 3600 }, "leeway: 1h0m0s"},
		"no keys":       {func(p *rulesv1.JwtAuthenticator) { p.Jwks = nil }, "jwks: give"},
		"bad keys":      {func(p *rulesv1.JwtAuthenticator) { p.Jwks = &rulesv1.JwtAuthenticator_InlineJwks{InlineJwks: "{"} }, "inline_jwks: "},
		"relative URI":  {func(p *rulesv1.JwtAuthenticator) { authtest.Remote(p, "/jwks", 0, 0, 0) }, "remote_jwks.uri"},
		"file URI":      {func(p *rulesv1.JwtAuthenticator) { authtest.Remote(p, "file:///etc/passwd", 0, 0, 0) }, "remote_jwks.uri"},
		"long timeout":  {func(p *rulesv1.JwtAuthenticator) { authtest.Remote(p, "http://a/", 0, 0, time.Hour) }, "remote_jwks.timeout"},
		"negative life": {func(p *rulesv1.JwtAuthenticator) { authtest.Remote(p, "http://a/", -1, 0, 0) }, "remote_jwks.cache_duration"},
	} {
		t.Run(name, func(t *testing.T) {
			provider := authtest.Provider(good)
			test.change(provider)
			_, err := verifiers(t, token.Options{}).Verifier(provider)
			require.ErrorContains(t, err, test.says)
		})
	}
}

// Two providers over one URI share keys and their generation, so only their own
// digests keep what one verified from counting for the other.
func TestProvidersThatShareKeysDoNotShareVerifications(t *testing.T) {
	ring, p := authtest.NewRing(t), newProvider(t)
	p.says(authtest.KeySet(t, ring.EC))
	all := verifiers(t, token.Options{})
	ours := authtest.Remote(authtest.Provider(""), p.URL, time.Minute, time.Minute, time.Second)
	theirs := authtest.Remote(authtest.Provider(""), p.URL, time.Minute, time.Minute, time.Second)
	theirs.Audiences = []string{"billing"}
	a, err := all.Verifier(ours)
	require.NoError(t, err)
	b, err := all.Verifier(theirs)
	require.NoError(t, err)
	signed := ring.EC.Token(t, nil, authtest.Claims(nil))
	_, err = a.Verify(t.Context(), authtest.Now(), signed)
	require.NoError(t, err)
	_, err = b.Verify(t.Context(), authtest.Now(), signed)
	require.Equal(t, extauthz.ReasonTokenAudience, reasonOf(t, err))
	require.EqualValues(t, 1, p.calls.Load())
}

func TestFetchIsBounded(t *testing.T) {
	p := newProvider(t)
	p.says(strings.Repeat("x", 1<<10))
	_, err := token.FetchWith(http.DefaultTransport, t.Context(), p.URL)
	require.NoError(t, err)
	p.says(strings.Repeat("x", 1<<10+1))
	_, err = token.FetchWith(http.DefaultTransport, t.Context(), p.URL)
	require.ErrorContains(t, err, "more than 1024 bytes")
}

func TestRedirectDoesNotLeaveHTTPS(t *testing.T) {
	plain := newProvider(t)
	plain.says("{}")
	secure := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	t.Cleanup(secure.Close)
	_, err := token.FetchWith(secure.Client().Transport, t.Context(), secure.URL)
	require.ErrorContains(t, err, "refusing a redirect")
	require.Zero(t, plain.calls.Load())
}
