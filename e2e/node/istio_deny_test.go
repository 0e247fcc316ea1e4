//go:build slow

package node_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ofShop lets the namespace shop call itself, as base.yaml shows it, and ofAnybody
// everybody.
const (
	ofShop = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec: {rules: [{from: [{source: {namespaces: [istio-ingress, shop]}}]}]}
`
	ofAnybody = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec: {rules: [{}]}
`
)

// caller is a workload of shop that calls a URL, and outside names an address that
// is of no service which shop is told of.
const (
	caller = `apiVersion: apps/v1
kind: Deployment
metadata: {name: buyer, namespace: shop}
spec:
  selector: {matchLabels: {app: buyer}}
  template:
    metadata: {labels: {app: buyer}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - {name: peer, image: docker.io/weir/peer:dev, imagePullPolicy: IfNotPresent, args: [--call, "http://%s:8080/"]}
`
	outside = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: shop}
spec:
  hosts: [outside.example]
  addresses: [%[1]s]
  ports: [{number: 8080, name: http, protocol: HTTP}]
  resolution: STATIC
  exportTo: ["."]
  endpoints: [{address: %[1]s}]
`
)

// answered waits until a caller gets nothing but one kind of answer.
func (w *mtlsWorld) answered(namespace, name, status string) {
	w.Helper()
	var before, after map[string]int
	defer func() { w.Logf("%s/%s counted %v, then %v", namespace, name, before, after) }()
	w.eventually(fmt.Sprintf("%s/%s is answered %s", namespace, name, status), 60*time.Second, func() bool {
		before = w.counts(namespace, name)
		time.Sleep(1500 * time.Millisecond) // so much is counted in between
		after = w.counts(namespace, name)
		others := func(counts map[string]int) map[string]int {
			rest := maps.Clone(counts)
			maps.DeleteFunc(rest, func(what string, _ int) bool { return what == status || strings.HasPrefix(what, "tcp") })
			return rest
		}
		return len(before) > 0 && after[status] > before[status]+10 && maps.Equal(others(before), others(after))
	})
}

// denying calls in a mesh of the profile default-deny what is named and what is not.
// Each refusal has its control: the same call once it is named.
func denying(t *testing.T, istio *istioWorld) {
	w := &mtlsWorld{istio.world}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	w.loadPeer(ctx)
	objects, err := os.ReadFile(filepath.Join("testdata", "mtls.yaml"))
	require.NoError(t, err)
	w.kubectl(string(objects), "apply", "-f", "-")
	defer w.kubectl(string(objects), "delete", "--wait=false", "-f", "-")
	for _, one := range []string{"legacy/old", "shop/orders", "shop/front"} {
		namespace, name, _ := strings.Cut(one, "/")
		w.kubectl("", "rollout", "status", "-n", namespace, "deployment/"+name, "--timeout", "3m")
	}
	address := w.field("{.items[0].status.podIP}", "pods", "-n", "legacy", "-l", "app=old")
	require.NotEmpty(t, address)
	w.kubectl(fmt.Sprintf(caller, address), "apply", "-f", "-")

	w.answered("shop", "front", "403") // nobody is named
	w.answered("legacy", "old", "403") // in plaintext
	w.answered("shop", "buyer", "502") // out of the mesh
	w.kubectl(ofShop, "apply", "-f", "-")
	w.kubectl(fmt.Sprintf(outside, address), "apply", "-f", "-")
	w.answered("shop", "front", "200")
	w.answered("shop", "buyer", "200")
	w.answered("legacy", "old", "403") // who calls in plaintext is of no namespace
	w.kubectl(ofAnybody, "apply", "-f", "-")
	w.answered("legacy", "old", "200")
}
