package e2e

import (
	"bytes"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"weir.dev/e2e/internal/harness"
)

// What the edge answers by itself can be read and looked for, whatever the client
// speaks.
func TestEdgeAnswers(t *testing.T) {
	limit := strings.ReplaceAll(limitYAML("user-grpc", "FixedWindow", 1, "24h", "Open"), "kind: HTTPRoute", "kind: GRPCRoute")
	s, _ := edge(t, limit)
	t.Run("gRPC refusals name the request", func(t *testing.T) { grpcRefusals(t, s) })
	t.Run("what of a REST request is malformed", func(t *testing.T) { malformedREST(t, s) })
	t.Run("headers that are too large", func(t *testing.T) { largeHeaders(t, s) })
	t.Run("an early answer is whole", func(t *testing.T) { earlyAnswer(t, s) })
	raw, err := os.ReadFile(filepath.Join(s.State, "logs", "envoy.log")) // which has later lines by now
	require.NoError(t, err)
	require.Contains(t, string(raw), "grpc_json_transcode_failure")
	require.NotContains(t, string(raw), "canary")
}

// logged waits for the lines of the access log whose field has the values, and
// returns them in that order.
func logged(t *testing.T, s *harness.System, field string, values ...string) []map[string]any {
	t.Helper()
	found := make([]map[string]any, len(values))
	s.Eventually("the access log to be written", 15*time.Second, func() bool { // by several workers
		for _, line := range logLines(t, s, "envoy") {
			text, _ := line[field].(string)
			if i := slices.Index(values, text); line["log"] == "access" && i >= 0 {
				found[i] = line
			}
		}
		return !slices.ContainsFunc(found, func(line map[string]any) bool { return line == nil })
	})
	return found
}

func grpcRefusals(t *testing.T, s *harness.System) {
	const method = "weir.user.v1.UserService/ListUsers"
	s.Weir("call", method)
	var ids []string
	for _, tc := range []struct {
		args []string
		says string
	}{
		{[]string{"call", method, "--no-auth"}, "UNAUTHENTICATED: credentials are required\n  reason: CREDENTIALS_MISSING (weir.dev)\n"},
		{[]string{"call", method}, "RESOURCE_EXHAUSTED: too many requests; wait as long as Retry-After says\n  reason: RATE_LIMITED (weir.dev)\n"},
	} {
		_, errors, err := s.TryWeir(tc.args...)
		require.Error(t, err)
		require.Contains(t, errors, tc.says)
		_, id, found := strings.Cut(errors, "\n  request: ")
		require.True(t, found, errors)
		ids = append(ids, strings.TrimSpace(id))
	}
	// Any other client finds it in the trailers: an answer without messages has
	// its headers there.
	var trailer metadata.MD
	err := s.Dial().Invoke(t.Context(), "/nothing.Service/Method", &emptypb.Empty{}, &emptypb.Empty{}, grpc.Trailer(&trailer))
	require.Equal(t, codes.Unimplemented, status.Code(err), "%v", err)
	require.Equal(t, "ROUTE_NOT_FOUND", reasonOf(err))
	require.Len(t, trailer.Get("x-request-id"), 1)
	ids = append(ids, trailer.Get("x-request-id")[0])
	for i, line := range logged(t, s, "request_id", ids...) {
		require.Equal(t, []string{"ext_authz_denied", "request_rate_limited", "route_not_found"}[i], line["details"])
	}
}

// malformedREST is told whether it is the address or the body and which field, and
// gets nothing back of the values that it sent.
func malformedREST(t *testing.T, s *harness.System) {
	const (
		address = "a query parameter or a part of the path is not known or has a value of the wrong type"
		body    = "the body is not JSON, or a field in it has a value of the wrong type"
		unknown = "is not known"
		wrong   = "has a value of the wrong type"
	)
	long := strings.Repeat("canary", 200)
	for name, tc := range map[string]struct{ path, contentType, sent, detail, field, said string }{
		"unknown parameter":      {"?nothing=canary", "", "", address, "nothing", unknown},
		"unknown with a path":    {"?nothing.canary=canary", "", "", address, "nothing", unknown},
		"no name of a field":     {"?no%22thing=canary", "", "", address, "", ""},
		"a long name":            {"?" + long + "=1", "", "", address, "", ""},
		"parameter's type":       {"?pageSize=canary", "", "", address, "page_size", wrong},
		"parameter's long value": {"?pageSize=" + long, "", "", address, "page_size", wrong},
		"parameter's quotes":     {"?pageSize=" + url.QueryEscape("canary\",\"type\":\"x\r\n\xff.\n"), "", "", address, "page_size", wrong},
		"not whole":              {"", "application/json", `{"displayName": "canary"`, body + ": Unexpected end of string. Expected , or } after key:value pair", "", ""},
		"beside a secret":        {"", "application/json", `{"displayName": "canary" canary}`, body + ": Expected , or } after key:value pair", "", ""},
		"a list":                 {"", "application/json", `["canary"]`, body, "", ""},
		"a field's type":         {"", "application/json", `{"displayName": {"canary": 1}}`, body, "organization", wrong},
		"text":                   {"", "text/plain", "canary", body + ": Unexpected token", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			method, headers := http.MethodGet, s.Key()
			if tc.contentType != "" {
				method, headers = http.MethodPost, append(headers, "Content-Type", tc.contentType)
			}
			answer := s.Do(method, "/v1/organizations"+tc.path, tc.sent, headers...)
			problem := answer.Problem(t, http.StatusBadRequest, "BAD_REQUEST")
			require.Equal(t, tc.detail, problem.Detail)
			require.Equal(t, answer.Header.Get("X-Request-Id"), problem.RequestID)
			if tc.field == "" {
				require.Empty(t, problem.Errors)
			} else {
				require.Len(t, problem.Errors, 1, answer.Body)
				require.Equal(t, []string{tc.field, tc.said}, []string{problem.Errors[0].Field, problem.Errors[0].Detail})
			}
			require.NotContains(t, answer.Body, "canary")
			require.NotContains(t, answer.Body, "transcoder")
		})
	}
	answer := s.Get("/v1/organizations?pageSize=1", "Content-Type", "text/plain")
	require.Equal(t, http.StatusOK, answer.Status, "negative control: %s", answer.Body)
}

// largeHeaders are answered before the request has an id; its line in the access
// log is found by client, time and status.
func largeHeaders(t *testing.T, s *harness.System) {
	answer := s.Get("/v1/organizations", "Large", strings.Repeat("x", 70<<10))
	problem := answer.Problem(t, http.StatusRequestHeaderFieldsTooLarge, "HEADERS_TOO_LARGE")
	require.Empty(t, problem.RequestID)
	require.Empty(t, answer.Header.Get("X-Request-Id"))
	// Over HTTP/2 the stream is reset instead; one field that is too large by itself
	// ends the connection.
	framer := overHTTP2(t, s, true, "large", strings.Repeat("x", 40<<10), "too", strings.Repeat("x", 40<<10))
	for {
		frame, err := framer.ReadFrame()
		require.NoError(t, err)
		if reset, is := frame.(*http2.RSTStreamFrame); is {
			require.Equal(t, http2.ErrCodeInternal, reset.ErrCode)
			break
		}
		require.Zero(t, frame.Header().StreamID, "an answer: %v", frame)
	}
	lines := logged(t, s, "details", "http1.headers_too_large", "http2.header_list_size_too_large")
	require.EqualValues(t, http.StatusRequestHeaderFieldsTooLarge, lines[0]["status"])
	for _, line := range lines {
		require.Equal(t, "127.0.0.1", line["client"])
		require.Nil(t, line["request_id"])
		_, err := time.Parse(time.RFC3339Nano, line["time"].(string))
		require.NoError(t, err)
	}
}

// overHTTP2 sends the headers of a request without credentials over a connection of
// its own; its answer is what the framer reads next.
func overHTTP2(t *testing.T, s *harness.System, whole bool, more ...string) *http2.Framer {
	t.Helper()
	target, err := url.Parse(s.URL)
	require.NoError(t, err)
	conn, err := net.Dial("tcp", target.Host)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = conn.Write([]byte(http2.ClientPreface))
	require.NoError(t, err)
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	require.NoError(t, framer.WriteSettings())
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	fields := append([]string{":method", "POST", ":scheme", "http", ":authority", target.Host, ":path", "/v1/organizations", "content-type", "application/json"}, more...)
	for i := 0; i < len(fields); i += 2 {
		require.NoError(t, encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	const most = 16 << 10 // of one frame
	first := block.Next(most)
	require.NoError(t, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndStream: whole, EndHeaders: block.Len() == 0}))
	for block.Len() > 0 {
		next := block.Next(most)
		require.NoError(t, framer.WriteContinuation(1, block.Len() == 0, next))
	}
	return framer
}

// earlyAnswer: a request that is refused before its body has come gets the whole
// answer, and then at most a reset without an error (RFC 9113 section 8.1), which
// old versions of curl take for one.
func earlyAnswer(t *testing.T, s *harness.System) {
	framer := overHTTP2(t, s, false, "content-length", "2")
	var body strings.Builder
	ended := false
	for {
		frame, err := framer.ReadFrame()
		require.NoError(t, err, "no end of the stream: %s", body.String())
		if frame.Header().StreamID != 1 {
			continue
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			require.Equal(t, "401", frame.PseudoValue("status"))
		case *http2.DataFrame:
			body.Write(frame.Data())
			ended = frame.StreamEnded()
		case *http2.RSTStreamFrame:
			require.True(t, ended, "the answer was whole before: %s", body.String())
			require.Equal(t, http2.ErrCodeNo, frame.ErrCode)
			require.Contains(t, body.String(), `"code":"CREDENTIALS_MISSING"`)
			return
		}
	}
}
