//go:build slow

package node_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// strict has nobody of the mesh take plaintext.
const strict = `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
`

// behind lets Weir's proxies alone call the peer of another namespace, and has a route to
// it that wants a token.
const behind = `apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: peer, namespace: shop}
spec:
  selector: {matchLabels: {app: peer}}
  rules: [{from: [{source: {principals: [cluster.local/ns/platform/sa/weir-ingress]}}]}]
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: peer, namespace: platform}
spec: {endpoints: [{address: peer.shop.svc.cluster.local, port: 8080}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: issuer, namespace: platform}
data: {jwks: '%s'}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: peer, namespace: platform}
spec:
  parentRefs: [{name: weir}]
  rules:
    - matches: [{path: {type: PathPrefix, value: /peer}}]
      filters: [{type: URLRewrite, urlRewrite: {hostname: peer.shop.svc.cluster.local}}]
      backendRefs: [{group: weir.dev, kind: Backend, name: peer}]
    - matches: [{path: {type: PathPrefix, value: /by-host}}]
      backendRefs: [{group: weir.dev, kind: Backend, name: peer}]
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: peer, namespace: platform}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: peer}]
  authentication:
    - name: staff
      jwt: {issuer: "https://id.example", audiences: [shop], algorithms: [ES256], jwks: {configMapRef: {name: issuer, key: jwks}}}
  authorization: {roleClaims: [realm.roles], rules: [{name: clerks, effect: Allow, when: identity.hasRole('clerk')}]}
`

// asker is a workload that calls a URL on and on, in a namespace that is told of
// Weir's.
const asker = `apiVersion: v1
kind: Namespace
metadata: {name: %[1]s}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: %[1]s}
spec: {egress: [{hosts: [./*, platform/*, istio-system/*]}]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: prometheus, namespace: %[1]s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: asker, namespace: %[1]s}
spec:
  selector: {matchLabels: {app: asker}}
  template:
    metadata: {labels: {app: asker, sidecar.istio.io/inject: "%[2]t"}}
    spec:
      serviceAccountName: prometheus
      terminationGracePeriodSeconds: 1
      containers: [{name: peer, image: docker.io/weir/peer:dev, imagePullPolicy: IfNotPresent, args: [--call, "http://weir-extauthz.platform:9900/metrics"]}]
`

// TestSlowIstioSidecars installs Weir's charts with sidecars where everybody speaks
// mutual TLS and nobody calls what is not named.
func TestSlowIstioSidecars(t *testing.T) {
	w := newIstioWorld(t)
	w.kubectl(strict, "apply", "--server-side", "--force-conflicts", "-f", "-")
	w.kubectl("", "apply", "--server-side", "-f", gatewayCRDs(t, "standard"))
	w.loadPeer(t.Context())
	charts := filepath.Join(harness.Root(t), "charts", "weir")
	install := []string{
		"upgrade", "--install", "weir", charts, "-n", "platform", "--create-namespace", "--wait", "--timeout", "5m",
		"-f", filepath.Join(charts, "values", "dev.yaml"), "-f", filepath.Join(charts, "values", "default-deny.yaml"),
		"--set", "global.sidecars.policies.scrapers={cluster.local/ns/monitoring/sa/prometheus},ingress.sidecarEgress={shop/*}",
	}
	w.helm(install...)
	by := newIssuer(t)
	w.kubectl(fmt.Sprintf(strings.ReplaceAll(edge, "weir-system", "platform"), hashed(theKey)), "apply", "--server-side", "-f", "-")
	w.kubectl(fmt.Sprintf(behind, by.jwks())+"---\n"+strings.ReplaceAll(peerObjects, "weir-system", "shop"), "apply", "--server-side", "-f", "-")
	w.eventually("the Gateway is programmed", time.Minute, func() bool {
		return w.condition("Programmed", "gateway", "weir", "-n", "platform") == "True/Programmed"
	})
	address := join(w.field("{.spec.clusterIP}", "service", "weir-ingress", "-n", "platform"), "8080")
	w.eventually("keys are asked for", time.Minute, func() bool { return answers(address, "/v1/organizations") == http.StatusUnauthorized })
	s := w.system(address, theKey)

	t.Run("every part has a sidecar", func(t *testing.T) {
		for _, part := range []string{"controlplane", "extauthz", "ratelimit", "user", "data", "ingress"} {
			require.Contains(t, w.field("{.items[*].spec.initContainers[*].name} {.items[*].spec.containers[*].name}", "pods", "-n", "platform", "-l", "app.kubernetes.io/name="+part), "istio-proxy", part)
		}
	})
	t.Run("a key, and a limit", func(t *testing.T) {
		w := w.in(t)
		w.eventually("members are served", time.Minute, func() bool { return s.Get("/v1/organizations").Status == http.StatusOK })
		s.Do(http.MethodGet, "/v1/organizations", "", "X-API-Key", theKey[:20]).Problem(t, http.StatusUnauthorized, "API_KEY_INVALID")
		w.limited(s, "/v1/roles", 3)
	})
	t.Run("a token, at a service of another namespace", func(t *testing.T) {
		w := w.in(t)
		token := "Bearer " + by.token(nil)
		w.eventually("the peer answers", time.Minute, func() bool { return answers(address, "/peer", "Authorization", token) == http.StatusOK })
		require.Equal(t, http.StatusUnauthorized, answers(address, "/peer"))
		require.Equal(t, http.StatusUnauthorized, answers(address, "/peer", "Authorization", "Bearer "+newIssuer(t).token(nil)))
		// A sidecar sends plain HTTP where its Host header says, which is the client's where no route says it.
		require.Equal(t, http.StatusBadGateway, answers(address, "/by-host", "Authorization", token, "Host", "api.example.com"))
		require.Equal(t, http.StatusOK, answers(address, "/by-host", "Authorization", token, "Host", "peer.shop.svc.cluster.local"))
		require.Equal(t, http.StatusOK, answers(address, "/peer", "Authorization", token, "Host", "api.example.com"))
	})
	t.Run("nobody else calls", func(t *testing.T) {
		w := &mtlsWorld{w.in(t).world}
		for _, one := range []struct {
			namespace string
			sidecar   bool
			status    string
		}{{"monitoring", true, "200"}, {"other", true, "403"}, {"legacy", false, "0"}} {
			w.kubectl(fmt.Sprintf(asker, one.namespace, one.sidecar), "apply", "-f", "-")
			w.answered(one.namespace, "asker", one.status)
			w.kubectl("", "delete", "namespace", one.namespace, "--wait=false")
		}
	})
	t.Run("an upgrade loses no request", func(t *testing.T) { w.upgraded(t, s, "platform", install) })
	t.Run("Istio's own analyzers find nothing wrong", func(t *testing.T) { w.in(t).analyze("platform") })
	t.Run("without its policy a part is called by nobody", func(t *testing.T) { // the control
		w := w.in(t)
		w.kubectl("", "delete", "authorizationpolicy", "-n", "platform", "weir-extauthz")
		w.eventually("requests are refused", 2*time.Minute, func() bool { return s.Get("/v1/organizations").Status == http.StatusServiceUnavailable })
		w.helm(install...)
		w.eventually("requests are served", time.Minute, func() bool { return s.Get("/v1/organizations").Status == http.StatusOK })
	})
}
