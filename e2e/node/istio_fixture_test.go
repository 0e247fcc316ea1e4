//go:build slow

package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/cli/envoy"
	"weir.dev/e2e/cluster/build"
	"weir.dev/e2e/internal/harness"
)

// smallGateway are values of Istio's ingress gateway for a small node without load
// balancers, beside those that `weir mesh base` makes. Its connections drain in 10 s, not
// in 45, which is what a change of who decides about tokens takes.
const smallGateway = `imagePullPolicy: IfNotPresent
podAnnotations: {proxy.istio.io/config: '{"drainDuration": "10s"}'}
autoscaling: {enabled: false}
resources: {requests: {cpu: 10m, memory: 64Mi}}
service: {type: ClusterIP}
`

// backends are the services of the quickstart as they run beside Istio.
const backends = `apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: %[1]s}
spec:
  protocol: GRPC
  endpoints: [{address: weir-%[1]s.weir-system.svc.cluster.local, port: %[2]d}]
  transcoding: {descriptorSetRef: {name: %[1]s-descriptors, key: descriptors.binpb}, services: [%[3]s]}
---
`

// workload is a Deployment with its Service. Volumes of rules are mounted where
// they are named.
const workload = `apiVersion: apps/v1
kind: Deployment
metadata: {name: weir-%[1]s, namespace: weir-system}
spec:
  selector: {matchLabels: {app: weir-%[1]s}}
  template:
    metadata: {labels: {app: weir-%[1]s}}
    spec:
      containers:
        - name: %[2]s
          image: docker.io/weir/%[2]s:%[5]s
          imagePullPolicy: IfNotPresent
          args: [--config, /etc/weir/config/%[2]s.yaml]
          readinessProbe: {httpGet: {path: /readyz, port: 9002}, periodSeconds: 1}
          volumeMounts:
            - {name: config, mountPath: /etc/weir/config}
            - {name: state, mountPath: /var/lib/weir}
            - {name: rules, mountPath: /etc/weir/rules}
      securityContext: {fsGroup: 65532}
      volumes:
        - {name: config, configMap: {name: weir-config}}
        - {name: state, emptyDir: {}}
        - name: rules
          %[4]s
---
apiVersion: v1
kind: Service
metadata: {name: weir-%[1]s, namespace: weir-system}
spec:
  selector: {app: weir-%[1]s}
  ports: [{name: grpc, port: %[3]d, targetPort: %[3]d}]
---
`

// istioWorld is the node with Istio, its ingress gateway, and the policy of a
// folder compiled for it.
type istioWorld struct {
	*world
	address string
}

// newIstioWorld installs Istio and its ingress gateway, in a mesh where nobody calls
// what is not named: what Weir says has to serve there, too.
func newIstioWorld(t *testing.T) *istioWorld {
	t.Helper()
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Minute)
	defer cancel()
	base := t.TempDir()
	// A check that waits for the processor is no refusal: where one is to be refused, there
	// is no extauthz at all.
	output, code := w.weir("mesh", "base", "--dir", base, "--ports", "8080,8081,8443", "--profile", "default-deny", "--check-timeout", "5s")
	require.Equal(t, 0, code, output)
	require.NoError(t, w.node.Istio(ctx, w.envoyBinary(ctx), filepath.Join(base, "istiod.yaml")))
	w.kubectl("", "apply", "--server-side", "--field-manager", "weir", "-f", filepath.Join(base, "base.yaml"))
	small := filepath.Join(t.TempDir(), "small.yaml")
	require.NoError(t, os.WriteFile(small, []byte(smallGateway), 0o600))
	w.helm("upgrade", "--install", "istio-ingressgateway", filepath.Join(w.istioSource(), "manifests", "charts", "gateway"),
		"-n", "istio-ingress", "-f", filepath.Join(base, "ingress-gateway.yaml"), "-f", small, "--wait", "--timeout", "5m")
	return &istioWorld{world: w, address: join(w.field("{.spec.clusterIP}", "service", "istio-ingressgateway", "-n", "istio-ingress"), "8080")}
}

func (w *world) envoyBinary(ctx context.Context) string {
	pin, err := envoy.Pinned()
	require.NoError(w.T, err)
	cache, err := envoy.CacheDir(os.Getenv)
	require.NoError(w.T, err)
	found, err := envoy.Finder{
		Env: os.Environ(), Platform: runtime.GOOS + "/" + runtime.GOARCH, CacheDir: cache, Pin: pin, Progress: func(int64, int64) {},
	}.Find(ctx)
	require.NoError(w.T, err)
	return found.Path
}

// istioSource is Istio's own source, with its charts.
func (w *world) istioSource() string {
	command := exec.CommandContext(w.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "istio.io/istio")
	command.Dir = filepath.Join(harness.Root(w.T), "e2e", "cluster", "components", "istio")
	command.Env = append(os.Environ(), "GOWORK=off")
	out, err := command.Output()
	require.NoError(w.T, err)
	return strings.TrimSpace(string(out))
}

// weir runs the command line on this cluster; the code is its exit code.
func (w *world) weir(arguments ...string) (output string, code int) {
	w.Helper()
	command := exec.CommandContext(w.Context(), harness.Bin(w.T, "weir"), arguments...)
	command.Env = append(os.Environ(), "KUBECONFIG="+w.node.Kubeconfig(), "WEIR_STATE_DIR="+w.TempDir())
	out, err := command.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(w.T, err)
	}
	w.Logf("weir %s\n%s", strings.Join(arguments, " "), out)
	return string(out), command.ProcessState.ExitCode()
}

// applied is a `weir apply --target istio` that goes well.
func (w *istioWorld) applied(arguments ...string) string {
	w.Helper()
	output, code := w.weir(append([]string{"apply", "--target", "istio"}, arguments...)...)
	require.Equal(w.T, 0, code, "%s\n%s", output, w.state())
	return output
}

// assertPatches runs weir mesh assert on the configuration of the gateway's proxy.
func (w *istioWorld) assertPatches(paths []string) (string, error) {
	w.Helper()
	dump := w.kubectl("", "exec", "-n", "istio-ingress", "deploy/istio-ingressgateway", "--", "pilot-agent", "request", "GET", "config_dump")
	command := exec.CommandContext(w.Context(), harness.Bin(w.T, "weir"), append([]string{"mesh", "assert", "--dump", "-"}, paths...)...)
	command.Stdin = strings.NewReader(dump)
	out, err := command.CombinedOutput()
	return string(out), err
}

// analyze runs Istio's own analyzers on a namespace. IST0133 says
// of every EnvoyFilter that it is one.
func (w *istioWorld) analyze(namespace string) {
	w.Helper()
	tools, err := build.Tools(w.Context(), w.node.Sources, os.Stderr, build.Istio)
	require.NoError(w.T, err)
	command := exec.CommandContext(w.Context(), filepath.Join(tools, "istioctl"), "analyze", "--kubeconfig", w.node.Kubeconfig(), "-n", namespace, "-o", "json")
	out, err := command.Output()
	require.NoError(w.T, err, string(out))
	var messages []struct{ Code, Level, Message, Origin string }
	require.NoError(w.T, json.Unmarshal(out, &messages), string(out))
	for _, message := range messages {
		if message.Code != "IST0133" {
			require.NotContains(w.T, []string{"Error", "Warning"}, message.Level, "%+v", message)
		}
	}
}

// fresh is a member's answer on a connection of its own; nil without one.
func (w *world) fresh(s *harness.System, path string) *http.Response {
	w.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(w.Context(), http.MethodGet, s.URL+path, nil)
	require.NoError(w.T, err)
	request.Header.Set("X-API-Key", s.APIKey)
	answer, err := client.Do(request)
	if err != nil {
		return nil
	}
	require.NoError(w.T, answer.Body.Close())
	return answer
}

// deploy starts Weir's servers and applies policy, in the order that the guide has.
func (w *istioWorld) deploy(paths ...string) {
	w.Helper()
	w.kubectl("apiVersion: v1\nkind: Namespace\nmetadata: {name: weir-system}\n", "apply", "-f", "-")
	config, err := os.ReadFile(filepath.Join("testdata", "istio-weir.yaml"))
	require.NoError(w.T, err)
	w.kubectl(string(config), "apply", "-f", "-")
	none := "emptyDir: {}"
	var all strings.Builder
	for _, part := range []struct {
		name, binary string
		port         int
		rules        string
	}{
		{"extauthz", "extauthzd", 9001, "secret: {secretName: weir-extauthz-rules}"},
		{"ratelimit", "ratelimitd", 8081, "configMap: {name: weir-ratelimit-rules}"},
		{"user", "userd", 18004, none},
		{"data", "datad", 18005, none},
	} {
		fmt.Fprintf(&all, workload, part.name, part.binary, part.port, part.rules, tag)
	}
	w.kubectl(all.String(), "apply", "-f", "-")
	output := w.applied(paths...)
	require.Contains(w.T, output, "every gateway serves it, with every patch")
	for _, name := range []string{"extauthz", "ratelimit", "user", "data"} {
		w.kubectl("", "rollout", "status", "-n", "weir-system", "deployment/weir-"+name, "--timeout", "3m")
	}
}
