package assertion_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/assertion"
	"weir.dev/extauthz/jose"
	"weir.dev/kit/identity"
	verify "weir.dev/kit/identity/assertion"
)

type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func start() *clock { return &clock{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func published(t *testing.T, keys *assertion.Keys) *jose.KeySet {
	t.Helper()
	recorder := httptest.NewRecorder()
	keys.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/", nil))
	require.Equal(t, "application/jwk-set+json", recorder.Header().Get("Content-Type"))
	require.NotContains(t, recorder.Body.String(), `"d"`, "a private key is published")
	set, err := jose.ParseKeySet(recorder.Body.Bytes())
	require.NoError(t, err)
	return set
}

func kid(t *testing.T, token string) string {
	t.Helper()
	parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	require.NoError(t, err)
	id, _ := parsed.Header["kid"].(string)
	return id
}

func kids(t *testing.T, keys *assertion.Keys) map[string]bool {
	t.Helper()
	recorder := httptest.NewRecorder()
	keys.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/", nil))
	var set struct{ Keys []struct{ Kid string } }
	require.NoError(t, json.Unmarshal(recorder.Body.Bytes(), &set))
	found := map[string]bool{}
	for _, key := range set.Keys {
		found[key.Kid] = true
	}
	return found
}

func alice(t *testing.T) *extauthz.Decision {
	claims, err := structpb.NewStruct(map[string]any{"email": "a@example.com", "secret": "x"})
	require.NoError(t, err)
	return &extauthz.Decision{Identity: extauthz.Identity{
		Identity: identity.Identity{Subject: "alice", Tenant: "acme", Tier: "gold", Authenticator: "jwt", Scopes: []string{"read", "write"}},
		Issuer:   "https://issuer.example", Claims: claims,
	}}
}

func announcer(t *testing.T, c *clock, source *rulesv1.Assertion) (func(*extauthz.Decision) string, *assertion.Keys) {
	t.Helper()
	keys, err := assertion.NewKeys(24*time.Hour, c.Now)
	require.NoError(t, err)
	signer, err := assertion.NewSigner("https://extauthz.example", keys)
	require.NoError(t, err)
	made, err := (&assertion.Announcers{Signer: signer}).Announcer(&rulesv1.Upstream{Assertion: source})
	require.NoError(t, err)
	require.Equal(t, []string{source.GetHeader()}, made.Names())
	return func(decision *extauthz.Decision) string {
		headers, err := made.Headers(context.Background(), c.now, nil, decision)
		require.NoError(t, err)
		require.Len(t, headers, 1)
		require.Equal(t, source.GetHeader(), headers[0].Name)
		return headers[0].Value
	}, keys
}

func TestAssertion(t *testing.T) {
	c := start()
	sign, keys := announcer(t, c, &rulesv1.Assertion{
		Header: "x-weir-assertion", Audiences: []string{"users"}, Lifetime: durationpb.New(2 * time.Minute), Claims: []string{"email", "none"},
	})
	text := sign(alice(t))
	compact, err := jose.Split(text)
	require.NoError(t, err)
	header, err := compact.Header()
	require.NoError(t, err)
	require.Equal(t, "ES256", header["alg"])
	require.Equal(t, "weir-assertion+jwt", header["typ"])
	require.NotNil(t, published(t, keys))
	claims, err := jose.ParseObject(compact.Payload)
	require.NoError(t, err)
	require.Equal(t, map[string]any{
		"iss": "https://extauthz.example", "sub": "https://issuer.example|alice", "aud": []any{"users"},
		"iat": float64(c.now.Unix()), "exp": float64(c.now.Add(2 * time.Minute).Unix()),
		"caller": "alice", "caller_iss": "https://issuer.example", "tenant": "acme", "tier": "gold", "scope": "read write", "authenticator": "jwt",
		"claims": map[string]any{"email": "a@example.com"},
	}, claims)
}

// A service that has the key set verifies what is signed, and nothing else.
func TestServicesVerify(t *testing.T) {
	c := start()
	sign, keys := announcer(t, c, &rulesv1.Assertion{Header: "x-a", Audiences: []string{"users", "data"}})
	server := httptest.NewServer(keys)
	defer server.Close()
	verifier := func(issuer, audience string) *verify.Verifier {
		made, err := verify.NewVerifier(issuer, audience, server.URL, nil)
		require.NoError(t, err)
		return made
	}
	good := verifier("https://extauthz.example", "users")
	text := sign(alice(t))
	caller, err := good.Verify(t.Context(), c.now, text)
	require.NoError(t, err)
	require.Equal(t, alice(t).Identity.Identity, caller)

	parts := strings.Split(text, ".")
	other, otherKeys := announcer(t, c, &rulesv1.Assertion{Header: "x-a", Audiences: []string{"users"}})
	require.NotNil(t, otherKeys)
	flipped := []byte(parts[2])
	flipped[0] ^= 1
	for name, test := range map[string]struct {
		verifier *verify.Verifier
		at       time.Time
		text     string
	}{
		"another issuer":    {verifier("https://other.example", "users"), c.now, text},
		"another audience":  {verifier("https://extauthz.example", "mail"), c.now, text},
		"expired":           {good, c.now.Add(71 * time.Second), text},
		"of the future":     {good, c.now.Add(-11 * time.Second), text},
		"another's key":     {good, c.now, other(alice(t))},
		"another signature": {good, c.now, parts[0] + "." + parts[1] + "." + string(flipped)},
		"no signature":      {good, c.now, parts[0] + "." + parts[1] + "."},
		"not signed":        {good, c.now, jose64(`{"alg":"none","typ":"weir-assertion+jwt"}`) + "." + parts[1] + "."},
		"a usual token":     {good, c.now, jose64(`{"alg":"ES256","typ":"JWT","kid":"`+kid(t, text)+`"}`) + "." + parts[1] + "." + parts[2]},
		"something else":    {good, c.now, "a.b"},
		"too long":          {good, c.now, text + strings.Repeat("a", 8<<10)},
	} {
		_, err := test.verifier.Verify(t.Context(), test.at, test.text)
		require.Error(t, err, name)
	}
	c.now = c.now.Add(24 * time.Hour)
	_, err = good.Verify(t.Context(), c.now, sign(alice(t)))
	require.NoError(t, err, "after a rotation")
	server.Close()
	c.now = c.now.Add(30 * time.Minute)
	_, err = good.Verify(t.Context(), c.now, sign(alice(t)))
	require.NoError(t, err, "a key set serves for an hour without its source")
	c.now = c.now.Add(time.Hour)
	_, err = good.Verify(t.Context(), c.now, sign(alice(t)))
	require.ErrorContains(t, err, "cannot be had")
}

func jose64(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

func TestAssertionsAreReusedForHalfTheirLife(t *testing.T) {
	c := start()
	sign, _ := announcer(t, c, &rulesv1.Assertion{Header: "x-a", Audiences: []string{"users"}})
	decision := alice(t)
	first := sign(decision)
	c.now = c.now.Add(30 * time.Second)
	require.Equal(t, first, sign(decision))
	c.now = c.now.Add(time.Second)
	require.NotEqual(t, first, sign(decision))
	other := alice(t)
	other.Identity.Claims = decision.Identity.Claims
	other.Identity.Scopes = []string{"read"}
	c.now = start().now
	require.NotEqual(t, first, sign(other), "another caller's assertion")
	require.NotEqual(t, first, sign(&extauthz.Decision{}))
	c.now = c.now.Add(-time.Hour) // a clock that steps back does not give out the future's
	require.NotEqual(t, first, sign(decision))
}

func TestKeysRotate(t *testing.T) {
	c := start()
	sign, keys := announcer(t, c, &rulesv1.Assertion{Header: "x-a", Audiences: []string{"users"}})
	first := kid(t, sign(&extauthz.Decision{}))
	before := kids(t, keys)
	require.Len(t, before, 2, "the next key is published ahead")
	require.True(t, before[first])
	c.now = c.now.Add(24 * time.Hour)
	second := kid(t, sign(&extauthz.Decision{}))
	require.NotEqual(t, first, second)
	require.True(t, before[second], "it was published before it signed")
	after := kids(t, keys)
	require.Len(t, after, 3)
	require.True(t, after[first], "what it signed is still good")
	c.now = c.now.Add(24 * time.Hour)
	require.False(t, kids(t, keys)[first], "rotation does not wait for a signature")
}

func TestWhatDoesNotCompile(t *testing.T) {
	good := func() *rulesv1.Assertion { return &rulesv1.Assertion{Header: "x-a", Audiences: []string{"a"}} }
	for says, change := range map[string]func(*rulesv1.Assertion){
		"assertion.lifetime: 5m1s is outside": func(a *rulesv1.Assertion) { a.Lifetime = durationpb.New(301 * time.Second) },
		"assertion.audiences: 1 to 8":         func(a *rulesv1.Assertion) { a.Audiences = nil },
		"assertion.claims: 17 are too many":   func(a *rulesv1.Assertion) { a.Claims = make([]string, 17) },
		`assertion.header: "cookie"`:          func(a *rulesv1.Assertion) { a.Header = "cookie" },
		`assertion.header: "x-weir-tenant"`:   func(a *rulesv1.Assertion) { a.Header = "x-weir-tenant" },
	} {
		source := good()
		change(source)
		_, err := (&assertion.Announcers{}).Announcer(&rulesv1.Upstream{Assertion: source})
		require.ErrorContains(t, err, says)
	}
	_, err := assertion.NewKeys(time.Minute, time.Now)
	require.Error(t, err)
}

func BenchmarkSign(b *testing.B) {
	keys, err := assertion.NewKeys(24*time.Hour, time.Now)
	require.NoError(b, err)
	signer, err := assertion.NewSigner("https://extauthz.example", keys)
	require.NoError(b, err)
	made, err := (&assertion.Announcers{Signer: signer}).Announcer(&rulesv1.Upstream{Assertion: &rulesv1.Assertion{Header: "x-a", Audiences: []string{"a"}}})
	require.NoError(b, err)
	decision := &extauthz.Decision{Identity: extauthz.Identity{Identity: identity.Identity{Subject: "alice", Scopes: []string{"a", "b"}}}}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := made.Headers(b.Context(), now, nil, decision); err != nil {
			b.Fatal(err)
		}
	}
}
