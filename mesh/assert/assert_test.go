package assert_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"weir.dev/mesh/assert"
)

const filter = `
kind: EnvoyFilter
metadata:
  name: weir-8080
  namespace: istio-ingress
  annotations:
    weir.dev/assertion: '[{"patch":0,"applyTo":"NETWORK_FILTER","port":8080,"name":"hcm","count":1},{"patch":1,"applyTo":"HTTP_FILTER","port":8080,"name":"weir.cors","count":1},{"patch":2,"applyTo":"HTTP_ROUTE","port":8080,"name":"httproute/default/a","count":2}]'
spec:
  configPatches:
    - patch: {value: {typed_config: {server_name: weir, drain_timeout: 0.100s, burst: "200", reply: {json_format: {requestId: x}}}}}
    - patch: {value: {name: weir.cors, typed_config: {"@type": cors}}}
    - patch: {value: {route: {rate_limits: [{stage: 0, key: a}]}, typed_per_filter_config: {weir.cors: {allow: false}}}}
`

// What istiod writes and what Envoy does differ in the names of fields, in how
// durations and numbers are written, and in whether zeros are.
const dump = `
configs:
  - dynamic_listeners:
      - active_state:
          listener:
            address: {socket_address: {port_value: 8080}}
            filter_chains: [{filters: [{name: hcm, typed_config: {server_name: weir, drain_timeout: 100ms, burst: 200, reply: {json_format: {requestId: x}},
              http_filters: [{name: other}, {name: weir.cors, typed_config: {"@type": cors, more: 1}}]}}]}]
      - active_state: {listener: {address: {socket_address: {port_value: 9090}}, filter_chains: [{filters: [{name: hcm}]}]}}
  - dynamicRouteConfigs:
      - routeConfig:
          name: http.8080
          virtualHosts: [{routes: [
            {name: httproute/default/a, route: {rateLimits: [{key: b}, {key: a}]}, typedPerFilterConfig: {weir.cors: {}}},
            {name: httproute/default/a, route: {rateLimits: [{key: a}]}, typedPerFilterConfig: {weir.cors: {}}},
            {name: httproute/default/b}]}]
      - routeConfig: {name: http.80, virtualHosts: [{routes: [{name: httproute/default/a}]}]}
`

func check(t *testing.T, filter, dump string) ([]assert.Finding, error) {
	t.Helper()
	object := &unstructured.Unstructured{}
	require.NoError(t, yaml.Unmarshal([]byte(filter), &object.Object))
	raw, err := yaml.YAMLToJSON([]byte(dump))
	require.NoError(t, err)
	return assert.Check([]*unstructured.Unstructured{object}, raw)
}

func TestPatchesThatAreThere(t *testing.T) {
	findings, err := check(t, filter, dump)
	require.NoError(t, err)
	require.Empty(t, findings)
}

// Of what may be a secret Envoy says only that it is there.
func TestRedacted(t *testing.T) {
	findings, err := check(t, filter, strings.Replace(dump, "requestId: x", "requestId: '[redacted]'", 1))
	require.NoError(t, err)
	require.Empty(t, findings)
	findings, err = check(t, filter, strings.Replace(dump, "{requestId: x}", "{}", 1))
	require.NoError(t, err)
	require.Len(t, findings, 1)
}

// Each way in which an EnvoyFilter can stop matching is seen, and which it is.
func TestPatchesThatAreNot(t *testing.T) {
	for change, want := range map[[2]string]string{
		{"name: weir.cors, typed_config", "name: cors, typed_config"}:           "configPatches[1]: HTTP_FILTER weir.cors is there 0 times",
		{"name: hcm, typed", "name: renamed, typed"}:                            "configPatches[0]: NETWORK_FILTER hcm is there 0 times",
		{"server_name: weir", "server_name: envoy"}:                             "what is missing is value.typed_config.server_name",
		{"drain_timeout: 100ms", "drain_timeout: 1s"}:                           "value.typed_config.drain_timeout",
		{"requestId: x", "requestId: z"}:                                        "reply",
		{"name: httproute/default/b", "name: httproute/default/a"}:              "is there 3 times and 2 have the patch, want 2",
		{"rateLimits: [{key: a}]", "rateLimits: []"}:                            "value.route.rate_limits[0]",
		{"name: http.8080", "name: http.8081"}:                                  "HTTP_ROUTE httproute/default/a is there 0 times",
		{"name: weir.cors, typed", "name: weir.cors}, {name: weir.cors, typed"}: "is there 2 times and 1 have the patch, want 1",
	} {
		changed := strings.Replace(dump, change[0], change[1], 1)
		require.NotEqual(t, dump, changed, change[0])
		findings, err := check(t, filter, changed)
		require.NoError(t, err)
		require.NotEmpty(t, findings, change[0])
		var all []string
		for _, finding := range findings {
			all = append(all, finding.String())
		}
		require.Contains(t, strings.Join(all, "\n"), want)
	}
}

func TestWhatCannotBeChecked(t *testing.T) {
	_, err := check(t, strings.Replace(filter, `"count":1}`, `"count":1}}`, 1), dump)
	require.ErrorContains(t, err, "weir.dev/assertion")
	_, err = check(t, strings.Replace(filter, "    - patch: {value: {name: weir.cors", "    - {}\n    - patch: {value: {name: weir.cors", 1), dump)
	require.ErrorContains(t, err, "4 patches and 3 assertions")
	_, err = check(t, filter, "configs: []")
	require.ErrorContains(t, err, "no listeners")
	_, err = assert.Check(nil, []byte("nonsense"))
	require.ErrorContains(t, err, "not JSON")
	findings, err := check(t, strings.Replace(filter, "weir.dev/assertion", "other", 1), dump)
	require.NoError(t, err)
	require.Empty(t, findings, "others' are passed over")
}

func TestRoutesAndGuards(t *testing.T) {
	raw, err := yaml.YAMLToJSON([]byte(dump))
	require.NoError(t, err)
	proxy, err := assert.Read(raw)
	require.NoError(t, err)
	require.Empty(t, proxy.Routes(8080, map[string]int{"httproute/default/a": 2, "httproute/default/gone": 0}))
	require.Equal(t, []string{
		"route httproute/default/a is there 2 times on port 8080, want 1", "route httproute/default/c is there 0 times on port 8080, want 1",
	}, proxy.Routes(8080, map[string]int{"httproute/default/a": 1, "httproute/default/c": 1}))
	require.Equal(t, map[int32]assert.Guard{8080: {}}, proxy.Ports())

	const extAuthz = "{name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz}}"
	for change, want := range map[string]assert.Guard{
		extAuthz: {Asked: true},
		strings.Replace(extAuthz, "'@type'", "failure_mode_allow: true, '@type'", 1): {Asked: true, Open: true},
	} {
		raw, err := yaml.YAMLToJSON([]byte(strings.Replace(dump, "{name: other}", change, 1)))
		require.NoError(t, err)
		proxy, err := assert.Read(raw)
		require.NoError(t, err)
		require.Equal(t, want, proxy.Ports()[8080])
	}
	empty, err := assert.Read([]byte("{}"))
	require.NoError(t, err)
	require.Empty(t, empty.Ports())
}

// A listener that asks for client certificates is one that does so in each of its
// chains, of which one over QUIC is another one.
func TestFilterChains(t *testing.T) {
	const filter = `
kind: EnvoyFilter
metadata:
  name: weir-8443-clients
  namespace: istio-ingress
  annotations:
    weir.dev/assertion: '[{"patch":0,"applyTo":"FILTER_CHAIN","port":8443,"name":"a.example","count":1},{"patch":1,"applyTo":"FILTER_CHAIN","port":8444,"name":"","count":1}]'
spec:
  configPatches:
    - patch: {value: {transport_socket: {name: tls, typed_config: {require_client_certificate: true}}}}
    - patch: {value: {transport_socket: {name: tls, typed_config: {require_client_certificate: true}}}}
`
	const dump = `
configs:
  - dynamic_listeners:
      - active_state:
          listener:
            address: {socket_address: {port_value: 8443}}
            filter_chains:
              - {filter_chain_match: {server_names: [b.example]}, transport_socket: {name: tls}}
              - {filter_chain_match: {server_names: [c.example, a.example]}, transport_socket: {name: tls, typed_config: {require_client_certificate: true}}}
      - active_state:
          listener:
            address: {socket_address: {port_value: 8444}}
            filter_chains: [{transport_socket: {name: tls, typed_config: {require_client_certificate: true}}}]
`
	findings, err := check(t, filter, dump)
	require.NoError(t, err)
	require.Empty(t, findings)
	const quic = `      - active_state: {listener: {address: {socket_address: {port_value: 8443, protocol: UDP}}, filter_chains: [{filter_chain_match: {server_names: [a.example]}, transport_socket: {name: quic}}]}}
`
	for change, want := range map[[2]string]string{
		{"[c.example, a.example]", "[c.example]"}: "configPatches[0]: FILTER_CHAIN a.example is there 0 times",
		{"[c.example, a.example]}, transport_socket: {name: tls, typed_config: {require_client_certificate: true}}", "[c.example, a.example]}, transport_socket: {name: tls}"}: "what is missing is value.transport_socket.typed_config",
		{"filter_chains: [{transport_socket", "filter_chains: [{filter_chain_match: {server_names: [a.example]}, transport_socket"}:                                            "configPatches[1]: FILTER_CHAIN without a server name is there 0 times",
		{"  - dynamic_listeners:\n", "  - dynamic_listeners:\n" + quic}:                                                                                                        "FILTER_CHAIN a.example is there 2 times and 1 have the patch, want 1",
	} {
		changed := strings.Replace(dump, change[0], change[1], 1)
		require.NotEqual(t, dump, changed, change[0])
		findings, err := check(t, filter, changed)
		require.NoError(t, err)
		require.Len(t, findings, 1, change[0])
		require.Contains(t, findings[0].String(), want)
	}
}
