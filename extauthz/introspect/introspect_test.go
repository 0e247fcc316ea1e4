package introspect_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/introspect"
)

// endpoint is an introspection endpoint whose answer a test can change.
type endpoint struct {
	*httptest.Server
	calls  atomic.Int64
	answer atomic.Value // http.HandlerFunc
	last   atomic.Pointer[http.Request]
}

func newEndpoint(t *testing.T) *endpoint {
	e := &endpoint{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.calls.Add(1)
		_ = r.ParseForm()
		e.last.Store(r)
		e.answer.Load().(http.HandlerFunc)(w, r)
	}))
	t.Cleanup(e.Close)
	e.says(answer(nil))
	return e
}

func (e *endpoint) does(f http.HandlerFunc) { e.answer.Store(f) }

func (e *endpoint) says(body string) { e.saysAs("application/json", http.StatusOK, body) }

func (e *endpoint) saysAs(kind string, status int, body string) {
	e.does(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
}

// answer is that of an active token with changes; nil takes a member away.
func answer(changes map[string]any) string {
	said := map[string]any{
		"active": true, "iss": authtest.Issuer, "aud": []any{"other", authtest.Audience}, "sub": "alice", "scope": "read write",
		"client_id": "shop-app", "tenant": "acme", "token_type": "Bearer", "exp": authtest.Now().Add(time.Hour).Unix(),
	}
	for name, value := range changes {
		if said[name] = value; value == nil {
			delete(said, name)
		}
	}
	raw, _ := json.Marshal(said)
	return string(raw)
}

func (e *endpoint) settings() *rulesv1.IntrospectionAuthenticator {
	return &rulesv1.IntrospectionAuthenticator{
		Uri: e.URL, Issuer: authtest.Issuer, Audiences: []string{authtest.Audience},
		ClientId: "weir edge", ClientSecret: "s3cret:&", Claims: &rulesv1.ClaimMapping{Tenant: "tenant"},
		Timeout: durationpb.New(5 * time.Second),
	}
}

func builder(t *testing.T) *introspect.Introspection {
	made, err := introspect.New(introspect.Options{})
	require.NoError(t, err)
	return made
}

func method(t *testing.T, settings *rulesv1.IntrospectionAuthenticator, siblings ...*rulesv1.Authenticator) extauthz.Method {
	t.Helper()
	source := &rulesv1.Authenticator{Name: "opaque", Method: &rulesv1.Authenticator_Introspection{Introspection: settings}}
	made, err := builder(t).Build(source, extauthz.Place{Siblings: append(siblings, source)})
	require.NoError(t, err)
	return made
}

func call(token string, after time.Duration) *extauthz.Call {
	return &extauthz.Call{
		Now: authtest.Now().Add(after), Realm: "edge",
		Request: &extauthz.Request{Headers: []extauthz.Header{{Name: "authorization", Value: "Bearer " + token}}},
	}
}

func refusal(t *testing.T, err error) *extauthz.Refusal {
	t.Helper()
	var known *extauthz.Refusal
	require.True(t, errors.As(err, &known), "%v", err)
	return known
}

func TestActiveToken(t *testing.T) {
	e := newEndpoint(t)
	m := method(t, e.settings())
	for range 3 {
		proof, err := m.Prove(t.Context(), call("opaque-1", 0))
		require.NoError(t, err)
		require.Equal(t, "alice", proof.Subject)
		require.Equal(t, "acme", proof.Tenant)
		require.Equal(t, authtest.Issuer, proof.Issuer)
		require.Equal(t, []string{"read", "write"}, proof.Scopes)
		require.Equal(t, "shop-app", proof.Claims.GetFields()["client_id"].GetStringValue())
	}
	require.EqualValues(t, 1, e.calls.Load(), "the answer is remembered")
	asked := e.last.Load()
	require.Equal(t, "opaque-1", asked.PostForm.Get("token"))
	require.Equal(t, "access_token", asked.PostForm.Get("token_type_hint"))
	id, secret, ok := asked.BasicAuth()
	require.True(t, ok)
	require.Equal(t, "weir+edge", id, "form-encoded, RFC 6749 section 2.3.1")
	require.Equal(t, "s3cret%3A%26", secret)
	_, err := m.Prove(t.Context(), call("opaque-1", 61*time.Second))
	require.NoError(t, err)
	require.EqualValues(t, 2, e.calls.Load(), "for a minute")
}

func TestAnswersThatRefuse(t *testing.T) {
	at := func(d time.Duration) int64 { return authtest.Now().Add(d).Unix() }
	const bad = extauthz.ReasonTokenInvalid
	for name, test := range map[string]struct {
		answer string
		want   extauthz.Reason
	}{
		"inactive":              {`{"active":false}`, bad},
		"inactive, the rest ok": {answer(map[string]any{"active": false}), bad},
		"other issuer":          {answer(map[string]any{"iss": "https://evil.example"}), extauthz.ReasonTokenIssuer},
		"issuer with a slash":   {answer(map[string]any{"iss": authtest.Issuer + "/"}), extauthz.ReasonTokenIssuer},
		"issuer a list":         {answer(map[string]any{"iss": []any{authtest.Issuer}}), extauthz.ReasonTokenIssuer},
		"other audience":        {answer(map[string]any{"aud": "other"}), extauthz.ReasonTokenAudience},
		"no audience":           {answer(map[string]any{"aud": nil}), extauthz.ReasonTokenAudience},
		"audience an object":    {answer(map[string]any{"aud": map[string]any{authtest.Audience: true}}), extauthz.ReasonTokenAudience},
		"expired":               {answer(map[string]any{"exp": at(0)}), extauthz.ReasonTokenExpired},
		"exp a string":          {answer(map[string]any{"exp": "9999999999"}), bad},
		"exp enormous":          {answer(map[string]any{"exp": 1e300}), bad},
		"not yet":               {answer(map[string]any{"nbf": at(time.Second)}), extauthz.ReasonTokenNotYetValid},
		"nbf a string":          {answer(map[string]any{"nbf": "0"}), bad},
		"refresh token":         {answer(map[string]any{"token_type": "refresh_token"}), bad},
		"refresh, by token_use": {answer(map[string]any{"token_use": "refresh_token"}), bad},
		"refresh, by typ":       {answer(map[string]any{"typ": "Refresh"}), bad},
		"ID token":              {answer(map[string]any{"typ": "ID"}), bad},
		"token_type a list":     {answer(map[string]any{"token_type": []any{"Bearer"}}), bad},
		"no subject":            {answer(map[string]any{"sub": nil}), bad},
		"subject a number":      {answer(map[string]any{"sub": 7}), bad},
		"tenant a list":         {answer(map[string]any{"tenant": []any{"acme"}}), bad},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t)
			e.says(test.answer)
			m := method(t, e.settings())
			for range 2 {
				proof, err := m.Prove(t.Context(), call("opaque", 0))
				require.Nil(t, proof)
				known := refusal(t, err)
				require.Equal(t, test.want, known.Reason, "%v", err)
				require.Contains(t, known.Challenge, `Bearer realm="edge", error="invalid_token"`)
			}
			require.EqualValues(t, 1, e.calls.Load(), "a refusal is remembered")
			e.says(answer(nil))
			_, err := m.Prove(t.Context(), call("opaque", 11*time.Second))
			require.NoError(t, err, "and not for long")
		})
	}
}

// What is no answer of an introspection endpoint refuses, and is not remembered.
func TestEndpointThatDoesNotAnswerAsItHasTo(t *testing.T) {
	for name, does := range map[string]func(e *endpoint){
		"active a string": func(e *endpoint) { e.says(answer(map[string]any{"active": "true"})) },
		"active 1":        func(e *endpoint) { e.says(answer(map[string]any{"active": 1})) },
		"no active":       func(e *endpoint) { e.says(answer(map[string]any{"active": nil})) },
		"active twice":    func(e *endpoint) { e.says(`{"active":false,` + answer(nil)[1:]) },
		"active, escaped": func(e *endpoint) { e.says(`{"\u0061ctive":false,` + answer(nil)[1:]) },
		"a list":          func(e *endpoint) { e.says(`[` + answer(nil) + `]`) },
		"a tail":          func(e *endpoint) { e.says(answer(nil) + `{"active":true}`) },
		"empty":           func(e *endpoint) { e.says(``) },
		"huge":            func(e *endpoint) { e.says(answer(map[string]any{"x": strings.Repeat("x", 70_000)})) },
		"deep": func(e *endpoint) {
			e.says(`{"active":true,"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`)
		},
		"HTML":   func(e *endpoint) { e.saysAs("text/html", 200, answer(nil)) },
		"signed": func(e *endpoint) { e.saysAs("application/token-introspection+jwt", 200, "a.b.c") },
		"401":    func(e *endpoint) { e.saysAs("application/json", 401, answer(nil)) },
		"403":    func(e *endpoint) { e.saysAs("application/json", 403, answer(nil)) },
		"500":    func(e *endpoint) { e.saysAs("application/json", 500, answer(nil)) },
		"201":    func(e *endpoint) { e.saysAs("application/json", 201, answer(nil)) },
		"redirect": func(e *endpoint) {
			e.does(func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "/other", http.StatusTemporaryRedirect)
			})
		},
		"connection closed": func(e *endpoint) { e.does(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }) },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t)
			does(e)
			m := method(t, e.settings())
			proof, err := m.Prove(t.Context(), call("opaque-token-text", 0))
			require.Nil(t, proof)
			known := refusal(t, err)
			require.Equal(t, extauthz.ReasonProviderUnavailable, known.Reason)
			require.Empty(t, known.Challenge, "the token is not at fault")
			for _, secret := range []string{"opaque-token-text", "s3cret"} {
				require.NotContains(t, err.Error(), secret)
			}
			e.says(answer(nil))
			_, err = m.Prove(t.Context(), call("opaque-token-text", 0))
			require.NoError(t, err)
		})
	}
}

func TestEndpointThatHangs(t *testing.T) {
	e := newEndpoint(t)
	release := make(chan struct{})
	e.does(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	settings := e.settings()
	settings.Timeout = durationpb.New(50 * time.Millisecond)
	_, err := method(t, settings).Prove(t.Context(), call("opaque", 0))
	require.Equal(t, extauthz.ReasonProviderUnavailable, refusal(t, err).Reason)
	require.ErrorContains(t, err, "no answer in time")
}

func TestExpiryEndsWhatIsRemembered(t *testing.T) {
	e := newEndpoint(t)
	e.says(answer(map[string]any{"exp": authtest.Now().Add(20 * time.Second).Unix()}))
	m := method(t, e.settings())
	_, err := m.Prove(t.Context(), call("opaque", 0))
	require.NoError(t, err)
	_, err = m.Prove(t.Context(), call("opaque", 19*time.Second))
	require.NoError(t, err)
	require.EqualValues(t, 1, e.calls.Load())
	_, err = m.Prove(t.Context(), call("opaque", 20*time.Second))
	require.Equal(t, extauthz.ReasonTokenExpired, refusal(t, err).Reason)
	require.EqualValues(t, 2, e.calls.Load())
}

func TestTokensGoWhereTheyBelongAndNowhereElse(t *testing.T) {
	ring := authtest.NewRing(t)
	ours := ring.EC.Token(t, nil, authtest.Claims(nil))
	theirs := ring.EC.Token(t, nil, authtest.Claims(map[string]any{"iss": "https://other.example"}))
	without := ring.EC.Token(t, nil, authtest.Claims(map[string]any{"iss": nil}))
	jwtSibling := authtest.JWT("jwt", authtest.Provider(""))
	for name, test := range map[string]struct {
		token    string
		siblings []*rulesv1.Authenticator
		want     extauthz.Presence
		asked    bool
	}{
		"opaque, alone":            {"abc", nil, extauthz.Present, true},
		"opaque, shared":           {"abc", []*rulesv1.Authenticator{jwtSibling}, extauthz.Present, true},
		"own JWT, alone":           {ours, nil, extauthz.Present, true},
		"own JWT, shared":          {ours, []*rulesv1.Authenticator{jwtSibling}, extauthz.Present, true},
		"other's JWT, alone":       {theirs, nil, extauthz.Present, false},
		"other's JWT, shared":      {theirs, []*rulesv1.Authenticator{jwtSibling}, extauthz.Foreign, false},
		"JWT of nobody, alone":     {without, nil, extauthz.Present, true},
		"JWT of nobody, shared":    {without, []*rulesv1.Authenticator{jwtSibling}, extauthz.Foreign, false},
		"JWE":                      {"a.b.c.d.e", []*rulesv1.Authenticator{jwtSibling}, extauthz.Present, true},
		"not a token's characters": {"a b", nil, extauthz.Present, false},
		"form in disguise":         {"a&token=b", nil, extauthz.Present, false},
		"huge":                     {strings.Repeat("a", 20_000), nil, extauthz.Present, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t)
			m := method(t, e.settings(), test.siblings...)
			c := call(test.token, 0)
			require.Equal(t, test.want, m.Presence(c.Request))
			_, err := m.Prove(t.Context(), c)
			require.Equal(t, test.asked, err == nil, "%v", err)
			require.Equal(t, test.asked, e.calls.Load() == 1)
		})
	}
}

func TestPresence(t *testing.T) {
	m := method(t, newEndpoint(t).settings())
	request := func(values ...string) *extauthz.Request {
		r := &extauthz.Request{}
		for _, value := range values {
			r.Headers = append(r.Headers, extauthz.Header{Name: "authorization", Value: value})
		}
		return r
	}
	require.Equal(t, extauthz.Absent, m.Presence(request()))
	require.Equal(t, extauthz.Ambiguous, m.Presence(request("Bearer a", "Bearer b")))
	shared := method(t, newEndpoint(t).settings(), authtest.JWT("jwt", authtest.Provider("")))
	require.Equal(t, extauthz.Foreign, shared.Presence(request("Basic YTpi")))
	require.Equal(t, `Bearer realm="edge"`, m.Challenge("edge"))
	require.Equal(t, []string{"authorization"}, m.CredentialHeaders())
}

func TestClientAuthentication(t *testing.T) {
	e := newEndpoint(t)
	settings := e.settings()
	settings.ClientAuthentication = rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_POST
	_, err := method(t, settings).Prove(t.Context(), call("opaque", 0))
	require.NoError(t, err)
	asked := e.last.Load()
	require.Empty(t, asked.Header.Get("Authorization"))
	require.Equal(t, "weir edge", asked.PostForm.Get("client_id"))
	require.Equal(t, "s3cret:&", asked.PostForm.Get("client_secret"))

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	settings = e.settings()
	settings.ClientAuthentication = rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_PRIVATE_KEY_JWT
	settings.ClientSecret = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	_, err = method(t, settings).Prove(t.Context(), call("opaque", 0))
	require.NoError(t, err)
	asked = e.last.Load()
	require.Equal(t, "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", asked.PostForm.Get("client_assertion_type"))
	assertion, err := jwt.Parse(asked.PostForm.Get("client_assertion"), func(*jwt.Token) (any, error) { return key.Public(), nil },
		jwt.WithValidMethods([]string{"ES256"}), jwt.WithAudience(authtest.Issuer), jwt.WithIssuer("weir edge"), jwt.WithSubject("weir edge"), jwt.WithExpirationRequired())
	require.NoError(t, err)
	require.NotEmpty(t, assertion.Claims.(jwt.MapClaims)["jti"])
}

func TestSettingsAreRefusedByField(t *testing.T) {
	e := newEndpoint(t)
	for name, test := range map[string]struct {
		change func(s *rulesv1.IntrospectionAuthenticator)
		says   string
	}{
		"no uri":         {func(s *rulesv1.IntrospectionAuthenticator) { s.Uri = "" }, "introspection.uri: "},
		"http elsewhere": {func(s *rulesv1.IntrospectionAuthenticator) { s.Uri = "http://issuer.example/introspect" }, "is not https"},
		"user in uri":    {func(s *rulesv1.IntrospectionAuthenticator) { s.Uri = "https://a:b@issuer.example/" }, "without user information"},
		"file":           {func(s *rulesv1.IntrospectionAuthenticator) { s.Uri = "file:///etc/passwd" }, "introspection.uri: "},
		"no issuer":      {func(s *rulesv1.IntrospectionAuthenticator) { s.Issuer = "" }, "issuer: is required"},
		"empty audience": {func(s *rulesv1.IntrospectionAuthenticator) { s.Audiences = []string{""} }, "audiences: none"},
		"no client":      {func(s *rulesv1.IntrospectionAuthenticator) { s.ClientId = "" }, "client_id: is required"},
		"no secret":      {func(s *rulesv1.IntrospectionAuthenticator) { s.ClientSecret = "" }, "client_secret: is required"},
		"no key": {func(s *rulesv1.IntrospectionAuthenticator) {
			s.ClientAuthentication = rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_PRIVATE_KEY_JWT
		}, "client_secret: is no private key"},
		"unknown way": {func(s *rulesv1.IntrospectionAuthenticator) { s.ClientAuthentication = 99 }, "client_authentication: "},
		"long ttl": {func(s *rulesv1.IntrospectionAuthenticator) {
			s.Cache = &rulesv1.TokenCache{Ttl: durationpb.New(2 * time.Hour)}
		}, "cache.ttl: 2h"},
		"long wait": {func(s *rulesv1.IntrospectionAuthenticator) { s.Timeout = durationpb.New(time.Minute) }, "timeout: 1m"},
	} {
		t.Run(name, func(t *testing.T) {
			settings := e.settings()
			test.change(settings)
			_, err := builder(t).Build(&rulesv1.Authenticator{Method: &rulesv1.Authenticator_Introspection{Introspection: settings}}, extauthz.Place{})
			require.ErrorContains(t, err, test.says)
			require.NotContains(t, err.Error(), "s3cret")
		})
	}
	made, err := builder(t).Build(authtest.APIKey(), extauthz.Place{})
	require.NoError(t, err)
	require.Nil(t, made)
}

// Many routes with one provider share what they know; other terms do not.
func TestEqualProvidersShare(t *testing.T) {
	e, all := newEndpoint(t), builder(t)
	build := func(change func(s *rulesv1.IntrospectionAuthenticator)) extauthz.Method {
		settings := e.settings()
		change(settings)
		made, err := all.Build(&rulesv1.Authenticator{Method: &rulesv1.Authenticator_Introspection{Introspection: settings}}, extauthz.Place{})
		require.NoError(t, err)
		return made
	}
	same := func(*rulesv1.IntrospectionAuthenticator) {}
	a, b := build(same), build(same)
	c := build(func(s *rulesv1.IntrospectionAuthenticator) { s.Audiences = []string{"billing"} })
	for _, m := range []extauthz.Method{a, b} {
		_, err := m.Prove(t.Context(), call("opaque", 0))
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, e.calls.Load())
	_, err := c.Prove(t.Context(), call("opaque", 0))
	require.Equal(t, extauthz.ReasonTokenAudience, refusal(t, err).Reason, "what counts for one policy does not for another")
	require.EqualValues(t, 2, e.calls.Load())
}

func TestManyAtOnce(t *testing.T) {
	e := newEndpoint(t)
	m := method(t, e.settings())
	var group sync.WaitGroup
	for i := range 400 {
		group.Go(func() {
			if _, err := m.Prove(t.Context(), call(fmt.Sprint("opaque-", i%4), 0)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	require.EqualValues(t, 4, e.calls.Load())
}

func BenchmarkRemembered(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answer(nil))
	}))
	b.Cleanup(server.Close)
	all, err := introspect.New(introspect.Options{})
	require.NoError(b, err)
	settings := (&endpoint{Server: server}).settings()
	m, err := all.Build(
		&rulesv1.Authenticator{Method: &rulesv1.Authenticator_Introspection{Introspection: settings}}, extauthz.Place{})
	require.NoError(b, err)
	c := call("0123456789abcdef0123456789abcdef", 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Prove(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}
