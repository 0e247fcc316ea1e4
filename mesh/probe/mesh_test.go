package probe

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weir.dev/mesh/assert"
	"weir.dev/mesh/istio"
)

func TestFindProvider(t *testing.T) {
	const config = `{"rootNamespace": "istio-system", "extensionProviders": [
		{"name": "prometheus", "prometheus": {}},
		{"name": "weir-extauthz", "envoyExtAuthzGrpc": {"service": "weir-system/weir-extauthz.weir-system.svc.cluster.local", "port": 9001, "timeout": "1s"}},
		{"name": "open", "envoyExtAuthzHttp": {"service": "x.y", "failOpen": true}}]}`
	found, err := findProvider([]byte(config), "weir-extauthz")
	require.NoError(t, err)
	require.Equal(t, &Provider{Name: "weir-extauthz", Service: "weir-extauthz.weir-system.svc.cluster.local", GRPC: true, Timeout: time.Second}, found)
	found, err = findProvider([]byte(config), "open")
	require.NoError(t, err)
	require.Equal(t, &Provider{Name: "open", Service: "x.y", FailOpen: true, Timeout: 10 * time.Minute}, found)
	found, err = findProvider([]byte(config), "nothing")
	require.NoError(t, err)
	require.Nil(t, found)
	_, err = findProvider([]byte("nothing"), "x")
	require.Error(t, err)
}

// As istiod's /debug/configz lists them.
func TestMissing(t *testing.T) {
	object := func(generation int64, hash string) *unstructured.Unstructured {
		made := &unstructured.Unstructured{Object: map[string]any{}}
		made.SetKind("Gateway")
		made.SetNamespace("gw")
		made.SetName("weir-80")
		made.SetGeneration(generation)
		made.SetAnnotations(map[string]string{istio.AnnotationHash: hash})
		return made
	}
	const stored = `[{"kind": "VirtualService", "apiVersion": "x", "metadata": {"name": "weir-80", "namespace": "gw", "generation": 9}, "spec": {}},
		{"kind": "Gateway", "metadata": {"name": "weir-80", "namespace": "gw", "generation": 3, "annotations": {"weir.dev/content-hash": "aa"}}}]`
	for _, given := range []struct {
		generation   int64
		hash, stored string
		want         []string
	}{
		{3, "aa", stored, nil},
		{2, "aa", stored, nil}, // a later one that says the same
		{4, "aa", stored, []string{"istiod i has an older Gateway gw/weir-80"}},
		{3, "bb", stored, []string{"istiod i has an older Gateway gw/weir-80"}},
		{3, "aa", "[]", []string{"istiod i does not have Gateway gw/weir-80"}},
	} {
		found, err := missing([]byte(given.stored), []*unstructured.Unstructured{object(given.generation, given.hash)}, "i")
		require.NoError(t, err)
		require.Equal(t, given.want, found, "%+v", given)
	}
	for _, broken := range []string{"", "[{]", "401"} {
		_, err := missing([]byte(broken), nil, "i")
		if broken != "401" {
			require.Error(t, err, broken)
		}
	}
}

func TestUnguarded(t *testing.T) {
	found := map[int32]assert.Guard{80: {Asked: true}, 81: {}, 82: {Asked: true, Open: true}}
	said := unguarded(Pod{Namespace: "gw", Name: "a"}, found, []int32{80, 81, 82, 83})
	require.Len(t, said, 3)
	for i, want := range []string{"does not ask extauthz on port 81", "lets everybody in on port 82", "serves nothing on port 83"} {
		require.Contains(t, said[i], want)
	}
}
