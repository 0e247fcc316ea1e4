package token_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/jose"
	"weir.dev/extauthz/token"
)

func reasonOf(t testing.TB, err error) extauthz.Reason {
	t.Helper()
	require.Error(t, err)
	var refusal *extauthz.Refusal
	require.True(t, errors.As(err, &refusal), "%v carries no reason", err)
	return refusal.Reason
}

func verifiers(t testing.TB, options token.Options) *token.Verifiers {
	t.Helper()
	made, err := token.NewVerifiers(options)
	require.NoError(t, err)
	return made
}

func hmacToken(header string, claims string, secret []byte) string {
	signed := authtest.B64([]byte(header)) + "." + authtest.B64([]byte(claims))
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(signed))
	return signed + "." + authtest.B64(mac.Sum(nil))
}

const goodClaims = `{"iss":"https://issuer.example","aud":"weir","sub":"alice","exp":1772370000}`

func TestGoodTokens(t *testing.T) {
	ring := authtest.NewRing(t)
	verifier, err := verifiers(t, token.Options{}).Verifier(authtest.Provider(authtest.KeySet(t, ring.All()...)))
	require.NoError(t, err)
	for name, signed := range map[string]string{
		"RS256":             ring.RSA.Token(t, nil, authtest.Claims(nil)),
		"ES256":             ring.EC.Token(t, nil, authtest.Claims(nil)),
		"EdDSA":             ring.Ed.Token(t, nil, authtest.Claims(nil)),
		"at+jwt":            ring.EC.Token(t, map[string]any{"typ": "application/AT+JWT"}, authtest.Claims(nil)),
		"no typ":            ring.EC.Token(t, map[string]any{"typ": nil}, authtest.Claims(nil)),
		"audience list":     ring.EC.Token(t, nil, authtest.Claims(map[string]any{"aud": []any{"other", "weir"}})),
		"within leeway":     ring.EC.Token(t, nil, authtest.Claims(map[string]any{"exp": authtest.Now().Add(-29 * time.Second).Unix()})),
		"fraction of exp":   ring.EC.Token(t, nil, authtest.Claims(map[string]any{"exp": float64(authtest.Now().Unix()) + 0.5})),
		"x5t is harmless":   ring.EC.Token(t, map[string]any{"x5t": "abc"}, authtest.Claims(nil)),
		"by literal claims": ring.EC.Sign(t, `{"alg":"ES256","kid":"ec"}`, strings.Replace(goodClaims, `"sub"`, `"scope":"read write","tenant":"acme","sub"`, 1)),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := verifier.Verify(t.Context(), authtest.Now(), signed)
			require.NoError(t, err)
			require.Equal(t, "alice", got.Subject)
			require.Equal(t, "acme", got.Tenant)
			require.Equal(t, authtest.Issuer, got.Issuer)
			require.Equal(t, []string{"read", "write"}, got.Scopes)
		})
	}
}

// Each token is wrong in one way; each is tried twice, the second time with
// whatever the first left in the caches.
func TestAttacks(t *testing.T) {
	ring, other := authtest.NewRing(t), authtest.NewRing(t)
	der, err := x509.MarshalPKIXPublicKey(ring.RSA.Private.Public())
	require.NoError(t, err)
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	rs := ring.RSA.Token(t, nil, authtest.Claims(nil))
	parts := strings.Split(rs, ".")
	ec := func(header, claims map[string]any) string { return ring.EC.Token(t, header, authtest.Claims(claims)) }
	nestedDeep := `{"iss":"https://issuer.example","a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`
	const bad = extauthz.ReasonTokenInvalid
	at := func(d time.Duration) int64 { return authtest.Now().Add(d).Unix() }
	for name, test := range map[string]struct {
		token string
		want  extauthz.Reason
	}{
		"alg none":               {authtest.B64([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", bad},
		"alg none with text":     {authtest.B64([]byte(`{"alg":"none"}`)) + "." + parts[1] + "." + parts[2], bad},
		"alg NoNe":               {authtest.B64([]byte(`{"alg":"NoNe"}`)) + "." + parts[1] + "." + parts[2], bad},
		"alg absent":             {ring.EC.Sign(t, `{"kid":"ec"}`, goodClaims), bad},
		"alg not a string":       {ring.EC.Sign(t, `{"alg":["ES256"],"kid":"ec"}`, goodClaims), bad},
		"alg in other case":      {ring.EC.Sign(t, `{"alg":"es256","kid":"ec"}`, goodClaims), bad},
		"alg not in the list":    {ring.RSA.Token(t, map[string]any{"alg": "RS512"}, authtest.Claims(nil)), bad},
		"HS256 with the PEM":     {hmacToken(`{"alg":"HS256","kid":"rsa"}`, goodClaims, publicPEM), bad},
		"HS256 with the DER":     {hmacToken(`{"alg":"HS256","kid":"rsa"}`, goodClaims, der), bad},
		"RS256 said, HMAC made":  {hmacToken(`{"alg":"RS256","kid":"rsa"}`, goodClaims, publicPEM), bad},
		"ES256 with an RSA kid":  {ring.EC.Token(t, map[string]any{"kid": "rsa"}, authtest.Claims(nil)), bad},
		"ES256 of zeros":         {authtest.B64([]byte(`{"alg":"ES256","kid":"ec"}`)) + "." + authtest.B64([]byte(goodClaims)) + "." + authtest.B64(make([]byte, 64)), bad},
		"embedded jwk":           {other.EC.Token(t, map[string]any{"jwk": other.EC.JWK(t)}, authtest.Claims(nil)), bad},
		"embedded jwk, own kid":  {other.EC.Token(t, map[string]any{"jwk": other.EC.JWK(t), "kid": "mine"}, authtest.Claims(nil)), bad},
		"jku":                    {other.EC.Token(t, map[string]any{"jku": "https://evil.example/jwks"}, authtest.Claims(nil)), bad},
		"x5u":                    {other.RSA.Token(t, map[string]any{"x5u": "https://evil.example/cert"}, authtest.Claims(nil)), bad},
		"x5c":                    {other.RSA.Token(t, map[string]any{"x5c": []any{"AAAA"}}, authtest.Claims(nil)), bad},
		"crit":                   {ec(map[string]any{"crit": []any{"exp"}}, nil), bad},
		"crit empty":             {ec(map[string]any{"crit": []any{}}, nil), bad},
		"b64 false":              {ec(map[string]any{"b64": false}, nil), bad},
		"zip":                    {ec(map[string]any{"zip": "DEF"}, nil), bad},
		"nested":                 {ec(map[string]any{"cty": "JWT"}, nil), bad},
		"wrong typ":              {ec(map[string]any{"typ": "dpop+jwt"}, nil), bad},
		"logout token":           {ec(map[string]any{"typ": "logout+jwt"}, nil), bad},
		"typ not a string":       {ec(map[string]any{"typ": 1}, nil), bad},
		"kid path traversal":     {ec(map[string]any{"kid": "../../dev/null"}, nil), bad},
		"kid injection":          {ec(map[string]any{"kid": "' OR 1=1 --"}, nil), bad},
		"kid empty":              {ec(map[string]any{"kid": ""}, nil), bad},
		"kid a number":           {ec(map[string]any{"kid": 7}, nil), bad},
		"kid huge":               {ec(map[string]any{"kid": strings.Repeat("k", 300)}, nil), bad},
		"no kid, several fit":    {ring.RSA.Token(t, map[string]any{"kid": nil, "alg": "PS256"}, authtest.Claims(nil)), bad},
		"other key, same kid":    {other.EC.Token(t, nil, authtest.Claims(nil)), bad},
		"tampered claims":        {parts[0] + "." + authtest.B64([]byte(strings.Replace(goodClaims, "alice", "admin", 1))) + "." + parts[2], bad},
		"tampered header":        {authtest.B64([]byte(`{"alg":"RS256","kid":"rsa","x":1}`)) + "." + parts[1] + "." + parts[2], bad},
		"tampered signature":     {parts[0] + "." + parts[1] + "." + "AAAA" + parts[2][4:], bad},
		"unsigned":               {parts[0] + "." + parts[1] + ".", bad},
		"two parts":              {parts[0] + "." + parts[1], bad},
		"one part":               {parts[0], bad},
		"four parts":             {rs + ".AAAA", bad},
		"JWE":                    {rs + ".AAAA.AAAA", bad},
		"truncated":              {rs[:len(rs)-10], bad},
		"padded":                 {rs + "==", bad},
		"line break inside":      {parts[0] + "." + parts[1] + "." + parts[2][:20] + "\n" + parts[2][20:], bad},
		"standard base64":        {strings.NewReplacer("-", "+", "_", "/").Replace(rs) + "+", bad},
		"huge":                   {strings.Repeat("a", jose.MaxTokenBytes+1), bad},
		"duplicate claim":        {ring.EC.Sign(t, `{"alg":"ES256","kid":"ec"}`, `{"sub":"mallory",`+goodClaims[1:]), bad},
		"duplicate iss":          {ring.EC.Sign(t, `{"alg":"ES256","kid":"ec"}`, `{"iss":"https://evil.example",`+goodClaims[1:]), bad},
		"duplicate, escaped":     {ring.EC.Sign(t, `{"alg":"ES256","kid":"ec"}`, `{"s\u0075b":"mallory",`+goodClaims[1:]), bad},
		"duplicate alg":          {ring.EC.Sign(t, `{"alg":"none","alg":"ES256","kid":"ec"}`, goodClaims), bad},
		"claims not an object":   {ring.EC.Sign(t, `{"alg":"ES256","kid":"ec"}`, `["iss"]`), bad},
		"claims with a tail":     {ring.EC.Sign(t, `{"alg":"ES256","kid":"ec"}`, goodClaims+`{}`), bad},
		"claims not UTF-8":       {ring.EC.Sign(t, `{"alg":"ES256","kid":"ec"}`, strings.Replace(goodClaims, "alice", "al\xffce", 1)), bad},
		"claims too deep":        {ring.EC.Sign(t, `{"alg":"ES256","kid":"ec"}`, nestedDeep), bad},
		"expired":                {ec(nil, map[string]any{"exp": at(-time.Hour)}), extauthz.ReasonTokenExpired},
		"expired at the leeway":  {ec(nil, map[string]any{"exp": at(-30 * time.Second)}), extauthz.ReasonTokenExpired},
		"no exp":                 {ec(nil, map[string]any{"exp": nil}), bad},
		"exp a string":           {ec(nil, map[string]any{"exp": "9999999999"}), bad},
		"exp enormous":           {ec(nil, map[string]any{"exp": 1e300}), bad},
		"exp negative":           {ec(nil, map[string]any{"exp": -1}), bad},
		"nbf in the future":      {ec(nil, map[string]any{"nbf": at(time.Minute)}), extauthz.ReasonTokenNotYetValid},
		"nbf a string":           {ec(nil, map[string]any{"nbf": "0"}), bad},
		"iat in the future":      {ec(nil, map[string]any{"iat": at(time.Hour)}), extauthz.ReasonTokenNotYetValid},
		"wrong audience":         {ec(nil, map[string]any{"aud": "other"}), extauthz.ReasonTokenAudience},
		"audience by prefix":     {ec(nil, map[string]any{"aud": "weir2"}), extauthz.ReasonTokenAudience},
		"audience in other case": {ec(nil, map[string]any{"aud": "WEIR"}), extauthz.ReasonTokenAudience},
		"no audience":            {ec(nil, map[string]any{"aud": nil}), extauthz.ReasonTokenAudience},
		"audience an object":     {ec(nil, map[string]any{"aud": map[string]any{"weir": true}}), extauthz.ReasonTokenAudience},
		"wrong issuer":           {ec(nil, map[string]any{"iss": "https://evil.example"}), extauthz.ReasonTokenIssuer},
		"issuer with a slash":    {ec(nil, map[string]any{"iss": authtest.Issuer + "/"}), extauthz.ReasonTokenIssuer},
		"issuer a list":          {ec(nil, map[string]any{"iss": []any{authtest.Issuer}}), extauthz.ReasonTokenIssuer},
		"no issuer":              {ec(nil, map[string]any{"iss": nil}), extauthz.ReasonTokenIssuer},
		"no subject":             {ec(nil, map[string]any{"sub": nil}), bad},
		"subject a number":       {ec(nil, map[string]any{"sub": 7}), bad},
		"tenant a list":          {ec(nil, map[string]any{"tenant": []any{"acme"}}), bad},
		"scope an object":        {ec(nil, map[string]any{"scope": map[string]any{}}), bad},
		"empty":                  {"", bad},
		"dots":                   {"..", bad},
	} {
		t.Run(name, func(t *testing.T) {
			verifier, err := verifiers(t, token.Options{}).Verifier(authtest.Provider(authtest.KeySet(t, ring.All()...)))
			require.NoError(t, err)
			seen, err := verifiers(t, token.Options{}).Verifier(authtest.Provider(authtest.KeySet(t, ring.All()...)))
			require.NoError(t, err)
			for _, key := range ring.All() {
				_, err = seen.Verify(t.Context(), authtest.Now(), key.Token(t, nil, authtest.Claims(nil)))
				require.NoError(t, err)
			}
			for _, verifier := range []*token.Verifier{verifier, verifier, seen} {
				got, err := verifier.Verify(t.Context(), authtest.Now(), test.token)
				require.Nil(t, got)
				require.Equal(t, test.want, reasonOf(t, err), "%v", err)
				if len(test.token) > 40 {
					require.NotContains(t, err.Error(), test.token[len(test.token)-20:], "errors hold no part of a signature")
				}
			}
		})
	}
}

func TestTypesThatThePolicyNames(t *testing.T) {
	ring := authtest.NewRing(t)
	provider := authtest.Provider(authtest.KeySet(t, ring.EC))
	provider.Types = []string{"application/at+JWT"}
	verifier, err := verifiers(t, token.Options{}).Verifier(provider)
	require.NoError(t, err)
	_, err = verifier.Verify(t.Context(), authtest.Now(), ring.EC.Token(t, map[string]any{"typ": "at+jwt"}, authtest.Claims(nil)))
	require.NoError(t, err)
	for _, header := range []map[string]any{{"typ": "JWT"}, {"typ": nil}} {
		_, err = verifier.Verify(t.Context(), authtest.Now(), ring.EC.Token(t, header, authtest.Claims(nil)))
		require.Equal(t, extauthz.ReasonTokenInvalid, reasonOf(t, err))
	}
}

// Negative control: the table above is worth nothing if the same key, claims
// and verifier refuse everything, or if a second provider shares the cache.
func TestVerificationForOneProviderIsNotForAnother(t *testing.T) {
	ring := authtest.NewRing(t)
	all := verifiers(t, token.Options{})
	ours := authtest.Provider(authtest.KeySet(t, ring.EC))
	theirs := authtest.Provider(authtest.KeySet(t, ring.EC))
	theirs.Audiences = []string{"billing"}
	a, err := all.Verifier(ours)
	require.NoError(t, err)
	b, err := all.Verifier(theirs)
	require.NoError(t, err)
	signed := ring.EC.Token(t, nil, authtest.Claims(nil))
	for range 2 {
		_, err = a.Verify(t.Context(), authtest.Now(), signed)
		require.NoError(t, err)
		_, err = b.Verify(t.Context(), authtest.Now(), signed)
		require.Equal(t, extauthz.ReasonTokenAudience, reasonOf(t, err))
	}
}

func TestCacheEndsWithTheTokenAndItsCap(t *testing.T) {
	ring := authtest.NewRing(t)
	counter := &authtest.Counter{}
	verifier, err := verifiers(t, token.Options{CacheTTL: time.Minute, Events: counter}).Verifier(authtest.Provider(authtest.KeySet(t, ring.EC)))
	require.NoError(t, err)
	signed := ring.EC.Token(t, nil, authtest.Claims(map[string]any{"exp": authtest.Now().Add(90 * time.Second).Unix()}))
	for _, step := range []struct {
		after time.Duration
		hits  int
		want  extauthz.Reason
	}{
		{0, 0, ""},
		{59 * time.Second, 1, ""},
		{60 * time.Second, 1, ""},
		{89 * time.Second, 2, ""},
		{90 * time.Second, 2, ""},                           // within leeway, verified anew
		{120 * time.Second, 2, extauthz.ReasonTokenExpired}, // leeway over
		{121 * time.Second, 2, extauthz.ReasonTokenExpired},
	} {
		_, err := verifier.Verify(t.Context(), authtest.Now().Add(step.after), signed)
		if step.want == "" {
			require.NoError(t, err, step.after)
		} else {
			require.Equal(t, step.want, reasonOf(t, err))
		}
		require.Equal(t, step.hits, counter.Of("cache hit"), step.after)
	}
}

func TestGarbageDoesNotPushGoodTokensOut(t *testing.T) {
	ring := authtest.NewRing(t)
	counter := &authtest.Counter{}
	verifier, err := verifiers(t, token.Options{CacheBytes: 1 << 20, Events: counter}).Verifier(authtest.Provider(authtest.KeySet(t, ring.EC)))
	require.NoError(t, err)
	good := ring.EC.Token(t, nil, authtest.Claims(nil))
	_, err = verifier.Verify(t.Context(), authtest.Now(), good)
	require.NoError(t, err)
	for i := range 30_000 {
		_, err = verifier.Verify(t.Context(), authtest.Now(), "a.b."+strings.Repeat("c", i%7)+string(rune('a'+i%26))+authtest.B64([]byte{byte(i), byte(i >> 8)}))
		require.Error(t, err)
	}
	_, err = verifier.Verify(t.Context(), authtest.Now(), good)
	require.NoError(t, err)
	require.Equal(t, 1, counter.Of("cache hit"))
}
