//go:build slow

package kubernetes_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/kubeauth"
)

// account makes a ServiceAccount.
func account(t *testing.T, root client.Client, name string) *corev1.ServiceAccount {
	t.Helper()
	made := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	require.NoError(t, root.Create(t.Context(), made))
	return made
}

// tokenFor asks the API server for a token of an account.
func tokenFor(t *testing.T, root client.Client, of *corev1.ServiceAccount, audiences ...string) string {
	t.Helper()
	seconds := int64(600)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences, ExpirationSeconds: &seconds}}
	require.NoError(t, root.SubResource("token").Create(t.Context(), of, request))
	return request.Status.Token
}

// TestSlowServiceAccountTokens asks a real API server about real tokens.
func TestSlowServiceAccountTokens(t *testing.T) {
	c := kubernetes(t)
	root := admin(t, c)
	own, cart := account(t, root, "extauthz"), account(t, root, "cart")
	config, err := c.Config("nobody")
	require.NoError(t, err)
	folder := t.TempDir()
	ca, credential := filepath.Join(folder, "ca.crt"), filepath.Join(folder, "token")
	require.NoError(t, os.WriteFile(ca, config.CAData, 0o600))
	require.NoError(t, os.WriteFile(credential, []byte(tokenFor(t, root, own)), 0o600))
	prove := func(token string, after time.Duration) (*extauthz.Proof, error) {
		reviews, err := kubeauth.New(kubeauth.Options{Server: kubeauth.Server{Address: config.Host, CAFile: ca, TokenFile: credential}})
		require.NoError(t, err)
		source := &rulesv1.Authenticator{Method: &rulesv1.Authenticator_Kubernetes{Kubernetes: &rulesv1.KubernetesAuthenticator{
			Audiences: []string{"weir"}, Claims: &rulesv1.ClaimMapping{Tenant: "namespace"},
		}}}
		method, err := reviews.Build(source, extauthz.Place{Siblings: []*rulesv1.Authenticator{source}})
		require.NoError(t, err)
		return method.Prove(t.Context(), &extauthz.Call{
			Now: time.Now().Add(after), Realm: "edge",
			Request: &extauthz.Request{Headers: []extauthz.Header{{Name: "authorization", Value: "Bearer " + token}}},
		})
	}
	reason := func(err error) extauthz.Reason {
		var refusal *extauthz.Refusal
		require.True(t, errors.As(err, &refusal), "%v", err)
		return refusal.Reason
	}
	good := tokenFor(t, root, cart, "weir", "billing")

	_, err = prove(good, 0)
	require.Equal(t, extauthz.ReasonProviderUnavailable, reason(err))
	require.ErrorContains(t, err, "system:auth-delegator", "what to do is said")
	require.NoError(t, root.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "extauthz"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:auth-delegator"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "extauthz"}},
	}))
	var proof *extauthz.Proof
	require.Eventually(t, func() bool { proof, err = prove(good, 0); return err == nil }, soon, 100*time.Millisecond, "%v", err)
	require.Equal(t, "system:serviceaccount:default:cart", proof.Subject)
	require.Equal(t, "default", proof.Tenant)
	require.Equal(t, "cart", proof.Claims.GetFields()["serviceaccount"].GetStringValue())

	_, err = prove(tokenFor(t, root, cart, "billing"), 0)
	require.Equal(t, extauthz.ReasonTokenInvalid, reason(err), "another audience")
	_, err = prove(tokenFor(t, root, cart), 0)
	require.Equal(t, extauthz.ReasonTokenInvalid, reason(err), "the API server's own audience")
	_, err = prove(good[:len(good)-8]+"AAAAAAAA", 0)
	require.Equal(t, extauthz.ReasonTokenInvalid, reason(err), "forged")
	_, err = prove(good, 11*time.Minute)
	require.Equal(t, extauthz.ReasonTokenExpired, reason(err))
	require.NoError(t, root.Delete(t.Context(), cart))
	require.Eventually(t, func() bool {
		_, err = prove(good, 0)
		return err != nil && reason(err) == extauthz.ReasonTokenInvalid
	}, soon, 100*time.Millisecond, "the account is gone, and its tokens with it: %v", err)
	require.NoError(t, c.StopAPI())
	_, err = prove(good, 0)
	require.Equal(t, extauthz.ReasonProviderUnavailable, reason(err))
	require.NoError(t, c.StartAPI(t.Context()))
}
