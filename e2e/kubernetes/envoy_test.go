//go:build slow

package kubernetes_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// answering is a service of the cluster: a server at an address that is not
// loopback's, which says its name.
func answering(t *testing.T, address, name string) (port int) {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	require.NoError(t, err)
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, name)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().(*net.TCPAddr).Port
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port
}

const inCluster = `apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: weir}
spec: {controllerName: weir.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, port: %d, protocol: HTTP}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{name: http, port: 80, targetPort: 8000}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: edge}]
  rules: [{matches: [{path: {type: PathPrefix, value: /}}], backendRefs: [{name: web, port: 80}]}]
`

const slice = `apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: %d, protocol: TCP}]
endpoints: [{addresses: [%q], conditions: {ready: true}}]
`

// serves asks the edge.
func serves(t *testing.T, port int, path string, headers ...string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", port, path), nil)
	require.NoError(t, err)
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(raw)
}

// Everything real: kubectl, kube-apiserver, `weir up --kubernetes`, Envoy.
func TestSlowKubernetesToEnvoy(t *testing.T) {
	c := kubernetes(t)
	installCRDs(t, c, weirCRDs(t), gatewayCRDs(t))
	root := admin(t, c)
	kubeconfig := restricted(t, c, root)
	everything, err := c.Kubeconfig("admin", "system:masters")
	require.NoError(t, err)
	k := newKubectl(t, everything)
	// The folder has a Gateway alone; everything else comes from the cluster.
	s := harness.StartWith(t, harness.Files{"routes.yaml": "", "policies.yaml": "", "user-descriptors.yaml": "", "data-descriptors.yaml": ""},
		[]string{"--kubernetes", "--kubeconfig", kubeconfig})
	host, port := hostAddress(t), freePort(t)
	defer func() { s.T = t }()
	first, second := answering(t, host, "first"), answering(t, host, "second")

	t.Run("programmed means serving", func(t *testing.T) {
		k.t, s.T = t, t
		k.run(fmt.Sprintf(inCluster, port)+"---\n"+fmt.Sprintf(slice, first, host), "apply", "-f", "-")
		k.run("", "wait", "--timeout=50s", "--for=condition=Programmed", "gateway/edge")
		k.run("", "wait", "--timeout=50s", `--for=jsonpath={.status.parents[0].conditions[?(@.type=="weir.dev/Programmed")].status}=True`, "httproute/web")
		status, body := serves(t, port, "/")
		require.Equal(t, http.StatusOK, status, body)
		require.Equal(t, "first", body)
		row := k.row("gateway", "edge")
		require.Equal(t, "True", row["PROGRAMMED"])
		require.Equal(t, "127.0.0.1", row["ADDRESS"])
	})

	t.Run("endpoints move without a failed request", func(t *testing.T) {
		k.t, s.T = t, t
		var failed, done atomic.Int64
		stop, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if status, body := serves(t, port, "/"); status != http.StatusOK {
					failed.Add(1)
					t.Log(status, body)
				}
				done.Add(1)
			}
		}()
		k.run(fmt.Sprintf(slice, second, host), "apply", "-f", "-")
		s.Eventually("the second endpoint", soon, func() bool {
			_, body := serves(t, port, "/")
			return body == "second"
		})
		close(stop)
		<-ended
		require.Zero(t, failed.Load(), "of %d", done.Load())
	})

	t.Run("not programmed before Envoy took it", func(t *testing.T) {
		k.t, s.T = t, t
		const look = `jsonpath={.status.parents[0].conditions[?(@.type=="weir.dev/Programmed")].status}`
		route := strings.Replace(strings.Split(fmt.Sprintf(inCluster, port), "---\n")[3], "value: /}", "value: /new}", 1)
		pid := s.Component("envoy").PID
		s.Freeze(pid)
		k.run(strings.Replace(route, "{name: web}", "{name: new}", 1), "apply", "-f", "-")
		eventually(t, "False", func() string { return k.run("", "get", "httproute", "new", "-o", look) })
		require.Never(t, func() bool { return k.run("", "get", "httproute", "new", "-o", look) != "False" }, 2*time.Second, 300*time.Millisecond)
		require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
		eventually(t, "True", func() string { return k.run("", "get", "httproute", "new", "-o", look) })
		status, _ := serves(t, port, "/new")
		require.Equal(t, http.StatusOK, status)
	})

	t.Run("the quickstart by kubectl", func(t *testing.T) {
		k.t, s.T = t, t
		quickstart := filepath.Join(harness.Root(t), "examples", "quickstart")
		for _, name := range []string{"user-descriptors.yaml", "data-descriptors.yaml", "policies.yaml", "routes.yaml"} {
			// The descriptors are larger than the annotation of client-side apply holds.
			k.run("", "apply", "--server-side", "-f", filepath.Join(quickstart, name))
		}
		eventually(t, "True", func() string { return k.row("authpolicies", "callers")["ENFORCED"] })
		row := k.row("authpolicies", "callers")
		require.Equal(t, "True", row["ACCEPTED"])
		require.Equal(t, "quickstart", row["TARGET"])
		require.NotEmpty(t, row["AGE"])
		eventually(t, "True", func() string { return k.row("wrate", "fair-use")["ENFORCED"] })
		require.Contains(t, k.run("", "get", "weir"), "authpolicy.weir.dev/callers")
		k.run("", "wait", "--timeout=50s", `--for=jsonpath={.status.parents[0].conditions[?(@.type=="weir.dev/Programmed")].status}=True`, "httproute/user-rest")
		response := s.Get("/v1/organizations")
		require.Equal(t, http.StatusOK, response.Status, "%s", response.Body)
		require.Equal(t, http.StatusUnauthorized, s.Do(http.MethodGet, "/v1/organizations", "").Status)
		k.run("", "delete", "authpolicy", "callers")
		s.Eventually("the policy to be gone", soon, func() bool { return s.Do(http.MethodGet, "/v1/organizations", "").Status != http.StatusUnauthorized })
	})

	t.Run("the commands show where objects are from", func(t *testing.T) {
		k.t, s.T = t, t
		output := s.Weir("get", "httproute")
		require.Regexp(t, `httproute/default/web +True +True .* kubernetes`, output)
		require.Contains(t, s.Weir("get", "gateway"), filepath.Join(s.Policy, "gateway.yaml"))
	})
}
