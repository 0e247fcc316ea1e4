//go:build slow

package node_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	userv1 "weir.dev/api/gen/weir/user/v1"
	"weir.dev/e2e/internal/harness"
)

// few is a limit that a test can reach, beside the quickstart's own.
const few = `apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: few}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: limited}]
  limits: [{name: few, requests: 3, window: 240h, by: [{type: Consumer}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: limited}
spec:
  parentRefs: [{name: quickstart}]
  rules:
    - name: one
      matches: [{path: {type: Exact, value: /v1/organizations/limited}}]
      backendRefs: [{group: weir.dev, kind: Backend, name: user}]
`

// TestSlowIstioAnswersAlike asks the quickstart's folder the same of Weir's own
// Envoy and of Istio's ingress gateway.
func TestSlowIstioAnswersAlike(t *testing.T) {
	files := harness.Files{"limited.yaml": few}
	own := harness.Start(t, files)
	w := newIstioWorld(t)
	folder := t.TempDir()
	for name, content := range map[string]string{
		"limited.yaml":  few,
		"backends.yaml": fmt.Sprintf(backends, "user", 18004, "weir.user.v1.UserService, weir.user.v1.ApiKeyService") + fmt.Sprintf(backends, "data", 18005, "weir.data.v1.DataService"),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600))
	}
	// The same callers: what weir up made of them.
	for _, name := range []string{"issuer.yaml", "consumer.yaml"} {
		content, err := os.ReadFile(filepath.Join(own.State, "development", name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), content, 0o600))
	}
	policies := []string{filepath.Join(harness.Root(t), "examples", "quickstart"), folder}
	w.deploy(policies...)
	w.eventually("Istio's gateway asks for keys", time.Minute, func() bool { return answers(w.address, "/v1/organizations") == http.StatusUnauthorized })
	mesh := w.system(w.address, own.APIKey)
	mesh.Token = own.Token
	// A gateway has nobody to ask until it is told of pods that have just become ready,
	// and lets requests in while that is ratelimit.
	w.everywhere("Istio's gateway reaches all services", time.Minute, func() bool {
		for _, path := range []string{"/v1/organizations", "/v1/roles"} {
			if answer := w.fresh(mesh, path); answer == nil || answer.StatusCode != http.StatusOK || answer.Header.Get("RateLimit") == "" {
				return false
			}
		}
		return true
	})

	t.Run("every transport", func(t *testing.T) {
		for _, s := range []*harness.System{own, mesh} {
			for _, transport := range s.Transports(s.Key()...) {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				var made userv1.Organization
				err := transport.Call(ctx, userv1.UserService_CreateOrganization_FullMethodName, &userv1.CreateOrganizationRequest{
					Organization: &userv1.Organization{DisplayName: "by " + transport.Name()},
				}, &made)
				cancel()
				require.NoError(t, err, "%s at %s", transport.Name(), s.URL)
				require.NotEmpty(t, made.GetName())
			}
		}
	})
	t.Run("every patch is in the gateway", func(t *testing.T) {
		out, err := w.assertPatches(policies)
		require.NoError(t, err, out)
		require.Contains(t, out, "0 findings")
	})
	t.Run("Istio's own analyzers find nothing wrong", func(t *testing.T) { w.analyze("istio-ingress") })
	for _, ask := range asks(own) {
		t.Run(ask.name, func(t *testing.T) {
			same(t, own, mesh, ask)
		})
	}
	t.Run("above a limit", func(t *testing.T) {
		for _, s := range []*harness.System{own, mesh} {
			w.in(t).limited(s, "/v1/organizations/limited", 3)
		}
		same(t, own, mesh, ask{method: "GET", path: "/v1/organizations/limited", headers: own.Key(), status: 429})
	})
	t.Run("what is not named is denied", func(t *testing.T) { denying(t, w.in(t)) })
	applying(t, w, policies)
	t.Run("Istio decides about tokens", func(t *testing.T) { judging(t, w.in(t), policies) })
	t.Run("TLS ends at the gateway", func(t *testing.T) { endingTLS(t, w.in(t), own, policies) })
	t.Run("client certificates", func(t *testing.T) { clientCertificates(t, w.in(t), own, policies) })
	t.Run("bodies", func(t *testing.T) { readingBodies(t, w.in(t), own, mesh, policies) })
	t.Run("logins", func(t *testing.T) { loggingIn(t, w.in(t), own, mesh, policies) })
	istiodGone(t, w, mesh, policies)
	t.Run("a patch that is gone is seen", func(t *testing.T) {
		w.kubectl("", "delete", "envoyfilter", "-n", "istio-ingress", "weir-8080-routes")
		w.eventually("the assertion fails", time.Minute, func() bool {
			out, err := w.assertPatches(policies)
			return err != nil && strings.Contains(out, "HTTP_ROUTE httproute/default/limited/one@default/quickstart/http")
		})
		require.Equal(t, http.StatusUnauthorized, answers(w.address, "/v1/roles"), "nobody comes in for it")
	})
	t.Run("without extauthz nobody comes in", func(t *testing.T) {
		w.kubectl("", "scale", "-n", "weir-system", "deployment/weir-extauthz", "--replicas=0")
		// The one that goes decides to its end, so callers with a key are let in until then.
		w.kubectl("", "wait", "-n", "weir-system", "--for=delete", "pod", "-l", "app=weir-extauthz", "--timeout", "4m")
		w.everywhere("checks fail", time.Minute, func() bool { return answers(w.address, "/v1/roles") == http.StatusServiceUnavailable })
		for range 10 {
			mesh.Get("/v1/roles").Problem(t, http.StatusServiceUnavailable, "AUTHORIZATION_UNAVAILABLE")
		}
	})
}

// ask is one request.
type ask struct {
	name, method, path, body string
	headers                  []string
	// status that both have to answer with.
	status int
}

func asks(s *harness.System) []ask {
	key := s.Key()
	bearer := []string{"Authorization", "Bearer " + s.Token}
	with := func(more ...string) []string { return slices.Concat(key, more) }
	return []ask{
		{name: "no credentials", method: "GET", path: "/v1/organizations", status: 401},
		{name: "a wrong key", method: "GET", path: "/v1/organizations", headers: []string{"X-API-Key", "nonsense"}, status: 401},
		{name: "a wrong token", method: "GET", path: "/v1/organizations", headers: []string{"Authorization", "Bearer x.y.z"}, status: 401},
		{name: "two keys", method: "GET", path: "/v1/organizations", headers: with("X-API-Key", "other"), status: 400},
		{name: "a token", method: "GET", path: "/v1/roles", headers: bearer, status: 200},
		{name: "a key", method: "GET", path: "/v1/roles", headers: key, status: 200},
		{name: "identity headers of a client", method: "GET", path: "/v1/roles", headers: []string{"x-weir-tenant", "acme", "x-weir-principal", "root"}, status: 401},
		{name: "nothing there", method: "GET", path: "/nowhere", headers: key, status: 404},
		{name: "nothing there without credentials", method: "GET", path: "/nowhere", status: 404},
		{name: "the service's own error", method: "GET", path: "/v1/organizations/none-such", headers: key, status: 404},
		{name: "a body that is no JSON", method: "POST", path: "/v1/organizations", body: "{", headers: with("Content-Type", "application/json"), status: 400},
		{name: "an unknown field", method: "POST", path: "/v1/organizations", body: `{"nonsense":1}`, headers: with("Content-Type", "application/json"), status: 400},
		{name: "an unknown method of a service", method: "DELETE", path: "/v1/roles", headers: key},
		{name: "a slash that is escaped", method: "GET", path: "/v1/organizations%2fx", headers: key, status: 400},
		{name: "dots", method: "GET", path: "/nowhere/../v1/roles", headers: key, status: 200},
		{name: "two slashes", method: "GET", path: "//v1//roles", headers: key, status: 200},
		{name: "a path parameter", method: "GET", path: "/v1/roles;x=1", headers: key, status: 400},
		{name: "a prefix that ends within a segment", method: "GET", path: "/v1/rolesandmore", headers: key, status: 404},
		{name: "underscores", method: "GET", path: "/v1/roles", headers: with("x_weir_tenant", "acme"), status: 400},
		{name: "a preflight", method: "OPTIONS", path: "/v1/roles", headers: []string{"Origin", "http://localhost:3000", "Access-Control-Request-Method", "GET"}, status: 200},
		{name: "a preflight of a stranger", method: "OPTIONS", path: "/v1/roles", headers: []string{"Origin", "http://evil.example", "Access-Control-Request-Method", "GET"}},
		{name: "headers that are too large", method: "GET", path: "/v1/roles", headers: with("x-large", strings.Repeat("x", 70<<10)), status: 431},
	}
}

// same fails unless both answer alike: status, problem, and the headers that
// clients go by. Where ratelimit did not answer one of them in time, which lets requests
// in, both are asked again.
func same(t *testing.T, own, mesh *harness.System, ask ask) {
	t.Helper()
	answers := make([]*harness.Response, 2)
	for range 3 {
		for i, s := range []*harness.System{own, mesh} {
			var err error
			answers[i], err = s.TryDo(ask.method, ask.path, ask.body, ask.headers...)
			require.NoError(t, err, "%s", s.URL)
		}
		if (answers[0].Header.Get("RateLimit") == "") == (answers[1].Header.Get("RateLimit") == "") {
			break
		}
		t.Logf("counted by one of them: %v, %v", answers[0].Header, answers[1].Header)
	}
	if ask.status != 0 {
		require.Equal(t, ask.status, answers[0].Status, "Weir's own: %s", answers[0].Body)
	}
	require.Equal(t, answers[0].Status, answers[1].Status, "Istio: %s\n%v", answers[1].Body, answers[1].Header)
	require.Equal(t, problemOf(answers[0]), problemOf(answers[1]))
	for _, name := range []string{
		"Content-Type", "Www-Authenticate", "Ratelimit-Policy", "Access-Control-Allow-Origin", "Access-Control-Allow-Methods",
		"Access-Control-Expose-Headers", "Access-Control-Max-Age", "Server", "Grpc-Status", "Allow", "X-Envoy-Upstream-Service-Time",
	} {
		require.Equal(t, answers[0].Header.Values(name), answers[1].Header.Values(name), name)
	}
	require.Equal(t, answers[0].Header.Get("X-Request-Id") == "", answers[1].Header.Get("X-Request-Id") == "", "X-Request-Id")
	require.Equal(t, answers[0].Header.Get("Ratelimit") == "", answers[1].Header.Get("Ratelimit") == "", "RateLimit")
	require.Equal(t, answers[0].Header.Get("Retry-After") == "", answers[1].Header.Get("Retry-After") == "", "Retry-After")
}

// problemOf is the problem without what is of one request alone, or nothing.
func problemOf(answer *harness.Response) map[string]any {
	var problem map[string]any
	if answer.Header.Get("Content-Type") != "application/problem+json" || json.Unmarshal([]byte(answer.Body), &problem) != nil {
		return nil
	}
	delete(problem, "requestId")
	delete(problem, "instance")
	return problem
}
