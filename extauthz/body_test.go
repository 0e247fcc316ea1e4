package extauthz_test

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
)

func bodyRules(t *testing.T, descriptors []byte, expression string) *extauthz.Rules {
	route := authtest.WithRules(authtest.Route("r", authtest.Anonymous()), authtest.Allow("a", expression))
	route.Body = &rulesv1.BodyInput{MaxBytes: 200, DescriptorSet: descriptors}
	return rulesOf(t, route)
}

func TestJSONBodies(t *testing.T) {
	for name, test := range map[string]struct {
		body, contentType string
		size              int64
		want              extauthz.Reason
	}{
		"read":                {`{"amount": 5, "to": {"id": "a"}}`, "application/json", -1, extauthz.ReasonAllowed},
		"with a charset":      {`{"amount": 5, "to": {"id": "a"}}`, "application/json; charset=utf-8", -1, extauthz.ReasonAllowed},
		"a JSON type":         {`{"amount": 5, "to": {"id": "a"}}`, "application/vnd.api+json", -1, extauthz.ReasonAllowed},
		"otherwise":           {`{"amount": 50, "to": {"id": "a"}}`, "application/json", -1, extauthz.ReasonPermissionDenied},
		"a member lacking":    {`{"to": {"id": "a"}}`, "application/json", -1, extauthz.ReasonRuleError},
		"a list":              {`[1]`, "application/json", -1, extauthz.ReasonRuleError},
		"a name twice":        {`{"amount": 5, "amount": 50, "to": {"id": "a"}}`, "application/json", -1, extauthz.ReasonBodyInvalid},
		"twice by an escape":  {`{"amount": 5, "\u0061mount": 50, "to": {"id": "a"}}`, "application/json", -1, extauthz.ReasonBodyInvalid},
		"another member":      {`{"amount": 5, "to": {"id": "a"}}, "x": 1`, "application/json", -1, extauthz.ReasonBodyInvalid},
		"text after it":       {`{"amount": 5}}`, "application/json", -1, extauthz.ReasonBodyInvalid},
		"half of it":          {`{"amount": 5, "to"`, "application/json", -1, extauthz.ReasonBodyInvalid},
		"not UTF-8":           {"{\"amount\": 5, \"to\": \"\xff\"}", "application/json", -1, extauthz.ReasonBodyInvalid},
		"deep":                {strings.Repeat("[", 90) + strings.Repeat("]", 90), "application/json", -1, extauthz.ReasonBodyInvalid},
		"too long":            {`"` + strings.Repeat("a", 200) + `"`, "application/json", -1, extauthz.ReasonBodyInvalid},
		"shorter than stated": {`{"amount": 5, "to": {"id": "a"}}`, "application/json", 100, extauthz.ReasonBodyInvalid},
		"not sent":            {``, "application/json", 100, extauthz.ReasonBodyInvalid},
		"none":                {``, "application/json", -1, extauthz.ReasonRuleError},
		"another type":        {`amount=5`, "application/x-www-form-urlencoded", -1, extauthz.ReasonBodyInvalid},
		"no type":             {`{"amount": 5}`, "", -1, extauthz.ReasonBodyInvalid},
		"gRPC undescribed":    {"\x00\x00\x00\x00\x00", "application/grpc", -1, extauthz.ReasonBodyInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			rules := bodyRules(t, nil, `request.body.amount < 10.0 && request.body.to.id == "a"`)
			r := request("accept: */*")
			r.Body, r.Size = []byte(test.body), test.size
			if test.contentType != "" {
				r.Headers = append(r.Headers, extauthz.Header{Name: "content-type", Value: test.contentType})
			}
			require.Equal(t, test.want, decide(t, rules, r).Reason)
		})
	}
	t.Run("a part of it", func(t *testing.T) {
		r := request("content-type: application/json", "x-envoy-auth-partial-body: true")
		r.Body, r.Size = []byte(`1`), -1
		require.Equal(t, extauthz.ReasonBodyInvalid, decide(t, bodyRules(t, nil, "true"), r).Reason)
	})
	t.Run("null without one", func(t *testing.T) {
		r := request("accept: */*")
		r.Size = -1
		require.True(t, decide(t, bodyRules(t, nil, "request.body == null"), r).Allowed)
	})
}

// Envoy sends no body of a request for a WebSocket: one that may have one is refused,
// and an opening handshake has none.
func TestBodiesOfUpgrades(t *testing.T) {
	for name, test := range map[string]struct {
		method  string
		headers []string
		want    extauthz.Reason
	}{
		"a handshake":           {"GET", []string{"connection: Upgrade", "upgrade: websocket"}, extauthz.ReasonAllowed},
		"over HTTP/2":           {"CONNECT", []string{"upgrade: websocket"}, extauthz.ReasonAllowed},
		"one in chunks":         {"GET", []string{"upgrade: websocket", "transfer-encoding: chunked"}, extauthz.ReasonBodyInvalid},
		"of another method":     {"POST", []string{"connection: Upgrade", "upgrade: websocket"}, extauthz.ReasonBodyInvalid},
		"no upgrade, in chunks": {"POST", []string{"transfer-encoding: chunked"}, extauthz.ReasonAllowed},
	} {
		r := request(test.headers...)
		r.Method, r.Size = test.method, -1
		require.Equal(t, test.want, decide(t, bodyRules(t, nil, "request.body == null"), r).Reason, name)
	}
}

// Where the proxy has to say that it sends bodies, none is not taken for an empty one
// of a proxy that was not told to.
func TestAnnouncedBodies(t *testing.T) {
	for _, test := range []struct {
		announced, says bool
		body            string
		want            extauthz.Reason
	}{
		{true, true, "", extauthz.ReasonAllowed},
		{true, false, "", extauthz.ReasonBodyInvalid},
		{true, false, `{"a": 1}`, extauthz.ReasonPermissionDenied},
		{true, true, `{"a": 1}`, extauthz.ReasonPermissionDenied},
		{false, false, "", extauthz.ReasonAllowed},
	} {
		route := authtest.WithRules(authtest.Route("r", authtest.Anonymous()), authtest.Allow("a", "request.body == null"))
		route.Body = &rulesv1.BodyInput{MaxBytes: 200, Announced: test.announced}
		r := request("content-type: application/json")
		r.Body, r.Size, r.SendsBody = []byte(test.body), -1, test.says
		require.Equal(t, test.want, decide(t, rulesOf(t, route), r).Reason, "%+v", test)
	}
}

func message(t *testing.T, m proto.Message) string {
	raw, err := proto.Marshal(m)
	require.NoError(t, err)
	return string(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(raw))), raw...))
}

func TestMessageBodies(t *testing.T) {
	set, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(durationpb.File_google_protobuf_duration_proto),
		protodesc.ToFileDescriptorProto(timestamppb.File_google_protobuf_timestamp_proto),
		protodesc.ToFileDescriptorProto(healthpb.File_grpc_health_v1_health_proto),
	}})
	require.NoError(t, err)
	rules := bodyRules(t, set, `request.body.service == "a"`)
	const check = "/grpc.health.v1.Health/Check"
	one := message(t, &healthpb.HealthCheckRequest{Service: "a"})
	for name, test := range map[string]struct {
		path, body string
		want       extauthz.Reason
	}{
		"read":             {check, one, extauthz.ReasonAllowed},
		"otherwise":        {check, message(t, &healthpb.HealthCheckRequest{Service: "b"}), extauthz.ReasonPermissionDenied},
		"a default":        {check, message(t, &healthpb.HealthCheckRequest{}), extauthz.ReasonPermissionDenied},
		"two messages":     {check, one + one, extauthz.ReasonBodyInvalid},
		"half of one":      {check, one[:len(one)-1], extauthz.ReasonBodyInvalid},
		"compressed":       {check, "\x01" + one[1:], extauthz.ReasonBodyInvalid},
		"not a message":    {check, "\x00\x00\x00\x00\x01\xff", extauthz.ReasonBodyInvalid},
		"short":            {check, "\x00\x00", extauthz.ReasonBodyInvalid},
		"unknown method":   {"/grpc.health.v1.Health/None", one, extauthz.ReasonBodyInvalid},
		"unknown service":  {"/a.B/Check", one, extauthz.ReasonBodyInvalid},
		"no method at all": {"/a", one, extauthz.ReasonBodyInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			r := request("content-type: application/grpc")
			r.Target, r.Body, r.Size = test.path, []byte(test.body), -1
			require.Equal(t, test.want, decide(t, rules, r).Reason)
		})
	}
}

func FuzzBody(f *testing.F) {
	f.Add("application/json", []byte(`{"a":1}`))
	f.Add("application/json", []byte(`1,"b":2`))
	f.Add("application/grpc", []byte("\x00\x00\x00\x00\x01a"))
	route := authtest.WithRules(authtest.Route("r", authtest.Anonymous()), authtest.Allow("a", "request.body == null"))
	route.Body = &rulesv1.BodyInput{MaxBytes: 1 << 10}
	rules := rulesOf(f, route)
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		r := request("content-type: x")
		r.Headers[len(r.Headers)-1].Value = contentType
		r.Body, r.Size = body, -1
		extauthz.Decide(t.Context(), authtest.Now(), rules, r)
	})
}
