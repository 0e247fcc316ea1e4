package command

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKubernetesOptions(t *testing.T) {
	for problem, o := range map[string]kubernetesOptions{
		"":                          {kubernetes: true, context: "c", namespace: "n", set: "s", pruneSet: true, force: true},
		"go with --kubernetes":      {set: "s"},
		"needs the set's name":      {kubernetes: true, pruneSet: true},
		`--set "A b"`:               {kubernetes: true, set: "A b"},
		`--namespace "Not a label"`: {kubernetes: true, namespace: "Not a label"},
	} {
		err := o.validate()
		if problem == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, problem)
	}
	require.NoError(t, (&kubernetesOptions{}).validate())
}

func TestUpKubernetesOptions(t *testing.T) {
	for problem, o := range map[string]upKubernetes{
		"go with --kubernetes": {context: "c"},
		`--namespace "A"`:      {kubernetes: true, namespaces: []string{"A"}},
	} {
		require.ErrorContains(t, o.validate(), problem)
	}
	config := filepath.Join(t.TempDir(), "config")
	env := map[string]string{"KUBECONFIG": config + string(os.PathListSeparator) + "other"}
	o := upKubernetes{kubernetes: true, context: "c", namespaces: []string{"a", "b"}}
	require.NoError(t, o.validate())
	require.ErrorContains(t, o.locate(func(name string) string { return env[name] }), "name a file with --kubeconfig")
	o.kubeconfig = ""
	require.NoError(t, os.WriteFile(config, nil, 0o600))
	require.NoError(t, o.locate(func(name string) string { return env[name] }))
	require.Equal(t, []string{"--kubernetes", "--kubeconfig", config, "--context", "c", "--namespace", "a", "--namespace", "b"}, o.arguments())
	require.Equal(t, config, o.source().Kubeconfig)
	require.Nil(t, (&upKubernetes{}).source())
	require.Empty(t, (&upKubernetes{}).arguments())
}
