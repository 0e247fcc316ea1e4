// Package helmchart renders the charts of this checkout by Helm's own engine, as
// helm template does, but refuses values that a template asks for in vain.
package helmchart

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	k8syaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Namespace is what everything is rendered for; the release is called weir.
const Namespace = "weir-system"

// Object is one manifest.
type Object struct {
	*unstructured.Unstructured
	// Raw is its JSON, as it was rendered.
	Raw []byte
}

// ID is KIND/NAME.
func (o Object) ID() string { return o.GetKind() + "/" + o.GetName() }

// Deliveries are the sets of values files that are meant to be used together.
func Deliveries() map[string][]string {
	return map[string][]string{
		"dev": {"dev"}, "test": {"test"}, "prod": {"prod"},
		"managed-cloud": {"prod", "managed-cloud"}, "on-premises": {"prod", "on-premises"}, "client-cloud": {"prod", "client-cloud"},
		"behind-waf": {"prod", "behind-waf"}, "keda": {"prod", "keda"}, "dev with sidecars": {"dev", "sidecars"}, "prod with sidecars": {"prod", "sidecars"},
		"dev with default-deny": {"dev", "default-deny"}, "prod with default-deny": {"prod", "default-deny"},
	}
}

// Values reads values files by their names below charts/weir/values; later ones
// win.
func Values(root string, names ...string) (map[string]any, error) {
	values := map[string]any{}
	for _, name := range names {
		next, err := common.ReadValuesFile(filepath.Join(root, "charts", "weir", "values", name+".yaml"))
		if err != nil {
			return nil, err
		}
		values = util.MergeTables(next, values)
	}
	return values, nil
}

// Load reads a chart. Helm notes each link that it follows, in the process' log.
func Load(root, name string) (*chart.Chart, error) {
	before := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	defer slog.SetDefault(before)
	return loader.LoadDir(filepath.Join(root, "charts", name))
}

// Render makes the objects of a chart, without its definitions.
func Render(ctx context.Context, root, name string, values map[string]any) ([]Object, error) {
	loaded, err := Load(root, name)
	if err != nil {
		return nil, err
	}
	if err := chartutil.ProcessDependencies(loaded, values); err != nil {
		return nil, err
	}
	release := common.ReleaseOptions{Name: "weir", Namespace: Namespace, IsInstall: true}
	full, err := util.ToRenderValues(loaded, values, release, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	files, err := engine.Engine{Strict: true}.RenderWithContext(ctx, loaded, full)
	if err != nil {
		return nil, err
	}
	var objects []Object
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if !strings.HasSuffix(file, ".yaml") {
			continue
		}
		found, err := parse(files[file])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		objects = append(objects, found...)
	}
	return objects, nil
}

func parse(content string) ([]Object, error) {
	var objects []Object
	reader := k8syaml.NewYAMLReader(bufio.NewReader(bytes.NewBufferString(content)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		// A key that is there twice is a mistake.
		raw, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			return nil, fmt.Errorf("%w:\n%s", err, document)
		}
		if string(raw) == "null" {
			continue
		}
		value := &unstructured.Unstructured{}
		if err := value.UnmarshalJSON(raw); err != nil {
			return nil, fmt.Errorf("%w:\n%s", err, document)
		}
		objects = append(objects, Object{Unstructured: value, Raw: raw})
	}
}
