package charts_test

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	k8syaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"weir.dev/e2e/internal/harness"
)

// TestMain keeps Helm's notes about links out of the way.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

const namespace = "weir-system"

func chartDir(t *testing.T, name string) string {
	t.Helper()
	return filepath.Join(harness.Root(t), "charts", name)
}

// deliveries are the sets of values files that are meant to be used together.
func deliveries() map[string][]string {
	return map[string][]string{
		"dev": {"dev"}, "test": {"test"}, "prod": {"prod"},
		"managed-cloud": {"prod", "managed-cloud"}, "on-premises": {"prod", "on-premises"}, "client-cloud": {"prod", "client-cloud"},
		"behind-waf": {"prod", "behind-waf"}, "dev with sidecars": {"dev", "sidecars"}, "prod with sidecars": {"prod", "sidecars"},
	}
}

func readValues(t *testing.T, names ...string) map[string]any {
	t.Helper()
	values := map[string]any{}
	for _, name := range names {
		next, err := common.ReadValuesFile(filepath.Join(chartDir(t, "weir"), "values", name+".yaml"))
		require.NoError(t, err)
		values = util.MergeTables(next, values)
	}
	return values
}

func load(t *testing.T, name string) *chart.Chart {
	t.Helper()
	loaded, err := loader.LoadDir(chartDir(t, name))
	require.NoError(t, err)
	return loaded
}

// object is one manifest of a chart.
type object struct {
	*unstructured.Unstructured
	raw []byte
}

func (o object) id() string { return o.GetKind() + "/" + o.GetName() }

// render does what helm template does.
func render(t *testing.T, name string, values map[string]any) ([]object, error) {
	t.Helper()
	loaded := load(t, name)
	if err := chartutil.ProcessDependencies(loaded, values); err != nil {
		return nil, err
	}
	full, err := util.ToRenderValues(loaded, values, common.ReleaseOptions{Name: "weir", Namespace: namespace, IsInstall: true}, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	files, err := engine.Engine{Strict: true}.RenderWithContext(t.Context(), loaded, full)
	if err != nil {
		return nil, err
	}
	var objects []object
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if !strings.HasSuffix(file, ".yaml") {
			continue
		}
		reader := k8syaml.NewYAMLReader(bufio.NewReader(bytes.NewBufferString(files[file])))
		for {
			document, err := reader.Read()
			if err == io.EOF { //nolint:errorlint // the reader's contract
				break
			}
			require.NoError(t, err, file)
			// Strict: a key that is there twice is a mistake.
			raw, err := yaml.YAMLToJSONStrict(document)
			require.NoError(t, err, "%s:\n%s", file, document)
			if string(raw) == "null" {
				continue
			}
			value := &unstructured.Unstructured{}
			require.NoError(t, value.UnmarshalJSON(raw), "%s:\n%s", file, document)
			objects = append(objects, object{Unstructured: value, raw: raw})
		}
	}
	return objects, nil
}

// rendered is render of the umbrella with values files.
func rendered(t *testing.T, names ...string) []object {
	t.Helper()
	objects, err := render(t, "weir", readValues(t, names...))
	require.NoError(t, err)
	require.NotEmpty(t, objects)
	return objects
}

func find(t *testing.T, objects []object, id string) object {
	t.Helper()
	for _, each := range objects {
		if each.id() == id {
			return each
		}
	}
	t.Fatalf("there is no %s", id)
	return object{}
}
