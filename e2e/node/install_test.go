//go:build slow

package node_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	userv1 "weir.dev/api/gen/weir/user/v1"
	"weir.dev/e2e/internal/harness"
)

const theKey = "acme_0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"

// edge is the policy of a small platform: keys, a limit, REST and gRPC.
const edge = `apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: callers, namespace: weir-system}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: weir}]
  authentication: [{name: key, apiKey: {}}]
  authorization: {rules: [{name: tenants, effect: Allow, when: identity.tenant != ''}]}
  cors:
    allowOrigins: ["http://localhost:*"]
    allowMethods: [GET, POST, OPTIONS]
    allowHeaders: [x-api-key, content-type, x-grpc-web]
    exposeHeaders: [grpc-status, grpc-message]
---
apiVersion: weir.dev/v1alpha1
kind: Consumer
metadata: {name: acme, namespace: weir-system}
spec: {tenant: acme, apiKeys: [{name: first, sha256: %s}]}
---
apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: roles, namespace: weir-system}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: roles}]
  limits: [{name: few, requests: 3, window: 240h, by: [{type: Consumer}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: rest, namespace: weir-system}
spec:
  parentRefs: [{name: weir}]
  rules:
    - matches: [{path: {type: PathPrefix, value: /v1/organizations}}, {path: {type: PathPrefix, value: /v1/users}}]
      backendRefs: [{group: weir.dev, kind: Backend, name: user}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: roles, namespace: weir-system}
spec:
  parentRefs: [{name: weir}]
  rules:
    - matches: [{path: {type: PathPrefix, value: /v1/roles}}]
      backendRefs: [{group: weir.dev, kind: Backend, name: user}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: grpc, namespace: weir-system}
spec:
  parentRefs: [{name: weir}]
  rules:
    - matches: [{method: {service: weir.user.v1.UserService}}]
      backendRefs: [{group: weir.dev, kind: Backend, name: user}]
`

// shop is a Gateway of another namespace.
const shop = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: shop}
spec:
  gatewayClassName: weir
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}]
  authentication: [{name: key, apiKey: {}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: shop}]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: shop.example, statusCode: 302}}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: open}
spec:
  parentRefs: [{name: shop}]
  rules: [{matches: [{path: {type: Exact, value: /open}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: open.example, statusCode: 302}}]}]
`

// From an empty cluster to served requests by Helm, and on through an upgrade.
func TestSlowInstall(t *testing.T) {
	w := newWorld(t)
	w.kubectl("", "apply", "--server-side", "-f", gatewayCRDs(t, "standard"))
	charts := filepath.Join(harness.Root(t), "charts", "weir")
	install := []string{
		"upgrade", "--install", "weir", charts, "-n", "weir-system", "--create-namespace", "--wait", "--timeout", "5m",
		"-f", filepath.Join(charts, "values", "dev.yaml"), "--set", "controlplane.provision.enabled=true,controlplane.provision.replicas=1",
	}
	w.helm(install...)
	w.kubectl(fmt.Sprintf(edge, hashed(theKey)), "apply", "--server-side", "-f", "-")
	w.eventually("the Gateway is programmed", time.Minute, func() bool {
		return w.condition("Programmed", "gateway", "weir", "-n", "weir-system") == "True/Programmed"
	})
	address := join(w.field("{.spec.clusterIP}", "service", "weir-ingress", "-n", "weir-system"), "8080")
	w.eventually("keys are asked for", time.Minute, func() bool { return answers(address, "/v1/organizations") == http.StatusUnauthorized })
	s := w.system(address, theKey)

	t.Run("every transport", func(t *testing.T) {
		for _, transport := range s.Transports(s.Key()...) {
			t.Run(transport.Name(), func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				var made userv1.Organization
				require.NoError(t, transport.Call(ctx, userv1.UserService_CreateOrganization_FullMethodName, &userv1.CreateOrganizationRequest{
					Organization: &userv1.Organization{DisplayName: "by " + transport.Name()},
				}, &made))
				require.NotEmpty(t, made.GetName())
			})
		}
	})
	t.Run("refusals", func(t *testing.T) {
		s.Do(http.MethodGet, "/v1/organizations", "").Problem(t, http.StatusUnauthorized, "CREDENTIALS_MISSING")
		s.Do(http.MethodGet, "/v1/organizations", "", "X-API-Key", theKey[:20]).Problem(t, http.StatusUnauthorized, "API_KEY_INVALID")
		s.Get("/nowhere").Problem(t, http.StatusNotFound, "ROUTE_NOT_FOUND")
		w.limited(s, "/v1/roles", 3)
	})
	t.Run("a Gateway is given proxies", func(t *testing.T) {
		w.kubectl(shop, "apply", "-f", "-")
		w.eventually("the Gateway has an address and is programmed", time.Minute, func() bool {
			return w.condition("Programmed", "gateway", "shop") == "True/Programmed"
		})
		own := w.field("{.status.addresses[0].value}", "gateway", "shop")
		require.NotEmpty(t, own)
		require.NotContains(t, address, own+":")
		// The node's own routing to the Service may be a moment behind its endpoints.
		var answer int
		w.eventually("the Gateway's address answers", time.Minute, func() bool {
			answer = answers(join(own, "80"), "/anywhere")
			return answer != 0
		})
		require.Equal(t, http.StatusUnauthorized, answer, "extauthz knows its proxies")
		require.Equal(t, http.StatusFound, answers(join(own, "80"), "/open"))
		w.kubectl("", "delete", "gateway", "shop")
		w.eventually("its proxies go with it", time.Minute, func() bool {
			return w.field("{.items[*].metadata.name}", "deployments", "-n", "weir-system", "-l", "gateway.networking.k8s.io/gateway-name=shop") == ""
		})
	})
	t.Run("an upgrade loses no request", func(t *testing.T) { w.upgraded(t, s, "weir-system", install) })
	t.Run("what an unknown value is told", func(t *testing.T) {
		err := w.node.Helm(t.Context(), append(install, "--dry-run=client", "--set", "ingress.replica=3")...)
		require.ErrorContains(t, err, "replica")
		require.True(t, strings.Contains(err.Error(), "not allowed") || strings.Contains(err.Error(), "additional"), err.Error())
	})
}

// upgraded installs once more, with labels that have all pods replaced, while clients ask.
func (w *world) upgraded(t *testing.T, s *harness.System, namespace string, install []string) {
	t.Helper()
	var sent, failed atomic.Int64
	var first sync.Map
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				answer, err := s.TryDo(http.MethodGet, "/v1/organizations", "", s.Key()...)
				sent.Add(1)
				if err != nil || answer.Status != http.StatusOK {
					failed.Add(1)
					first.LoadOrStore("failure", fmt.Sprintf("%v %+v", err, answer))
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	w.helm(append(install, "--set", "controlplane.podLabels.round=two,extauthz.podLabels.round=two,ratelimit.podLabels.round=two,ingress.podLabels.round=two")...)
	stop()
	clients.Wait()
	why, _ := first.Load("failure")
	require.Zero(t, failed.Load(), "of %d requests; the first: %v", sent.Load(), why)
	require.Greater(t, sent.Load(), int64(100))
	require.Equal(t, "two", w.field("{.spec.template.metadata.labels.round}", "deployment", "weir-ingress", "-n", namespace))
}
