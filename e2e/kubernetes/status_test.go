//go:build slow

package kubernetes_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/controlplane/kube"
	"weir.dev/controlplane/source"
	"weir.dev/policy"
)

const gatewayYAML = `apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: weir}
spec: {controllerName: weir.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, port: 80, protocol: HTTP}]}
`

func routeYAML(name, path string) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s}
spec:
  parentRefs: [{name: edge}]
  rules: [{matches: [{path: {type: PathPrefix, value: %s}}], backendRefs: [{group: weir.dev, kind: Backend, name: b}]}]
`, name, path)
}

// proxies plays what the control plane does with an update: it resolves it and
// says what becomes of it, as the test wants.
type proxies struct {
	acknowledged atomic.Bool
	rejected     atomic.Pointer[kube.Quarantine]
	mu           sync.Mutex
	plan         *policy.Plan
}

func (p *proxies) observe(r *replica, update source.Update) {
	plan, _ := policy.Resolve(update.Input)
	p.mu.Lock()
	p.plan = plan
	p.mu.Unlock()
	p.say(r)
}

// say repeats the outcome.
func (p *proxies) say(r *replica) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fleet := kube.Fleet{Programmed: p.acknowledged.Load(), Waiting: "not acknowledged by envoy-1"}
	if fleet.Programmed {
		fleet.Waiting = ""
	}
	if rejected := p.rejected.Load(); rejected != nil {
		fleet.Quarantined = []kube.Quarantine{*rejected}
	}
	r.writer.Observe(kube.Outcome{Plan: p.plan, Fleets: map[string]kube.Fleet{"": fleet}, Time: time.Now()})
}

// view is a status of any kind that Weir writes.
type view struct {
	Conditions []metav1.Condition               `json:"conditions"`
	Addresses  []gatewayv1.GatewayStatusAddress `json:"addresses"`
	Listeners  []gatewayv1.ListenerStatus       `json:"listeners"`
	Parents    []gatewayv1.RouteParentStatus    `json:"parents"`
	Ancestors  []gatewayv1.PolicyAncestorStatus `json:"ancestors"`
}

func statusOf(t require.TestingT, c client.Client, text string) (view, *unstructured.Unstructured) {
	value := &unstructured.Unstructured{}
	head := strings.Split(text, "\n---\n")
	last := head[len(head)-1]
	for _, line := range strings.Split(last, "\n") {
		if kind, ok := strings.CutPrefix(line, "kind: "); ok {
			value.SetKind(kind)
		}
		if version, ok := strings.CutPrefix(line, "apiVersion: "); ok {
			value.SetAPIVersion(version)
		}
		if name, ok := strings.CutPrefix(line, "metadata: {name: "); ok {
			value.SetName(strings.TrimSuffix(strings.Split(name, ",")[0], "}"))
		}
	}
	key := client.ObjectKey{Namespace: "default", Name: value.GetName()}
	if value.GetKind() == "GatewayClass" {
		key.Namespace = ""
	}
	require.NoError(t, c.Get(context.Background(), key, value))
	var status view
	raw, _, err := unstructured.NestedMap(value.Object, "status")
	require.NoError(t, err)
	require.NoError(t, runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &status))
	return status, value
}

// words are conditions in short, with the generation that they are about.
func words(conditions []metav1.Condition) string {
	var all []string
	for _, c := range conditions {
		all = append(all, fmt.Sprintf("%s=%s/%s@%d", strings.TrimPrefix(c.Type, "weir.dev/"), c.Status, c.Reason, c.ObservedGeneration))
	}
	return strings.Join(all, " ")
}

// eventually waits for what say gives to be want.
func eventually(t *testing.T, want string, say func() string) {
	t.Helper()
	last := ""
	ok := false
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if last = say(); last == want {
			ok = true
			break
		}
	}
	require.True(t, ok, "want %s\nhave %s", want, last)
}

func TestSlowKubernetesStatus(t *testing.T) {
	c := kubernetes(t)
	installCRDs(t, c, weirCRDs(t), gatewayCRDs(t))
	root := admin(t, c)
	kubeconfig, err := c.Kubeconfig("weir", "system:masters")
	require.NoError(t, err)
	envoy := &proxies{}
	r := follow(t, kubeConfig(kubeconfig), "", envoy.observe)
	r.next()
	apply(t, root, gatewayYAML)
	apply(t, root, backendYAML("b", 8080))
	apply(t, root, routeYAML("a", "/a"))
	gateway := func() string {
		status, _ := statusOf(t, root, gatewayYAML)
		text := words(status.Conditions)
		for _, l := range status.Listeners {
			text += fmt.Sprintf(" | %s %d: %s", l.Name, l.AttachedRoutes, words(l.Conditions))
		}
		return text
	}
	route := func() string {
		status, _ := statusOf(t, root, routeYAML("a", "/a"))
		text := ""
		for _, p := range status.Parents {
			text += fmt.Sprintf("%s(%s): %s\n", p.ParentRef.Name, p.ControllerName, words(p.Conditions))
		}
		return strings.TrimSpace(text)
	}
	t.Log(gateway())
	t.Log(route())
	time.Sleep(3 * time.Second)
	t.Log(gateway())
	t.Log(route())
	envoy.acknowledged.Store(true)
	envoy.say(r)
	time.Sleep(1 * time.Second)
	t.Log(gateway())
	t.Log(route())
}
