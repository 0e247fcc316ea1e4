//go:build slow

package node_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
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
	"weir.dev/e2e/cluster/images"
	"weir.dev/e2e/cluster/node"
	"weir.dev/e2e/internal/harness"
)

// tag of the images that are installed.
const tag = "0.1.0"

// envoyVersion is that of the charts' values.
const envoyVersion = "1.40.0"

// world is the cluster with Weir in it.
type world struct {
	*testing.T
	node *node.Node
}

// newWorld boots the node, with Weir's images and Envoy's in its store. It stays up
// afterwards where WEIR_KEEP_NODE is set, to look at.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := bareWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	w.loadImages(ctx)
	return w
}

// bareWorld is newWorld without the images.
func bareWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 80*time.Minute)
	defer cancel()
	slot, err := node.SlotFromEnvironment()
	require.NoError(t, err)
	n, err := node.New(ctx, node.Options{Slot: slot, Sources: filepath.Join(harness.Root(t), "e2e", "cluster", "components"), Progress: os.Stderr})
	require.NoError(t, err)
	require.NoError(t, n.Down(ctx)) // Whatever an earlier run left.
	require.NoError(t, n.Up(ctx))
	if os.Getenv("WEIR_KEEP_NODE") == "" {
		t.Cleanup(func() { require.NoError(t, n.Down(context.Background())) })
	}
	return &world{T: t, node: n}
}

func (w *world) loadImages(ctx context.Context) {
	w.Helper()
	all, err := images.Weir(filepath.Dir(harness.Bin(w.T, "weir")), tag)
	require.NoError(w.T, err)
	pin, err := envoy.Pinned()
	require.NoError(w.T, err)
	cache, err := envoy.CacheDir(os.Getenv)
	require.NoError(w.T, err)
	found, err := envoy.Finder{
		Env: os.Environ(), Platform: runtime.GOOS + "/" + runtime.GOARCH, CacheDir: cache, Pin: pin, Progress: func(int64, int64) {},
	}.Find(ctx)
	require.NoError(w.T, err)
	proxy, err := images.Envoy(found.Path, envoyVersion)
	require.NoError(w.T, err)
	require.NoError(w.T, w.node.Load(ctx, append(all, proxy)...))
}

// kubectl runs it, with input.
func (w *world) kubectl(input string, arguments ...string) string {
	w.Helper()
	output, err := w.tryKubectl(input, arguments...)
	require.NoError(w.T, err, "kubectl %s\n%s", strings.Join(arguments, " "), output)
	return output
}

func (w *world) tryKubectl(input string, arguments ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, w.node.Tool("kubectl"), append([]string{"--kubeconfig", w.node.Kubeconfig()}, arguments...)...)
	command.Stdin = strings.NewReader(input)
	var both bytes.Buffer
	command.Stdout, command.Stderr = &both, &both
	err := command.Run()
	return both.String(), err
}

// helm runs it; when it fails, what the pods say is part of the failure.
func (w *world) helm(arguments ...string) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	if err := w.node.Helm(ctx, arguments...); err != nil {
		require.FailNow(w.T, "helm", "%v\n%s", err, w.state())
	}
}

// state is what an operator would look at first.
func (w *world) state() string {
	var all strings.Builder
	for _, arguments := range [][]string{
		{"get", "pods,services,jobs", "-A", "-o", "wide"},
		{"get", "events", "-n", "weir-system", "--field-selector", "type=Warning"},
		{"logs", "-n", "weir-system", "-l", "app.kubernetes.io/part-of=weir", "--all-containers", "--tail", "15", "--prefix"},
	} {
		output, err := w.tryKubectl("", arguments...)
		fmt.Fprintf(&all, "$ kubectl %s\n%s", strings.Join(arguments, " "), output)
		if err != nil {
			fmt.Fprintln(&all, err)
		}
	}
	return all.String()
}

// patience is what a condition is waited for at least: a busy machine is no fault.
const patience = 3 * time.Minute

// eventually waits for a condition, and shows the state when it does not come. What
// takes longer than usual is said in the log; the test fails after patience, or after
// usual where that is more.
func (w *world) eventually(what string, usual time.Duration, condition func() bool) {
	w.Helper()
	started := time.Now()
	for !condition() {
		if time.Since(started) > max(usual, patience) {
			require.FailNow(w.T, "waited for: "+what, w.state())
		}
		time.Sleep(100 * time.Millisecond)
	}
	if took := time.Since(started); took > usual {
		w.Logf("%s took %s, where %s is usual", what, took.Round(time.Millisecond), usual)
	}
}

// everywhere waits until a condition holds so often in a row, on a connection of its
// own each time, that every worker of every proxy must have been asked: each takes up
// what is changed by itself.
func (w *world) everywhere(what string, usual time.Duration, condition func() bool) {
	w.Helper()
	w.eventually(what, usual, func() bool {
		for range 20 {
			if !condition() {
				return false
			}
		}
		return true
	})
}

// limited asks for a path, whose limit is not used yet, until it refuses, and requires
// that as many are let in as it has. A proxy that has no answer of ratelimit within
// 100 ms lets a request in (failureMode Open), without the limit's header, whether or
// not it was counted.
func (w *world) limited(s *harness.System, path string, limit int) {
	w.Helper()
	counted, uncounted := 0, 0
	var last *harness.Response
	w.eventually("the limit holds", time.Minute, func() bool {
		last = s.Get(path)
		switch {
		case last.Status == http.StatusTooManyRequests:
			return true
		case last.Header.Get("RateLimit") == "":
			uncounted++
		default:
			counted++
		}
		return false
	})
	w.Logf("%s: %d were let in and counted, %d without an answer of ratelimit", path, counted, uncounted)
	require.LessOrEqual(w.T, counted, limit)
	require.GreaterOrEqual(w.T, counted+uncounted, limit)
	last.Problem(w.T, http.StatusTooManyRequests, "RATE_LIMITED")
}

// field is one of an object, by kubectl's JSON paths.
func (w *world) field(path string, object ...string) string {
	output, err := w.tryKubectl("", append(append([]string{"get"}, object...), "-o", "jsonpath="+path)...)
	if err != nil {
		return ""
	}
	return output
}

// gatewayCRDs is the folder of the Gateway API's own definitions, of its channel
// standard or experimental.
func gatewayCRDs(t *testing.T, channel string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api")
	command.Dir = filepath.Join(harness.Root(t), "e2e")
	out, err := command.Output()
	require.NoError(t, err)
	return filepath.Join(strings.TrimSpace(string(out)), "config", "crd", channel)
}

// system speaks to an address as the other suites do to `weir up`.
func (w *world) system(address, key string) *harness.System {
	return &harness.System{T: w.T, URL: "http://" + address, APIKey: key}
}

// hashed is what policy holds of a key.
func hashed(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// answers is the status of an answer on a connection of its own; 0 without one.
func answers(address, path string, headers ...string) (status int) {
	client := http.Client{
		Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	request, err := http.NewRequest(http.MethodGet, "http://"+address+path, nil) //nolint:noctx // bounded by the client
	if err != nil {
		return 0
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
		if headers[i] == "Host" {
			request.Host = headers[i+1]
		}
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	return answer.StatusCode
}

func join(host, port string) string { return net.JoinHostPort(host, port) }

// condition is the status and reason of a condition.
func (w *world) condition(kind string, object ...string) string {
	var value struct {
		Status struct {
			Conditions []struct{ Type, Status, Reason string }
		}
	}
	output, err := w.tryKubectl("", append(append([]string{"get"}, object...), "-o", "json")...)
	if err != nil || json.Unmarshal([]byte(output), &value) != nil {
		return ""
	}
	for _, condition := range value.Status.Conditions {
		if condition.Type == kind {
			return condition.Status + "/" + condition.Reason
		}
	}
	return ""
}
