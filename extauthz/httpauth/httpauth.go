// Package httpauth speaks ext_authz over HTTP (Envoy's http_service, and Istio's
// envoyExtAuthzHttp): the request to decide about arrives as a request of its
// own, with its method, path and host. It turns it into a check of the gRPC
// protocol and the answer back, and decides nothing.
//
// Over HTTP Envoy sends the headers that allowed_headers names, no address of
// the client, no route and no protocol version: rules that ask for an address see
// an empty one, and the route is chosen by host and path. An answer of 500 or more
// would be an error to Envoy, which its failure mode decides about; such a denial
// goes out as 403, and its body says what it is.
package httpauth

import (
	"net/http"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// headersToRemove tells Envoy which headers of the request the service must not
// see.
const headersToRemove = "x-envoy-auth-headers-to-remove"

// maxHeaderBytes is more than Envoy lets through by default (60 KiB).
const maxHeaderBytes = 256 << 10

// NewServer makes a server of checks; the caller listens. prefix is Envoy's
// path_prefix, which stands before the path of each request; a request without it
// is refused.
func NewServer(server authv3.AuthorizationServer, prefix string) *http.Server {
	return &http.Server{
		Handler:           &handler{server: server, prefix: strings.TrimSuffix(prefix, "/")},
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: maxHeaderBytes,
		// Go would answer "OPTIONS *" by itself, with 200: a yes to Envoy.
		DisableGeneralOptionsHandler: true,
	}
}

// handler answers checks. Safe for concurrent use.
type handler struct {
	server authv3.AuthorizationServer
	prefix string
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// As it was sent: Go's own reading of a path is not Envoy's.
	target, found := strings.CutPrefix(r.RequestURI, h.prefix)
	if !found {
		http.Error(w, "the path does not begin with the path_prefix that extauthzd is configured with", http.StatusForbidden)
		return
	}
	answer, err := h.server.Check(r.Context(), check(r, target))
	if err != nil {
		http.Error(w, "the request could not be authorized", http.StatusForbidden)
		return
	}
	write(w, r, answer)
}

func check(r *http.Request, target string) *authv3.CheckRequest {
	headers := &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
		{Key: ":method", RawValue: []byte(r.Method)}, {Key: ":path", RawValue: []byte(target)}, {Key: ":authority", RawValue: []byte(r.Host)},
	}}
	for name, values := range r.Header {
		lower := strings.ToLower(name)
		if ofTheHop(lower) {
			continue
		}
		for _, value := range values {
			headers.Headers = append(headers.Headers, &corev3.HeaderValue{Key: lower, RawValue: []byte(value)})
		}
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: r.Method, Path: target, Host: r.Host, HeaderMap: headers,
		}},
	}}
}

// ofTheHop tells headers that are of the call to us, not of the request.
func ofTheHop(name string) bool {
	switch name {
	case "content-length", "connection", "transfer-encoding", "te", "upgrade", "x-envoy-internal", "x-envoy-expected-rq-timeout-ms":
		return true
	}
	return false
}

func write(w http.ResponseWriter, r *http.Request, answer *authv3.CheckResponse) {
	if denied := answer.GetDeniedResponse(); denied != nil {
		set(w.Header(), denied.GetHeaders())
		status := int(denied.GetStatus().GetCode())
		// 200 means yes to Envoy, and 500 and more that there is no answer.
		if status <= http.StatusOK || status >= http.StatusInternalServerError {
			status = http.StatusForbidden
		}
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			_, _ = w.Write([]byte(denied.GetBody())) //nolint:gosec // the body is our own, or a redirect page of ours
		}
		return
	}
	ok := answer.GetOkResponse()
	if ok == nil {
		http.Error(w, "the request could not be authorized", http.StatusForbidden)
		return
	}
	set(w.Header(), ok.GetHeaders())
	set(w.Header(), ok.GetResponseHeadersToAdd())
	remove := slices.Clone(ok.GetHeadersToRemove())
	// What the client sent under a name that is set goes by Envoy's overwriting.
	if len(remove) > 0 {
		w.Header().Set(headersToRemove, strings.Join(remove, ","))
	}
	w.WriteHeader(http.StatusOK)
}

func set(into http.Header, options []*corev3.HeaderValueOption) {
	for _, option := range options {
		header := option.GetHeader()
		value := header.GetValue()
		if raw := header.GetRawValue(); len(raw) > 0 {
			value = string(raw)
		}
		if option.GetAppendAction() == corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD {
			into.Add(header.GetKey(), value)
			continue
		}
		into.Set(header.GetKey(), value)
	}
}
