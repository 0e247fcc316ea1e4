//go:build slow

package kubernetes_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A replica that is told namespaces reads those and what has none, with no more
// rights than that.
func TestSlowKubernetesNamespaces(t *testing.T) {
	c := kubernetes(t)
	installCRDs(t, c, weirCRDs(t), gatewayCRDs(t))
	root := admin(t, c)
	for _, name := range []string{"team", "other"} {
		apply(t, root, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+name+"}\n")
	}
	read := []string{"get", "list", "watch"}
	require.NoError(t, root.Create(t.Context(), &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "cluster-wide"},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: read},
			{APIGroups: []string{"gateway.networking.k8s.io"}, Resources: []string{"gatewayclasses"}, Verbs: read},
			{APIGroups: []string{"apiextensions.k8s.io"}, Resources: []string{"customresourcedefinitions"}, Verbs: []string{"get"}},
		},
	}))
	require.NoError(t, root.Create(t.Context(), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "in-team", Namespace: "team"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: read}},
	}))
	subject := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "weir-team"}}
	require.NoError(t, root.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "team"}, Subjects: subject, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-wide"},
	}))
	require.NoError(t, root.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "team", Namespace: "team"}, Subjects: subject, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "in-team"},
	}))
	kubeconfig, err := c.Kubeconfig("weir-team")
	require.NoError(t, err)
	config := kubeConfig(kubeconfig)
	config.Namespaces = []string{"team"}
	r := follow(t, config, "", nil)
	r.next()

	in := func(namespace, text string) string {
		return strings.Replace(text, "metadata: {", "metadata: {namespace: "+namespace+", ", 1)
	}
	apply(t, root, in("other", backendYAML("theirs", 1)))
	apply(t, root, backendYAML("default", 1))
	apply(t, root, in("team", backendYAML("ours", 1)))
	r.until("Backend/ours:1")
	apply(t, root, "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: weir}\nspec: {controllerName: weir.dev/gateway-controller}\n")
	r.until("Backend/ours:1 GatewayClass/weir:1")
	require.NotContains(t, r.log.String(), "forbidden")

	// The same rights without the restriction are too few: it says so, and nothing
	// else.
	config.Namespaces = nil
	all := follow(t, config, "", nil)
	require.Eventually(t, func() bool { return strings.Contains(all.log.String(), "forbidden") }, soon, soon/1000)
	require.Empty(t, all.updates)
}
