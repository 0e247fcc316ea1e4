package charts_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// unitTested runs helm-unittest on charts.
func unitTested(t *testing.T, dirs ...string) (string, error) {
	t.Helper()
	arguments := append([]string{"--strict", "--with-subchart=false"}, dirs...)
	out, err := exec.CommandContext(t.Context(), tool(t, "helm-unittest"), arguments...).CombinedOutput()
	return string(out), err
}

// The charts' own suites, which `helm unittest charts/*` runs for whoever changes
// them.
func TestUnitSuitesOfCharts(t *testing.T) {
	var dirs []string
	for _, name := range charts() {
		dirs = append(dirs, chartDir(t, name))
		found, err := filepath.Glob(filepath.Join(chartDir(t, name), "tests", "*_test.yaml"))
		require.NoError(t, err)
		require.NotEmpty(t, found, "%s has no suite", name)
	}
	out, err := unitTested(t, dirs...)
	require.NoError(t, err, out)
	require.Regexp(t, regexp.MustCompile(`Charts: +6 passed, 6 total`), out)

	// A chart that changed without its suite is found out.
	copied := t.TempDir()
	require.NoError(t, exec.CommandContext(t.Context(), "cp", "-rL", filepath.Join(harness.Root(t), "charts", "ingress"), copied).Run())
	changed := filepath.Join(copied, "ingress", "values.yaml")
	content, err := os.ReadFile(changed)
	require.NoError(t, err)
	other := regexp.MustCompile(`gatewayPorts: \[80, 443\]`).ReplaceAll(content, []byte("gatewayPorts: [80]"))
	require.NotEqual(t, content, other)
	require.NoError(t, os.WriteFile(changed, other, 0o600))
	out, err = unitTested(t, filepath.Join(copied, "ingress"))
	require.Error(t, err)
	require.Contains(t, out, "takes 80 and 443 without privileges")
}
