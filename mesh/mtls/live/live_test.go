package live

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"weir.dev/mesh/mtls"
)

func TestReadPod(t *testing.T) {
	for _, given := range []struct {
		name, text string
		want       mtls.Pod
	}{
		{"a sidecar", `
metadata:
  {namespace: shop, name: orders-7-x, uid: u, labels: {pod-template-hash: "7"}, ownerReferences: [{kind: ReplicaSet, name: orders-7, controller: true}]}
spec: {containers: [{name: orders}, {name: istio-proxy, args: [proxy, sidecar]}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: "2001:db8::1"}]}`, mtls.Pod{
			Namespace: "shop", Name: "orders-7-x", UID: "u", Labels: map[string]string{"pod-template-hash": "7"}, Addresses: []string{"10.0.0.1", "2001:db8::1"},
			Workload: "Deployment orders", Sidecar: "istio-proxy", Running: true,
		}},
		{"a native sidecar", `
metadata: {namespace: shop, name: a, ownerReferences: [{kind: StatefulSet, name: db, controller: true}]}
spec: {containers: [{name: a}], initContainers: [{name: istio-init}, {name: istio-proxy, args: [proxy, sidecar]}]}
status: {phase: Running}`, mtls.Pod{Namespace: "shop", Name: "a", Workload: "StatefulSet db", Sidecar: "istio-proxy", Running: true}},
		{"a gateway", `
metadata: {namespace: gw, name: a}
spec: {containers: [{name: istio-proxy, args: [proxy, router]}]}
status: {phase: Running}`, mtls.Pod{Namespace: "gw", Name: "a", Gateway: true, Running: true}},
		{"none, of the node, about to end", `
metadata: {namespace: shop, name: a, deletionTimestamp: "2026-01-01T00:00:00Z"}
spec: {hostNetwork: true, containers: [{name: a}]}
status: {phase: Running}`, mtls.Pod{Namespace: "shop", Name: "a", Node: true}},
		{"ambient", `
metadata: {namespace: shop, name: a, annotations: {ambient.istio.io/redirection: enabled}}
spec: {containers: [{name: a}]}
status: {phase: Pending}`, mtls.Pod{Namespace: "shop", Name: "a", Ambient: true}},
	} {
		t.Run(given.name, func(t *testing.T) {
			var object map[string]any
			require.NoError(t, yaml.Unmarshal([]byte(given.text), &object))
			require.Equal(t, given.want, readPod(&unstructured.Unstructured{Object: object}))
		})
	}
}

// Lines that were passed on are not again, and none of any length ends it.
func TestRead(t *testing.T) {
	const stamp = "2026-11-22T10:08:11.00000000"
	log := stamp + "1Z one\n" + stamp + "2Z two\n" + stamp + "3Z " + strings.Repeat("x", 3*maxLine) + "\nnonsense\n" + stamp + "4Z four\n"
	for after, want := range map[string][]string{
		"":             {"one", "two", "x", "four"},
		stamp + "2Z":   {"x", "four"},
		stamp + "4Z":   nil,
		stamp + "000Z": {"one", "two", "x", "four"},
	} {
		var from time.Time
		if after != "" {
			var err error
			from, err = time.Parse(time.RFC3339Nano, after)
			require.NoError(t, err)
		}
		var lines []string
		until, err := read(strings.NewReader(log), from, func(line []byte) {
			require.Less(t, len(line), maxLine)
			lines = append(lines, string(line[:min(len(line), 4)]))
		})
		require.NoError(t, err)
		for i := range lines {
			lines[i] = strings.TrimRight(lines[i], "x") + strings.Repeat("x", min(1, strings.Count(lines[i], "x")))
		}
		if lines != nil {
			lines[len(lines)-1] = strings.TrimSpace(lines[len(lines)-1])
		}
		require.Equal(t, want, lines, after)
		if len(want) > 0 {
			require.Equal(t, 4, until.Nanosecond())
		} else {
			require.True(t, until.IsZero())
		}
	}
}
