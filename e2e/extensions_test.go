package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/kit/fault"
)

// processor is an ext_proc server: it notes what it is shown, adds its name to
// x-seen, tries to forge what it must not, and answers by itself when asked to.
type processor struct {
	name string
	hang chan struct{}
	// details of the answers that it gives by itself
	details string
	mu      sync.Mutex
	// shown are the header names of the last request.
	shown map[string]string
	body  string
}

func (p *processor) Process(stream grpc.BidiStreamingServer[extprocv3.ProcessingRequest, extprocv3.ProcessingResponse]) error {
	for {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		if p.hang != nil {
			select {
			case <-p.hang:
			case <-stream.Context().Done():
				return stream.Context().Err()
			}
		}
		response := &extprocv3.ProcessingResponse{}
		switch phase := request.GetRequest().(type) {
		case *extprocv3.ProcessingRequest_RequestHeaders:
			if p.show(phase.RequestHeaders)["x-answer"] == p.name {
				response.Response = &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{
					Status: &typev3.HttpStatus{Code: typev3.StatusCode_Forbidden}, Details: p.own(), Body: []byte("said by " + p.name), Headers: p.mutation(),
				}}
				break
			}
			response.Response = &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{
				Response: &extprocv3.CommonResponse{HeaderMutation: p.mutation()},
			}}
		case *extprocv3.ProcessingRequest_ResponseHeaders:
			response.Response = &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{
				Response: &extprocv3.CommonResponse{HeaderMutation: p.mutation()},
			}}
		case *extprocv3.ProcessingRequest_RequestBody:
			p.mu.Lock()
			p.body += string(phase.RequestBody.GetBody())
			p.mu.Unlock()
			response.Response = &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{}}
		default:
			return fmt.Errorf("%T was not asked for", phase)
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

func (p *processor) show(headers *extprocv3.HttpHeaders) map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shown, p.body = map[string]string{}, ""
	for _, header := range headers.GetHeaders().GetHeaders() {
		p.shown[header.GetKey()] = string(header.GetRawValue())
	}
	return p.shown
}

func (p *processor) seen() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shown
}

func (p *processor) own() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.details
}

func (p *processor) mutation() *extprocv3.HeaderMutation {
	set := func(name, value string, action corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
		option := &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, RawValue: []byte(value)}, AppendAction: action}
		if action == corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD {
			option.Append = wrapperspb.Bool(true) //nolint:staticcheck // ext_proc takes the action, which is the zero value, for none
		}
		return option
	}
	return &extprocv3.HeaderMutation{
		SetHeaders: []*corev3.HeaderValueOption{
			set("x-seen", p.name, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD),
			set("x-weir-tenant", "forged", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD),
			set("X-Weir-Consumer", "forged", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD),
			set(":path", "/forged", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD),
			set("host", "forged.example", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD),
			set("x-envoy-upstream-rq-timeout-ms", "1", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD),
		},
		RemoveHeaders: []string{"x-weir-kept"},
	}
}

func (p *processor) serve(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer()
	extprocv3.RegisterExternalProcessorServer(server, p)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		require.NoError(t, <-served)
	})
	return listener.Addr().(*net.TCPAddr).Port
}

// arrived is what the backend was sent.
type arrived struct {
	Path, Host, Body string
	Header           http.Header
}

func extensionsYAML(backend, one, two int) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: edge}]
  rules:
    - {name: none, matches: [{path: {value: /none}}], backendRefs: [{group: weir.dev, kind: Backend, name: web}]}
    - {name: two, matches: [{path: {value: /two}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-late, value: late}]}}], backendRefs: [{group: weir.dev, kind: Backend, name: web}]}
    - {name: reversed, matches: [{path: {value: /reversed}}], backendRefs: [{group: weir.dev, kind: Backend, name: web}]}
    - {name: closed, matches: [{path: {value: /closed}}], backendRefs: [{group: weir.dev, kind: Backend, name: web}]}
    - {name: open, matches: [{path: {value: /open}}], backendRefs: [{group: weir.dev, kind: Backend, name: web}]}
    - {name: missing, matches: [{path: {value: /missing}}], backendRefs: [{group: weir.dev, kind: Backend, name: web}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: web}
spec: {endpoints: [{address: 127.0.0.1, port: %d}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: one}
spec: {protocol: GRPC, endpoints: [{address: 127.0.0.1, port: %d}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: two}
spec: {protocol: GRPC, endpoints: [{address: 127.0.0.1, port: %d}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: down}
spec: {protocol: GRPC, endpoints: [{address: 127.0.0.1, port: 1}]}
`, backend, one, two) + extensionPolicy("two", "{name: b, backendRef: {name: one}, process: {request: {body: Streamed}}}, {name: a, backendRef: {name: two}, forwardHeaders: {deny: [x-secret]}}") +
		extensionPolicy("reversed", "{name: a, backendRef: {name: two}}, {name: b, backendRef: {name: one}}") +
		extensionPolicy("closed", "{name: down, backendRef: {name: down}}") +
		extensionPolicy("open", "{name: down, backendRef: {name: down}, failureMode: Open}") +
		extensionPolicy("missing", "{name: missing, backendRef: {name: nowhere}}")
}

func extensionPolicy(rule, extensions string) string {
	return fmt.Sprintf(`---
apiVersion: weir.dev/v1alpha1
kind: ExtensionPolicy
metadata: {name: %s}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web, sectionName: %s}], extensions: [%s]}
`, rule, rule, extensions)
}

// extended is Envoy with two processors before an echo.
func extended(t *testing.T, one, two *processor) *proxied {
	t.Helper()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_ = json.NewEncoder(w).Encode(arrived{r.URL.Path, r.Host, string(body), r.Header})
	}))
	t.Cleanup(backend.Close)
	p := startEnvoy(t)
	p.requireAccepted(p.compileText(extensionsYAML(backend.Listener.Addr().(*net.TCPAddr).Port, one.serve(t), two.serve(t))))
	p.get(8080, "/none")
	return p
}

func (p *proxied) ask(path, body string, headers ...string) (*http.Response, string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d%s", p.ports[8080], path), strings.NewReader(body))
	require.NoError(p.t, err)
	for pair := range slices.Chunk(headers, 2) {
		request.Header.Set(pair[0], pair[1])
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(p.t, err)
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	require.NoError(p.t, err)
	return response, string(raw)
}

func TestExtensionsThroughEnvoy(t *testing.T) {
	one, two := &processor{name: "one"}, &processor{name: "two"}
	p := extended(t, one, two)
	echo := func(body string) (echo arrived) {
		require.NoError(t, json.Unmarshal([]byte(body), &echo), body)
		return echo
	}

	t.Run("in order", func(t *testing.T) {
		response, body := p.ask("/two", "the body", "x-secret", "s", "authorization", "Bearer x", "cookie", "c=d")
		require.Equal(t, http.StatusOK, response.StatusCode, body)
		require.Equal(t, []string{"one", "two"}, echo(body).Header.Values("X-Seen"))
		require.Equal(t, []string{"two", "one"}, response.Header.Values("X-Seen"), "responses go backwards")
		require.Equal(t, "the body", echo(body).Body)
		one.mu.Lock()
		require.Equal(t, "the body", one.body)
		one.mu.Unlock()
		require.Equal(t, "s", one.seen()["x-secret"])
		for _, hidden := range []string{"x-secret", "authorization", "cookie"} {
			require.NotContains(t, two.seen(), hidden)
		}
		require.Equal(t, "Bearer x", echo(body).Header.Get("Authorization"), "it is hidden, not removed")
		response, body = p.ask("/reversed", "")
		require.Equal(t, []string{"two", "one"}, echo(body).Header.Values("X-Seen"))
		require.Equal(t, []string{"one", "two"}, response.Header.Values("X-Seen"))
		_, body = p.ask("/none", "")
		require.Empty(t, echo(body).Header.Values("X-Seen"), "off unless a route turns it on")
	})

	t.Run("nothing forged", func(t *testing.T) {
		response, body := p.ask("/two", "")
		got := echo(body)
		require.Equal(t, "/two", got.Path)
		require.NotEqual(t, "forged.example", got.Host)
		for _, header := range []http.Header{got.Header, response.Header} {
			for name, values := range header {
				require.False(t, strings.HasPrefix(strings.ToLower(name), "x-weir-"), "%s: %v", name, values)
				require.NotContains(t, values, "forged")
			}
		}
	})

	t.Run("answers by itself", func(t *testing.T) {
		for _, details := range []string{"", "extension said no"} {
			one.mu.Lock()
			one.details = details
			one.mu.Unlock()
			response, body := p.ask("/two", "", "x-answer", "one")
			require.Equal(t, http.StatusForbidden, response.StatusCode)
			require.Equal(t, "said by one", body)
			for name := range response.Header {
				require.False(t, strings.HasPrefix(strings.ToLower(name), "x-weir-"), name)
			}
		}
	})

	t.Run("down", func(t *testing.T) {
		response, body := p.ask("/closed", "")
		require.Equal(t, http.StatusServiceUnavailable, response.StatusCode, body)
		require.Equal(t, fault.ProblemContentType, response.Header.Get("Content-Type"))
		require.Contains(t, body, "EXTENSION_UNAVAILABLE")
		response, body = p.ask("/open", "")
		require.Equal(t, http.StatusOK, response.StatusCode, body)
		response, body = p.ask("/missing", "")
		require.Equal(t, http.StatusServiceUnavailable, response.StatusCode, body)
		require.Contains(t, body, "POLICY_BROKEN")
	})
}

// A server that does not answer in time is as one that is down.
func TestASlowExtension(t *testing.T) {
	one, two := &processor{name: "one", hang: make(chan struct{})}, &processor{name: "two"}
	p := extended(t, one, two)
	response, body := p.ask("/two", "")
	require.Equal(t, http.StatusServiceUnavailable, response.StatusCode, body)
	require.Contains(t, body, "EXTENSION_UNAVAILABLE")
	close(one.hang)
	response, _ = p.ask("/two", "")
	require.Equal(t, http.StatusOK, response.StatusCode)
}
