package command

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// What was made is the user's from then on.
func TestMeshBase(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mesh")
	code, out, errs := runApp(t, "mesh", "base", "--dir", dir, "--profile", "default-deny", "--egress")
	require.Equal(t, 0, code, errs)
	for _, want := range []string{
		"written    " + filepath.Join(dir, "istiod.yaml"), "helm upgrade --install istiod istio/istiod -n istio-system", "istio-egressgateway",
		"kubectl apply --server-side",
	} {
		require.Contains(t, out, want)
	}
	code, out, _ = runApp(t, "mesh", "base", "--dir", dir, "--profile", "default-deny", "--egress")
	require.Equal(t, 0, code)
	require.Contains(t, out, "unchanged  "+filepath.Join(dir, "base.yaml"))

	mine := filepath.Join(dir, "base.yaml")
	require.NoError(t, os.WriteFile(mine, []byte("# mine\n"), 0o600))
	code, out, errs = runApp(t, "mesh", "base", "--dir", dir, "-o", "json")
	require.Equal(t, 1, code)
	require.Contains(t, out, `"action": "kept"`)
	require.Contains(t, errs, "--replace")
	content, err := os.ReadFile(mine)
	require.NoError(t, err)
	require.Equal(t, "# mine\n", string(content))
	code, _, errs = runApp(t, "mesh", "base", "--dir", dir, "--replace")
	require.Equal(t, 0, code, errs)
	content, err = os.ReadFile(mine)
	require.NoError(t, err)
	require.NotContains(t, string(content), "weir-default-deny", "the standard profile")

	for _, wrong := range [][]string{
		{"mesh", "base"},
		{"mesh", "base", "--dir", dir, "--mtls", "STRICT"},
		{"mesh", "base", "--dir", dir, "--extauthz", "nowhere"},
		{"mesh", "base", "--dir", dir, "--profile", "open"},
		{"mesh", "base", "more"},
	} {
		code, _, errs = runApp(t, wrong...)
		require.Equal(t, 2, code, "%v %s", wrong, errs)
	}
}
