package httpauth_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/stretchr/testify/require"

	"weir.dev/extauthz/httpauth"
)

// recorder remembers the check and gives the answer.
type recorder struct {
	authv3.UnimplementedAuthorizationServer
	check  *authv3.CheckRequest
	answer *authv3.CheckResponse
	err    error
}

func (r *recorder) Check(_ context.Context, check *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	r.check = check
	return r.answer, r.err
}

// send writes a request as it is, since Go's client would tidy it up.
func send(t *testing.T, r *recorder, request string) (*http.Response, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := httpauth.NewServer(r, "/check")
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	conn, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close() //nolint:errcheck // the answer is read
	fmt.Fprint(conn, strings.ReplaceAll(request, "\n", "\r\n"))
	method, _, _ := strings.Cut(request, " ")
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	require.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, string(body)
}

func header(name, value string, add bool) *corev3.HeaderValueOption {
	action := corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
	if add {
		action = corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
	}
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}, AppendAction: action}
}

func denied(status int) *authv3.CheckResponse {
	return &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
		Status: &typev3.HttpStatus{Code: typev3.StatusCode(status)}, Body: "why", Headers: []*corev3.HeaderValueOption{header("location", "/login", false)},
	}}}
}

func TestCheckIsWhatWasSent(t *testing.T) {
	r := &recorder{answer: &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
		Headers: []*corev3.HeaderValueOption{header("x-weir-tenant", "acme", false)}, HeadersToRemove: []string{"x-api-key", "authorization"},
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{header("set-cookie", "a=1", true), header("set-cookie", "b=2", true)},
	}}}}
	response, _ := send(t, r, "GET /check/a//b/%2e%2e/c;d?x=%2F HTTP/1.1\nHost: API.example:99\nX-Key: one\nx-key: two\nContent-Length: 0\n\n")
	require.Equal(t, 200, response.StatusCode)
	require.Equal(t, "acme", response.Header.Get("x-weir-tenant"))
	require.Equal(t, []string{"a=1", "b=2"}, response.Header.Values("set-cookie"))
	require.Equal(t, "x-api-key,authorization", response.Header.Get("x-envoy-auth-headers-to-remove"))
	asked := r.check.GetAttributes().GetRequest().GetHttp()
	require.Equal(t, "/a//b/%2e%2e/c;d?x=%2F", asked.GetPath(), "nothing is tidied up")
	require.Equal(t, "API.example:99", asked.GetHost())
	var keys []string
	for _, h := range asked.GetHeaderMap().GetHeaders() {
		require.NotEqual(t, "content-length", h.GetKey())
		if h.GetKey() == "x-key" {
			keys = append(keys, string(h.GetRawValue()))
		}
	}
	require.Equal(t, []string{"one", "two"}, keys, "headers stay apart")
}

func TestDenials(t *testing.T) {
	for status, want := range map[int]int{401: 401, 302: 302, 403: 403, 429: 429, 503: 403, 500: 403, 200: 403, 0: 403, 100: 403} {
		response, body := send(t, &recorder{answer: denied(status)}, "GET /check/a HTTP/1.1\nHost: h\n\n")
		require.Equal(t, want, response.StatusCode, "%d", status)
		require.Equal(t, "why", body)
		require.Equal(t, "/login", response.Header.Get("location"))
	}
	response, body := send(t, &recorder{answer: denied(401)}, "HEAD /check/a HTTP/1.1\nHost: h\n\n")
	require.Equal(t, 401, response.StatusCode)
	require.Empty(t, body)
}

// Whatever else comes is a refusal, and never one that Envoy's failure mode
// decides about.
func TestNothingElseIsAYes(t *testing.T) {
	for name, r := range map[string]*recorder{"error": {err: io.EOF}, "neither": {answer: &authv3.CheckResponse{}}} {
		response, _ := send(t, r, "GET /check/a HTTP/1.1\nHost: h\n\n")
		require.Equal(t, 403, response.StatusCode, name)
	}
	r := &recorder{answer: denied(401)}
	for _, request := range []string{"GET /other HTTP/1.1\nHost: h\n\n", "GET http://h/check/a HTTP/1.1\nHost: h\n\n", "OPTIONS * HTTP/1.1\nHost: h\n\n"} {
		response, _ := send(t, r, request)
		require.NotEqual(t, 200, response.StatusCode, request)
	}
	require.Nil(t, r.check)
}
