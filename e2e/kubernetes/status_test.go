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

// statusFixture is a cluster with a gateway, a backend and a route, a replica
// that writes status, and proxies that have acknowledged nothing yet.
type statusFixture struct {
	*testing.T
	root    client.Client
	config  kube.Config
	envoy   *proxies
	replica *replica
}

func newStatusFixture(t *testing.T) *statusFixture {
	t.Helper()
	return newStatusFixtureWith(t, 2*time.Second)
}

// newStatusFixtureWith is newStatusFixture with another lease of the leader's.
func newStatusFixtureWith(t *testing.T, lease time.Duration) *statusFixture {
	t.Helper()
	c := kubernetes(t)
	installCRDs(t, c, weirCRDs(t), gatewayCRDs(t))
	kubeconfig, err := c.Kubeconfig("weir", "system:masters")
	require.NoError(t, err)
	f := &statusFixture{T: t, root: admin(t, c), config: kubeConfig(kubeconfig), envoy: &proxies{}}
	f.config.LeaderElection.Lease = lease
	f.replica = follow(t, f.config, "", f.envoy.observe)
	f.replica.next()
	apply(t, f.root, gatewayYAML)
	apply(t, f.root, backendYAML("b", 8080))
	apply(t, f.root, routeYAML("a", "/a"))
	return f
}

// say is the status of an object in short.
func (f *statusFixture) say(text string) string {
	status, _ := statusOf(f.T, f.root, text)
	var parts []string
	if len(status.Conditions) > 0 {
		parts = append(parts, words(status.Conditions))
	}
	for _, l := range status.Listeners {
		parts = append(parts, fmt.Sprintf("%s(%d): %s", l.Name, l.AttachedRoutes, words(l.Conditions)))
	}
	for _, p := range status.Parents {
		parts = append(parts, fmt.Sprintf("%s by %s: %s", p.ParentRef.Name, p.ControllerName, words(p.Conditions)))
	}
	for _, a := range status.Ancestors {
		parts = append(parts, fmt.Sprintf("%s by %s: %s", a.AncestorRef.Name, a.ControllerName, words(a.Conditions)))
	}
	return strings.Join(parts, "; ")
}

func (f *statusFixture) until(text, want string) {
	f.Helper()
	eventually(f.T, want, func() string { return f.say(text) })
}

const (
	gatewayPending    = "Accepted=True/Accepted@1 Programmed=False/Pending@1; http(1): Accepted=True/Accepted@1 Conflicted=False/NoConflicts@1 Programmed=False/Pending@1 ResolvedRefs=True/ResolvedRefs@1"
	gatewayProgrammed = "Accepted=True/Accepted@1 Programmed=True/Programmed@1; http(1): Accepted=True/Accepted@1 Conflicted=False/NoConflicts@1 Programmed=True/Programmed@1 ResolvedRefs=True/ResolvedRefs@1"
	routeIs           = "edge by weir.dev/gateway-controller: Accepted=True/Accepted@%d ResolvedRefs=True/ResolvedRefs@%d Programmed=%s@%d"
)

func routeSays(generation int, programmed string) string {
	return fmt.Sprintf(routeIs, generation, generation, programmed, generation)
}

func TestSlowKubernetesStatus(t *testing.T) {
	f := newStatusFixture(t)

	t.Run("programmed only once acknowledged", func(t *testing.T) {
		f.until(gatewayYAML, gatewayPending)
		f.until(routeYAML("a", ""), routeSays(1, "False/Pending"))
		f.envoy.acknowledged.Store(true)
		f.envoy.say(f.replica)
		f.until(gatewayYAML, gatewayProgrammed)
		f.until(routeYAML("a", ""), routeSays(1, "True/Programmed"))
		status, _ := statusOf(t, f.root, gatewayYAML)
		require.Equal(t, "192.0.2.1", status.Addresses[0].Value)
		require.Equal(t, gatewayv1.IPAddressType, *status.Addresses[0].Type)
		f.until(strings.Split(gatewayYAML, "\n---\n")[0], "Accepted=True/Accepted@1")
	})

	t.Run("a new generation is programmed anew, and its time changes with the status alone", func(t *testing.T) {
		before, _ := statusOf(t, f.root, routeYAML("a", ""))
		f.envoy.acknowledged.Store(false)
		apply(t, f.root, routeYAML("a", "/other"))
		f.until(routeYAML("a", ""), routeSays(2, "False/Pending"))
		f.until(gatewayYAML, gatewayProgrammed) // It was acknowledged, and has not changed.
		after, _ := statusOf(t, f.root, routeYAML("a", ""))
		require.Equal(t, before.Parents[0].Conditions[0].LastTransitionTime, after.Parents[0].Conditions[0].LastTransitionTime)
		require.False(t, after.Parents[0].Conditions[2].LastTransitionTime.Before(&before.Parents[0].Conditions[2].LastTransitionTime))
		f.envoy.acknowledged.Store(true)
		f.envoy.say(f.replica)
		f.until(routeYAML("a", ""), routeSays(2, "True/Programmed"))
	})

	t.Run("what is settled is not written again", func(t *testing.T) {
		_, before := statusOf(t, f.root, routeYAML("a", ""))
		for range 20 {
			f.envoy.say(f.replica)
		}
		apply(t, f.root, routeYAML("marker", "/marker")) // whose status comes after
		f.until(routeYAML("marker", ""), routeSays(1, "True/Programmed"))
		_, after := statusOf(t, f.root, routeYAML("a", ""))
		require.Equal(t, before.GetResourceVersion(), after.GetResourceVersion())
		remove(t, f.root, routeYAML("marker", "/marker"))
		f.until(gatewayYAML, gatewayProgrammed)
	})

	t.Run("a rejection shows with object and field", func(t *testing.T) {
		f.envoy.rejected.Store(&kube.Quarantine{
			Origin: policy.Origin{Object: policy.ObjectRef{Kind: "HTTPRoute", Namespace: "default", Name: "a"}, Field: "spec.rules[0].matches[0]"},
			Kept:   true, Message: "rejected by envoy-1: no such thing",
		})
		f.envoy.say(f.replica)
		f.until(routeYAML("a", ""), routeSays(2, "False/Rejected"))
		status, _ := statusOf(t, f.root, routeYAML("a", ""))
		require.Equal(t, "spec.rules[0].matches[0]: rejected by envoy-1: no such thing; the last version that was accepted serves in its place", status.Parents[0].Conditions[2].Message)
		f.until(gatewayYAML, gatewayProgrammed)
		f.envoy.rejected.Store(nil)
		f.envoy.say(f.replica)
		f.until(routeYAML("a", ""), routeSays(2, "True/Programmed"))
	})

	t.Run("others' entries stay, and what somebody took away comes back", func(t *testing.T) {
		_, value := statusOf(t, f.root, routeYAML("a", ""))
		other := map[string]any{
			"controllerName": "example.com/other", "parentRef": map[string]any{"name": "theirs"},
			"conditions": []any{map[string]any{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}},
		}
		require.NoError(t, unstructured.SetNestedSlice(value.Object, []any{other}, "status", "parents"))
		require.NoError(t, f.root.Status().Update(t.Context(), value))
		f.until(routeYAML("a", ""), "theirs by example.com/other: Accepted=True/Accepted@0; "+routeSays(2, "True/Programmed"))
	})

	t.Run("a policy is enforced, overridden and refused", func(t *testing.T) {
		apply(t, f.root, fmt.Sprintf(openAuth, ""))
		f.until(openAuth, "edge by weir.dev/gateway-controller: Accepted=True/Accepted@1 Enforced=True/Enforced@1")
		time.Sleep(time.Second) // Age decides who wins, and the API server counts it in seconds.
		younger := strings.Replace(openAuth, "{name: p}", "{name: younger}", 1)
		apply(t, f.root, fmt.Sprintf(younger, ""))
		eventually(t, "overridden by AuthPolicy default/p", func() string {
			status, _ := statusOf(t, f.root, younger)
			if len(status.Ancestors) != 1 {
				return words(nil)
			}
			for _, c := range status.Ancestors[0].Conditions {
				if c.Type == "Overridden" && c.Status == "True" && strings.Contains(c.Message, "AuthPolicy default/p") {
					return "overridden by AuthPolicy default/p"
				}
			}
			return words(status.Ancestors[0].Conditions)
		})
		status, _ := statusOf(t, f.root, younger)
		require.Contains(t, words(status.Ancestors[0].Conditions), "Enforced=False/")
		apply(t, f.root, fmt.Sprintf(openAuth, ", authorization: {rules: [{name: r, effect: Allow, when: nonsense}]}"))
		f.until(openAuth, "edge by weir.dev/gateway-controller: Accepted=False/Invalid@2 Enforced=False/Invalid@2")
		status, _ = statusOf(t, f.root, openAuth)
		require.Contains(t, status.Ancestors[0].Conditions[0].Message, "WEIR2005")
		require.Contains(t, status.Ancestors[0].Conditions[0].Message, "generation 1, which was good, serves in its place")
	})

	t.Run("a route that leaves is forgotten", func(t *testing.T) {
		apply(t, f.root, strings.Replace(routeYAML("a", "/a"), "name: edge", "name: nobodys", 1))
		eventually(t, "gone", func() string {
			if text := f.say(routeYAML("a", "")); strings.Contains(text, "edge by") {
				return text
			}
			return "gone"
		})
	})
}

// One replica writes; when it goes, another takes over. The lease is one that no
// machine is too busy to renew; it is given back, so nobody waits for its end.
func TestSlowKubernetesLeader(t *testing.T) {
	f := newStatusFixtureWith(t, 15*time.Second)
	f.envoy.acknowledged.Store(true)
	f.envoy.say(f.replica)
	f.until(gatewayYAML, gatewayProgrammed)
	second := follow(t, f.config, "", f.envoy.observe)
	second.next()
	require.Never(t, second.writer.Leads, 3*time.Second, 50*time.Millisecond)
	require.True(t, f.replica.writer.Leads())
	f.replica.stop()
	require.Eventually(t, second.writer.Leads, soon, 10*time.Millisecond)
	apply(t, f.root, routeYAML("b", "/b"))
	f.until(routeYAML("b", ""), routeSays(1, "True/Programmed"))
	require.False(t, f.replica.writer.Leads())
}

// Bug 11 of the notes: with many routes, status elsewhere takes minutes, lies or
// vanishes.
func TestSlowBug11StatusOfManyRoutes(t *testing.T) {
	const routes = 1000
	f := newStatusFixture(t)
	f.envoy.acknowledged.Store(true)
	f.envoy.say(f.replica)
	f.until(gatewayYAML, gatewayProgrammed)
	started := time.Now()
	var making sync.WaitGroup
	for part := range 8 {
		making.Go(func() {
			for i := part; i < routes-1; i += 8 {
				name := fmt.Sprintf("r%d", i)
				if err := f.root.Create(t.Context(), object(t, routeYAML(name, "/"+name))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	making.Wait()
	made := time.Now()
	var attached time.Duration
	eventually(t, strings.Replace(gatewayProgrammed, "http(1)", fmt.Sprintf("http(%d)", routes), 1), func() string { return f.say(gatewayYAML) })
	attached = time.Since(made)
	programmed := func() (count int) {
		list := &unstructured.UnstructuredList{}
		list.SetAPIVersion("gateway.networking.k8s.io/v1")
		list.SetKind("HTTPRouteList")
		require.NoError(t, f.root.List(t.Context(), list))
		require.Len(t, list.Items, routes)
		for _, item := range list.Items {
			var status view
			raw, _, err := unstructured.NestedMap(item.Object, "status")
			require.NoError(t, err)
			require.NoError(t, runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &status))
			if len(status.Parents) == 1 && strings.HasSuffix(words(status.Parents[0].Conditions), fmt.Sprintf("Programmed=True/Programmed@%d", item.GetGeneration())) {
				count++
			}
		}
		return count
	}
	eventually(t, fmt.Sprint(routes), func() string { return fmt.Sprint(programmed()) })
	all := time.Since(made)
	t.Logf("%d routes made in %s; attachedRoutes right %s after the last, every route's status %s after", routes, made.Sub(started).Round(time.Millisecond),
		attached.Round(time.Millisecond), all.Round(time.Millisecond))
	for range 10 { // It stays, whatever else happens.
		apply(t, f.root, backendYAML("other", 1))
		require.Equal(t, routes, programmed())
		remove(t, f.root, backendYAML("other", 1))
	}
}
