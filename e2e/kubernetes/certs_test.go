//go:build slow

package kubernetes_test

import (
	"os/exec"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weir.dev/e2e/internal/harness"
)

// mayKeep lets a user do with the named Secrets what the chart's Role does.
func mayKeep(t *testing.T, root client.Client, user string, secrets ...string) {
	t.Helper()
	require.NoError(t, root.Create(t.Context(), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: user, Namespace: "default"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "create", "patch"}, ResourceNames: secrets}},
	}))
	require.NoError(t, root.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user, Namespace: "default"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
	}))
	eventually(t, "true", func() string { // the API server learns of its own rights by and by
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user, ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "default", Verb: "create", Resource: "secrets", Name: secrets[len(secrets)-1]},
		}}
		require.NoError(t, root.Create(t.Context(), review))
		return strconv.FormatBool(review.Status.Allowed)
	})
}

// A Role that names the Secrets is enough to make and renew them, and for no
// others; several at once make one authority.
func TestSlowCertificatesInSecrets(t *testing.T) {
	c := kubernetes(t)
	root := admin(t, c)
	mayKeep(t, root, "certificates", "weir-authority", "weir-extauthz-tls", "weir-ingress-tls")
	kubeconfig, err := c.Kubeconfig("certificates")
	require.NoError(t, err)
	run := func(args ...string) (string, error) {
		command := exec.CommandContext(t.Context(), harness.Bin(t, "weir"),
			append([]string{"certs", "--kubernetes", "--kubeconfig", kubeconfig, "--namespace", "default"}, args...)...)
		output, err := command.CombinedOutput()
		return string(output), err
	}
	parts := []string{"--part", "extauthz", "--part", "ingress"}

	type result struct {
		output string
		err    error
	}
	results := make(chan result, 4)
	for range cap(results) {
		go func() {
			output, err := run(parts...)
			results <- result{output, err}
		}()
	}
	for range cap(results) {
		done := <-results
		require.NoError(t, done.err, done.output)
	}
	secret := func(name string) *corev1.Secret {
		found := &corev1.Secret{}
		require.NoError(t, root.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, found))
		return found
	}
	authority := secret("weir-authority")
	require.Equal(t, corev1.SecretTypeTLS, authority.Type)
	for _, name := range []string{"weir-extauthz-tls", "weir-ingress-tls"} {
		require.Equal(t, authority.Data["ca.crt"], secret(name).Data["ca.crt"], "all are of one authority")
		require.Len(t, secret(name).Data, 3)
	}

	output, err := run(parts...)
	require.NoError(t, err, output)
	require.Contains(t, output, "nothing was written")

	output, err = run(append(slices.Clone(parts), "--rotate")...)
	require.NoError(t, err, output)
	require.Contains(t, output, "secret default/weir-ingress-tls written: the authorities have changed")
	require.Greater(t, len(secret("weir-ingress-tls").Data["ca.crt"]), len(authority.Data["ca.crt"]))
	output, err = run(append(slices.Clone(parts), "--rotate")...)
	require.Error(t, err)
	require.Contains(t, output, "being changed already")

	// A damaged Secret of a part is replaced.
	broken := secret("weir-extauthz-tls")
	broken.Data["tls.key"] = []byte("?")
	require.NoError(t, root.Update(t.Context(), broken))
	output, err = run(parts...)
	require.NoError(t, err, output)
	require.Contains(t, output, "weir-extauthz-tls written: it was damaged")

	output, err = run("--part", "data")
	require.Error(t, err)
	require.Contains(t, output, `cannot`)
	require.Contains(t, output, `weir-data-tls`)
}
