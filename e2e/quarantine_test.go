package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/controlplane"
	"weir.dev/controlplane/folder"
	"weir.dev/e2e/internal/harness"
	"weir.dev/policy"
)

// quarantineYAML is a policy of three routes that answer by redirecting; the one
// in the middle is of the test's making.
func quarantineYAML(version int, middle string) string {
	route := func(name, filters string) string {
		return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %[1]s}
spec:
  parentRefs: [{name: edge}]
  rules:
  - name: all
    matches: [{path: {type: PathPrefix, value: /%[1]s}}]
    filters: [%[2]s]
---
`, name, filters)
	}
	redirect := func(to string) string {
		return fmt.Sprintf("{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /%s}}}", to)
	}
	return `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 8080}]}
---
` + route("first", redirect(fmt.Sprint("v", version))) + route("middle", redirect(fmt.Sprint("v", version))+middle) + route("last", redirect(fmt.Sprint("v", version)))
}

// follow runs a control plane's loop for the proxy until the test ends; apply gives it
// a policy. What is rejected is tried again every so often, 0 for the default.
func (p *proxied) follow(every time.Duration) (loop *controlplane.Loop, apply func(text string)) {
	p.t.Helper()
	parser, err := policy.NewParser()
	require.NoError(p.t, err)
	loop = &controlplane.Loop{Server: p.server, Options: p.options, Logger: slog.New(slog.DiscardHandler), RetryEvery: every}
	ctx, cancel := context.WithCancel(context.Background())
	updates, ended := make(chan folder.Update), make(chan error, 1)
	go func() { ended <- loop.Run(ctx, updates) }()
	p.t.Cleanup(func() {
		cancel()
		require.ErrorIs(p.t, <-ended, context.Canceled)
	})
	return loop, func(text string) {
		var update folder.Update
		for _, document := range parser.Parse("p.yaml", []byte(text)) {
			require.Empty(p.t, document.Problems, "validation must not see what only Envoy does")
			update.Input.Objects = append(update.Input.Objects, document.Object)
		}
		updates <- update
	}
}

// The real Envoy rejects one route of three: its last good version stays, the
// others go on, and the object is named.
func TestEnvoyRejectsOneRouteOfThree(t *testing.T) {
	for name, middle := range rejectedFilters() {
		t.Run(name, func(t *testing.T) {
			p := startEnvoy(t)
			loop, apply := p.follow(0)
			apply(quarantineYAML(1, ""))
			require.Eventually(t, func() bool { return loop.Outcome().Fleets[""].Programmed }, time.Minute, 5*time.Millisecond)
			apply(quarantineYAML(2, ", "+middle))
			require.Eventually(t, func() bool {
				fleet := loop.Outcome().Fleets[""]
				return fleet.Programmed && len(fleet.Quarantined) == 1
			}, time.Minute, 5*time.Millisecond, "%+v", loop.Outcome().Fleets)
			q := loop.Outcome().Fleets[""].Quarantined[0]
			t.Logf("%s: %s", q.Origin, q.Message)
			require.Equal(t, "HTTPRoute default/middle", q.Origin.Object.String())
			require.True(t, q.Kept)
			for path, want := range map[string]string{"first": "v2", "middle": "v1", "last": "v2"} {
				require.Contains(t, p.location(path), want, path)
			}
			apply(quarantineYAML(3, ""))
			require.Eventually(t, func() bool {
				fleet := loop.Outcome().Fleets[""]
				return fleet.Programmed && len(fleet.Quarantined) == 0 && strings.Contains(p.location("middle"), "v3")
			}, time.Minute, 5*time.Millisecond)
		})
	}
}

// rejectedFilters are filters that pass validation and that Envoy rejects.
func rejectedFilters() map[string]string {
	return map[string]string{
		"host":   `{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: other}]}}`,
		"pseudo": `{type: ResponseHeaderModifier, responseHeaderModifier: {remove: ["host"]}}`,
	}
}

func (p *proxied) location(path string) string {
	p.t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Timeout: patience}
	response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/%s", p.ports[8080], path))
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.Header.Get("Location")
}

// portsYAML is a Gateway with a listener "good" on port 8080 and "taken" on 8081, and
// a route at each.
const portsYAML = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: weir
  listeners: [{name: good, protocol: HTTP, port: 8080}, {name: taken, protocol: HTTP, port: 8081}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: first}
spec:
  parentRefs: [{name: edge, sectionName: good}]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /v1}}}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: closed}
spec:
  parentRefs: [{name: edge, sectionName: taken}]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /v1}}}]}]
`

// A port that is taken from the start is its listener's trouble: the other one
// serves, the fleet does not wait for it, it stays so from try to try, and the
// listener is served once the port is free.
func TestEnvoyCannotOpenAPortFromTheStart(t *testing.T) {
	p := startEnvoy(t)
	taken, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p.ports[8081]))
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	const every = 300 * time.Millisecond
	loop, apply := p.follow(every)
	apply(portsYAML)
	closed := func() bool {
		fleet := loop.Outcome().Fleets[""]
		return len(fleet.Quarantined) == 1 && fleet.Quarantined[0].Origin.Field == "spec.listeners[1].port"
	}
	require.Eventually(t, func() bool { return closed() && loop.Outcome().Fleets[""].Programmed }, time.Minute, 5*time.Millisecond, "%+v", loop.Outcome().Fleets)
	q := loop.Outcome().Fleets[""].Quarantined[0]
	require.Equal(t, "Gateway default/edge", q.Origin.Object.String())
	require.Contains(t, q.Message, "Address already in use")
	require.False(t, q.Kept)
	require.Contains(t, p.location(""), "v1")
	for until := time.Now().Add(4 * every); time.Now().Before(until); time.Sleep(time.Millisecond) {
		// Until Envoy has answered a try, which takes long on a busy machine, nothing is said.
		fleet := loop.Outcome().Fleets[""]
		require.True(t, closed() || len(fleet.Quarantined) == 0 && !fleet.Programmed, "a try does not make it good: %+v", fleet)
	}
	require.Eventually(t, closed, time.Minute, 5*time.Millisecond)
	require.NoError(t, taken.Close())
	require.Eventually(t, func() bool {
		fleet := loop.Outcome().Fleets[""]
		return fleet.Programmed && len(fleet.Quarantined) == 0
	}, time.Minute, 5*time.Millisecond, "%+v", loop.Outcome().Fleets)
	connection, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.ports[8081]))
	require.NoError(t, err)
	require.NoError(t, connection.Close())
	require.Empty(t, loop.Outcome().Problems.Errors())
}

// While a listener is closed from the start, what else is in force has a last good
// version all the same, which stays when Envoy rejects the next.
func TestRejectedRoutesBesideATakenPortKeepTheirLastVersion(t *testing.T) {
	p := startEnvoy(t)
	taken, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p.ports[8081]))
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	loop, apply := p.follow(0)
	text := func(version int, middle string) string {
		return strings.Replace(quarantineYAML(version, middle), "port: 8080}", "port: 8080}, {name: taken, protocol: HTTP, port: 8081}", 1)
	}
	quarantined := func(want int) {
		t.Helper()
		require.Eventually(t, func() bool {
			fleet := loop.Outcome().Fleets[""]
			return fleet.Programmed && len(fleet.Quarantined) == want
		}, time.Minute, 5*time.Millisecond, "%+v", loop.Outcome().Fleets)
	}
	apply(text(1, ""))
	quarantined(1)
	require.Contains(t, p.location("middle"), "v1")
	apply(text(2, ", "+rejectedFilters()["host"]))
	quarantined(2)
	for path, want := range map[string]string{"first": "v2", "middle": "v1", "last": "v2"} {
		require.Contains(t, p.location(path), want, path)
	}
	for _, q := range loop.Outcome().Fleets[""].Quarantined {
		require.Equal(t, q.Origin.Object.Kind == "HTTPRoute", q.Kept, q.Message)
	}
	apply(text(3, ""))
	quarantined(1)
	require.Contains(t, p.location("middle"), "v3")
}

// What has no open port does not say that it is served: a route at a listener of
// a taken port names the listener and what Envoy said, that at another listener
// is as before, and both are served once the port is free.
func TestRoutesOfATakenPortAreNotProgrammed(t *testing.T) {
	s := harness.Start(t, nil)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	port := taken.Addr().(*net.TCPAddr).Port
	condition := func(object, about string) string {
		var listed struct {
			Objects []struct {
				Name       string
				Conditions []struct{ About, Type, Status, Reason, Message string }
			}
		}
		kind, _, _ := strings.Cut(object, "/")
		require.NoError(t, json.Unmarshal([]byte(s.Weir("get", kind, "-o", "json")), &listed))
		for _, o := range listed.Objects {
			for _, c := range o.Conditions {
				if o.Name == "objects/"+object && c.Type == "Programmed" && c.About == about {
					return strings.TrimSpace(c.Status + " " + c.Reason + " " + c.Message)
				}
			}
		}
		return ""
	}
	text := strings.ReplaceAll(strings.ReplaceAll(portsYAML, "8080", strconv.Itoa(int(freePort(t)))), "8081", strconv.Itoa(port))
	s.Write("ports.yaml", text)
	s.Eventually("the route of the taken port says so", 20*time.Second, func() bool {
		return strings.HasPrefix(condition("httproute/default/closed", "edge/taken"), "False ListenerNotProgrammed")
	})
	require.Regexp(t, `^False ListenerNotProgrammed Gateway default/edge: spec\.listeners\[1\]\.port is not served: \S+: .*cannot bind '127\.0\.0\.1:`+strconv.Itoa(port)+`': Address already in use$`,
		condition("httproute/default/closed", "edge/taken"))
	require.Regexp(t, `^False Rejected .*Address already in use$`, condition("gateway/default/edge", "listener taken"))
	for _, where := range [][2]string{{"httproute/default/first", "edge/good"}, {"gateway/default/edge", "listener good"}} {
		s.Eventually(where[0]+" at "+where[1]+" is served", 10*time.Second, func() bool { return condition(where[0], where[1]) == "True Programmed" })
	}
	late := filepath.Join(t.TempDir(), "late.yaml")
	_, second, _ := strings.Cut(portsYAML, "metadata: {name: closed}")
	require.NoError(t, os.WriteFile(late, []byte("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: late, namespace: default}"+second), 0o600))
	out, _, err := s.TryWeir("apply", late)
	require.Error(t, err, out)
	require.Contains(t, out, "1 object changed; not served yet: HTTPRoute default/late: Gateway default/edge: spec.listeners[1].port is not served: ")
	require.NoError(t, taken.Close())
	s.Eventually("the freed port is opened at the next try", 40*time.Second, func() bool {
		return condition("httproute/default/closed", "edge/taken") == "True Programmed"
	})
	request, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
	require.NoError(t, err)
	response, err := http.DefaultTransport.RoundTrip(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusFound, response.StatusCode)
}
