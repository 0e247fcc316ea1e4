package envoylint_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/cli/internal/envoylint"
	"weir.dev/policy"
)

func example(t testing.TB) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "..", "examples", "standalone", "envoy.yaml"))
	require.NoError(t, err)
	return string(raw)
}

func TestExampleIsHealthy(t *testing.T) {
	findings, err := envoylint.Lint([]byte(example(t)))
	require.NoError(t, err)
	require.Empty(t, findings)
}

// Each change of the example is found, as what it is, and nothing else is.
func TestEachMistakeIsFound(t *testing.T) {
	const body = "{max_request_bytes: %d, allow_partial_message: %t}"
	for _, c := range []struct {
		from, to string
		code     policy.Code
		grave    bool
	}{
		{"failure_mode_allow: false", "failure_mode_allow: true", policy.CodeEnvoyFailOpen, true},
		{"failure_mode_allow: false", "failureModeAllow: true", policy.CodeEnvoyFailOpen, true},
		{"encode_raw_headers: true", "", policy.CodeEnvoyRawHeaders, true},
		{"timeout: 1s}\n                      failure", "timeout: 600s}\n                      failure", policy.CodeEnvoyTimeout, false},
		{"timeout: 1s}\n                      failure", "timeout: 0s}\n                      failure", policy.CodeEnvoyTimeout, false},
		{"use_remote_address: true", "use_remote_address: true\n                forward_client_cert_details: ALWAYS_FORWARD_ONLY", policy.CodeEnvoyXFCC, true},
		{"use_remote_address: true", "use_remote_address: true\n                forward_client_cert_details: APPEND_FORWARD", policy.CodeEnvoyXFCC, false},
		{"use_remote_address: true", "", policy.CodeEnvoyAddress, false},
		{"encode_raw_headers: true", "encode_raw_headers: true\n                      with_request_body: " + fmt.Sprintf(body, 100, true), policy.CodeEnvoyBody, false},
		{"encode_raw_headers: true", "encode_raw_headers: true\n                      with_request_body: " + fmt.Sprintf(body, 2<<20, false), policy.CodeEnvoyBody, false},
		{"normalize_path: true", "", policy.CodeEnvoyPaths, false},
		{"merge_slashes: true", "merge_slashes: false", policy.CodeEnvoyPaths, false},
		{"REJECT_REQUEST\n", "KEEP_UNCHANGED\n", policy.CodeEnvoyPaths, false},
		{"headers_with_underscores_action: REJECT_REQUEST", "max_headers_count: 50", policy.CodeEnvoyUnderscores, false},
		{"request_headers_timeout: 10s", "", policy.CodeEnvoySlowClients, false},
		{"stream_idle_timeout: 60s", "stream_idle_timeout: 0s", policy.CodeEnvoySlowClients, false},
		{"validate_mutations: true", "", policy.CodeEnvoyMutations, false},
		{"validate_mutations: true", "validate_mutations: true\n                      clear_route_cache: true", policy.CodeEnvoyOrder, false},
		{"code: ServiceUnavailable", "code: OK", policy.CodeEnvoyStatus, true},
		{"code: ServiceUnavailable", "code: 200", policy.CodeEnvoyStatus, true},
		{"validate_mutations: true", "validate_mutations: true\n                      filter_enabled: {default_value: {numerator: 99}}", policy.CodeEnvoyFraction, true},
		{"{name: public, match: {path_separated_prefix: /public}, route: {cluster: service}}", `{name: public, match: {prefix: /}, route: {cluster: service}, typed_per_filter_config: {x: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, disabled: true}}}`, policy.CodeEnvoyRouteOff, false},
		{"http_filters:\n", "http_filters:\n                  - {name: cache, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.cache.v3.CacheConfig}}\n", policy.CodeEnvoyOrder, true},
		{"ext_authz.v3.ExtAuthz\n", "ext_authz.v3.Other\n", policy.CodeEnvoyUnchecked, false},
	} {
		original := example(t)
		changed := strings.Replace(original, c.from, c.to, 1)
		require.NotEqual(t, original, changed, c.from)
		findings, err := envoylint.Lint([]byte(changed))
		require.NoError(t, err, c.to)
		require.Len(t, findings, 1, "%s: %v", c.to, findings)
		require.Equal(t, c.code, findings[0].Code, c.to)
		require.Equal(t, c.grave, findings[0].Error, c.to)
		require.NotEmpty(t, policy.Explanations()[c.code])
		require.Contains(t, findings[0].Where+findings[0].Message, map[bool]string{true: "public", false: "ingress"}[c.code == policy.CodeEnvoyRouteOff])
	}
}

func TestWhatIsNoConfiguration(t *testing.T) {
	for _, content := range []string{"", "{", "a: [", "just text", `{"configs": []}`, "a: 1"} {
		_, err := envoylint.Lint([]byte(content))
		require.Error(t, err, content)
	}
}

func FuzzLint(f *testing.F) {
	f.Add(example(f))
	f.Add(`{"@type":"x.HttpConnectionManager","http_filters":[1,{"typed_config":[]}]}`)
	f.Fuzz(func(_ *testing.T, content string) { _, _ = envoylint.Lint([]byte(content)) })
}
