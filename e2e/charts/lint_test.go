package charts_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"

	"weir.dev/e2e/cluster/build"
	"weir.dev/e2e/internal/helmchart"
)

// linted is what helm lint has against a chart with values, on the Kubernetes that
// the node runs.
func linted(t *testing.T, dir string, values map[string]any) []string {
	t.Helper()
	version, err := common.ParseKubeVersion(build.Version)
	require.NoError(t, err)
	before := slog.Default() // Helm notes each link that it follows, in the process' log.
	slog.SetDefault(slog.New(slog.DiscardHandler))
	defer slog.SetDefault(before)
	var said []string
	for _, message := range lint.RunAll(dir, values, helmchart.Namespace, lint.WithKubeVersion(version)).Messages {
		if message.Severity >= support.InfoSev {
			said = append(said, message.Error())
		}
	}
	return said
}

// iconless is what every chart is told: pictures are for catalogues.
const iconless = "[INFO] Chart.yaml: icon is recommended"

func TestHelmLintFindsNothing(t *testing.T) {
	for name, each := range installations(t) {
		require.Equal(t, []string{iconless}, linted(t, chartDir(t, each.chart), each.values), name)
	}
	// And it can find something.
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(chartDir(t, "common"))))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "templates", "broken.yaml"), []byte("a: {{ .Values.global.nothing.there }}\n"), 0o600))
	require.NotEmpty(t, linted(t, dir, nil))
	require.Contains(t, linted(t, chartDir(t, "extauthz"), map[string]any{"replica": 2})[1], "replica")
}
