package charts_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/pod-security-admission/api"
	podsecurity "k8s.io/pod-security-admission/policy"

	"weir.dev/e2e/internal/harness"
	"weir.dev/e2e/internal/helmchart"
	"weir.dev/policy"
)

// decode reads an object of Kubernetes' own kinds, and refuses what its type
// does not know.
func decode(o helmchart.Object) (runtime.Object, error) {
	codecs := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict)
	decoded, _, err := codecs.UniversalDeserializer().Decode(o.Raw, nil, nil)
	return decoded, err
}

// foreign are kinds of others' definitions.
func foreign(o helmchart.Object) bool {
	group := o.GroupVersionKind().Group
	return slices.Contains([]string{"monitoring.coreos.com", "keda.sh"}, group) || strings.HasSuffix(group, ".istio.io")
}

// ours are kinds that Weir's own parser knows.
func ours(o helmchart.Object) bool {
	return slices.Contains([]string{"weir.dev", "gateway.networking.k8s.io"}, o.GroupVersionKind().Group)
}

func TestEveryObjectIsOne(t *testing.T) {
	parser, err := policy.NewParser()
	require.NoError(t, err)
	for name, files := range helmchart.Deliveries() {
		t.Run(name, func(t *testing.T) {
			seen := map[string]bool{}
			for _, o := range rendered(t, files...) {
				id := o.GetNamespace() + " " + o.ID()
				require.False(t, seen[id], "%s is there twice", id)
				seen[id] = true
				if cluster := slices.Contains([]string{"ClusterRole", "ClusterRoleBinding", "GatewayClass"}, o.GetKind()); !cluster {
					require.NotEmpty(t, o.GetNamespace(), o.ID())
				}
				require.Equal(t, "weir", o.GetLabels()["app.kubernetes.io/part-of"], o.ID())
				switch {
				case foreign(o):
				case ours(o):
					require.Empty(t, parser.ParseObject(o.ID(), o.Raw).Problems.Errors(), o.ID())
				default:
					_, err := decode(o)
					require.NoError(t, err, o.ID())
				}
			}
		})
	}
}

// The check above must be able to fail.
func TestUnknownFieldsAreRefused(t *testing.T) {
	o := find(t, rendered(t, "dev"), "Deployment/weir-extauthz")
	o.Raw = bytes.Replace(o.Raw, []byte(`"minReadySeconds"`), []byte(`"minReadySecond"`), 1)
	_, err := decode(o)
	require.ErrorContains(t, err, "unknown field \"spec.minReadySecond\"")
}

// podOf is the pod that an object makes, if it makes any.
func podOf(t *testing.T, o helmchart.Object) *corev1.PodTemplateSpec {
	t.Helper()
	if foreign(o) || ours(o) {
		return nil
	}
	decoded, err := decode(o)
	require.NoError(t, err)
	switch value := decoded.(type) {
	case *appsv1.Deployment:
		return &value.Spec.Template
	case *appsv1.StatefulSet:
		return &value.Spec.Template
	case *batchv1.Job:
		return &value.Spec.Template
	case *batchv1.CronJob:
		return &value.Spec.JobTemplate.Spec.Template
	}
	return nil
}

// faults are what is wrong with a pod's security.
func faults(t *testing.T, pod *corev1.PodTemplateSpec) []string {
	t.Helper()
	evaluator, err := podsecurity.NewEvaluator(podsecurity.DefaultChecks(), nil)
	require.NoError(t, err)
	var found []string
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	for _, result := range evaluator.EvaluatePod(restricted, &pod.ObjectMeta, &pod.Spec) {
		if !result.Allowed {
			found = append(found, result.ForbiddenReason+": "+result.ForbiddenDetail)
		}
	}
	for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if s := container.SecurityContext; s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			found = append(found, container.Name+": its root can be written")
		}
		if container.Resources.Requests.Cpu().IsZero() || container.Resources.Requests.Memory().IsZero() || container.Resources.Limits.Memory().IsZero() {
			found = append(found, container.Name+": says not what it needs")
		}
		if strings.HasSuffix(container.Image, ":") || strings.HasSuffix(container.Image, ":latest") || !strings.Contains(container.Image, ":") {
			found = append(found, container.Name+": "+container.Image+" is no fixed version")
		}
	}
	if pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks {
		found = append(found, "other Services' addresses are in its environment")
	}
	return found
}

func TestPodsAreRestricted(t *testing.T) {
	for name, files := range helmchart.Deliveries() {
		t.Run(name, func(t *testing.T) {
			pods := 0
			for _, o := range rendered(t, files...) {
				if pod := podOf(t, o); pod != nil {
					pods++
					require.Empty(t, faults(t, pod), o.ID())
				}
			}
			require.GreaterOrEqual(t, pods, 6)
		})
	}
	pod := podOf(t, find(t, rendered(t, "dev"), "Deployment/weir-ingress"))
	yes := true
	pod.Spec.Containers[0].SecurityContext.Privileged = &yes
	pod.Spec.Containers[1].SecurityContext.ReadOnlyRootFilesystem = nil
	require.Len(t, faults(t, pod), 2, "the check can fail")
}

func TestTokensAreMountedWhereTheyAreUsed(t *testing.T) {
	for _, o := range rendered(t, "prod") {
		pod := podOf(t, o)
		if pod == nil {
			continue
		}
		uses := strings.Contains(o.GetName(), "controlplane") || strings.Contains(o.GetName(), "certificates")
		require.Equal(t, uses, *pod.Spec.AutomountServiceAccountToken, o.ID())
	}
}

// What serves requests is replaced without a gap, and looked after.
func TestServersAreLookedAfter(t *testing.T) {
	objects := rendered(t, "prod")
	servers := 0
	for _, o := range objects {
		pod := podOf(t, o)
		if pod == nil || strings.Contains(o.GetName(), "certificates") {
			continue
		}
		servers++
		first := pod.Spec.Containers[0]
		require.NotNil(t, first.ReadinessProbe, o.ID())
		require.NotNil(t, first.LivenessProbe, o.ID())
		require.NotNil(t, first.StartupProbe, o.ID())
		require.NotNil(t, first.Lifecycle.PreStop, o.ID())
		require.Len(t, pod.Spec.TopologySpreadConstraints, 2, o.ID())
		require.NotNil(t, pod.Spec.Affinity.PodAntiAffinity, o.ID())
		find(t, objects, "PodDisruptionBudget/"+o.GetName())
		find(t, objects, "HorizontalPodAutoscaler/"+o.GetName())
		find(t, objects, "NetworkPolicy/"+o.GetName())
		find(t, objects, "ServiceAccount/"+o.GetName())
		if decoded, err := decode(o); o.GetKind() == "Deployment" {
			require.NoError(t, err)
			rolling := decoded.(*appsv1.Deployment).Spec.Strategy.RollingUpdate
			require.Zero(t, rolling.MaxUnavailable.IntValue(), o.ID())
			require.Nil(t, decoded.(*appsv1.Deployment).Spec.Replicas, "the autoscaler's matter")
		}
	}
	require.Equal(t, 6, servers)
	for _, o := range rendered(t, "dev") {
		require.NotContains(t, []string{"PodDisruptionBudget", "HorizontalPodAutoscaler"}, o.GetKind(), "one replica stays one")
	}
}

// KEDA and an autoscaler of the chart's own would pull the same pods both ways.
func TestOneAutoscalerDecides(t *testing.T) {
	for kind, files := range map[string][]string{"HorizontalPodAutoscaler": {"prod"}, "ScaledObject": {"prod", "keda"}} {
		targets := map[string]int{}
		for _, o := range rendered(t, files...) {
			if o.GetKind() != "HorizontalPodAutoscaler" && o.GetKind() != "ScaledObject" {
				continue
			}
			require.Equal(t, kind, o.GetKind(), o.ID())
			target, found, err := unstructured.NestedString(o.Object, "spec", "scaleTargetRef", "name")
			require.NoError(t, err)
			require.True(t, found, o.ID())
			targets[target]++
		}
		require.Equal(t, map[string]int{
			"weir-controlplane": 1, "weir-extauthz": 1, "weir-ratelimit": 1, "weir-user": 1, "weir-data": 1, "weir-ingress": 1,
		}, targets, kind)
	}
}

// Every configuration is read by the daemon that it is for.
func TestDaemonsTakeTheirConfigurations(t *testing.T) {
	for name, files := range helmchart.Deliveries() {
		t.Run(name, func(t *testing.T) {
			checked := 0
			for _, o := range rendered(t, files...) {
				if o.GetKind() != "ConfigMap" {
					continue
				}
				var content struct{ Data map[string]string }
				require.NoError(t, json.Unmarshal(o.Raw, &content))
				for file, text := range content.Data {
					if daemon, ok := strings.CutSuffix(file, "d.yaml"); ok {
						checked++
						out, err := check(t, daemon+"d", text)
						require.NoError(t, err, "%s\n%s", out, text)
					}
				}
			}
			require.Equal(t, 5, checked)
		})
	}
	out, err := check(t, "extauthzd", "servr: {}\n")
	require.Error(t, err, "the check can fail")
	require.Contains(t, out, "servr")
}

func check(t *testing.T, daemon, config string) (output string, err error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(path, []byte(config), 0o600))
	command := exec.CommandContext(t.Context(), harness.Bin(t, daemon), "--check", "--config", path)
	command.Env = []string{"WEIR_POSTGRES_URL=postgres://u:p@h/d", "POD_NAME=pod-0", "POD_NAMESPACE=" + helmchart.Namespace}
	raw, err := command.CombinedOutput()
	return string(raw), err
}

// The rules are those of charts/rbac.yaml, whatever of them is granted where.
func TestRolesAreThoseOfTheFile(t *testing.T) {
	grants := func(objects []helmchart.Object, kinds ...string) map[string]bool {
		found := map[string]bool{}
		for _, o := range objects {
			if !slices.Contains(kinds, o.GetKind()) || !strings.HasSuffix(o.GetName(), "controlplane") {
				continue
			}
			var role struct {
				Rules []struct{ APIGroups, Resources, Verbs []string }
			}
			require.NoError(t, json.Unmarshal(o.Raw, &role))
			for _, rule := range role.Rules {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						found[fmt.Sprint(rule.APIGroups, " ", resource, " ", verb)] = true
					}
				}
			}
		}
		return found
	}
	everywhere := grants(rendered(t, "prod"), "ClusterRole", "Role")
	require.Greater(t, len(everywhere), 30)
	narrowed := rendered(t, "prod", "client-cloud")
	require.Equal(t, everywhere, grants(narrowed, "ClusterRole", "Role"))
	wide := grants(narrowed, "ClusterRole")
	require.NotContains(t, wide, "[] secrets get", "in named namespaces no Secret of others can be read")
	for grant := range wide {
		require.Regexp(t, `gatewayclasses|namespaces|customresourcedefinitions`, grant)
	}
}

// The job of the chart makes what weir certs makes by itself, and may keep just that.
func TestCertificatesAreOfEveryPart(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, exec.CommandContext(t.Context(), harness.Bin(t, "weir"), "certs", "--dir", dir).Run())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var made, given []string
	for _, entry := range entries {
		switch name := entry.Name(); {
		case name == "authority":
			made = append(made, "weir-authority")
		case entry.IsDir():
			made = append(made, "weir-"+name+"-tls")
		}
	}
	objects := rendered(t, "prod")
	for _, name := range []string{"Role/weir-certificates", "Role/weir-certificates-hook"} {
		var role struct {
			Rules []struct{ Resources, Verbs, ResourceNames []string }
		}
		require.NoError(t, json.Unmarshal(find(t, objects, name).Raw, &role))
		require.Len(t, role.Rules, 1)
		require.Equal(t, []string{"secrets"}, role.Rules[0].Resources)
		require.ElementsMatch(t, made, role.Rules[0].ResourceNames)
	}
	job := podOf(t, find(t, objects, "Job/weir-certificates-hook"))
	for _, arg := range job.Spec.Containers[0].Args {
		if part, ok := strings.CutPrefix(arg, "--part="); ok {
			given = append(given, "weir-"+part+"-tls")
		}
	}
	require.ElementsMatch(t, made, append(given, "weir-authority"))
	for _, o := range rendered(t, "prod", "client-cloud") {
		require.NotContains(t, o.GetName(), "certificates", "somebody else makes them")
	}
}

// metric is one of Weir's in a dashboard.
var metric = regexp.MustCompile(`\bweir_[a-z_]+[a-z]`)

func TestDashboardsShowMetricsThatThereAre(t *testing.T) {
	sources := ""
	for _, folder := range []string{"extauthz/telemetry", "ratelimit/metrics", "controlplane/ads"} {
		paths, err := filepath.Glob(filepath.Join(harness.Root(t), folder, "*.go"))
		require.NoError(t, err)
		for _, path := range paths {
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			sources += string(content)
		}
	}
	shown := 0
	for _, o := range rendered(t, "prod") {
		if !strings.Contains(o.GetName(), "-dashboard-") {
			continue
		}
		var content struct{ Data map[string]string }
		require.NoError(t, json.Unmarshal(o.Raw, &content))
		for name, text := range content.Data {
			require.True(t, json.Valid([]byte(text)), name)
			for _, found := range metric.FindAllString(text, -1) {
				shown++
				require.Contains(t, sources, `"`+strings.TrimSuffix(found, "_bucket")+`"`, name)
			}
		}
	}
	require.Greater(t, shown, 20)
}
