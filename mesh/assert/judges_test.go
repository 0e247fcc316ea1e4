package assert

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const judging = `configs:
  - dynamic_listeners:
      - active_state:
          listener:
            address: {socket_address: {port_value: 8080}}
            filter_chains:
              - filters:
                  - typed_config:
                      http_filters:
                        - {typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication, providers: {origins-0: {issuer: https://id.example, local_jwks: {inline_string: '{"keys":[1]}'}}, fetched: {issuer: https://far.example, local_jwks: {inline_string: '{"keys":[2]}'}}}}}
                        - {typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, shadow_rules: {action: DENY, policies: {"istio-ext-authz-weir-ns[gw]-policy[asks]-rule[0]": {}}}}}
                        - {typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, rules: {action: DENY, policies: {"ns[gw]-policy[weir]-rule[0]": {}, "ns[gw]-policy[weir]-rule[1]": {}}}}}
`

func TestJudges(t *testing.T) {
	object := func(text string) *unstructured.Unstructured {
		made := &unstructured.Unstructured{}
		require.NoError(t, yaml.Unmarshal([]byte(text), &made.Object))
		return made
	}
	objects := []*unstructured.Unstructured{
		object("{kind: RequestAuthentication, metadata: {name: tokens, namespace: gw}, spec: {jwtRules: [{issuer: 'https://id.example', jwks: '{\"keys\":[1]}'}, {issuer: 'https://far.example', jwksUri: 'https://far.example/keys'}]}}"),
		object("{kind: AuthorizationPolicy, metadata: {name: weir, namespace: gw}, spec: {action: DENY, rules: [{}, {}]}}"),
		object("{kind: AuthorizationPolicy, metadata: {name: asks, namespace: gw}, spec: {action: CUSTOM, rules: [{}]}}"),
		object("{kind: VirtualService, metadata: {name: a, namespace: gw}}"),
	}
	for change, want := range map[[2]string][]string{
		{"", ""}: nil,
		{"https://id.example,", "https://other.example,"}: {`port 8080 does not know the issuer "https://id.example" of RequestAuthentication gw/tokens`},
		{"fetched: {issuer: https://far", "origins-1: {issuer: https://id.example, local_jwks: {inline_string: '{\"keys\":[9]}'}}, fetched: {issuer: https://far"}: {`port 8080 takes tokens of issuer "https://id.example" by a RequestAuthentication of others, too: its keys are as good as the policy's`},
		{"rule[1]", "rule[2]"}:                            {"port 8080 does not refuse by rule 1 of AuthorizationPolicy gw/weir"},
		{" rules: {action: DENY", " rules: {action: LOG"}: {"port 8080 does not refuse by rule 0 of AuthorizationPolicy gw/weir", "port 8080 does not refuse by rule 1 of AuthorizationPolicy gw/weir"},
		{"8080", "8081"}:                                  nil,
		{"[1]", "[3]"}:                                    {`port 8080 has other keys of issuer "https://id.example" than RequestAuthentication gw/tokens`},
		{"[2]", "[{n: " + standIn + "}]"}:                 {`port 8080 has no keys of issuer "https://far.example" yet, so every token is refused: istiod cannot fetch https://far.example/keys; look at its log`},
		{"weir-ns[gw]-policy[asks]-rule[0]", "weir-ns[gw]-policy[asks]-rule[1]"}: {"port 8080 does not ask extauthz by rule 0 of AuthorizationPolicy gw/asks"},
	} {
		dump, err := yaml.YAMLToJSON([]byte(strings.Replace(judging, change[0], change[1], 1)))
		require.NoError(t, err)
		proxy, err := Read(dump)
		require.NoError(t, err)
		rivals := proxy.Rivals(8080, objects)
		require.Equal(t, want, append(proxy.Judges(8080, objects), rivals...), change[1])
		require.Equal(t, strings.Contains(strings.Join(want, ""), "of others, too"), len(rivals) > 0, "what others do is not lacking: apply would wait in vain")
	}
}
