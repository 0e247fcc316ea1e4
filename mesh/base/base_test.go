package base

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// documents are those of a rendered file.
func documents(t *testing.T, o Options, name string) []map[string]any {
	t.Helper()
	made, err := Render(o)
	require.NoError(t, err)
	var found []map[string]any
	for _, file := range made {
		if file.Name != name {
			continue
		}
		decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(file.Content), 4096)
		for {
			var document map[string]any
			if decoder.Decode(&document) != nil {
				break
			}
			found = append(found, document)
		}
	}
	return found
}

func kinds(documents []map[string]any) []string {
	var names []string
	for _, document := range documents {
		names = append(names, document["kind"].(string)) //nolint:forcetypeassert // as made
	}
	return names
}

func TestRender(t *testing.T) {
	o := DefaultOptions()
	require.Equal(t, []string{"PeerAuthentication", "Telemetry", "Namespace", "Telemetry"}, kinds(documents(t, o, Objects)))
	values := documents(t, o, IstiodValues)[0]["meshConfig"].(map[string]any) //nolint:forcetypeassert // as made
	provider := values["extensionProviders"].([]any)[0].(map[string]any)      //nolint:forcetypeassert // as made
	require.Equal(t, "weir-extauthz", provider["name"])
	asked := provider["envoyExtAuthzGrpc"].(map[string]any) //nolint:forcetypeassert // as made
	require.Equal(t, false, asked["failOpen"])
	require.Equal(t, "1s", asked["timeout"])
	require.Equal(t, map[string]any{"mode": "ALLOW_ANY"}, values["outboundTrafficPolicy"])
	require.Empty(t, documents(t, o, EgressValues))

	o.Profile, o.Egress, o.CheckTimeout, o.Ports = DefaultDeny, true, 2500*time.Millisecond, []int{8080, 8443}
	require.Equal(t, []string{
		"PeerAuthentication", "Telemetry", "Namespace", "Telemetry", "AuthorizationPolicy", "AuthorizationPolicy", "Namespace", "AuthorizationPolicy", "Sidecar",
	}, kinds(documents(t, o, Objects)))
	values = documents(t, o, IstiodValues)[0]["meshConfig"].(map[string]any) //nolint:forcetypeassert // as made
	require.Equal(t, map[string]any{"mode": "REGISTRY_ONLY"}, values["outboundTrafficPolicy"])
	require.Len(t, documents(t, o, EgressValues), 1)
	service := documents(t, o, IngressValues)[0]["service"].(map[string]any) //nolint:forcetypeassert // as made
	require.Len(t, service["ports"], 2)
}

// Nothing but names gets into the files.
func TestRenderRefuses(t *testing.T) {
	for want, change := range map[string]func(*Options){
		`profile "open"`:                   func(o *Options) { o.Profile = "open" },
		`mode "STRICT" cannot be begun`:    func(o *Options) { o.MTLS = "STRICT" },
		`root namespace "a: b"`:            func(o *Options) { o.RootNamespace = "a: b" },
		`gateway's namespace ""`:           func(o *Options) { o.IngressNamespace = "" },
		`trust domain "x\nfailOpen: true"`: func(o *Options) { o.TrustDomain = "x\nfailOpen: true" },
		`host of extauthz "{{.Profile}}"`:  func(o *Options) { o.ExtAuthz.Host = "{{.Profile}}" },
		"port of extauthz, 0":              func(o *Options) { o.ExtAuthz.Port = 0 },
		"timeout of a check, 0s":           func(o *Options) { o.CheckTimeout = 0 },
		"0 ports":                          func(o *Options) { o.Ports = nil },
		"port 80 is outside 1":             func(o *Options) { o.Ports = []int{80, 80} },
		"21 trusted proxies":               func(o *Options) { o.TrustedProxies = 21 },
	} {
		o := DefaultOptions()
		change(&o)
		_, err := Render(o)
		require.ErrorContains(t, err, want)
	}
}
