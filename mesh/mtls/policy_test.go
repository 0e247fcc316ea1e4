package mtls

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func at(second int) time.Time { return time.Unix(1700000000+int64(second), 0).UTC() }

// Istio's own precedence, with the cases of its ComposePeerAuthentication.
func TestEffective(t *testing.T) {
	one := func(namespace, name string, created int, mode Mode, selector ...string) Policy {
		p := Policy{Scope: Scope{Namespace: namespace}, Name: name, Created: at(created), Mode: mode}
		if len(selector) == 2 {
			p.Selector = map[string]string{selector[0]: selector[1]}
		}
		return p
	}
	ported := one("shop", "ports", 1, Unset, "app", "orders")
	ported.Ports = map[uint32]Mode{8080: Disable, 9000: Unset}
	pod := map[string]string{"app": "orders", "version": "v1"}
	for _, given := range []struct {
		name     string
		policies []Policy
		want     Setting
	}{
		{"nothing", nil, Setting{Mode: Permissive, By: "Istio's default"}},
		{"the mesh's", []Policy{one("istio-system", "mesh", 1, Strict)}, Setting{Mode: Strict, By: "PeerAuthentication istio-system/mesh"}},
		{"the mesh's is unset", []Policy{one("istio-system", "mesh", 1, Unset)}, Setting{Mode: Permissive, By: "Istio's default"}},
		{"a namespace before the mesh", []Policy{one("istio-system", "mesh", 1, Strict), one("shop", "all", 2, Disable)}, Setting{Mode: Disable, By: "PeerAuthentication shop/all"}},
		{"an unset namespace inherits", []Policy{one("istio-system", "mesh", 1, Strict), one("shop", "all", 2, Unset)}, Setting{Mode: Strict, By: "PeerAuthentication istio-system/mesh"}},
		{"another namespace's", []Policy{one("other", "all", 2, Strict)}, Setting{Mode: Permissive, By: "Istio's default"}},
		{"the oldest of two", []Policy{one("shop", "b", 2, Strict), one("shop", "a", 1, Disable)}, Setting{Mode: Disable, By: "PeerAuthentication shop/a"}},
		{"the oldest counts, unset or not", []Policy{one("shop", "b", 2, Strict), one("shop", "a", 1, Unset)}, Setting{Mode: Permissive, By: "Istio's default"}},
		{"of the same time the first by name", []Policy{one("shop", "b", 1, Strict), one("shop", "a", 1, Disable)}, Setting{Mode: Disable, By: "PeerAuthentication shop/a"}},
		{"a workload before its namespace", []Policy{one("shop", "all", 1, Strict), one("shop", "w", 2, Disable, "app", "orders")}, Setting{Mode: Disable, By: "PeerAuthentication shop/w"}},
		{"another workload's", []Policy{one("shop", "all", 1, Strict), one("shop", "w", 2, Disable, "app", "front")}, Setting{Mode: Strict, By: "PeerAuthentication shop/all"}},
		{"a selector in the root namespace is nobody's", []Policy{one("istio-system", "w", 1, Strict, "app", "orders")}, Setting{Mode: Permissive, By: "Istio's default"}},
		{"ports, of which an unset one inherits", []Policy{one("shop", "all", 1, Strict), ported}, Setting{Mode: Strict, By: "PeerAuthentication shop/all", Ports: map[uint32]Mode{8080: Disable, 9000: Strict}}},
	} {
		t.Run(given.name, func(t *testing.T) {
			policies := Policies{Root: "istio-system", All: given.policies}
			require.Equal(t, given.want, policies.Effective("shop", pod))
		})
	}
}

func TestReadPolicy(t *testing.T) {
	read := func(text string) (Policy, error) {
		var object map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(text), &object))
		return ReadPolicy(&unstructured.Unstructured{Object: object})
	}
	policy, err := read(`
metadata: {namespace: shop, name: w, creationTimestamp: "2023-11-14T22:13:20Z"}
spec: {selector: {matchLabels: {app: orders}}, mtls: {mode: STRICT}, portLevelMtls: {"8080": {mode: DISABLE}, "9000": {}}}`)
	require.NoError(t, err)
	require.Equal(t, Policy{
		Scope: Scope{Namespace: "shop", Selector: map[string]string{"app": "orders"}}, Name: "w", Created: policy.Created, Mode: Strict,
		Ports: map[uint32]Mode{8080: Disable, 9000: Unset},
	}, policy)
	require.True(t, policy.Created.Equal(at(0)))
	for _, broken := range []string{
		"metadata: {name: a}\nspec: {mtls: {mode: HALF}}",
		"metadata: {name: a}\nspec: {portLevelMtls: {http: {mode: STRICT}}}",
		"metadata: {name: a}\nspec: {mtls: 3}",
		"metadata: {name: a, labels: {app.kubernetes.io/managed-by: weir, weir.dev/mtls: \"true\"}, annotations: {weir.dev/mtls-history: \"{\"}}\nspec: {}",
	} {
		_, err := read(broken)
		require.ErrorContains(t, err, "PeerAuthentication /a", broken)
	}
}

// What is written is read as it was.
func TestPolicyObject(t *testing.T) {
	history := []Former{{Mode: Unset, Until: "2026-01-01T00:00:00Z"}, {Mode: Disable, Until: "2026-01-02T00:00:00Z"}}
	for _, scope := range []Scope{{Namespace: "shop"}, {Namespace: "shop", Selector: map[string]string{"app": "orders"}}} {
		made, err := PolicyObject(scope, Permissive, history)
		require.NoError(t, err)
		read, err := ReadPolicy(made)
		require.NoError(t, err)
		require.Equal(t, Policy{Scope: scope, Name: made.GetName(), Created: read.Created, Mode: Permissive, Ours: true, History: history}, read)
		ours, others := (&Policies{All: []Policy{read}}).same(scope)
		require.Equal(t, read, *ours)
		require.Empty(t, others)
	}
}
