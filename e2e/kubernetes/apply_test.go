//go:build slow

package kubernetes_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weir.dev/e2e/internal/harness"
)

// applier runs `weir apply --kubernetes` on folders of its own.
type applier struct {
	t          *testing.T
	root       client.Client
	kubeconfig string
	dir        string
}

// write makes the folder hold these documents and nothing else.
func (a *applier) write(documents ...string) {
	a.t.Helper()
	require.NoError(a.t, os.RemoveAll(a.dir))
	require.NoError(a.t, os.MkdirAll(a.dir, 0o700))
	require.NoError(a.t, os.WriteFile(filepath.Join(a.dir, "policy.yaml"), []byte(strings.Join(documents, "\n---\n")), 0o600))
}

// run gives what was printed, and whether it went well.
func (a *applier) run(arguments ...string) (output string, ok bool) {
	a.t.Helper()
	command := exec.Command(harness.Bin(a.t, "weir"), append([]string{"apply", "--kubernetes", "--kubeconfig", a.kubeconfig}, arguments...)...)
	command.Env = append(os.Environ(), "WEIR_STATE_DIR="+a.t.TempDir())
	stdout, err := command.Output()
	output = string(stdout)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		output += string(exit.Stderr)
	}
	a.t.Logf("weir apply %s\n%s", strings.Join(arguments, " "), output)
	return output, err == nil
}

func (a *applier) mustRun(arguments ...string) string {
	a.t.Helper()
	output, ok := a.run(arguments...)
	require.True(a.t, ok, output)
	return output
}

func (a *applier) refused(arguments ...string) string {
	a.t.Helper()
	output, ok := a.run(arguments...)
	require.False(a.t, ok, output)
	return output
}

// get is an object of the API, nil when it is not there.
func (a *applier) get(kind, namespace, name string) *unstructured.Unstructured {
	a.t.Helper()
	value := &unstructured.Unstructured{}
	value.SetAPIVersion("weir.dev/v1alpha1")
	if kind == "HTTPRoute" || kind == "Gateway" {
		value.SetAPIVersion("gateway.networking.k8s.io/v1")
	}
	value.SetKind(kind)
	err := a.root.Get(a.t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, value)
	if client.IgnoreNotFound(err) == nil && err != nil {
		return nil
	}
	require.NoError(a.t, err)
	return value
}

func TestSlowApplyToKubernetes(t *testing.T) {
	c := kubernetes(t)
	installCRDs(t, c, weirCRDs(t))
	root := admin(t, c)
	kubeconfig, err := c.Kubeconfig("editor", "system:masters")
	require.NoError(t, err)
	a := &applier{t: t, root: root, kubeconfig: kubeconfig, dir: filepath.Join(t.TempDir(), "policy")}
	edge := []string{gatewayYAML, backendYAML("b", 8080), routeYAML("a", "/a"), strings.Replace(openAuth, "%s", "", 1)}

	t.Run("a kind that is not installed", func(t *testing.T) {
		a.t = t
		a.write(edge...)
		output := a.refused(a.dir)
		require.Contains(t, output, "the cluster does not have this kind")
		require.Contains(t, output, "WEIR5202")
		require.Contains(t, output, "nothing was changed")
		require.Nil(t, a.get("Backend", "default", "b"), "nor anything else")
	})
	installCRDs(t, c, gatewayCRDs(t))
	p := newPlane(t, restricted(t, c, root))
	p.run()
	p.proxy(routing(), "")

	t.Run("a dry run changes nothing", func(t *testing.T) {
		a.t = t
		require.Contains(t, a.mustRun(a.dir, "--dry-run"), "5 objects would be changed; nothing was")
		require.Nil(t, a.get("Backend", "default", "b"))
	})

	t.Run("applied, and served", func(t *testing.T) {
		a.t = t
		output := a.mustRun(a.dir, "-o", "json")
		var result struct {
			Objects    []struct{ Action string }
			Programmed bool
		}
		require.NoError(t, json.Unmarshal([]byte(output), &result))
		require.True(t, result.Programmed)
		require.Len(t, result.Objects, 5)
		for _, object := range result.Objects {
			require.Equal(t, "created", object.Action)
		}
		status, _ := statusOf(t, root, routeYAML("a", ""))
		require.Contains(t, words(status.Parents[0].Conditions), "Programmed=True/Programmed@1")
		require.Contains(t, a.mustRun(a.dir), "0 objects changed; every proxy serves it")
		require.Equal(t, int64(1), a.get("HTTPRoute", "default", "a").GetGeneration())
	})

	t.Run("what the parser refuses is not sent", func(t *testing.T) {
		a.t = t
		a.write(backendYAML("b", 9090), strings.Replace(openAuth, "%s", ", authorization: {rules: [{name: r, effect: Allow, when: nonsense}]}", 1))
		require.Contains(t, a.refused(a.dir), "WEIR2005")
		require.Equal(t, int64(1), a.get("Backend", "default", "b").GetGeneration())
	})

	t.Run("one object that is refused keeps the others back", func(t *testing.T) {
		a.t = t
		require.NoError(t, root.Create(t.Context(), &rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{Name: "backends-only"},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"backends", "gateways"}, Verbs: []string{"*"}}},
		}))
		require.NoError(t, root.Create(t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "backends-only"}, Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "half"}},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "backends-only"},
		}))
		half := *a
		half.kubeconfig, err = c.Kubeconfig("half")
		require.NoError(t, err)
		a.write(backendYAML("b", 9090), routeYAML("a", "/other"))
		output := half.refused(a.dir)
		require.Contains(t, output, "HTTPRoute default/a")
		require.Contains(t, output, "forbidden")
		require.Contains(t, output, "nothing was changed")
		require.Equal(t, int64(1), a.get("Backend", "default", "b").GetGeneration())
	})

	t.Run("conflicts name the owner", func(t *testing.T) {
		a.t = t
		theirs := object(t, backendYAML("b", 7070))
		require.NoError(t, root.Patch(t.Context(), theirs, client.Apply, client.FieldOwner("somebody"), client.ForceOwnership)) //nolint:staticcheck // The shape of the object is not a Go type.
		a.write(backendYAML("b", 9090), routeYAML("a", "/other"))
		output := a.refused(a.dir)
		require.Contains(t, output, "policy.yaml:4: Backend default/b: spec.endpoints")
		require.Contains(t, output, `is owned by "somebody"`)
		require.Contains(t, output, "WEIR5203")
		require.Equal(t, int64(1), a.get("HTTPRoute", "default", "a").GetGeneration(), "nothing else either")
		require.Contains(t, a.mustRun(a.dir, "--force-conflicts"), "2 objects changed; every proxy serves it")
	})

	t.Run("a failure in the middle says what was changed", func(t *testing.T) {
		a.t = t
		apply(t, root, notLate)
		eventually(t, "refused", func() string {
			late := object(t, routeYAML("late", "/x"))
			if err := root.Create(t.Context(), late); err != nil {
				return "refused"
			}
			require.NoError(t, root.Delete(t.Context(), late))
			return "not yet"
		})
		a.write(backendYAML("b", 9091), routeYAML("late", "/late"))
		output := a.refused(a.dir)
		require.Contains(t, output, "Backend default/b configured")
		require.Contains(t, output, "HTTPRoute default/late not applied")
		require.Contains(t, output, "stopped at HTTPRoute default/late; 1 object changed before")
		require.Contains(t, output, "not so late")
		for _, part := range strings.Split(notLate, "\n---\n") {
			value := object(t, part)
			value.SetNamespace("")
			require.NoError(t, root.Delete(t.Context(), value))
		}
	})

	t.Run("only what the set had, and weir applied, is pruned", func(t *testing.T) {
		a.t = t
		a.write(backendYAML("b", 9090), routeYAML("one", "/one"), routeYAML("two", "/two"))
		a.mustRun(a.dir, "--set", "edge")
		strangers := object(t, routeYAML("strangers", "/s"))
		strangers.SetLabels(map[string]string{"weir.dev/applied-set": "edge"})
		require.NoError(t, root.Create(t.Context(), strangers))
		a.write(routeYAML("other", "/o"))
		a.mustRun(a.dir, "--set", "others")

		a.write(backendYAML("b", 9090), routeYAML("one", "/one"))
		require.Contains(t, a.mustRun(a.dir, "--set", "edge", "--prune-set", "--dry-run"), "HTTPRoute default/two deleted")
		require.NotNil(t, a.get("HTTPRoute", "default", "two"))
		a.mustRun(a.dir) // Without a set, an object stays in its own.
		require.Contains(t, a.mustRun(a.dir, "--set", "edge", "--prune-set"), "1 object changed")
		require.Nil(t, a.get("HTTPRoute", "default", "two"))
		for _, name := range []string{"one", "other", "strangers", "a"} {
			require.NotNil(t, a.get("HTTPRoute", "default", name), name)
		}
		output := a.refused(a.dir, "--set", "others")
		require.Contains(t, output, `is part of the set "edge"`)

		require.Contains(t, a.refused("--prune", "HTTPRoute/strangers"), "weir has not applied it")
		require.Contains(t, a.mustRun("--prune", "httproute/default/other"), "HTTPRoute default/other deleted")
		require.Nil(t, a.get("HTTPRoute", "default", "other"))
	})

	t.Run("a namespace may come with its objects", func(t *testing.T) {
		a.t = t
		inTeam := strings.Replace(backendYAML("t", 1), "{name: t}", "{name: t, namespace: team}", 1)
		a.write(inTeam, "apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n")
		require.Contains(t, a.mustRun(a.dir, "--dry-run"), "Backend team/t unchecked")
		a.mustRun(a.dir)
		require.NotNil(t, a.get("Backend", "team", "t"))
		a.write(backendYAML("u", 1))
		a.mustRun(a.dir, "-n", "team")
		require.NotNil(t, a.get("Backend", "team", "u"))
	})

	t.Run("what is not served is said", func(t *testing.T) {
		a.t = t
		a.write(strings.Replace(routeYAML("lost", "/lost"), "name: b}", "name: nowhere}", 1))
		started := time.Now()
		output := a.refused(a.dir)
		require.Contains(t, output, "not served: HTTPRoute default/lost: ResolvedRefs is False (BackendNotFound)")
		require.Less(t, time.Since(started), 30*time.Second, "it does not wait in vain")
		a.mustRun(a.dir, "--wait", "0")
	})

	t.Run("without the API server", func(t *testing.T) {
		a.t = t
		require.NoError(t, c.StopAPI())
		require.Contains(t, a.refused(a.dir), "refused")
	})
}

// notLate refuses the route "late" unless it is a dry run.
const notLate = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: late}
spec:
  matchConstraints: {resourceRules: [{apiGroups: ["*"], apiVersions: ["*"], operations: [CREATE, UPDATE], resources: [httproutes]}]}
  validations: [{expression: "request.dryRun == true || object.metadata.name != 'late'", message: not so late}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: late}
spec: {policyName: late, validationActions: [Deny]}
`
