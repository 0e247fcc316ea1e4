//go:build slow

package kubernetes_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"weir.dev/controlplane/kube"
	"weir.dev/controlplane/source"
	"weir.dev/e2e/internal/harness"
	"weir.dev/policy"
)

// soon is how long a test waits for what must come.
const soon = time.Minute

// gatewayCRDs is the folder of the Gateway API's own definitions.
func gatewayCRDs(t *testing.T) string {
	t.Helper()
	command := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api")
	command.Dir = filepath.Join(harness.Root(t), "e2e")
	out, err := command.Output()
	require.NoError(t, err)
	return filepath.Join(strings.TrimSpace(string(out)), "config", "crd", "standard")
}

// replica is one control plane's source and writer.
type replica struct {
	t       *testing.T
	source  *kube.Source
	writer  *kube.Writer
	updates chan source.Update
	log     *syncBuffer
	stop    func()
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func kubeConfig(kubeconfig string) kube.Config {
	var config kube.Config
	config.SetDefaults()
	config.Enabled, config.Kubeconfig = true, kubeconfig
	config.LeaderElection.Lease = 2 * time.Second
	config.Addresses = []string{"192.0.2.1"}
	return config
}

// follow runs a replica; observe is what becomes of each update, for its status.
func follow(t *testing.T, config kube.Config, keep string, observe func(*replica, source.Update)) *replica {
	t.Helper()
	parser, err := policy.NewParser()
	require.NoError(t, err)
	r := &replica{t: t, updates: make(chan source.Update, 1000), log: &syncBuffer{}}
	require.NoError(t, config.Validate())
	r.source, err = kube.New(config, kube.Options{KeepFile: keep, Logger: slog.New(slog.NewTextHandler(r.log, nil))}, parser)
	require.NoError(t, err)
	r.writer, err = kube.NewWriter(r.source)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		err := r.source.Run(ctx, func(update source.Update) {
			if observe != nil {
				observe(r, update)
			}
			r.updates <- update
		})
		if ctx.Err() == nil {
			t.Errorf("the source ended: %v", err)
		}
	})
	running.Go(func() { _ = r.writer.Run(ctx) })
	r.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			t.Logf("log of a replica:\n%s", r.log)
		}
	})
	return r
}

// next is the next update, which must come soon.
func (r *replica) next() source.Update {
	r.t.Helper()
	select {
	case update := <-r.updates:
		return update
	case <-time.After(soon):
		require.Fail(r.t, "no update", "%s", r.log)
		return source.Update{}
	}
}

// until waits for an update that says what is wanted, see say.
func (r *replica) until(want string) source.Update {
	r.t.Helper()
	deadline := time.After(soon)
	last := ""
	for {
		select {
		case update := <-r.updates:
			if last = say(update); last == want {
				return update
			}
		case <-deadline:
			require.Equal(r.t, want, last)
		}
	}
}

// say is an update in short: its objects and the codes of its problems.
func say(update source.Update) string {
	var words []string
	for _, object := range update.Input.Objects {
		if object.Ref.Kind == "Namespace" || object.Ref.Kind == "Service" || object.Ref.Kind == "EndpointSlice" || object.Ref.Kind == "ConfigMap" && strings.HasPrefix(object.Ref.Namespace, "kube-") {
			continue // the API server's own
		}
		words = append(words, fmt.Sprintf("%s/%s:%d", object.Ref.Kind, object.Ref.Name, object.Value.GetGeneration()))
	}
	for _, problem := range update.Problems {
		words = append(words, "!"+string(problem.Code))
	}
	for range update.Input.Closings {
		words = append(words, "closing")
	}
	return strings.Join(words, " ")
}

// object reads one YAML document.
func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	value := &unstructured.Unstructured{}
	require.NoError(t, yaml.Unmarshal([]byte(text), &value.Object))
	if value.GetNamespace() == "" && value.GetKind() != "GatewayClass" && value.GetKind() != "Namespace" {
		value.SetNamespace("default")
	}
	return value
}

// apply creates or replaces objects.
func apply(t *testing.T, c client.Client, text string) {
	t.Helper()
	for _, part := range strings.Split(text, "\n---\n") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		value := object(t, part)
		found := &unstructured.Unstructured{}
		found.SetGroupVersionKind(value.GroupVersionKind())
		err := c.Get(t.Context(), client.ObjectKeyFromObject(value), found)
		if client.IgnoreNotFound(err) == nil && err != nil {
			require.NoError(t, c.Create(t.Context(), value))
			continue
		}
		require.NoError(t, err)
		// Status may be written in between.
		require.NoError(t, retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(value), found); err != nil {
				return err
			}
			value.SetResourceVersion(found.GetResourceVersion())
			return c.Update(t.Context(), value)
		}))
	}
}

func remove(t *testing.T, c client.Client, text string) {
	t.Helper()
	require.NoError(t, c.Delete(t.Context(), object(t, text)))
}

func backendYAML(name string, port int) string {
	return fmt.Sprintf("apiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: %s}\nspec: {endpoints: [{address: 127.0.0.1, port: %d}]}\n", name, port)
}

const openAuth = "apiVersion: weir.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {name: p}\nspec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}], authentication: [{name: any, anonymous: {}}]%s}\n"

func TestSlowKubernetesSource(t *testing.T) {
	c := kubernetes(t)
	installCRDs(t, c, weirCRDs(t))
	root := admin(t, c)
	kubeconfig, err := c.Kubeconfig("weir", "system:masters")
	require.NoError(t, err)
	keep := filepath.Join(t.TempDir(), "keep.json")
	r := follow(t, kubeConfig(kubeconfig), keep, nil)
	require.Empty(t, say(r.next()), "the first update has all there is")

	t.Run("edits arrive", func(t *testing.T) {
		apply(t, root, backendYAML("a", 1))
		r.until("Backend/a:1")
		apply(t, root, backendYAML("a", 2))
		r.until("Backend/a:2")
		apply(t, root, backendYAML("b", 1))
		r.until("Backend/a:2 Backend/b:1")
		remove(t, root, backendYAML("b", 1))
		r.until("Backend/a:2")
	})

	t.Run("a status is no news", func(t *testing.T) {
		value := object(t, backendYAML("a", 2))
		require.NoError(t, root.Get(t.Context(), client.ObjectKeyFromObject(value), value))
		require.NoError(t, unstructured.SetNestedSlice(value.Object, []any{}, "status", "conditions"))
		require.NoError(t, root.Status().Update(t.Context(), value))
		value.SetLabels(map[string]string{"mark": "x"})
		require.NoError(t, root.Update(t.Context(), value))
		update := r.next() // the label's, not the status's: nothing else is in between
		require.Len(t, update.Input.Objects, countOwn(update)+1)
		require.Equal(t, "x", find(t, update, "Backend", "a").Value.GetLabels()["mark"])
	})

	t.Run("what the definitions cannot say is refused here, and the last good version stays", func(t *testing.T) {
		apply(t, root, fmt.Sprintf(openAuth, ""))
		r.until("AuthPolicy/p:1 Backend/a:2")
		apply(t, root, fmt.Sprintf(openAuth, ", authorization: {rules: [{name: r, effect: Allow, when: nonsense}]}"))
		r.until("AuthPolicy/p:1 Backend/a:2 !WEIR2005")
		apply(t, root, fmt.Sprintf(strings.Replace(openAuth, "{name: p}", "{name: q}", 1), ", authorization: {rules: [{name: r, effect: Allow, when: nonsense}]}"))
		r.until("AuthPolicy/p:1 Backend/a:2 !WEIR2005 !WEIR2005 closing")
		remove(t, root, strings.Replace(openAuth, "{name: p}", "{name: q}", 1)[:strings.Index(openAuth, "spec")])
		remove(t, root, openAuth[:strings.Index(openAuth, "spec")])
		r.until("Backend/a:2")
	})

	t.Run("definitions that come later are noticed", func(t *testing.T) {
		require.Contains(t, r.log.String(), "the cluster does not have this kind")
		installCRDs(t, c, gatewayCRDs(t))
		apply(t, root, "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: weir}\nspec: {controllerName: weir.dev/gateway-controller}\n")
		r.until("Backend/a:2 GatewayClass/weir:1")
		require.Contains(t, r.log.String(), "the cluster has this kind now")
	})

	t.Run("the API server may go away and come back", func(t *testing.T) {
		require.NoError(t, c.StopAPI())
		r.stop()
		second := follow(t, kubeConfig(kubeconfig), keep, nil)
		second.until("Backend/a:2 GatewayClass/weir:1 !WEIR5001")
		require.NoError(t, c.StartAPI(t.Context()))
		second.until("Backend/a:2 GatewayClass/weir:1")
		apply(t, root, backendYAML("a", 3))
		second.until("Backend/a:3 GatewayClass/weir:1")
		require.NoError(t, c.StopAPI())
		require.NoError(t, c.StartAPI(t.Context()))
		apply(t, root, backendYAML("c", 3))
		second.until("Backend/a:3 Backend/c:1 GatewayClass/weir:1")
		second.stop()
	})
}

func countOwn(update source.Update) int {
	return len(slices.DeleteFunc(slices.Clone(update.Input.Objects), func(o *policy.Object) bool { return o.Ref.Kind == "Backend" }))
}

func find(t *testing.T, update source.Update, kind, name string) *policy.Object {
	t.Helper()
	for _, object := range update.Input.Objects {
		if object.Ref.Kind == kind && object.Ref.Name == name {
			return object
		}
	}
	require.Fail(t, "not there", "%s %s", kind, name)
	return nil
}

// A replica that was never started before has nothing to serve while the API
// server is away: it says nothing, rather than that there is nothing.
func TestSlowKubernetesSaysNothingBeforeItKnows(t *testing.T) {
	c := kubernetes(t)
	installCRDs(t, c, weirCRDs(t), gatewayCRDs(t))
	apply(t, admin(t, c), backendYAML("a", 1))
	kubeconfig, err := c.Kubeconfig("weir", "system:masters")
	require.NoError(t, err)

	stranger, err := c.Kubeconfig("stranger")
	require.NoError(t, err)
	forbidden := follow(t, kubeConfig(stranger), "", nil)
	require.Eventually(t, func() bool { return strings.Contains(forbidden.log.String(), "cannot be read yet") }, soon, 10*time.Millisecond)
	require.Contains(t, forbidden.log.String(), "forbidden")
	require.Empty(t, forbidden.updates)

	require.NoError(t, c.StopAPI())
	r := follow(t, kubeConfig(kubeconfig), "", nil)
	require.Eventually(t, func() bool { return strings.Contains(r.log.String(), "cannot be read yet") }, soon, 10*time.Millisecond)
	require.Empty(t, r.updates)
	require.NoError(t, c.StartAPI(t.Context()))
	r.until("Backend/a:1")
	require.NotContains(t, r.log.String(), "does not have this kind", "all of them are installed")
}
