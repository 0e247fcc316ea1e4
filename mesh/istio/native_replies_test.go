package istio

import (
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/stretchr/testify/require"

	"weir.dev/kit/fault"
)

// Refusals of Istio are told before anything that the port says of a status, each in
// the status of its code, with a challenge where the caller lacks a token or a scope.
func TestNativeReplies(t *testing.T) {
	own := &hcmv3.ResponseMapper{Filter: celFilter("response.code == 403")}
	made := nativeReplies(&hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{own}}).GetMappers()
	require.Len(t, made, 2*len(refusals())+1)
	require.Same(t, own, made[len(made)-1])
	challenge := func(headers []*corev3.HeaderValueOption) string {
		for _, header := range headers {
			if header.GetHeader().GetKey() == "www-authenticate" {
				return header.GetHeader().GetValue()
			}
		}
		return ""
	}
	seen := map[string]bool{}
	for i, reply := range refusals() {
		seen[reply.when] = true
		require.Equal(t, fault.HTTPStatus(reply.kind), reply.status, reply.reason)
		require.Equal(t, reply.reason == "PERMISSION_DENIED" || reply.reason == "PATH_NOT_CANONICAL", reply.challenge == "", reply.reason)
		for _, mapper := range made[2*i : 2*i+2] {
			require.EqualValues(t, reply.status, mapper.GetStatusCode().GetValue())
			require.Equal(t, reply.challenge, challenge(mapper.GetHeadersToAdd()))
		}
		expression := &celv3.ExpressionFilter{}
		require.NoError(t, made[2*i+1].GetFilter().GetExtensionFilter().GetTypedConfig().UnmarshalTo(expression))
		require.Equal(t, reply.when, expression.GetExpression())
		require.Equal(t, reply.reason, made[2*i+1].GetBodyFormatOverride().GetJsonFormat().GetFields()["code"].GetStringValue())
	}
	for _, name := range []string{nameCredentials, nameIssuer, nameAudience, nameToken, nameScope, nameRule} {
		require.True(t, seen[refusedBy(name)], name)
		require.Negative(t, strings.Compare(name, "weir-extauthz"), "kubectl applies what refuses before what is not asked about any more")
	}
}
