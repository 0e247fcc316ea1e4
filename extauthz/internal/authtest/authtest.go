// Package authtest makes keys, key sets and tokens, good and bad, for tests.
package authtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

// The provider that tokens made here are of.
const (
	Issuer   = "https://issuer.example"
	Audience = "weir"
)

// Now is the time at which tokens made here are good.
func Now() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// Key is a signing key.
type Key struct {
	ID        string
	Algorithm string
	Private   crypto.Signer
}

func newRSA(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	require.NoError(t, err)
	return key
}

// Ring is one key of each kind.
type Ring struct {
	RSA, EC, Ed Key
}

// NewRing makes fresh keys.
func NewRing(t testing.TB) Ring {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return Ring{
		RSA: Key{ID: "rsa", Algorithm: "RS256", Private: newRSA(t, 2048)},
		EC:  Key{ID: "ec", Algorithm: "ES256", Private: ec},
		Ed:  Key{ID: "ed", Algorithm: "EdDSA", Private: ed},
	}
}

// All is every key of the ring.
func (r Ring) All() []Key { return []Key{r.RSA, r.EC, r.Ed} }

// B64 is base64url without padding.
func B64(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

// JWK is the public key as a JWK.
func (k Key) JWK(t testing.TB) map[string]any {
	t.Helper()
	jwk := map[string]any{"kid": k.ID, "use": "sig"}
	switch public := k.Private.Public().(type) {
	case *rsa.PublicKey:
		jwk["kty"], jwk["n"], jwk["e"] = "RSA", B64(public.N.Bytes()), B64(big.NewInt(int64(public.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		require.NoError(t, err)
		half := (len(point) - 1) / 2
		jwk["kty"], jwk["crv"] = "EC", public.Curve.Params().Name
		jwk["x"], jwk["y"] = B64(point[1:1+half]), B64(point[1+half:])
	case ed25519.PublicKey:
		jwk["kty"], jwk["crv"], jwk["x"] = "OKP", "Ed25519", B64(public)
	}
	return jwk
}

// KeySet is a JWK Set of keys.
func KeySet(t testing.TB, keys ...Key) string {
	t.Helper()
	list := []any{}
	for _, key := range keys {
		list = append(list, key.JWK(t))
	}
	raw, err := json.Marshal(map[string]any{"keys": list})
	require.NoError(t, err)
	return string(raw)
}

// Claims are good claims with changes applied; a nil value removes a claim.
func Claims(changes map[string]any) map[string]any {
	claims := map[string]any{
		"iss": Issuer, "aud": Audience, "sub": "alice", "scope": "read write", "tenant": "acme",
		"iat": Now().Add(-time.Minute).Unix(), "exp": Now().Add(time.Hour).Unix(),
	}
	return changed(claims, changes)
}

func changed(base, changes map[string]any) map[string]any {
	maps.Copy(base, changes)
	maps.DeleteFunc(base, func(_ string, value any) bool { return value == nil })
	return base
}

// Token signs claims; header changes apply to the key's alg and kid.
func (k Key) Token(t testing.TB, header, claims map[string]any) string {
	t.Helper()
	head, err := json.Marshal(changed(map[string]any{"alg": k.Algorithm, "kid": k.ID, "typ": "JWT"}, header))
	require.NoError(t, err)
	body, err := json.Marshal(claims)
	require.NoError(t, err)
	return k.Sign(t, string(head), string(body))
}

// Sign signs texts as they are by the key's own algorithm, whatever they say.
func (k Key) Sign(t testing.TB, header, claims string) string {
	t.Helper()
	signed := B64([]byte(header)) + "." + B64([]byte(claims))
	signature, err := jwt.GetSigningMethod(k.Algorithm).Sign(signed, k.Private)
	require.NoError(t, err)
	return signed + "." + B64(signature)
}

// Provider is a provider with inline keys that accepts the ring's algorithms.
func Provider(keySet string) *rulesv1.JwtAuthenticator {
	return &rulesv1.JwtAuthenticator{
		Issuer: Issuer, Audiences: []string{Audience}, Algorithms: []string{"RS256", "ES256", "EdDSA"},
		Leeway: durationpb.New(30 * time.Second),
		Jwks:   &rulesv1.JwtAuthenticator_InlineJwks{InlineJwks: keySet},
		Claims: &rulesv1.ClaimMapping{Tenant: "tenant"},
	}
}

// Remote changes a provider to fetch its keys.
func Remote(provider *rulesv1.JwtAuthenticator, uri string, fresh, maxStale, timeout time.Duration) *rulesv1.JwtAuthenticator {
	provider.Jwks = &rulesv1.JwtAuthenticator_RemoteJwks{RemoteJwks: &rulesv1.RemoteJwks{
		Uri: uri, CacheDuration: durationpb.New(fresh), MaxStale: durationpb.New(maxStale), Timeout: durationpb.New(timeout),
	}}
	return provider
}

// Counter counts by name. Safe for concurrent use.
type Counter struct {
	mu     sync.Mutex
	counts map[string]int
}

// Add counts one.
func (c *Counter) Add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = map[string]int{}
	}
	c.counts[name]++
}

// Of is the count of a name.
func (c *Counter) Of(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[name]
}

// TokenCache implements token.Events.
func (c *Counter) TokenCache(outcome string) { c.Add("cache " + outcome) }

// KeySetFetch implements token.Events.
func (c *Counter) KeySetFetch(err error) {
	if err != nil {
		c.Add("fetch error")
		return
	}
	c.Add("fetch ok")
}

// RulesLoaded implements rules.Events.
func (c *Counter) RulesLoaded(kind string, _ int) { c.Add("loaded " + kind) }

// RulesRejected implements rules.Events.
func (c *Counter) RulesRejected(kind string) { c.Add("rejected " + kind) }

// Decided implements envoyauth.Observer.
func (c *Counter) Decided(_ bool, reason string, _ time.Duration) { c.Add(reason) }
