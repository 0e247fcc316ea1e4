//go:build slow

package kubernetes_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	podsecurityapi "k8s.io/pod-security-admission/api"
	podsecurity "k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weir.dev/kit/certs"
)

const provisioned = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %NAME%, namespace: default}
spec:
  gatewayClassName: weir
  infrastructure: {labels: {team: shop}, annotations: {example.com/tier: public}}
  listeners:
    - {name: http, port: 80, protocol: HTTP}
    - {name: other, port: 80, protocol: HTTP, hostname: other.example}
    - {name: alt, port: 8080, protocol: HTTP}
`

func gatewayNamed(name string) string { return strings.ReplaceAll(provisioned, "%NAME%", name) }

// provisioningPlane is a control plane that runs proxies in its namespace, with
// the rights of charts/rbac.yaml.
func provisioningPlane(t *testing.T) (*plane, client.Client) {
	t.Helper()
	c := kubernetes(t)
	installCRDs(t, c, weirCRDs(t), gatewayCRDs(t))
	root := admin(t, c)
	p := newPlane(t, restricted(t, c, root))
	// In a cluster `weir certs` makes the authority; here it is that of the plane.
	data := map[string][]byte{}
	for name, file := range map[string]string{certs.CertFileName: certs.CAFileName, certs.KeyFileName: "ca.key"} {
		content, err := os.ReadFile(filepath.Join(p.authorityDir, file))
		require.NoError(t, err)
		data[name] = content
	}
	require.NoError(t, root.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "weir-authority"}, Data: data}))
	role := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "weir-provisioner", Namespace: "default"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "weir"}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "weir-provisioner"},
	}
	require.NoError(t, root.Create(t.Context(), role))
	p.configure(func(config map[string]any) {
		config["fleets"] = []any{map[string]any{"perGateway": true}}
		sources, _ := config["sources"].(map[string]any)
		source, _ := sources["kubernetes"].(map[string]any)
		source["provision"] = map[string]any{
			"enabled": true, "namespace": "default", "agentImage": "docker.io/weir/weir:dev", "controlPlane": "controlplane.default.svc:18000",
		}
	})
	return p, root
}

// made lists what there is for Gateways, by kind and by the Gateway.
func made(t *testing.T, root client.Client) []string {
	t.Helper()
	var names []string
	for _, list := range []client.ObjectList{&corev1.ServiceList{}, &appsv1.DeploymentList{}, &policyv1.PodDisruptionBudgetList{}, &corev1.SecretList{}, &corev1.ServiceAccountList{}} {
		require.NoError(t, root.List(t.Context(), list, client.InNamespace("default"), client.MatchingLabels{"app.kubernetes.io/managed-by": "weir-controlplane"}))
		require.NoError(t, meta.EachListItem(list, func(object runtime.Object) error {
			accessor, err := meta.Accessor(object)
			kind := strings.TrimSuffix(reflect.TypeOf(list).Elem().Name(), "List")
			names = append(names, kind+" of "+accessor.GetAnnotations()["gateway.networking.k8s.io/gateway-name"])
			return err
		}))
	}
	slices.Sort(names)
	return names
}

func all(gateways ...string) []string {
	var names []string
	for _, kind := range []string{"Deployment", "PodDisruptionBudget", "Secret", "Service", "ServiceAccount"} {
		for _, gateway := range gateways {
			names = append(names, kind+" of "+gateway)
		}
	}
	slices.Sort(names)
	return names
}

func theService(t *testing.T, root client.Client, gateway string) *corev1.Service {
	t.Helper()
	var list corev1.ServiceList
	require.NoError(t, root.List(t.Context(), &list, client.InNamespace("default")))
	for i := range list.Items {
		if list.Items[i].Annotations["gateway.networking.k8s.io/gateway-name"] == gateway {
			return &list.Items[i]
		}
	}
	require.FailNow(t, "no Service", gateway)
	return nil
}

// A Gateway is given proxies, an address and a certificate of its own; it is
// programmed once they serve, and all of it goes with it.
func TestSlowGatewaysAreGivenProxies(t *testing.T) {
	p, root := provisioningPlane(t)
	p.run()
	apply(t, root, gatewayYAML) // its class, and a Gateway "edge"
	apply(t, root, gatewayNamed("shop"))
	foreign := strings.NewReplacer("gatewayClassName: weir", "gatewayClassName: somebody-elses").Replace(gatewayNamed("foreign"))
	apply(t, root, foreign)
	eventually(t, strings.Join(all("edge", "shop"), ", "), func() string { return strings.Join(made(t, root), ", ") })

	service := theService(t, root, "shop")
	require.Equal(t, corev1.ServiceTypeLoadBalancer, service.Spec.Type)
	require.Len(t, service.Spec.Ports, 2, "each port once")
	require.Equal(t, "shop", service.Labels["team"])
	require.Equal(t, "public", service.Annotations["example.com/tier"])
	var deployment appsv1.Deployment
	require.NoError(t, root.Get(t.Context(), client.ObjectKeyFromObject(service), &deployment))
	require.Equal(t, "shop", deployment.Spec.Template.Labels["team"])
	requireRestricted(t, &deployment.Spec.Template)

	// Without an address it is not programmed, whatever its proxies say, nor while
	// none of them takes requests.
	var secret corev1.Secret
	require.NoError(t, root.Get(t.Context(), client.ObjectKeyFromObject(service), &secret))
	dir := t.TempDir()
	for name, content := range secret.Data {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	p.proxyWith(certs.FilesIn(dir), routing(), "")
	programmedOf := func() string {
		status, _ := statusOf(t, root, gatewayNamed("shop"))
		for _, condition := range status.Conditions {
			if condition.Type == "Programmed" {
				return condition.Reason
			}
		}
		return "none"
	}
	eventually(t, "AddressNotAssigned", programmedOf)
	address := client.RawPatch(types.MergePatchType, []byte(`{"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}}`))
	require.NoError(t, root.Status().Patch(t.Context(), service, address))
	eventually(t, "NoResources", programmedOf)
	ready := client.RawPatch(types.MergePatchType, []byte(`{"status": {"replicas": 1, "readyReplicas": 1}}`))
	require.NoError(t, root.Status().Patch(t.Context(), &deployment, ready))
	eventually(t, "Programmed", programmedOf)
	_, shop := statusOf(t, root, gatewayNamed("shop"))
	addresses, _, err := unstructured.NestedSlice(shop.Object, "status", "addresses")
	require.NoError(t, err)
	require.Equal(t, []any{map[string]any{"type": "IPAddress", "value": "192.0.2.7"}}, addresses)

	// What somebody takes away is made again, and what was for a Gateway goes with it.
	require.NoError(t, root.Delete(t.Context(), theService(t, root, "edge")))
	remove(t, root, gatewayNamed("shop"))
	eventually(t, "false", func() string {
		return fmt.Sprint(slices.ContainsFunc(made(t, root), func(name string) bool { return strings.HasSuffix(name, "shop") }))
	})
	eventually(t, strings.Join(all("edge"), ", "), func() string { return strings.Join(made(t, root), ", ") })
}

// requireRestricted holds a pod to the restricted standard of Kubernetes.
func requireRestricted(t *testing.T, template *corev1.PodTemplateSpec) {
	t.Helper()
	checks, err := podsecurity.NewEvaluator(podsecurity.DefaultChecks(), nil)
	require.NoError(t, err)
	results := checks.EvaluatePod(podsecurityapi.LevelVersion{Level: podsecurityapi.LevelRestricted, Version: podsecurityapi.LatestVersion()}, &template.ObjectMeta, &template.Spec)
	for _, result := range results {
		require.True(t, result.Allowed, "%s: %s", result.ForbiddenReason, result.ForbiddenDetail)
	}
}
