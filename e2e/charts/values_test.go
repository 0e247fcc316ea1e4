package charts_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v4/pkg/strvals"
	"sigs.k8s.io/yaml"
)

func charts() []string {
	return []string{"weir", "controlplane", "extauthz", "ratelimit", "services", "ingress"}
}

func TestBadValuesAreNamed(t *testing.T) {
	for set, want := range map[string]string{
		"extauthz.replica=2":                                "additional properties 'replica' not allowed",
		"controlplain.replicas=2":                           "additional properties 'controlplain' not allowed",
		"global.imag.tag=x":                                 "'imag' not allowed",
		"ratelimit.replicas=2":                              "'/replicas': maximum: got 2, want 1",
		"services.user.replicas=2":                          "'/user/replicas': maximum",
		"services.user.store.kind=postgres":                 "'/user/store/existingSecret': minLength",
		"services.data.store.kind=mysql":                    "'/data/store/kind'",
		"ratelimit.store=redis":                             "'/redis/",
		"ratelimit.redis.url=redis://user:password@host":    "'/redis/url'",
		"ingress.drain.timeoutSeconds=0":                    "'/drain/timeoutSeconds'",
		"ingress.service.type=Gateway":                      "'/service/type'",
		"ingress.trustedProxies.trustedHops=17":             "'/trustedProxies/trustedHops'",
		"global.gatewayPorts={70000}":                       "'/global/gatewayPorts/0'",
		"controlplane.extAuthz.address=somewhere":           "'/extAuthz/address'",
		"controlplane.certificates.lifetime=90 days":        "'/certificates/lifetime'",
		"extauthz.autoscaling.cpu=2147483648":               "'/autoscaling/cpu'",
		"extauthz.autoscaling.kind=KEDA":                    "'/autoscaling/kind'",
		"extauthz.autoscaling.requestsPerSecond=-1":         "'/autoscaling/requestsPerSecond'",
		"extauthz.autoscaling.triggers[0].type=cron":        "extauthz: autoscaling.triggers are a ScaledObject's",
		"controlplane.autoscaling.requestsPerSecond=5":      "'requestsPerSecond' not allowed",
		"global.monitoring.prometheusURL=prometheus:9090":   "'/global/monitoring/prometheusURL'",
		"extauthz.resources.requests.memory=much":           "'/resources/requests/memory'",
		"extauthz.sidecarEgress={everything}":               "'/sidecarEgress/0'",
		"global.sidecars.policies.callers.extauthz={*}":     "'/global/sidecars/policies/callers/extauthz/0'",
		"global.sidecars.policies.callers.portal={}":        "portal",
		"global.sidecars.policies.serviceAccounts.user=*":   "'/global/sidecars/policies/serviceAccounts/user'",
		"externalHosts[0].host=db.example.com":              "'/externalHosts/0'",
		"global.certificates.existingSecrets.extauthz=name": "name the Secret with tls.crt, tls.key and ca.crt",
	} {
		t.Run(set, func(t *testing.T) {
			values := readValues(t, "dev")
			require.NoError(t, strvals.ParseInto(set, values))
			_, err := render(t, "weir", values)
			require.ErrorContains(t, err, want)
		})
	}
	_, err := render(t, "weir", map[string]any{})
	require.ErrorContains(t, err, "'/user/store/existingSecret'", "without values it says what it needs")
}

// alone are values with which each chart can be installed by itself.
func alone() map[string]map[string]any {
	return map[string]map[string]any{
		"controlplane": {}, "extauthz": {}, "ratelimit": {}, "ingress": {},
		"services": {"user": map[string]any{"store": map[string]any{"kind": "postgres", "existingSecret": "x"}}, "data": map[string]any{"enabled": false}},
	}
}

func TestChartsStandAlone(t *testing.T) {
	for name, values := range alone() {
		objects, err := render(t, name, values)
		require.NoError(t, err, name)
		require.Greater(t, len(objects), 4, name)
	}
}

// What the charts share is the same in each.
func TestSharedValuesAreTheSame(t *testing.T) {
	var global string
	var definitions []byte
	for _, name := range charts() {
		content, err := os.ReadFile(filepath.Join(chartDir(t, name), "values.yaml"))
		require.NoError(t, err)
		_, shared, ok := strings.Cut(string(content), "# The same in every chart")
		require.True(t, ok, name)
		var schema struct {
			Defs map[string]json.RawMessage `json:"$defs"`
		}
		require.NoError(t, json.Unmarshal(load(t, name).Schema, &schema), name)
		delete(schema.Defs, "service") // of services alone
		encoded, err := json.Marshal(schema.Defs)
		require.NoError(t, err)
		if global == "" {
			global, definitions = shared, encoded
		}
		require.Equal(t, global, shared, name)
		require.Equal(t, string(definitions), string(encoded), name)
	}
}

// A value without a place in the schema could not be set.
func TestEveryValueIsInTheSchema(t *testing.T) {
	for _, name := range charts() {
		content, err := os.ReadFile(filepath.Join(chartDir(t, name), "values.yaml"))
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(content, []byte("# Values of ")), name)
		var values map[string]any
		require.NoError(t, yaml.UnmarshalStrict(content, &values), name)
		var schema struct {
			Properties           map[string]any `json:"properties"`
			AdditionalProperties *bool          `json:"additionalProperties"`
		}
		require.NoError(t, json.Unmarshal(load(t, name).Schema, &schema))
		require.NotNil(t, schema.AdditionalProperties, name)
		require.False(t, *schema.AdditionalProperties, name)
		for key := range values {
			require.Contains(t, schema.Properties, key, name)
		}
	}
}

func TestDefinitionsAreInstalledFirst(t *testing.T) {
	names := map[string]bool{}
	for _, definition := range load(t, "weir").CRDObjects() {
		names[filepath.Base(definition.Filename)] = true
	}
	paths, err := filepath.Glob(filepath.Join(chartDir(t, "crds"), "*.yaml"))
	require.NoError(t, err)
	require.Len(t, names, len(paths))
	for _, path := range paths {
		require.True(t, names[filepath.Base(path)], path)
	}
}
