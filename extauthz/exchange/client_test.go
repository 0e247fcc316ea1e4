package exchange_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz/exchange"
)

const privateKeyJWT = rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_PRIVATE_KEY_JWT

// strict is a token endpoint that looks at every claim of an assertion and takes
// each assertion once (RFC 7523 section 3).
type strict struct {
	*httptest.Server
	algorithm string
	key       crypto.PublicKey
	audience  string

	mu   sync.Mutex
	seen map[string]bool
}

func startStrict(t *testing.T, algorithm string, key crypto.PublicKey) *strict {
	s := &strict{algorithm: algorithm, key: key, seen: map[string]bool{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if problem := s.problem(r); problem != "" {
			t.Log(problem)
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
			return
		}
		_, _ = w.Write([]byte(`{"access_token":"new","token_type":"Bearer","issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`))
	}))
	t.Cleanup(s.Close)
	s.audience = s.URL
	return s
}

func (s *strict) problem(r *http.Request) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.ParseForm() != nil || r.URL.RawQuery != "" || r.Header.Get("Authorization") != "":
		return "something else than a form"
	case !slices.Equal(r.PostForm["client_id"], []string{"weir"}) || r.PostForm.Has("client_secret"):
		return "the client"
	case r.PostForm.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer":
		return "the type"
	}
	var said jwt.MapClaims
	token, err := jwt.ParseWithClaims(r.PostForm.Get("client_assertion"), &said, func(*jwt.Token) (any, error) { return s.key, nil },
		jwt.WithValidMethods([]string{s.algorithm}), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(5*time.Second))
	if err != nil {
		return err.Error()
	}
	issued, _ := said["iat"].(float64)
	expires, _ := said["exp"].(float64)
	id, _ := said["jti"].(string)
	switch {
	case token.Header["typ"] != "JWT" || len(token.Header) != 2:
		return "the header"
	case !slices.Equal(slices.Sorted(maps.Keys(said)), []string{"aud", "exp", "iat", "iss", "jti", "sub"}):
		return "the claims"
	case said["iss"] != "weir" || said["sub"] != "weir" || said["aud"] != s.audience: // one audience, and no list
		return "the parties"
	case expires-issued > 60 || len(id) < 16 || s.seen[id]:
		return "the life"
	}
	s.seen[id] = true
	return ""
}

func inPEM(t *testing.T, key any) string {
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

func TestClientsProveThemselvesByAKey(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	exchanger, err := exchange.New(nil, 1<<20, nil)
	require.NoError(t, err)
	for _, key := range []struct {
		algorithm string
		private   crypto.Signer
	}{{"ES256", ec}, {"RS256", large}} {
		for _, audience := range []string{"", "https://issuer.example"} {
			s := startStrict(t, key.algorithm, key.private.Public())
			source := &rulesv1.TokenExchange{
				TokenEndpoint: s.URL, ClientId: "weir", ClientSecret: inPEM(t, key.private), ClientAuthentication: privateKeyJWT, AssertionAudience: audience,
			}
			if audience != "" {
				s.audience = audience
			}
			made, err := exchanger.Exchange(source)
			require.NoError(t, err)
			for range 2 { // nothing is kept without a lifetime, and each assertion is another
				request, decision := bearer("old")
				value, err := made.Token(t.Context(), time.Now(), request, decision)
				require.NoError(t, err, "%s for %q", key.algorithm, audience)
				require.Equal(t, "Bearer new", value)
			}
			require.Len(t, s.seen, 2)
			// What is looked at is what counts: another audience is refused.
			s.mu.Lock()
			s.audience = "https://another.example"
			s.mu.Unlock()
			request, decision := bearer("old")
			_, err = made.Token(t.Context(), time.Now(), request, decision)
			require.ErrorContains(t, err, "answered 401")
		}
	}
}

func TestClientsProveThemselvesInTheForm(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.ParseForm() != nil || r.Header.Get("Authorization") != "" || r.PostForm.Get("client_id") != "weir:1" || r.PostForm.Get("client_secret") != "s/ecret" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		_, _ = w.Write([]byte(`{"access_token":"new","token_type":"Bearer"}`))
	}))
	t.Cleanup(server.Close)
	exchanger, err := exchange.New(nil, 1<<20, nil)
	require.NoError(t, err)
	source := &rulesv1.TokenExchange{TokenEndpoint: server.URL, ClientId: "weir:1", ClientSecret: "s/ecret"}
	for way, good := range map[rulesv1.ClientAuthentication]bool{
		rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_POST: true, rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_BASIC: false,
	} {
		source.ClientAuthentication = way
		made, err := exchanger.Exchange(source)
		require.NoError(t, err)
		request, decision := bearer("old")
		_, err = made.Token(t.Context(), now(), request, decision)
		require.Equal(t, good, err == nil, "%s: %v", way, err)
	}
	source.ClientAuthentication = 99
	_, err = exchanger.Exchange(source)
	require.ErrorContains(t, err, "client_authentication: ")
	source.ClientAuthentication = privateKeyJWT
	_, err = exchanger.Exchange(source)
	require.ErrorContains(t, err, "client_secret: is no private key in PEM")
	require.NotContains(t, err.Error(), "s/ecret")
}
