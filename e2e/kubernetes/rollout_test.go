//go:build slow

package kubernetes_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/anypb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weir.dev/controlplane"
	"weir.dev/controlplane/envoy"
	"weir.dev/kit/adsclient"
	"weir.dev/kit/certs"
	"weir.dev/kit/daemon"
)

// plane is a whole control plane with Kubernetes as its source.
type plane struct {
	t         *testing.T
	authority *certs.Authority
	config    string
	address   string
	stop      func()
}

func newPlane(t *testing.T, kubeconfig string, folders ...string) *plane {
	t.Helper()
	authority, err := certs.OpenAuthority(t.TempDir(), time.Now())
	require.NoError(t, err)
	files, err := authority.Issue("controlplane", t.TempDir(), time.Now())
	require.NoError(t, err)
	raw, err := json.Marshal(map[string]any{
		"sources": map[string]any{
			"folders":    folders,
			"kubernetes": map[string]any{"enabled": true, "kubeconfig": kubeconfig, "leaderElection": map[string]any{"lease": "2s"}},
		},
		"stateFile": filepath.Join(t.TempDir(), "keep.json"),
		"extAuthz":  map[string]any{"address": "127.0.0.1:1"}, "rateLimit": map[string]any{"address": "127.0.0.1:2"},
		"server": map[string]any{"tls": map[string]any{"certFile": files.CertFile, "keyFile": files.KeyFile, "caFile": files.CAFile}},
	})
	require.NoError(t, err)
	p := &plane{t: t, authority: authority, config: filepath.Join(t.TempDir(), "c.yaml")}
	require.NoError(t, os.WriteFile(p.config, raw, 0o600))
	return p
}

// logAddress finds where the server listens, as an operator would.
type logAddress struct {
	slog.Handler
	found chan string
}

func (l logAddress) Handle(ctx context.Context, record slog.Record) error {
	record.Attrs(func(attr slog.Attr) bool {
		if record.Message == "serving gRPC" && attr.Key == "address" {
			l.found <- attr.Value.String()
		}
		return true
	})
	return l.Handler.Handle(ctx, record)
}

func (p *plane) run() {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done, found := make(chan int, 1), make(chan string, 1)
	cfg := new(controlplane.Config)
	log := &syncBuffer{}
	go func() {
		done <- daemon.Execute(ctx, "controlplaned", []string{"--config", p.config}, cfg, func(ctx context.Context, runtime *daemon.Runtime) error {
			runtime.Logger = slog.New(logAddress{Handler: slog.NewTextHandler(log, nil), found: found})
			return controlplane.Run(ctx, cfg, runtime)
		}, os.Stderr)
	}()
	select {
	case p.address = <-found:
	case code := <-done:
		require.FailNow(p.t, "did not start", "exit code %d\n%s", code, log)
	}
	p.stop = sync.OnceFunc(func() { cancel(); require.Zero(p.t, <-done) })
	p.t.Cleanup(func() {
		p.stop()
		if p.t.Failed() {
			p.t.Logf("log of the control plane:\n%s", log)
		}
	})
}

// proxy subscribes like Envoy does, and rejects every resource of a type whose
// bytes hold refuse. What it took is what names gives.
func (p *plane) proxy(typeURLs []string, refuse string) (names func() string) {
	p.t.Helper()
	files, err := p.authority.Issue("ingress", p.t.TempDir(), time.Now())
	require.NoError(p.t, err)
	tls, err := files.ClientConfig(certs.PeerID("controlplane"))
	require.NoError(p.t, err)
	client := adsclient.New(adsclient.Config{Address: p.address, TLS: tls, NodeID: "envoy-1"})
	var mu sync.Mutex
	taken := map[string]string{}
	for _, typeURL := range typeURLs {
		client.Subscribe(typeURL, func(resources map[string]*anypb.Any) error {
			var content strings.Builder
			for name, resource := range resources {
				if refuse != "" && strings.Contains(string(resource.GetValue()), refuse) {
					return fmt.Errorf("%s: cannot serve %s", name, refuse)
				}
				content.WriteString(name + string(resource.GetValue()))
			}
			mu.Lock()
			defer mu.Unlock()
			taken[typeURL] = content.String()
			return nil
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	p.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			p.t.Error(err)
		}
	})
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		var all strings.Builder
		for _, content := range taken {
			all.WriteString(content)
		}
		return all.String()
	}
}

// unlessTrue is why something is not so.
func unlessTrue(status metav1.ConditionStatus, message string) string {
	if status == metav1.ConditionTrue {
		return ""
	}
	return ": " + message
}

func routing() []string {
	return []string{envoy.TypeCluster, envoy.TypeEndpoint, envoy.TypeListener, envoy.TypeRoute}
}

// From kubectl apply to a status that was earned, through the whole control
// plane: Programmed after the acknowledgement, a rejection with its object, and
// serving after a restart without the API server.
func TestSlowKubernetesRollout(t *testing.T) {
	c := kubernetes(t)
	installCRDs(t, c, weirCRDs(t), gatewayCRDs(t))
	root := admin(t, c)
	kubeconfig, err := c.Kubeconfig("weir", "system:masters")
	require.NoError(t, err)
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "b.yaml"), []byte(backendYAML("b", 8080)), 0o600))
	f := &statusFixture{T: t, root: root}
	p := newPlane(t, kubeconfig, folder)
	p.run()
	apply(t, root, gatewayYAML)
	apply(t, root, routeYAML("a", "/a"))
	f.until(gatewayYAML, gatewayPending) // No proxy is connected.
	status, _ := statusOf(t, root, gatewayYAML)
	require.Contains(t, status.Conditions[1].Message, "no proxy")
	taken := p.proxy(routing(), "/poison")
	eventually(t, gatewayProgrammed, func() string {
		status, _ := statusOf(t, root, gatewayYAML)
		return f.say(gatewayYAML) + unlessTrue(status.Conditions[1].Status, status.Conditions[1].Message)
	})
	f.until(routeYAML("a", ""), routeSays(1, "True/Programmed"))
	require.Contains(t, taken(), "/a")

	t.Run("a rejection shows where it comes from, and the rest goes on", func(t *testing.T) {
		apply(t, root, routeYAML("bad", "/poison"))
		apply(t, root, routeYAML("good", "/good"))
		f := &statusFixture{T: t, root: root}
		f.until(routeYAML("good", ""), routeSays(1, "True/Programmed"))
		f.until(routeYAML("bad", ""), routeSays(1, "False/Rejected"))
		status, _ := statusOf(t, root, routeYAML("bad", ""))
		t.Log(status.Parents[0].Conditions[2].Message)
		require.Contains(t, status.Parents[0].Conditions[2].Message, "cannot serve /poison")
		require.Contains(t, taken(), "/good")
		remove(t, root, routeYAML("bad", ""))
	})

	t.Run("an object that a folder has too is named in both places", func(t *testing.T) {
		apply(t, root, backendYAML("b", 1))
		remove(t, root, backendYAML("b", 1))
	})

	t.Run("without the API server a restart serves what there was", func(t *testing.T) {
		require.NoError(t, c.StopAPI())
		p.stop()
		p.run()
		again := p.proxy(routing(), "")
		require.Eventually(t, func() bool { return strings.Contains(again(), "/good") }, soon, 10*time.Millisecond)
		require.NoError(t, c.StartAPI(t.Context()))
		apply(t, root, routeYAML("later", "/later"))
		require.Eventually(t, func() bool { return strings.Contains(again(), "/later") }, soon, 10*time.Millisecond)
		f := &statusFixture{T: t, root: root}
		f.until(routeYAML("later", ""), routeSays(1, "True/Programmed"))
	})
}
