package envoyauth

import (
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"weir.dev/extauthz"
	"weir.dev/kit/identity"
)

// RouteExtension is the context extension that holds the route's id.
const RouteExtension = "weir.route"

// BodyExtension is the context extension by which a proxy says that it sends the
// bodies of a route.
const BodyExtension = "weir.body"

// maxRequestIDBytes bounds a request id that is repeated to the client.
const maxRequestIDBytes = 128

// toRequest reads a check request. Nothing that is absent is an error here:
// deciding refuses what it cannot decide.
func toRequest(check *authv3.CheckRequest) *extauthz.Request {
	attributes := check.GetAttributes()
	http := attributes.GetRequest().GetHttp()
	request := &extauthz.Request{
		Route:     attributes.GetContextExtensions()[RouteExtension],
		Method:    http.GetMethod(),
		Target:    http.GetPath(),
		Authority: http.GetHost(),
		Port:      attributes.GetDestination().GetAddress().GetSocketAddress().GetPortValue(),
		Protocol:  http.GetProtocol(),
		Scheme:    http.GetScheme(),
		Body:      body(http),
		SendsBody: attributes.GetContextExtensions()[BodyExtension] != "",
		Source:    attributes.GetSource().GetAddress().GetSocketAddress().GetAddress(),
		Headers:   headers(http),

		Certificate:     attributes.GetSource().GetCertificate(),
		SourcePort:      attributes.GetSource().GetAddress().GetSocketAddress().GetPortValue(),
		SourcePrincipal: attributes.GetSource().GetPrincipal(),
		Size:            -1,
		Received:        http.GetSize(),
	}
	complete(request)
	return request
}

// complete fills in what follows from the headers.
func complete(request *extauthz.Request) {
	for i := range request.Headers {
		switch header := &request.Headers[i]; header.Name {
		case identity.HeaderRequestID:
			if len(header.Value) <= maxRequestIDBytes && extauthz.ValidHeaderValue(header.Value) {
				request.ID = header.Value
			}
		case "content-length":
			if size, err := strconv.ParseInt(header.Value, 10, 64); err == nil && size >= 0 {
				request.Size = size
			}
		case "content-type":
			request.GRPC = strings.HasPrefix(header.Value, "application/grpc")
		}
	}
}

// body is that of the route's check, in whichever form Envoy was told to send.
func body(http *authv3.AttributeContext_HttpRequest) []byte {
	if raw := http.GetRawBody(); len(raw) > 0 {
		return raw
	}
	if text := http.GetBody(); text != "" {
		return []byte(text)
	}
	return nil
}

// headers takes the raw list, in which repeated headers are still apart; the
// joined map is for an Envoy that does not send it.
func headers(http *authv3.AttributeContext_HttpRequest) []extauthz.Header {
	if raw := http.GetHeaderMap().GetHeaders(); len(raw) > 0 {
		list := make([]extauthz.Header, 0, len(raw))
		for _, header := range raw {
			list = append(list, extauthz.Header{Name: strings.ToLower(header.GetKey()), Value: headerValue(header)})
		}
		return list
	}
	list := make([]extauthz.Header, 0, len(http.GetHeaders()))
	for name, value := range http.GetHeaders() {
		list = append(list, extauthz.Header{Name: strings.ToLower(name), Value: value})
	}
	return list
}

func headerValue(header *corev3.HeaderValue) string {
	if raw := header.GetRawValue(); len(raw) > 0 {
		return string(raw)
	}
	return header.GetValue()
}
