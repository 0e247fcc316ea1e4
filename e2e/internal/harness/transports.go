package harness

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/api/annotations"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Transport calls a unary method the way one kind of client does. Errors are
// gRPC statuses whatever the transport.
type Transport interface {
	Name() string
	Call(ctx context.Context, method string, request, response proto.Message) error
}

// Transports are gRPC, gRPC-web and REST clients with the given headers.
func (s *System) Transports(headers ...string) []Transport {
	s.T.Helper()
	conn := s.Dial()
	return []Transport{
		&grpcTransport{conn: conn, headers: headers},
		&webTransport{system: s, headers: headers},
		&restTransport{system: s, headers: headers},
	}
}

// Dial opens a gRPC connection to the ingress.
func (s *System) Dial() *grpc.ClientConn {
	s.T.Helper()
	conn, err := grpc.NewClient(strings.TrimPrefix(s.URL, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(s.T, err)
	s.T.Cleanup(func() { _ = conn.Close() })
	return conn
}

type grpcTransport struct {
	conn    *grpc.ClientConn
	headers []string
}

func (t *grpcTransport) Name() string { return "grpc" }

func (t *grpcTransport) Call(ctx context.Context, method string, request, response proto.Message) error {
	for i := 0; i+1 < len(t.headers); i += 2 {
		ctx = metadata.AppendToOutgoingContext(ctx, t.headers[i], t.headers[i+1])
	}
	return t.conn.Invoke(ctx, method, request, response)
}

// webTransport speaks gRPC-web (PROTOCOL-WEB.md) over HTTP/1.1.
type webTransport struct {
	system  *System
	headers []string
}

func (t *webTransport) Name() string { return "grpc-web" }

func (t *webTransport) Call(_ context.Context, method string, request, response proto.Message) error {
	raw, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(raw)))
	answer, err := t.system.TryDo(http.MethodPost, method, string(append(frame, raw...)), append([]string{
		"Content-Type", "application/grpc-web+proto", "X-Grpc-Web", "1", "Origin", "http://localhost:5173",
	}, t.headers...)...)
	if err != nil {
		return err
	}
	if answer.Header.Get("Access-Control-Allow-Origin") != "http://localhost:5173" {
		return fmt.Errorf("no CORS header in %v", answer.Header)
	}
	if answer.Header.Get("Grpc-Status") != "" { // trailers-only
		return statusOf(answer.Header.Get("Grpc-Status"), answer.Header.Get("Grpc-Message"), answer.Header.Get("Grpc-Status-Details-Bin"))
	}
	body := []byte(answer.Body)
	for len(body) >= 5 {
		kind, size := body[0], int(binary.BigEndian.Uint32(body[1:5]))
		if len(body) < 5+size {
			return fmt.Errorf("cut frame in %q", answer.Body)
		}
		payload := body[5 : 5+size]
		body = body[5+size:]
		if kind == 0 {
			if err := proto.Unmarshal(payload, response); err != nil {
				return err
			}
			continue
		}
		trailers := map[string]string{}
		for _, line := range strings.Split(string(payload), "\r\n") {
			if name, value, ok := strings.Cut(line, ":"); ok {
				trailers[strings.ToLower(name)] = strings.TrimSpace(value)
			}
		}
		return statusOf(trailers["grpc-status"], trailers["grpc-message"], trailers["grpc-status-details-bin"])
	}
	return fmt.Errorf("no trailers: HTTP %d %q", answer.Status, answer.Body)
}

func statusOf(code, message, details string) error {
	number, err := strconv.Atoi(code)
	if err != nil {
		return fmt.Errorf("grpc-status %q", code)
	}
	if number == 0 {
		return nil
	}
	if raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(details, "=")); err == nil && len(raw) > 0 {
		var detailed statuspb.Status
		if proto.Unmarshal(raw, &detailed) == nil {
			return status.ErrorProto(&detailed)
		}
	}
	text, err := url.PathUnescape(message)
	if err != nil {
		text = message
	}
	return status.Error(codes.Code(number), text)
}

// restTransport follows the google.api.http annotation of each method.
type restTransport struct {
	system  *System
	headers []string
}

func (t *restTransport) Name() string { return "rest" }

func (t *restTransport) Call(_ context.Context, method string, request, response proto.Message) error {
	verb, path, body, err := restRequest(method, request)
	if err != nil {
		return err
	}
	answer, err := t.system.TryDo(verb, path, body, append([]string{"Content-Type", "application/json"}, t.headers...)...)
	if err != nil {
		return err
	}
	if answer.Status == http.StatusOK {
		return protojson.Unmarshal([]byte(answer.Body), response)
	}
	var problem Problem
	if answer.Header.Get("Content-Type") != "application/problem+json" || json.Unmarshal([]byte(answer.Body), &problem) != nil {
		return fmt.Errorf("%s %s: HTTP %d is no problem document: %q %q", verb, path, answer.Status, answer.Header.Get("Content-Type"), answer.Body)
	}
	return &RESTError{Response: answer, Problem: problem}
}

// RESTError is a problem document; its gRPC code is told apart by the reason.
type RESTError struct {
	Response *Response
	Problem  Problem
}

func (e *RESTError) Error() string {
	return fmt.Sprintf("HTTP %d %s: %s", e.Problem.Status, e.Problem.Code, e.Problem.Detail)
}

// Method finds a method's descriptor by "/package.Service/Method".
func Method(t testing.TB, method string) protoreflect.MethodDescriptor {
	t.Helper()
	found, err := methodOf(method)
	require.NoError(t, err)
	return found
}

func methodOf(method string) (protoreflect.MethodDescriptor, error) {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", ".")))
	if err != nil {
		return nil, err
	}
	descriptor, ok := found.(protoreflect.MethodDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is no method", method)
	}
	return descriptor, nil
}

func restRequest(method string, request proto.Message) (verb, path, body string, err error) {
	descriptor, err := methodOf(method)
	if err != nil {
		return "", "", "", err
	}
	rule, ok := proto.GetExtension(descriptor.Options(), annotations.E_Http).(*annotations.HttpRule)
	if !ok || rule == nil {
		return "", "", "", fmt.Errorf("%s has no google.api.http", method)
	}
	verb, template := pattern(rule)
	raw, err := protojson.Marshal(request)
	if err != nil {
		return "", "", "", err
	}
	fields := map[string]any{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return "", "", "", err
	}
	path, err = expand(template, fields)
	if err != nil {
		return "", "", "", err
	}
	if rule.GetBody() == "*" {
		rest, err := json.Marshal(fields)
		return verb, path, string(rest), err
	}
	if rule.GetBody() != "" {
		name := jsonName(rule.GetBody())
		part, err := json.Marshal(fields[name])
		if err != nil {
			return "", "", "", err
		}
		body = string(part)
		delete(fields, name)
	}
	query := url.Values{}
	for name, value := range fields {
		query.Set(name, fmt.Sprint(value))
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return verb, path, body, nil
}

func pattern(rule *annotations.HttpRule) (verb, template string) {
	switch {
	case rule.GetGet() != "":
		return http.MethodGet, rule.GetGet()
	case rule.GetPost() != "":
		return http.MethodPost, rule.GetPost()
	case rule.GetPatch() != "":
		return http.MethodPatch, rule.GetPatch()
	case rule.GetPut() != "":
		return http.MethodPut, rule.GetPut()
	default:
		return http.MethodDelete, rule.GetDelete()
	}
}

// expand fills "{a.b=pattern}" from the fields and takes top-level ones out.
func expand(template string, fields map[string]any) (string, error) {
	var out bytes.Buffer
	for {
		open := strings.IndexByte(template, '{')
		if open < 0 {
			out.WriteString(template)
			return out.String(), nil
		}
		end := strings.IndexByte(template, '}')
		out.WriteString(template[:open])
		name, _, _ := strings.Cut(template[open+1:end], "=")
		template = template[end+1:]
		value := any(fields)
		parts := strings.Split(name, ".")
		for _, part := range parts {
			object, ok := value.(map[string]any)
			if !ok {
				return "", fmt.Errorf("no field %q", name)
			}
			value = object[jsonName(part)]
		}
		if len(parts) == 1 {
			delete(fields, jsonName(name))
		}
		fmt.Fprint(&out, value)
	}
}

func jsonName(field string) string {
	parts := strings.Split(field, "_")
	for i := 1; i < len(parts); i++ {
		parts[i] = strings.ToUpper(parts[i][:1]) + parts[i][1:]
	}
	return strings.Join(parts, "")
}
