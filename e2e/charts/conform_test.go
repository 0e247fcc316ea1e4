package charts_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v4/pkg/strvals"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"weir.dev/e2e/cluster/build"
	"weir.dev/e2e/internal/harness"
	"weir.dev/e2e/internal/helmchart"
	"weir.dev/e2e/internal/schemas"
)

// toolsTimeout bounds the first build of the tools, which takes two minutes.
const toolsTimeout = 10 * time.Minute

// tool is the path of one of scripts/tools.sh charts.
func tool(t *testing.T, name string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), toolsTimeout)
	defer cancel()
	var said bytes.Buffer
	command := exec.CommandContext(ctx, filepath.Join(harness.Root(t), "scripts", "tools.sh"), "charts")
	command.Env, command.Stderr = append(os.Environ(), "CGO_ENABLED=0"), &said
	dir, err := command.Output()
	require.NoError(t, err, said.String())
	return filepath.Join(strings.TrimSpace(string(dir)), name)
}

// everything is switched on that is off where nothing is said of it.
const everything = "extauthz.autoscaling.requestsPerSecond=500,ingress.autoscaling.requestsPerSecond=500,controlplane.provision.enabled=true,extauthz.tokenReview.enabled=true,global.otlp.address=otel:4317," +
	"ratelimit.redis.caSecret=authority,ratelimit.redis.passwordKey=password,global.image.pullSecrets={one,two}," +
	"global.networkPolicy.apiServer.cidrs={10.0.0.0/8},ingress.trustedProxies.trustedHops=1,ingress.gateway.create=true," +
	"ingress.gateway.listeners[0].name=http,ingress.gateway.listeners[0].port=80,ingress.gateway.listeners[0].protocol=HTTP"

// named is all that can be named to a mesh.
const named = "extauthz.tokenReview.enabled=true,global.sidecars.policies.scrapers={mesh/ns/monitoring/sa/prometheus}," +
	"global.sidecars.policies.callers.user={mesh/ns/shop/sa/orders},externalHosts[0].host=login.example.com,externalHosts[0].port=443,externalHosts[0].protocol=TLS," +
	"externalHosts[1].host=db.example.com,externalHosts[1].port=5432,externalHosts[1].protocol=TCP,externalHosts[1].addresses={192.0.2.10}"

// installation is a chart with values.
type installation struct {
	chart  string
	values map[string]any
}

// installations are the charts with each of their sets of values.
func installations(t *testing.T) map[string]installation {
	t.Helper()
	all := map[string]installation{}
	for name, files := range helmchart.Deliveries() {
		all["weir "+name] = installation{"weir", readValues(t, files...)}
	}
	values := readValues(t, "prod")
	require.NoError(t, strvals.ParseInto(everything, values))
	all["weir with everything"] = installation{"weir", values}
	values = readValues(t, "prod", "default-deny")
	require.NoError(t, strvals.ParseInto(named, values))
	all["weir in a mesh where all is named"] = installation{"weir", values}
	for name, set := range alone() {
		all[name] = installation{name, set}
	}
	return all
}

// schemaDir holds the schemas of all kinds that Weir's charts and its target Istio
// have: Kubernetes' own from the release that the node is built of.
func schemaDir(t *testing.T) string {
	t.Helper()
	root := harness.Root(t)
	sources := filepath.Join(root, "e2e", "cluster", "components")
	module := func(component, path string) string {
		ctx, cancel := context.WithTimeout(t.Context(), toolsTimeout)
		defer cancel()
		dir, err := build.Module(ctx, sources, component, path)
		require.NoError(t, err)
		return dir
	}
	kubernetes := module("kube", "k8s.io/kubernetes")
	require.Equal(t, build.Version, kubernetes[strings.LastIndex(kubernetes, "@")+1:])
	document, err := os.ReadFile(filepath.Join(kubernetes, "api", "openapi-spec", "swagger.json"))
	require.NoError(t, err)
	set := schemas.Set{}
	require.NoError(t, set.AddOpenAPI(document, func(kind schema.GroupVersionKind) bool {
		return strings.HasPrefix(kind.Version, "v1") || kind.Group == "autoscaling"
	}))
	require.Greater(t, len(set), 50)
	operator := module("monitoring", "github.com/prometheus-operator/prometheus-operator")
	keda := module("monitoring", "github.com/kedacore/keda/v2")
	var files []string
	for _, pattern := range []string{
		filepath.Join(root, "charts", "crds", "*.yaml"),
		filepath.Join(module("../..", "sigs.k8s.io/gateway-api"), "config", "crd", "standard", "*.yaml"),
		filepath.Join(operator, "example", "prometheus-operator-crd", "*monitors.yaml"),
		filepath.Join(keda, "config", "crd", "bases", "keda.sh_scaledobjects.yaml"),
		filepath.Join(module("istio", "istio.io/istio"), "manifests", "charts", "base", "files", "crd-all.gen.yaml"),
	} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, found)
		files = append(files, found...)
	}
	require.NoError(t, set.AddFiles(files...))
	dir := t.TempDir()
	require.NoError(t, set.Write(dir))
	return dir
}

// conform has kubeconform check YAML or JSON documents, and returns how many it
// found good and what it has against the others.
func conform(t *testing.T, schemaDir string, documents io.Reader) (valid int, faults []string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), tool(t, "kubeconform"), "-strict", "-verbose", "-output", "json",
		"-schema-location", filepath.Join(schemaDir, schemas.Location), "-")
	command.Stdin = documents
	out, err := command.Output()
	var report struct {
		Resources []struct{ Kind, Name, Status, Msg string }
	}
	require.NoError(t, json.Unmarshal(out, &report), "%v %s", err, out)
	for _, each := range report.Resources {
		if each.Status == "statusValid" {
			valid++
			continue
		}
		faults = append(faults, each.Kind+"/"+each.Name+": "+each.Status+": "+each.Msg)
	}
	require.Equal(t, err == nil, len(faults) == 0)
	return valid, faults
}

// What the charts make is what this very Kubernetes and the definitions of others
// take, whichever values file is used.
func TestObjectsAreOfTheirSchemas(t *testing.T) {
	dir := schemaDir(t)
	var all bytes.Buffer
	count := 0
	for name, each := range installations(t) {
		objects, err := render(t, each.chart, each.values)
		require.NoError(t, err, name)
		for _, o := range objects {
			count++
			all.WriteString("---\n")
			all.Write(o.Raw)
			all.WriteString("\n")
		}
	}
	for _, pattern := range []string{"crds/*.yaml", "rbac.yaml"} {
		paths, err := filepath.Glob(filepath.Join(harness.Root(t), "charts", pattern))
		require.NoError(t, err)
		for _, path := range paths {
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			count += strings.Count("\n"+string(content), "\nkind: ")
			all.WriteString("---\n" + string(content) + "\n")
		}
	}
	valid, faults := conform(t, dir, &all)
	require.Empty(t, faults)
	require.Equal(t, count, valid)

	t.Run("so is what is made for Istio", func(t *testing.T) {
		policy := filepath.Join(harness.Root(t), "examples", "istio")
		out, err := exec.CommandContext(t.Context(), harness.Bin(t, "weir"), "translate", "--target", "istio", policy).Output()
		require.NoError(t, err)
		valid, faults := conform(t, dir, bytes.NewReader(out))
		require.Empty(t, faults)
		require.Greater(t, valid, 5)
	})
	t.Run("so is what a mesh begins with", func(t *testing.T) {
		base := t.TempDir()
		out, err := exec.CommandContext(t.Context(), harness.Bin(t, "weir"), "mesh", "base", "--dir", base, "--profile", "default-deny").CombinedOutput()
		require.NoError(t, err, string(out))
		objects, err := os.ReadFile(filepath.Join(base, "base.yaml"))
		require.NoError(t, err)
		valid, faults := conform(t, dir, bytes.NewReader(objects))
		require.Empty(t, faults)
		require.Equal(t, 9, valid)
	})
	t.Run("and the check can fail", func(t *testing.T) {
		for broken, want := range map[string]string{
			`{"apiVersion":"v1","kind":"Service","metadata":{"name":"x"},"spec":{"port":[]}}`:                                                                    "additional properties 'port' not allowed",
			`{"apiVersion":"v1","kind":"Service","metadata":{"name":"x"},"spec":{"ports":[{"port":"80"}]}}`:                                                      "got string, want integer",
			`{"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","metadata":{"name":"x"},"spec":{"maxReplicas":2}}`:                                  "missing property 'scaleTargetRef'",
			`{"apiVersion":"autoscaling/v2beta1","kind":"HorizontalPodAutoscaler","metadata":{"name":"x"}}`:                                                      "could not find schema",
			`{"apiVersion":"monitoring.coreos.com/v1","kind":"ServiceMonitor","metadata":{"name":"x"},"spec":{"selector":{},"endpoint":[]}}`:                     "'endpoint' not allowed",
			`{"apiVersion":"keda.sh/v1alpha1","kind":"ScaledObject","metadata":{"name":"x"},"spec":{"scaleTargetRef":{"name":"x"},"triggers":[{"type":"cpu"}]}}`: "missing property 'metadata'",
			`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"GatewayClass","metadata":{"name":"x"},"spec":{}}`:                                              "missing property 'controllerName'",
			`{"apiVersion":"weir.dev/v1alpha1","kind":"Backend","metadata":{"name":"x"},"spec":{"endpoint":[]}}`:                                                 "'endpoint' not allowed",
			`{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":"x"},"spec":{"host":["x"]}}`:                                      "'host' not allowed",
			`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"x"},"spec":{"selector":{},"template":{"spec":{"container":[]}}}}`:                   "'container' not allowed",
			`{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"x"},"spec":{"podSelector":{},"ingress":[{"form":[]}]}}`:             "'form' not allowed",
		} {
			valid, faults := conform(t, dir, strings.NewReader(broken))
			require.Zero(t, valid, broken)
			require.Len(t, faults, 1, broken)
			require.Contains(t, faults[0], want)
		}
	})
}
