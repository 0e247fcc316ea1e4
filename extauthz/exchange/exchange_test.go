package exchange_test

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/exchange"
)

func now() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

type sts struct {
	*httptest.Server
	calls  atomic.Int32
	answer atomic.Pointer[string]
	status atomic.Int32
}

func startSTS(t *testing.T) *sts {
	s := &sts{}
	s.says(http.StatusOK, `{"access_token":"new","token_type":"Bearer","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","expires_in":300}`)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls.Add(1)
		w.Header().Set("Content-Type", "application/json;charset=UTF-8")
		id, secret, _ := r.BasicAuth()
		if r.ParseForm() != nil || id != "weir%3A1" || secret != "s%2Fecret" ||
			r.PostForm.Get("grant_type") != "urn:ietf:params:oauth:grant-type:token-exchange" ||
			r.PostForm.Get("subject_token") != "old" || r.PostForm.Get("audience") != "users" || r.PostForm.Get("scope") != "a b" ||
			r.PostForm.Get("subject_token_type") != "urn:ietf:params:oauth:token-type:access_token" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
			return
		}
		w.WriteHeader(int(s.status.Load()))
		_, _ = w.Write([]byte(*s.answer.Load()))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *sts) says(status int, body string) {
	s.status.Store(int32(status)) //nolint:gosec // an HTTP status
	s.answer.Store(&body)
}

func (s *sts) source() *rulesv1.TokenExchange {
	return &rulesv1.TokenExchange{
		TokenEndpoint: s.URL, ClientId: "weir:1", ClientSecret: "s/ecret", Audience: "users", Scopes: []string{"a", "b"}, Timeout: durationpb.New(5 * time.Second),
	}
}

func bearer(token string) (*extauthz.Request, *extauthz.Decision) {
	return &extauthz.Request{Headers: []extauthz.Header{{Name: "authorization", Value: "Bearer " + token}}},
		&extauthz.Decision{Identity: extauthz.Identity{Issuer: "https://issuer.example"}}
}

func token(t *testing.T, s *sts) func(at time.Time, token string) (string, error) {
	exchanger, err := exchange.New(nil, 1<<20, nil)
	require.NoError(t, err)
	made, err := exchanger.Exchange(s.source())
	require.NoError(t, err)
	return func(at time.Time, token string) (string, error) {
		request, decision := bearer(token)
		return made.Token(t.Context(), at, request, decision)
	}
}

func TestExchange(t *testing.T) {
	s := startSTS(t)
	get := token(t, s)
	for range 2 {
		value, err := get(now(), "old")
		require.NoError(t, err)
		require.Equal(t, "Bearer new", value)
	}
	require.EqualValues(t, 1, s.calls.Load())
	_, err := get(now().Add(270*time.Second), "old")
	require.NoError(t, err)
	require.EqualValues(t, 2, s.calls.Load(), "not sent in its last 30 seconds")
	_, err = get(now(), "another")
	require.ErrorContains(t, err, "answered 401", "another caller's token is another question")
}

func TestASessionsTokenIsExchanged(t *testing.T) {
	s := startSTS(t)
	exchanger, err := exchange.New(nil, 1<<20, nil)
	require.NoError(t, err)
	made, err := exchanger.Exchange(s.source())
	require.NoError(t, err)
	value, err := made.Token(t.Context(), now(), &extauthz.Request{}, &extauthz.Decision{UpstreamHeaders: []extauthz.Header{{Name: "authorization", Value: "Bearer old"}}})
	require.NoError(t, err)
	require.Equal(t, "Bearer new", value)
	// A token that nobody verified is never exchanged.
	request, _ := bearer("old")
	_, err = made.Token(t.Context(), now(), request, &extauthz.Decision{})
	var refused *extauthz.Refusal
	require.ErrorAs(t, err, &refused)
	require.Equal(t, extauthz.ReasonPermissionDenied, refused.Reason)
}

func TestAnswersThatAreNone(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		body   string
		want   extauthz.Reason
	}{
		"the token is refused":  {400, `{"error":"invalid_grant"}`, extauthz.ReasonPermissionDenied},
		"the target is refused": {400, `{"error":"invalid_target"}`, extauthz.ReasonPermissionDenied},
		"our mistake":           {400, `{"error":"unsupported_grant_type"}`, extauthz.ReasonSourceUnavailable},
		"down":                  {503, `{}`, extauthz.ReasonSourceUnavailable},
		"no token":              {200, `{"token_type":"Bearer"}`, extauthz.ReasonSourceUnavailable},
		"a header of its own":   {200, `{"access_token":"a\r\nx: y","token_type":"Bearer"}`, extauthz.ReasonSourceUnavailable},
		"not a bearer":          {200, `{"access_token":"a","token_type":"N_A"}`, extauthz.ReasonSourceUnavailable},
		"a refresh token":       {200, `{"access_token":"a","token_type":"Bearer","issued_token_type":"urn:ietf:params:oauth:token-type:refresh_token"}`, extauthz.ReasonSourceUnavailable},
		"not JSON":              {200, `a`, extauthz.ReasonSourceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			s := startSTS(t)
			s.says(test.status, test.body)
			get := token(t, s)
			for range 2 {
				value, err := get(now(), "old")
				require.Empty(t, value)
				var refused *extauthz.Refusal
				require.ErrorAs(t, err, &refused)
				require.Equal(t, test.want, refused.Reason)
				require.NotContains(t, err.Error(), "s/ecret")
			}
			require.EqualValues(t, 2, s.calls.Load(), "a failure is not kept")
		})
	}
}

func TestExchangesThatDoNotCompile(t *testing.T) {
	exchanger, err := exchange.New(nil, 1<<20, nil)
	require.NoError(t, err)
	for says, source := range map[string]*rulesv1.TokenExchange{
		"token_endpoint: is not https": {TokenEndpoint: "http://example.com", ClientId: "a", ClientSecret: "b"},
		"client_id: is required":       {TokenEndpoint: "https://example.com"},
		"client_secret: is required":   {TokenEndpoint: "https://example.com", ClientId: "a"},
		"timeout: 1m0s is outside":     {TokenEndpoint: "https://example.com", ClientId: "a", ClientSecret: "b", Timeout: durationpb.New(time.Minute)},
	} {
		_, err := exchanger.Exchange(source)
		require.ErrorContains(t, err, says)
	}
}
