//go:build slow

package node_test

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/cluster/images"
	"weir.dev/e2e/internal/harness"
)

// mtlsWorld is the node with Istio; in namespace shop front calls orders by sidecars,
// and in legacy old calls orders without one.
type mtlsWorld struct{ *world }

func newMTLSWorld(t *testing.T) *mtlsWorld {
	t.Helper()
	w := &mtlsWorld{bareWorld(t)}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Minute)
	defer cancel()
	require.NoError(t, w.node.Istio(ctx, w.envoyBinary(ctx)))
	w.loadPeer(ctx)
	objects, err := os.ReadFile(filepath.Join("testdata", "mtls.yaml"))
	require.NoError(t, err)
	w.kubectl(string(objects), "apply", "-f", "-")
	for _, one := range []string{"shop/orders", "shop/front", "legacy/old"} {
		namespace, name, _ := strings.Cut(one, "/")
		w.kubectl("", "rollout", "status", "-n", namespace, "deployment/"+name, "--timeout", "3m")
	}
	return w
}

// loadPeer builds the workload of e2e/cmd/peer into the node's store.
func (w *world) loadPeer(ctx context.Context) {
	w.Helper()
	binary := filepath.Join(w.TempDir(), "peer")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/peer")
	build.Dir, build.Env = filepath.Join(harness.Root(w.T), "e2e"), append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(w.T, err, string(out))
	image, err := images.Static("docker.io/weir/peer:dev", binary)
	require.NoError(w.T, err)
	require.NoError(w.T, w.node.Load(ctx, image))
}

func (w *mtlsWorld) in(t *testing.T) *mtlsWorld {
	inner := *w.world
	inner.T = t
	return &mtlsWorld{&inner}
}

// counted is counts, once there are some.
func (w *mtlsWorld) counted(namespace, name string) (counts map[string]int) {
	w.Helper()
	w.eventually(name+" counts", 30*time.Second, func() bool {
		counts = w.counts(namespace, name)
		return len(counts) > 0
	})
	return counts
}

// counts are what a caller has counted since it was started, none while it has no log.
func (w *mtlsWorld) counts(namespace, name string) map[string]int {
	output, err := w.tryKubectl("", "logs", "-n", namespace, "-l", "app="+name, "-c", "peer", "--tail", "1")
	counted := map[string]int{}
	if err != nil || json.Unmarshal([]byte(output), &counted) != nil {
		return map[string]int{}
	}
	return counted
}

// served waits until a caller is answered once more.
func (w *mtlsWorld) served(namespace, name string) {
	w.Helper()
	before := w.counted(namespace, name)
	w.eventually(name+" is served", 30*time.Second, func() bool { return w.counts(namespace, name)["200"] > before["200"]+10 })
}

// cutOff waits until a caller gets nothing but refusals.
func (w *mtlsWorld) cutOff(namespace, name string) {
	w.Helper()
	w.eventually(name+" is cut off", 90*time.Second, func() bool {
		before := w.counts(namespace, name)
		time.Sleep(2 * time.Second) // so much is counted in between
		after := w.counts(namespace, name)
		return len(before) > 0 && after["0"] > before["0"] && after["200"] == before["200"]
	})
}

// gone scales the caller without a sidecar away.
func (w *mtlsWorld) gone() {
	w.Helper()
	w.kubectl("", "scale", "-n", "legacy", "deployment/old", "--replicas", "0")
	w.kubectl("", "wait", "-n", "legacy", "--for=delete", "pod", "-l", "app=old", "--timeout", "3m")
}

func (w *mtlsWorld) back() {
	w.Helper()
	w.kubectl("", "scale", "-n", "legacy", "deployment/old", "--replicas", "1")
}

func (w *mtlsWorld) mtls(code int, arguments ...string) string {
	w.Helper()
	output, got := w.weir(append([]string{"mesh", "mtls"}, arguments...)...)
	require.Equal(w.T, code, got, output)
	return output
}

// objects are those of Weir's in the namespace.
func (w *mtlsWorld) objects() string {
	return strings.TrimSpace(w.kubectl("", "get", "peerauthentication,envoyfilter", "-n", "shop", "-o", "name"))
}

const strictByHand = `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
`

// A container of the sidecar's name that answers no question.
const mute = `apiVersion: v1
kind: Pod
metadata: {name: mute, namespace: shop, labels: {sidecar.istio.io/inject: "false"}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: istio-proxy, image: docker.io/weir/peer:dev, imagePullPolicy: IfNotPresent}]
`

// TestSlowMTLS takes a namespace to STRICT and back while it is called.
func TestSlowMTLS(t *testing.T) {
	w := newMTLSWorld(t)
	w.served("shop", "front")
	w.served("legacy", "old")
	t.Run("PERMISSIVE serves both, and STRICT is refused", func(t *testing.T) {
		w := w.in(t)
		require.Regexp(t, `shop +Deployment orders +1 of 1 +PERMISSIVE +Istio's default`, w.mtls(0))
		w.eventually("old holds a connection", 30*time.Second, func() bool { return w.counts("legacy", "old")["tcp echoed"] > 0 })
		before := w.counted("shop", "front")
		output := w.mtls(1, "set", "STRICT", "-n", "shop", "--observe", "55s")
		require.Regexp(t, `WEIR6202: pod legacy/old-\S+ \(Deployment old\), \S+: \d{3,} requests to Deployment orders port 8080: start it with a sidecar`, output)
		require.Regexp(t, `WEIR6202: pod legacy/old-\S+ \(Deployment old\), \S+: 1 TCP connection to Deployment orders port 9000`, output)
		require.Equal(t, 2, strings.Count(output, "WEIR6"), "nobody else calls in plaintext, kubelet's probes least: %s", output)
		require.Contains(t, output, "namespace shop stays PERMISSIVE: STRICT is refused")
		require.Empty(t, w.objects(), "nothing is left of the observation")
		w.noFailures("shop", "front", before)
		w.served("legacy", "old")
	})
	t.Run("without the evidence it would be cut off", func(t *testing.T) {
		w := w.in(t)
		w.kubectl(strictByHand, "apply", "-f", "-")
		w.cutOff("legacy", "old")
		for _, mode := range []string{"PERMISSIVE", "STRICT"} {
			require.Contains(t, w.mtls(1, "set", mode, "-n", "shop"), "WEIR6204: PeerAuthentication shop/default is of the same scope and not Weir's")
		}
		require.Regexp(t, `shop +all +2 of 2 +STRICT +PeerAuthentication shop/default`, w.mtls(0, "status", "-n", "shop"))
		w.kubectl(strictByHand, "delete", "-f", "-")
		w.served("legacy", "old")
	})
	t.Run("a sidecar that cannot be asked", func(t *testing.T) {
		w := w.in(t)
		w.gone()
		w.kubectl(mute, "apply", "-f", "-")
		w.kubectl("", "wait", "-n", "shop", "--for=condition=Ready", "pod/mute", "--timeout", "3m")
		output := w.mtls(1, "set", "STRICT", "-n", "shop", "--observe", "2s", "--wait", "3s")
		require.Contains(t, output, "WEIR6203: the sidecar of shop/mute cannot be asked")
		w.kubectl(mute, "delete", "-f", "-")
		require.Empty(t, w.objects())
	})
	t.Run("STRICT once nobody calls in plaintext", func(t *testing.T) { w.in(t).enforced() })
	t.Run("a caller who comes afterwards has it put back", func(t *testing.T) { w.in(t).putBack() })
	t.Run("an interruption leaves nothing", func(t *testing.T) {
		w := w.in(t)
		output, code := w.interrupted(func() bool { return strings.Contains(w.objects(), "envoyfilter") }, "mesh", "mtls", "set", "STRICT", "-n", "shop", "--observe", "10m")
		require.Equal(t, 1, code, output)
		require.Contains(t, output, "interrupted; no mode was changed")
		require.Empty(t, w.objects())
	})
	t.Run("a workload of its own", func(t *testing.T) {
		w := w.in(t)
		w.gone()
		workload := []string{"-n", "shop", "--workload", "app=orders"}
		set := func(code int, mode string) string {
			return w.mtls(code, append([]string{"set", mode, "--observe", "2s", "--watch", "1s"}, workload...)...)
		}
		set(0, "DISABLE")
		require.Contains(t, set(1, "STRICT"), "WEIR6201")
		require.Regexp(t, `shop +Deployment front +1 of 1 +PERMISSIVE +Istio's default\n *shop +Deployment orders +1 of 1 +DISABLE`, w.mtls(0))
		w.served("shop", "front")
		before := w.counted("shop", "front")
		set(0, "PERMISSIVE")
		w.served("shop", "front")
		w.noFailures("shop", "front", before)
		set(0, "STRICT")
		w.served("shop", "front")
		for _, mode := range []string{"PERMISSIVE", "DISABLE", "PERMISSIVE"} {
			require.Regexp(t, `orders of namespace shop is `+mode, w.mtls(0, append([]string{"rollback"}, workload...)...))
		}
		require.Empty(t, w.objects())
	})
}

// noFailures says that all requests of a caller were answered since before.
func (w *mtlsWorld) noFailures(namespace, name string, before map[string]int) {
	w.Helper()
	var after map[string]int
	w.eventually(name+" counts on", 30*time.Second, func() bool {
		after = w.counts(namespace, name)
		return after["200"] > before["200"]
	})
	w.Logf("%s counted %v, before %v", name, after, before)
	statuses := func(counts map[string]int) map[string]int {
		failed := maps.Clone(counts)
		maps.DeleteFunc(failed, func(what string, _ int) bool { return what == "200" || strings.HasPrefix(what, "tcp") })
		return failed
	}
	require.Equal(w.T, statuses(before), statuses(after), "a request failed")
}

func (w *mtlsWorld) enforced() {
	before := w.counted("shop", "front")
	output := w.mtls(0, "set", "STRICT", "-n", "shop", "--observe", "5s", "--watch", "5s")
	require.Contains(w.T, output, "namespace shop is STRICT in 2 sidecars; it was PERMISSIVE")
	w.served("shop", "front")
	w.noFailures("shop", "front", before)
	w.back()
	w.cutOff("legacy", "old")
	require.Zero(w.T, w.counted("legacy", "old")["200"])
	require.Contains(w.T, w.mtls(0, "set", "strict", "-n", "shop"), "STRICT already")
	require.Contains(w.T, w.mtls(1, "set", "DISABLE", "-n", "shop"), "WEIR6201")
	before = w.counted("shop", "front")
	require.Contains(w.T, w.mtls(0, "rollback", "-n", "shop"), "namespace shop is PERMISSIVE in 2 sidecars; it was STRICT")
	w.served("legacy", "old")
	w.noFailures("shop", "front", before)
	require.Empty(w.T, w.objects())
	require.Contains(w.T, w.mtls(1, "rollback", "-n", "shop"), "WEIR6204: namespace shop has no PeerAuthentication that Weir set")
}

// putBack has the caller come when STRICT is there.
func (w *mtlsWorld) putBack() {
	w.gone()
	before := w.counted("shop", "front")
	come := make(chan struct{})
	go func() {
		defer close(come)
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			if w.field("{.spec.mtls.mode}", "peerauthentication", "weir-mtls", "-n", "shop") == "STRICT" {
				_, _ = w.tryKubectl("", "scale", "-n", "legacy", "deployment/old", "--replicas", "1")
				return
			}
		}
	}()
	output := w.mtls(1, "set", "STRICT", "-n", "shop", "--observe", "3s", "--watch", "90s")
	<-come
	require.Regexp(w.T, `WEIR6205: pod legacy/old-\S+ \(Deployment old\), \S+: .*refused connections? to Deployment orders port (8080|9000)`, output)
	require.Contains(w.T, output, "namespace shop is PERMISSIVE again: everything was put back as it was")
	require.Empty(w.T, w.objects())
	w.served("legacy", "old")
	w.noFailures("shop", "front", before)
}

// interrupted runs weir and interrupts it once a condition holds.
func (w *mtlsWorld) interrupted(when func() bool, arguments ...string) (output string, code int) {
	w.Helper()
	command := exec.CommandContext(w.Context(), harness.Bin(w.T, "weir"), arguments...)
	command.Env = append(os.Environ(), "KUBECONFIG="+w.node.Kubeconfig(), "WEIR_STATE_DIR="+w.TempDir())
	var both strings.Builder
	command.Stdout, command.Stderr = &both, &both
	require.NoError(w.T, command.Start())
	w.eventually("it is at work", time.Minute, when)
	require.NoError(w.T, command.Process.Signal(syscall.SIGINT))
	_ = command.Wait()
	return both.String(), command.ProcessState.ExitCode()
}
