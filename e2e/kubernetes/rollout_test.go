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
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/anypb"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weir.dev/controlplane"
	"weir.dev/controlplane/envoy"
	"weir.dev/e2e/cluster"
	"weir.dev/e2e/internal/harness"
	"weir.dev/kit/adsclient"
	"weir.dev/kit/certs"
	"weir.dev/kit/daemon"
)

// plane is a whole control plane with Kubernetes as its source.
type plane struct {
	t         *testing.T
	authority *certs.Authority
	// authorityDir keeps the authority.
	authorityDir string
	config       string
	address      string
	stop         func()
}

// configure changes the configuration before run.
func (p *plane) configure(change func(config map[string]any)) {
	p.t.Helper()
	raw, err := os.ReadFile(p.config)
	require.NoError(p.t, err)
	var config map[string]any
	require.NoError(p.t, json.Unmarshal(raw, &config))
	change(config)
	raw, err = json.Marshal(config)
	require.NoError(p.t, err)
	require.NoError(p.t, os.WriteFile(p.config, raw, 0o600))
}

func newPlane(t *testing.T, kubeconfig string, folders ...string) *plane {
	t.Helper()
	authorityDir := t.TempDir()
	authority, err := certs.OpenAuthority(authorityDir, time.Now())
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
	p := &plane{t: t, authority: authority, authorityDir: authorityDir, config: filepath.Join(t.TempDir(), "c.yaml")}
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
	return p.proxyWith(files, typeURLs, refuse)
}

// proxyWith is proxy with a certificate of the caller's.
func (p *plane) proxyWith(files certs.Files, typeURLs []string, refuse string) (names func() string) {
	p.t.Helper()
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

// restricted is a user that may do what charts/rbac.yaml says and nothing else.
func restricted(t *testing.T, c *cluster.Cluster, root client.Client) (kubeconfig string) {
	t.Helper()
	roles, err := os.ReadFile(filepath.Join(harness.Root(t), "charts", "rbac.yaml"))
	require.NoError(t, err)
	for _, part := range strings.Split(string(roles), "\n---\n") {
		role := object(t, part)
		if role.GetKind() == "ClusterRole" {
			role.SetNamespace("")
		}
		require.NoError(t, root.Create(t.Context(), role))
	}
	subject := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "weir"}}
	require.NoError(t, root.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "weir"}, Subjects: subject,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "weir-controlplane"},
	}))
	require.NoError(t, root.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "weir", Namespace: "default"}, Subjects: subject,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "weir-controlplane"},
	}))
	kubeconfig, err = c.Kubeconfig("weir")
	require.NoError(t, err)
	return kubeconfig
}

// From kubectl apply to a status that was earned, through the whole control
// plane: Programmed after the acknowledgement, a rejection with its object, and
// serving after a restart without the API server.
func TestSlowKubernetesRollout(t *testing.T) {
	c := kubernetes(t)
	installCRDs(t, c, weirCRDs(t), gatewayCRDs(t))
	root := admin(t, c)
	kubeconfig := restricted(t, c, root)
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

	t.Run("edits arrive soon", func(t *testing.T) {
		var took []time.Duration
		for i := range 20 {
			path := fmt.Sprintf("/edit%d", i)
			started := time.Now()
			apply(t, root, routeYAML("good", path))
			require.Eventually(t, func() bool { return strings.Contains(taken(), path) }, soon, time.Millisecond)
			took = append(took, time.Since(started))
			time.Sleep(50 * time.Millisecond) // Edits that follow at once are joined.
		}
		slices.Sort(took)
		t.Logf("apply to proxy: p50 %s, most %s", took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
		apply(t, root, routeYAML("good", "/good"))
		require.Eventually(t, func() bool { return strings.Contains(taken(), "/good") }, soon, time.Millisecond)
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
