package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"weir.dev/controlplane/ads"
	"weir.dev/controlplane/envoy"
)

// asked sends a GET to one of Envoy's addresses, under a host name.
func (x *traffic) asked(address string, port int32, host string) (int, error) {
	x.t.Helper()
	request, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://%s:%d/", address, port), nil)
	require.NoError(x.t, err)
	request.Host = host
	request.Close = true
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

// A backendRef's filters are for its share of the requests and no other.
func TestBackendFiltersThroughEnvoy(t *testing.T) {
	x := startTraffic(t)
	ref := func(name string, weight int, filters string) string {
		return fmt.Sprintf("{group: weir.dev, kind: Backend, name: %s, weight: %d, filters: [%s]}", name, weight, filters)
	}
	down := "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /down}}}"
	copies := "{type: RequestMirror, requestMirror: {backendRef: {group: weir.dev, kind: Backend, name: b}}}"
	redirect := "{type: RequestRedirect, requestRedirect: {hostname: new.example, statusCode: 307}}"
	rule := func(name string, refs ...string) string {
		return fmt.Sprintf("  - {name: %s, matches: [{path: {value: /%s}}], backendRefs: [%s]}\n", name, name, strings.Join(refs, ", "))
	}
	x.apply(rule("thirds", ref("a", 1, ""), ref("a", 1, down), ref("a", 1, redirect)) +
		rule("copied", ref("a", 1, copies), ref("a", 1, "")) + rule("one", ref("a", 7, down)) + rule("lost", ref("none", 1, down), ref("a", 1, "")))
	x.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	counts := map[int]int{}
	for range 900 {
		counts[x.status("/thirds")]++
	}
	require.Len(t, counts, 3, counts)
	for _, status := range []int{http.StatusOK, http.StatusServiceUnavailable, http.StatusTemporaryRedirect} {
		require.InDelta(t, 300, counts[status], 90, "%d: a third each, %v", status, counts)
	}
	require.Zero(t, x.b.requests.Load())
	x.served(400, "/copied")
	x.get(8080, "/none")
	require.Eventually(t, func() bool { return x.b.requests.Load() >= 110 }, patience, 10*time.Millisecond, "half of the requests are copied")
	require.LessOrEqual(t, x.b.requests.Load(), int64(290))
	require.Equal(t, http.StatusServiceUnavailable, x.status("/one"))
	lost := map[int]int{}
	for range 200 {
		lost[x.status("/lost")]++
	}
	require.InDelta(t, 100, lost[http.StatusInternalServerError], 45, lost)
	require.InDelta(t, 100, lost[http.StatusOK], 45, lost)
}

const ownRoute = `---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %[1]s}
spec:
  parentRefs: [{name: %[1]s, kind: %[2]s}]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: %[1]s.example, statusCode: 30%[3]d}}]}]
`

// A ListenerSet serves beside its Gateway and under its own hostname, its routes
// nowhere else, and it goes without taking the Gateway along.
func TestListenerSetsThroughEnvoy(t *testing.T) {
	x := startTraffic(t)
	gateway := `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: weir
  allowedListeners: {namespaces: {from: %s}}
  listeners: [{name: http, protocol: HTTP, port: 8080, hostname: edge.example}]
` + fmt.Sprintf(ownRoute, "edge", "Gateway", 1) + `---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: team}
spec:
  parentRef: {name: edge}
  listeners: [{name: http, protocol: HTTP, port: 8080, hostname: team.example}, {name: other, protocol: HTTP, port: 8081}]
` + fmt.Sprintf(ownRoute, "team", "ListenerSet", 2)
	x.requireAccepted(x.compileText(fmt.Sprintf(gateway, "Same")))
	ask := func(port int32, host string) int {
		status, err := x.asked("127.0.0.1", x.ports[port], host)
		require.NoError(t, err)
		return status
	}
	x.listening(8080)
	x.listening(8081)
	require.Equal(t, http.StatusMovedPermanently, ask(8080, "edge.example"))
	require.Equal(t, http.StatusFound, ask(8080, "team.example"))
	require.Equal(t, http.StatusFound, ask(8081, "any.example"))
	x.requireAccepted(x.compileText(fmt.Sprintf(gateway, "None"))) // the negative control
	require.Equal(t, http.StatusMovedPermanently, ask(8080, "edge.example"))
	require.Equal(t, http.StatusNotFound, ask(8080, "team.example"))
	require.Eventually(t, func() bool {
		_, err := x.asked("127.0.0.1", x.ports[8081], "any.example")
		return err != nil
	}, patience, 10*time.Millisecond, "nothing listens there")
}

// Gateways bind where they say, on one port too, and may move.
func TestGatewayAddressesThroughEnvoy(t *testing.T) {
	x := startTraffic(t)
	gateway := func(name, addresses string) string {
		return fmt.Sprintf("---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: %s}\nspec: {gatewayClassName: weir, addresses: [%s], listeners: [{name: http, protocol: HTTP, port: 8080}]}\n", name, addresses)
	}
	routes := fmt.Sprintf(ownRoute, "one", "Gateway", 1) + fmt.Sprintf(ownRoute, "two", "Gateway", 2)
	check := func(want map[string]int) {
		for address, status := range want {
			require.EventuallyWithT(t, func(c *assert.CollectT) { // workers open and close ports a moment after Envoy took them
				got, err := x.asked(address, x.ports[8080], "any.example")
				assert.Equal(c, status, got, "%s: %v", address, err)
			}, patience, 10*time.Millisecond)
		}
	}
	x.requireAccepted(x.compileText(gateway("one", "{value: 127.0.0.2}") + gateway("two", "{value: 127.0.0.3}") + routes))
	check(map[string]int{"127.0.0.1": 0, "127.0.0.2": 301, "127.0.0.3": 302})
	// One more address for the first; the other moves to the proxy's own.
	x.requireAccepted(x.compileText(gateway("one", "{value: 127.0.0.2}, {value: 127.0.0.4}") + gateway("two", "") + routes))
	check(map[string]int{"127.0.0.1": 302, "127.0.0.2": 301, "127.0.0.3": 0, "127.0.0.4": 301})
	// The negative control: an address that the machine does not have.
	err := x.ads.Rollout(t.Context(), x.compileText(gateway("one", "{value: 192.0.2.1}")+gateway("two", "")+routes))
	var rejection *ads.Rejection
	require.True(t, errors.As(err, &rejection), err)
	require.Equal(t, envoy.TypeListener, rejection.TypeURL)
	require.Contains(t, rejection.Message, "192.0.2.1")
	check(map[string]int{"127.0.0.1": 302, "127.0.0.2": 301, "127.0.0.4": 301})
}
