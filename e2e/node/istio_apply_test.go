//go:build slow

package node_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// elsewhere is a host where everybody is sent elsewhere, but for what is asked
// about.
const elsewhere = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: elsewhere}
spec:
  parentRefs: [{name: quickstart}]
  hostnames: [elsewhere.example.com]
  rules:
    - name: away
      matches: [{path: {type: PathPrefix, value: /}}]
      filters: [{type: RequestRedirect, requestRedirect: {hostname: other.example.com, statusCode: 302}}]
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: elsewhere}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: elsewhere}]
  authentication: [{name: all, anonymous: {}}]
---
`

// guarded is a path of that host which nobody may have without a key.
const guarded = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: guarded}
spec:
  parentRefs: [{name: quickstart}]
  hostnames: [elsewhere.example.com]
  rules:
    - name: roles
      matches: [{path: {type: Exact, value: /v1/roles}}]
      backendRefs: [{group: weir.dev, kind: Backend, name: user}]
---
`

// asking asks a gateway on and on, and notes the statuses.
type asking struct {
	stop chan struct{}
	done sync.WaitGroup
	seen map[int]int
}

func ask4ever(address, host, path string) *asking {
	a := &asking{stop: make(chan struct{}), seen: map[int]int{}}
	a.done.Go(func() {
		for {
			select {
			case <-a.stop:
				return
			default:
				a.seen[answers(address, path, "Host", host)]++
			}
		}
	})
	return a
}

func (a *asking) end() map[int]int {
	close(a.stop)
	a.done.Wait()
	return a.seen
}

// applying is what plan and apply do to the cluster of TestSlowIstioAnswersAlike.
func applying(t *testing.T, w *istioWorld, base []string) {
	extra := t.TempDir()
	all := append(append([]string{}, base...), extra)
	write := func(text string) {
		require.NoError(t, os.WriteFile(filepath.Join(extra, "extra.yaml"), []byte(text), 0o600))
	}
	plan := func(arguments ...string) (string, int) {
		return w.weir(append(append([]string{"plan", "--target", "istio"}, all...), arguments...)...)
	}
	versions := func() string {
		return w.kubectl("", "get", "gateway,virtualservice,envoyfilter,authorizationpolicy,destinationrule,serviceentry,secret,configmap", "-n", "istio-ingress",
			"-o", `jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.annotations.weir\.dev/content-hash} {.metadata.generation}{"\n"}{end}`)
	}
	doctor := func(w *istioWorld) (string, int) {
		return w.weir(append([]string{"doctor", "--target", "istio"}, all...)...)
	}
	write("")
	t.Run("nothing differs after apply", func(t *testing.T) {
		w := w.in(t)
		out, code := w.weir(append([]string{"plan", "--target", "istio"}, all...)...)
		require.Equal(t, 0, code, out)
		require.Contains(t, out, "0 objects would be changed")
		out, code = doctor(w)
		require.Equal(t, 0, code, out)
		require.Regexp(t, `ok +guard: every gateway asks extauthz`, out)
		require.Regexp(t, `ok +gateways: .* every patch of 3 EnvoyFilters`, out)
		require.NotContains(t, out, "warning")
	})
	t.Run("a change by hand is drift, and is mended only when asked", func(t *testing.T) {
		w := w.in(t)
		w.kubectl("", "patch", "-n", "istio-ingress", "virtualservice", "weir-8080-all", "--type=json", "-p", `[{"op": "replace", "path": "/spec/http/0/timeout", "value": "99s"}]`)
		out, code := plan()
		require.Equal(t, 2, code, out)
		require.Contains(t, out, "spec.http[0].timeout: 99s -> ")
		require.Contains(t, out, "! spec.http belongs to")
		out, code = doctor(w)
		require.Equal(t, 0, code)
		require.Regexp(t, `warning +drift: VirtualService istio-ingress/weir-8080-all is otherwise; spec.http belongs to "kubectl-patch"`, out)
		out, code = w.weir(append([]string{"apply", "--target", "istio"}, all...)...)
		require.Equal(t, 1, code, out)
		require.Contains(t, out, "WEIR5203")
		require.Contains(t, out, "nothing was changed")
		require.Contains(t, w.field("{.spec.http[0].timeout}", "virtualservice", "weir-8080-all", "-n", "istio-ingress"), "99s")
		w.applied(append([]string{"--force-conflicts"}, all...)...)
		_, code = plan()
		require.Equal(t, 0, code)
	})
	t.Run("a route comes after its guard", func(t *testing.T) { afterGuards(t, w.in(t), write, all) })
	t.Run("what is another's is left, what is gone is deleted", func(t *testing.T) {
		w := w.in(t)
		w.kubectl(foreign, "apply", "-f", "-")
		require.NotEmpty(t, w.field("{.metadata.name}", "virtualservice", "weir-8080-elsewhere-example-com-"+hashOf(w), "-n", "istio-ingress"))
		write("")
		out := w.applied(all...)
		require.Regexp(t, `VirtualService istio-ingress/weir-8080-elsewhere\S* deleted`, out)
		require.Equal(t, "foreign", w.field("{.metadata.name}", "virtualservice", "foreign", "-n", "istio-ingress"))
		out, _ = doctor(w)
		require.Regexp(t, `warning +strays: VirtualService istio-ingress/stray`, out)
		require.NotContains(t, out, "istio-ingress/foreign")
		w.kubectl(foreign, "delete", "-f", "-")
		w.eventually("the host is gone", 20*time.Second, func() bool { return answers(w.address, "/", "Host", "elsewhere.example.com") == http.StatusNotFound })
	})
	t.Run("one refused object keeps all back", func(t *testing.T) {
		w := w.in(t)
		w.kubectl(refusing, "apply", "-f", "-")
		defer w.kubectl(refusing, "delete", "-f", "-")
		write(elsewhere)
		before := versions()
		var out string
		w.eventually("the API server refuses it", 20*time.Second, func() bool {
			var code int
			out, code = w.weir(append([]string{"apply", "--target", "istio", "--dry-run"}, all...)...)
			return code == 1
		})
		out, code := w.weir(append([]string{"apply", "--target", "istio"}, all...)...)
		require.Equal(t, 1, code)
		require.Contains(t, out, "not here, please")
		require.Contains(t, out, "extra.yaml:")
		require.Contains(t, out, "nothing was changed")
		require.Equal(t, before, versions())
	})
	t.Run("a patch that matches nothing is put back", func(t *testing.T) {
		w := w.in(t)
		w.kubectl(removing, "apply", "-f", "-")
		w.eventually("the doctor misses it", 20*time.Second, func() bool {
			out, code := doctor(w)
			return code == 1 && strings.Contains(out, "HTTP_FILTER weir.cors is there 0 times")
		})
		write(elsewhere)
		before := versions()
		out, code := w.weir(append([]string{"apply", "--target", "istio", "--wait", "20s"}, all...)...)
		require.Equal(t, 1, code, out)
		require.Contains(t, out, "HTTP_FILTER weir.cors is there 0 times")
		require.Contains(t, out, "everything was put back as it was")
		require.Equal(t, hashes(before), hashes(versions()))
		require.Equal(t, http.StatusUnauthorized, answers(w.address, "/v1/roles"))
		w.kubectl(removing, "delete", "-f", "-")
		w.applied(all...) // what kept it back was that alone
		write("")
		w.applied(all...)
	})
}

// afterGuards asks without a key, while routes come and go.
func afterGuards(t *testing.T, w *istioWorld, write func(string), all []string) {
	const host, path = "elsewhere.example.com", "/v1/roles"
	write(elsewhere)
	w.applied(all...)
	w.eventually("everybody is sent elsewhere", 20*time.Second, func() bool { return answers(w.address, path, "Host", host) == http.StatusFound })
	asked := ask4ever(w.address, host, path)
	write(elsewhere + guarded)
	w.applied(all...)
	w.everywhere("a key is asked for", 20*time.Second, func() bool { return answers(w.address, path, "Host", host) == http.StatusUnauthorized })
	write(elsewhere)
	w.applied(all...)
	seen := asked.end()
	w.Logf("answers while a guarded route came and went: %v", seen)
	require.Positive(t, seen[http.StatusFound])
	require.Positive(t, seen[http.StatusUnauthorized])
	require.Len(t, seen, 2, "nobody has it without a key, nor does anybody lose a request")

	// The other order, by hand: the route without its rules. It is open to all.
	write(elsewhere + guarded)
	rendered, code := w.weir(append([]string{"translate", "--target", "istio", "--type", "VirtualService"}, all...)...)
	require.Equal(t, 0, code)
	w.kubectl(rendered, "apply", "--server-side", "--force-conflicts", "-f", "-")
	w.eventually("the route is open without its rules", 30*time.Second, func() bool {
		return !slices.Contains([]int{0, http.StatusFound, http.StatusUnauthorized}, answers(w.address, path, "Host", host))
	})
	w.applied(append([]string{"--force-conflicts"}, all...)...)
	w.everywhere("the route has its rules", 20*time.Second, func() bool { return answers(w.address, path, "Host", host) == http.StatusUnauthorized })
}

// in is the world for a subtest.
func (w *istioWorld) in(t *testing.T) *istioWorld {
	inner := *w.world
	inner.T = t
	return &istioWorld{world: &inner, address: w.address}
}

// hashes are the lines without generations, which count also what was put back.
func hashes(versions string) []string {
	var found []string
	for line := range strings.Lines(versions) {
		fields := strings.Fields(line)
		found = append(found, strings.Join(fields[:min(2, len(fields))], " "))
	}
	return found
}

// hashOf is the end of the name of elsewhere's VirtualService.
func hashOf(w *istioWorld) string {
	names := w.kubectl("", "get", "virtualservice", "-n", "istio-ingress", "-o", "name")
	for line := range strings.Lines(names) {
		if _, end, found := strings.Cut(strings.TrimSpace(line), "weir-8080-elsewhere-example-com-"); found {
			return end
		}
	}
	return fmt.Sprint("none in ", names)
}

// foreign is an object of somebody else in the gateway's namespace.
const foreign = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: foreign, namespace: istio-ingress, labels: {app.kubernetes.io/managed-by: weir, weir.dev/mesh-set: default}}
spec:
  hosts: [foreign.example.com]
  gateways: [istio-ingress/none]
  http: [{directResponse: {status: 204}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: stray, namespace: istio-ingress, labels: {app.kubernetes.io/managed-by: weir}}
spec:
  hosts: [stray.example.com]
  gateways: [istio-ingress/none]
  http: [{directResponse: {status: 204}}]
`

// refusing has the API server refuse the host.
const refusing = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-elsewhere}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [networking.istio.io], apiVersions: ["*"], operations: [CREATE, UPDATE], resources: [virtualservices]}]
  validations: [{expression: "!('elsewhere.example.com' in object.spec.hosts)", message: "not here, please"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-elsewhere}
spec: {policyName: no-elsewhere, validationActions: [Deny]}
`

// removing takes out again what Weir puts in: it comes later.
const removing = `apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: no-cors, namespace: istio-ingress}
spec:
  priority: 1000
  configPatches:
    - applyTo: HTTP_FILTER
      match:
        context: GATEWAY
        listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: weir.cors}}}}
      patch: {operation: REMOVE}
`
