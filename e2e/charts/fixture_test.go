package charts_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	chart "helm.sh/helm/v4/pkg/chart/v2"

	"weir.dev/e2e/internal/harness"
	"weir.dev/e2e/internal/helmchart"
)

func chartDir(t *testing.T, name string) string {
	t.Helper()
	return filepath.Join(harness.Root(t), "charts", name)
}

func readValues(t *testing.T, names ...string) map[string]any {
	t.Helper()
	values, err := helmchart.Values(harness.Root(t), names...)
	require.NoError(t, err)
	return values
}

func load(t *testing.T, name string) *chart.Chart {
	t.Helper()
	loaded, err := helmchart.Load(harness.Root(t), name)
	require.NoError(t, err)
	return loaded
}

func render(t *testing.T, name string, values map[string]any) ([]helmchart.Object, error) {
	t.Helper()
	return helmchart.Render(t.Context(), harness.Root(t), name, values)
}

// rendered is render of the umbrella with values files.
func rendered(t *testing.T, names ...string) []helmchart.Object {
	t.Helper()
	objects, err := render(t, "weir", readValues(t, names...))
	require.NoError(t, err)
	require.NotEmpty(t, objects)
	return objects
}

func find(t *testing.T, objects []helmchart.Object, id string) helmchart.Object {
	t.Helper()
	for _, each := range objects {
		if each.ID() == id {
			return each
		}
	}
	t.Fatalf("there is no %s", id)
	return helmchart.Object{}
}
