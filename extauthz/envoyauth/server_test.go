package envoyauth_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/envoyauth"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/token"
	"weir.dev/kit/fault"
)

type fixed struct{ rules *extauthz.Rules }

func (f fixed) Current() *extauthz.Rules { return f.rules }

type broken struct{}

func (broken) Current() *extauthz.Rules { panic("broken") }

func rulesOf(t testing.TB, routes ...*rulesv1.AuthRoute) *extauthz.Rules {
	t.Helper()
	verifiers, err := token.NewVerifiers(token.Options{})
	require.NoError(t, err)
	c, err := extauthz.NewCompiler(verifiers)
	require.NoError(t, err)
	sources := map[string]*rulesv1.AuthRoute{}
	for _, route := range routes {
		sources[route.RouteId] = route
	}
	set, err := c.Routes(nil, sources)
	require.NoError(t, err)
	consumers, err := c.Consumers(authtest.Consumers())
	require.NoError(t, err)
	return extauthz.NewRules(set, consumers)
}

func server(rules envoyauth.RuleSource, log *bytes.Buffer) *envoyauth.Server {
	logger := slog.New(slog.DiscardHandler)
	if log != nil {
		logger = slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return envoyauth.NewServer(rules, &authtest.Counter{}, logger, authtest.Now)
}

func ask(t testing.TB, s envoyauth.Checker, r *authv3.CheckRequest) *authv3.CheckResponse {
	t.Helper()
	return askWithin(t.Context(), t, s, r)
}

func askWithin(ctx context.Context, t testing.TB, s envoyauth.Checker, r *authv3.CheckRequest) *authv3.CheckResponse { //nolint:revive // The test's own context is another.
	t.Helper()
	response, err := envoyauth.NewService(s).Check(ctx, r)
	require.NoError(t, err, "a check never errs")
	_, err = proto.Marshal(response)
	require.NoError(t, err)
	return response
}

func headersOf(options []*corev3.HeaderValueOption) map[string]string {
	all := map[string]string{}
	for _, option := range options {
		if option.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			all[option.GetHeader().GetKey()] = option.GetHeader().GetValue()
		}
	}
	return all
}

func metadataOf(response *authv3.CheckResponse) map[string]any {
	return response.GetDynamicMetadata().AsMap()
}

func TestAllowed(t *testing.T) {
	s := server(fixed{rulesOf(t, authtest.Route("r", authtest.APIKey()))}, nil)
	response := ask(t, s, authtest.Check("r", "X-API-Key", authtest.GoodKey, "x-weir-tenant", "evil", "x-weir-role", "root", "x_weir_tier", "platinum", "Authorization", "Basic x"))
	require.EqualValues(t, codes.OK, response.GetStatus().GetCode())
	ok := response.GetOkResponse()
	require.Equal(t, map[string]string{
		"x-weir-consumer": "default/shop", "x-weir-subject": "main", "x-weir-tenant": "acme", "x-weir-tier": "gold",
		"x-weir-scopes": "read", "x-weir-authenticator": "key",
	}, headersOf(ok.GetHeaders()))
	require.ElementsMatch(t, []string{"authorization", "x-api-key", "x-weir-role", "x_weir_tier"}, ok.GetHeadersToRemove())
	require.Equal(t, map[string]any{
		"decision": "allow", "decision_id": "", "reason": "ALLOWED", "policy": "default/policy", "route": "r", "rule": "", "digest": "d1",
		"authenticator": "key", "consumer": "default/shop", "tenant": "acme", "subject": "main", "tier": "gold", "principal": "default/shop",
	}, metadataOf(response))
}

// Every reserved header that is not set is removed, so that a client's own
// never reaches the service.
func TestAnonymousCallerCannotBringAnIdentity(t *testing.T) {
	s := server(fixed{rulesOf(t, authtest.Route("r", authtest.Anonymous()))}, nil)
	response := ask(t, s, authtest.Check("r", "x-weir-consumer", "default/shop"))
	require.Equal(t, map[string]string{"x-weir-authenticator": "anyone"}, headersOf(response.GetOkResponse().GetHeaders()))
	require.ElementsMatch(t, []string{"x-weir-consumer", "x-weir-subject", "x-weir-tenant", "x-weir-tier", "x-weir-scopes", "authorization"},
		response.GetOkResponse().GetHeadersToRemove())
	require.Equal(t, "anonymous", metadataOf(response)["principal"])
}

func TestDeniedOverREST(t *testing.T) {
	ring := authtest.NewRing(t)
	jwt := authtest.JWT("jwt", authtest.Provider(authtest.KeySet(t, ring.EC)))
	rules := rulesOf(t, authtest.Route("r", authtest.APIKey(), jwt), authtest.WithRules(authtest.Route("closed", authtest.APIKey()), authtest.Deny("all", "true")))
	for name, test := range map[string]struct {
		check     *authv3.CheckRequest
		status    int
		code      string
		reason    string
		challenge bool
	}{
		"nothing":       {authtest.Check("r"), 401, "CREDENTIALS_MISSING", "CREDENTIALS_MISSING", true},
		"wrong key":     {authtest.Check("r", "x-api-key", "nope"), 401, "API_KEY_INVALID", "API_KEY_INVALID", true},
		"expired key":   {authtest.Check("r", "x-api-key", authtest.ExpiredKey), 401, "API_KEY_INVALID", "API_KEY_EXPIRED", true},
		"wrong token":   {authtest.Check("r", "authorization", "Bearer x.y.z"), 401, "TOKEN_INVALID", "TOKEN_INVALID", true},
		"two keys":      {authtest.Check("r", "x-api-key", authtest.GoodKey, "X-Api-Key", authtest.GoodKey), 400, "CREDENTIAL_AMBIGUOUS", "CREDENTIAL_AMBIGUOUS", false},
		"rule":          {authtest.Check("closed", "x-api-key", authtest.GoodKey), 403, "PERMISSION_DENIED", "PERMISSION_DENIED", false},
		"unknown route": {authtest.Check("other"), 503, "ROUTE_UNKNOWN", "ROUTE_UNKNOWN", false},
		"no attributes": {&authv3.CheckRequest{}, 503, "ROUTE_UNKNOWN", "ROUTE_UNKNOWN", false},
	} {
		t.Run(name, func(t *testing.T) {
			response := ask(t, server(fixed{rules}, nil), test.check)
			denied := response.GetDeniedResponse()
			require.NotNil(t, denied)
			require.NotZero(t, response.GetStatus().GetCode())
			require.EqualValues(t, test.status, denied.GetStatus().GetCode())
			headers := headersOf(denied.GetHeaders())
			require.Equal(t, fault.ProblemContentType, headers["content-type"])
			require.Equal(t, test.challenge, headers["www-authenticate"] != "")
			require.NotContains(t, headers, "grpc-status")
			var problem fault.Problem
			require.NoError(t, json.Unmarshal([]byte(denied.GetBody()), &problem))
			require.Equal(t, test.code, problem.Code)
			require.Equal(t, test.status, problem.Status)
			if test.check.GetAttributes() != nil {
				require.Equal(t, "req-1", problem.RequestID)
			}
			require.Equal(t, "deny", metadataOf(response)["decision"])
			require.Equal(t, test.reason, metadataOf(response)["reason"])
			require.Len(t, metadataOf(response), 13)
		})
	}
}

func TestDeniedOverGRPC(t *testing.T) {
	s := server(fixed{rulesOf(t, authtest.Route("r", authtest.APIKey()))}, nil)
	for _, contentType := range []string{"application/grpc", "application/grpc+proto", "application/grpc-web+proto"} {
		denied := ask(t, s, authtest.Check("r", "content-type", contentType)).GetDeniedResponse()
		headers := headersOf(denied.GetHeaders())
		require.Equal(t, "credentials are required", denied.GetBody())
		require.Equal(t, "16", headers["grpc-status"])
		require.NotContains(t, headers, "content-type")
		raw, err := base64.RawStdEncoding.DecodeString(headers["grpc-status-details-bin"])
		require.NoError(t, err)
		details := &statuspb.Status{}
		require.NoError(t, proto.Unmarshal(raw, details))
		require.EqualValues(t, codes.Unauthenticated, details.GetCode())
		info, request := &errdetails.ErrorInfo{}, &errdetails.RequestInfo{}
		require.NoError(t, details.GetDetails()[0].UnmarshalTo(info))
		require.Equal(t, "CREDENTIALS_MISSING", info.GetReason())
		require.NoError(t, details.GetDetails()[1].UnmarshalTo(request))
		require.Equal(t, "req-1", request.GetRequestId())
	}
}

func TestHeadersOfAnEnvoyWithoutRawHeaders(t *testing.T) {
	s := server(fixed{rulesOf(t, authtest.Route("r", authtest.APIKey()))}, nil)
	check := authtest.Check("r")
	http := check.GetAttributes().GetRequest().GetHttp()
	http.HeaderMap, http.Headers = nil, map[string]string{"x-api-key": authtest.GoodKey}
	require.NotNil(t, ask(t, s, check).GetOkResponse())
	http.Headers["x-api-key"] = authtest.GoodKey + "," + authtest.GoodKey // how Envoy joins two
	require.NotNil(t, ask(t, s, check).GetDeniedResponse())
}

func TestRequestIDThatCannotBeRepeated(t *testing.T) {
	s := server(fixed{nil}, nil)
	for _, id := range []string{"a\"\r\nb", "\xff", string(bytes.Repeat([]byte("a"), 200))} {
		check := authtest.Check("r")
		check.Attributes.Request.Http.HeaderMap.Headers[0].RawValue = []byte(id)
		body := ask(t, s, check).GetDeniedResponse().GetBody()
		require.NotContains(t, body, "requestId")
	}
}

// What breaks while deciding is a denial, never a gRPC error, which Envoy's
// failure mode could let pass.
func TestPanicDenies(t *testing.T) {
	var log bytes.Buffer
	denied := ask(t, server(broken{}, &log), authtest.Check("r")).GetDeniedResponse()
	require.EqualValues(t, 503, denied.GetStatus().GetCode())
	require.NotContains(t, denied.GetBody(), "broken")
	require.Contains(t, log.String(), "panic: broken")
}

func TestNotLoadedDenies(t *testing.T) {
	denied := ask(t, server(fixed{nil}, nil), authtest.Check("r")).GetDeniedResponse()
	require.EqualValues(t, 503, denied.GetStatus().GetCode())
	require.Contains(t, denied.GetBody(), "RULES_NOT_LOADED")
}

func TestLogsHoldNoSecrets(t *testing.T) {
	var log bytes.Buffer
	ring := authtest.NewRing(t)
	jwt := authtest.JWT("jwt", authtest.Provider(authtest.KeySet(t, ring.EC)))
	s := server(fixed{rulesOf(t, authtest.Route("r", authtest.APIKey(), jwt))}, &log)
	signed := ring.EC.Token(t, nil, authtest.Claims(nil))
	for _, credential := range [][2]string{
		{"x-api-key", authtest.GoodKey},
		{"x-api-key", authtest.ExpiredKey},
		{"x-api-key", "wrong-secret-key"},
		{"authorization", "Bearer " + signed},
		{"authorization", "Bearer " + signed[:len(signed)-6]},
	} {
		response := ask(t, s, authtest.Check("r", credential[0], credential[1], "cookie", "session=hidden-cookie"))
		text := log.String() + response.String()
		for _, secret := range []string{authtest.GoodKey, authtest.ExpiredKey, "wrong-secret-key", "hidden-cookie", signed[len(signed)-40 : len(signed)-10]} {
			require.NotContains(t, text, secret)
		}
	}
	var record map[string]any
	lines := bytes.Split(bytes.TrimSpace(log.Bytes()), []byte("\n"))
	require.Len(t, lines, 5)
	require.NoError(t, json.Unmarshal(lines[1], &record))
	require.Equal(t, "API_KEY_EXPIRED", record["reason"])
	require.Equal(t, "req-1", record["request_id"])
	require.Equal(t, "default/policy", record["policy"])
	require.Contains(t, record["cause"], "key old of consumer default/shop")
}

// FuzzCheck holds that no bytes lead to an error, a panic, an answer that
// cannot be sent, or an allowance without the one good key.
func FuzzCheck(f *testing.F) {
	for _, check := range []*authv3.CheckRequest{
		{},
		authtest.Check("r"), authtest.Check("other"), authtest.Check("r", "x-api-key", "x"), authtest.Check("r", "authorization", "Bearer a.b.c"),
		authtest.Check("r", "content-type", "application/grpc", "x-api-key", "x", "x-api-key", "y"),
	} {
		raw, err := proto.Marshal(check)
		require.NoError(f, err)
		f.Add(raw)
	}
	ring := authtest.NewRing(f)
	route := authtest.WithRules(authtest.Route("r", authtest.APIKey(), authtest.JWT("jwt", authtest.Provider(authtest.KeySet(f, ring.EC)))),
		authtest.Deny("d", `request.path.contains("x") || request.headers.exists(h, h == "z")`))
	s := server(fixed{rulesOf(f, route)}, nil)
	f.Fuzz(func(t *testing.T, raw []byte) {
		check := &authv3.CheckRequest{}
		if proto.Unmarshal(raw, check) != nil {
			return
		}
		if response := ask(t, s, check); response.GetDeniedResponse() == nil {
			require.Contains(t, string(raw), authtest.GoodKey)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	ring := authtest.NewRing(b)
	jwt := authtest.JWT("jwt", authtest.Provider(authtest.KeySet(b, ring.RSA)))
	s := envoyauth.NewService(server(fixed{rulesOf(b, authtest.Route("r", authtest.APIKey(), jwt))}, nil))
	for name, check := range map[string]*authv3.CheckRequest{
		"api-key":      authtest.Check("r", "x-api-key", authtest.GoodKey, "accept", "*/*", "user-agent", "bench"),
		"cached-token": authtest.Check("r", "authorization", "Bearer "+ring.RSA.Token(b, nil, authtest.Claims(nil)), "accept", "*/*"),
		"denied":       authtest.Check("r", "accept", "*/*"),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Check(b.Context(), check); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
