package introspect_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/introspect"
	"weir.dev/extauthz/token"
)

const typeSigned = "application/token-introspection+jwt"

// signing is introspection that verifies signed answers, as extauthzd makes it.
func signing(t *testing.T) *introspect.Introspection {
	t.Helper()
	verifiers, err := token.NewVerifiers(token.Options{})
	require.NoError(t, err)
	made, err := introspect.New(introspect.Options{
		Statements: func(source *rulesv1.JwtAuthenticator) (introspect.Statement, error) {
			return verifiers.Verifier(source)
		},
	})
	require.NoError(t, err)
	return made
}

func signedMethod(t *testing.T, settings *rulesv1.IntrospectionAuthenticator) extauthz.Method {
	t.Helper()
	source := &rulesv1.Authenticator{Name: "opaque", Method: &rulesv1.Authenticator_Introspection{Introspection: settings}}
	made, err := signing(t).Build(source, extauthz.Place{Siblings: []*rulesv1.Authenticator{source}})
	require.NoError(t, err)
	return made
}

// signedSettings ask for answers signed by the ring's ES256 and RS256 keys.
func (e *endpoint) signedSettings(t *testing.T, ring authtest.Ring) *rulesv1.IntrospectionAuthenticator {
	settings := e.settings()
	settings.SignedResponse = &rulesv1.SignedResponse{
		Algorithms: []string{"ES256", "RS256"}, Jwks: &rulesv1.SignedResponse_InlineJwks{InlineJwks: authtest.KeySet(t, ring.All()...)},
	}
	return settings
}

// statement is what a signed answer holds, with changes; nil takes a claim away.
func statement(t *testing.T, inner string, changes map[string]any) map[string]any {
	t.Helper()
	said := map[string]any{"iss": authtest.Issuer, "aud": "weir edge", "iat": authtest.Now().Unix(), "token_introspection": json.RawMessage(inner)}
	maps.Copy(said, changes)
	maps.DeleteFunc(said, func(_ string, value any) bool { return value == nil })
	return said
}

func typed(changes map[string]any) map[string]any {
	header := map[string]any{"typ": "token-introspection+jwt"}
	maps.Copy(header, changes)
	return header
}

func TestSignedAnswers(t *testing.T) {
	ring := authtest.NewRing(t)
	for name, test := range map[string]struct {
		signed string
		change func(*rulesv1.SignedResponse)
	}{
		"ES256":             {signed: ring.EC.Token(t, typed(nil), statement(t, answer(nil), nil))},
		"RS256":             {signed: ring.RSA.Token(t, typed(nil), statement(t, answer(nil), nil))},
		"the long type":     {signed: ring.EC.Token(t, typed(map[string]any{"typ": typeSigned}), statement(t, answer(nil), nil))},
		"several audiences": {signed: ring.EC.Token(t, typed(nil), statement(t, answer(nil), map[string]any{"aud": []any{"other", "weir edge"}}))},
		"another audience": {
			signed: ring.EC.Token(t, typed(nil), statement(t, answer(nil), map[string]any{"aud": "https://edge.example"})),
			change: func(s *rulesv1.SignedResponse) { s.Audience = "https://edge.example" },
		},
		"nearly a minute old": {signed: ring.EC.Token(t, typed(nil), statement(t, answer(nil), map[string]any{"iat": authtest.Now().Unix() - 59}))},
		"a clock ahead":       {signed: ring.EC.Token(t, typed(nil), statement(t, answer(nil), map[string]any{"iat": authtest.Now().Unix() + 59}))},
		"dates that hold": {signed: ring.EC.Token(t, typed(nil), statement(t, answer(nil), map[string]any{
			"exp": authtest.Now().Unix() + 1, "nbf": authtest.Now().Unix(),
		}))},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t)
			e.saysAs(typeSigned, http.StatusOK, test.signed)
			settings := e.signedSettings(t, ring)
			if test.change != nil {
				test.change(settings.GetSignedResponse())
			}
			m := signedMethod(t, settings)
			for range 2 {
				proof, err := m.Prove(t.Context(), call("opaque-1", 0))
				require.NoError(t, err)
				require.Equal(t, "alice", proof.Subject)
				require.Equal(t, "acme", proof.Tenant)
				require.Nil(t, proof.Claims.GetFields()["token_introspection"])
			}
			require.EqualValues(t, 1, e.calls.Load(), "the answer is remembered")
			require.Equal(t, typeSigned, e.last.Load().Header.Get("Accept"))
		})
	}
}

// What is signed is judged as what is not: an inactive token is the caller's fault.
func TestSignedAnswersThatRefuse(t *testing.T) {
	ring := authtest.NewRing(t)
	for name, test := range map[string]struct {
		inner string
		want  extauthz.Reason
	}{
		"inactive":       {`{"active":false}`, extauthz.ReasonTokenInvalid},
		"another issuer": {answer(map[string]any{"iss": "https://other.example"}), extauthz.ReasonTokenIssuer},
		"another's":      {answer(map[string]any{"aud": "billing"}), extauthz.ReasonTokenAudience},
		"expired":        {answer(map[string]any{"exp": authtest.Now().Unix() - 1}), extauthz.ReasonTokenExpired},
		"refresh token":  {answer(map[string]any{"token_type": "refresh_token"}), extauthz.ReasonTokenInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t)
			e.saysAs(typeSigned, http.StatusOK, ring.EC.Token(t, typed(nil), statement(t, test.inner, nil)))
			_, err := signedMethod(t, e.signedSettings(t, ring)).Prove(t.Context(), call("opaque-1", 0))
			require.Equal(t, test.want, refusal(t, err).Reason, "%v", err)
		})
	}
}

// What is not signed as it has to be says nothing about the token: the caller is
// not at fault, and nothing of it is remembered.
func TestSignedAnswersThatAreNone(t *testing.T) {
	ring, other := authtest.NewRing(t), authtest.NewRing(t)
	ec := func(header, changes map[string]any) string {
		return ring.EC.Token(t, typed(header), statement(t, answer(nil), changes))
	}
	good := ec(nil, nil)
	at := authtest.Now().Unix()
	for name, test := range map[string]struct{ body, says string }{
		"another's signature":    {other.EC.Token(t, typed(nil), statement(t, answer(nil), nil)), "signature is wrong"},
		"no signature":           {good[:strings.LastIndexByte(good, '.')+1], "signature: is absent"},
		"alg none":               {authtest.B64([]byte(`{"alg":"none","typ":"token-introspection+jwt"}`)) + "." + strings.Split(good, ".")[1] + ".AA", "alg"},
		"alg not of the policy":  {ring.Ed.Token(t, typed(nil), statement(t, answer(nil), nil)), "alg"},
		"an access token":        {ec(map[string]any{"typ": "at+jwt"}, nil), "typ is not one"},
		"a plain JWT":            {ec(map[string]any{"typ": "JWT"}, nil), "typ is not one"},
		"no type":                {ec(map[string]any{"typ": nil}, nil), "typ is absent"},
		"unknown key":            {ec(map[string]any{"kid": "none"}, nil), "kid is not in the key set"},
		"another issuer":         {ec(nil, map[string]any{"iss": "https://other.example"}), "iss is not"},
		"no issuer":              {ec(nil, map[string]any{"iss": nil}), "iss is not"},
		"for another":            {ec(nil, map[string]any{"aud": "weir"}), "aud names none"},
		"for nobody":             {ec(nil, map[string]any{"aud": nil}), "aud names none"},
		"no time":                {ec(nil, map[string]any{"iat": nil}), "iat"},
		"a time that is none":    {ec(nil, map[string]any{"iat": "now"}), "iat"},
		"replayed":               {ec(nil, map[string]any{"iat": at - 61}), "older than"},
		"of the future":          {ec(nil, map[string]any{"iat": at + 61}), "of the future"},
		"expired":                {ec(nil, map[string]any{"exp": at}), "has expired"},
		"an expiry that is none": {ec(nil, map[string]any{"exp": "x"}), "has expired"},
		"not valid yet":          {ec(nil, map[string]any{"nbf": at + 61}), "not valid yet"},
		"nothing said":           {ec(nil, map[string]any{"token_introspection": nil}), "token_introspection"},
		"said in another shape":  {ec(nil, map[string]any{"token_introspection": []any{"active"}}), "token_introspection"},
		"said beside":            {ec(nil, map[string]any{"token_introspection": nil, "active": true, "sub": "alice"}), "token_introspection"},
		"active a string":        {ring.EC.Token(t, typed(nil), statement(t, answer(map[string]any{"active": "true"}), nil)), `no "active"`},
		"active twice":           {ring.EC.Sign(t, `{"alg":"ES256","kid":"ec","typ":"token-introspection+jwt"}`, `{"iss":"https://issuer.example","aud":"weir edge","iat":1772366400,"token_introspection":{"active":false,"active":true}}`), "twice"},
		"encrypted":              {"eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.a.b.c.d", "encrypted, which is not supported"},
		"JSON":                   {answer(nil), "not of the form"},
		"empty":                  {"", "not of the form"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t)
			e.saysAs(typeSigned, http.StatusOK, test.body)
			m := signedMethod(t, e.signedSettings(t, ring))
			proof, err := m.Prove(t.Context(), call("opaque-token-text", 0))
			require.Nil(t, proof)
			known := refusal(t, err)
			require.Equal(t, extauthz.ReasonProviderUnavailable, known.Reason, "%v", err)
			require.ErrorContains(t, err, test.says)
			require.Empty(t, known.Challenge)
			require.NotContains(t, err.Error(), "alice")
			e.saysAs(typeSigned, http.StatusOK, good)
			_, err = m.Prove(t.Context(), call("opaque-token-text", 0))
			require.NoError(t, err)
		})
	}
}

// An answer's form is the policy's to choose: what would let one that is not signed
// pass for one that is, is refused, both ways.
func TestAnswersOfTheOtherFormAreRefused(t *testing.T) {
	ring := authtest.NewRing(t)
	signed := ring.EC.Token(t, typed(nil), statement(t, answer(nil), nil))
	e := newEndpoint(t)
	for _, kind := range []string{"application/json", "application/json; charset=utf-8", "application/jwt", "text/plain", ""} {
		for _, body := range []string{answer(nil), signed} {
			e.saysAs(kind, http.StatusOK, body)
			_, err := signedMethod(t, e.signedSettings(t, ring)).Prove(t.Context(), call("opaque-1", 0))
			require.Equal(t, extauthz.ReasonProviderUnavailable, refusal(t, err).Reason, "%s: %s", kind, body)
		}
	}
	e.saysAs(typeSigned, http.StatusOK, signed)
	_, err := method(t, e.settings()).Prove(t.Context(), call("opaque-1", 0))
	require.Equal(t, extauthz.ReasonProviderUnavailable, refusal(t, err).Reason)
	require.ErrorContains(t, err, "write signedResponse")
}

// The issuer's keys are fetched as those of its tokens are: by discovery, once for
// many answers, and anew for a key that is not known.
func TestKeysOfSignedAnswersAreFetched(t *testing.T) {
	ring := authtest.NewRing(t)
	var fetches atomic.Int32
	var issuer *httptest.Server
	issuer = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/jwks" {
			fetches.Add(1)
			_, _ = w.Write([]byte(authtest.KeySet(t, ring.EC)))
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": issuer.URL, "jwks_uri": issuer.URL + "/jwks"})
	}))
	t.Cleanup(issuer.Close)
	e := newEndpoint(t)
	settings := e.settings()
	settings.Issuer = issuer.URL
	settings.SignedResponse = &rulesv1.SignedResponse{Algorithms: []string{"ES256"}, Jwks: &rulesv1.SignedResponse_DiscoveredJwks{
		DiscoveredJwks: &rulesv1.DiscoveredJwks{CacheDuration: durationpb.New(time.Hour)},
	}}
	m := signedMethod(t, settings)
	inner := answer(map[string]any{"iss": issuer.URL})
	e.saysAs(typeSigned, http.StatusOK, ring.EC.Token(t, typed(nil), statement(t, inner, map[string]any{"iss": issuer.URL})))
	for _, text := range []string{"opaque-1", "opaque-2", "opaque-3"} {
		_, err := m.Prove(t.Context(), call(text, 0))
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, fetches.Load())
	issuer.Close()
	e.saysAs(typeSigned, http.StatusOK, ring.EC.Token(t, typed(map[string]any{"kid": "next"}), statement(t, inner, map[string]any{"iss": issuer.URL})))
	_, err := m.Prove(t.Context(), call("opaque-4", 0))
	require.Equal(t, extauthz.ReasonProviderUnavailable, refusal(t, err).Reason)
}

func TestSignedSettingsAreRefusedByField(t *testing.T) {
	e, ring := newEndpoint(t), authtest.NewRing(t)
	for name, test := range map[string]struct {
		change func(*rulesv1.SignedResponse)
		says   string
	}{
		"no algorithms":      {func(s *rulesv1.SignedResponse) { s.Algorithms = nil }, "introspection.signed_response.algorithms: "},
		"HMAC":               {func(s *rulesv1.SignedResponse) { s.Algorithms = []string{"HS256"} }, "signed_response.algorithms[0]"},
		"no keys":            {func(s *rulesv1.SignedResponse) { s.Jwks = nil }, "signed_response.jwks: "},
		"keys that are none": {func(s *rulesv1.SignedResponse) { s.Jwks = &rulesv1.SignedResponse_InlineJwks{InlineJwks: "{}"} }, "signed_response.inline_jwks: "},
		"keys of a file": {func(s *rulesv1.SignedResponse) {
			s.Jwks = &rulesv1.SignedResponse_RemoteJwks{RemoteJwks: &rulesv1.RemoteJwks{Uri: "file:///etc/passwd"}}
		}, "signed_response.remote_jwks.uri: "},
	} {
		t.Run(name, func(t *testing.T) {
			settings := e.signedSettings(t, ring)
			test.change(settings.GetSignedResponse())
			_, err := signing(t).Build(&rulesv1.Authenticator{Method: &rulesv1.Authenticator_Introspection{Introspection: settings}}, extauthz.Place{})
			require.ErrorContains(t, err, test.says)
		})
	}
	_, err := builder(t).Build(&rulesv1.Authenticator{Method: &rulesv1.Authenticator_Introspection{Introspection: e.signedSettings(t, ring)}}, extauthz.Place{})
	require.ErrorContains(t, err, "signed_response: this server does not verify")
}
