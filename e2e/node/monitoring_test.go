//go:build slow

package node_test

import (
	"context"
	"encoding/json"
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"weir.dev/e2e/cluster/build"
	"weir.dev/e2e/internal/harness"
	"weir.dev/e2e/internal/helmchart"
)

// definitions applies CustomResourceDefinitions of a module that the cluster's
// component monitoring pins.
func (w *world) definitions(ctx context.Context, module string, path ...string) {
	w.Helper()
	dir, err := build.Module(ctx, filepath.Join(harness.Root(w.T), "e2e", "cluster", "components"), "monitoring", module)
	require.NoError(w.T, err)
	paths, err := filepath.Glob(filepath.Join(append([]string{dir}, path...)...))
	require.NoError(w.T, err)
	require.NotEmpty(w.T, paths)
	for _, each := range paths {
		w.kubectl("", "apply", "--server-side", "-f", each)
	}
	w.kubectl("", "wait", "--for=condition=Established", "crd", "--all", "--timeout=3m")
}

// monitors is what matters here of a ServiceMonitor and of a PodMonitor.
type monitors struct {
	Items []struct {
		Kind     string
		Metadata struct{ Name, Namespace string }
		Spec     struct {
			Selector            struct{ MatchLabels map[string]string }
			Endpoints           []endpoint
			PodMetricsEndpoints []endpoint
		}
	}
}

type endpoint struct{ Port, Path, Interval string }

// notInLabels is what Prometheus has as _ in the names of labels.
var notInLabels = regexp.MustCompile(`[^a-zA-Z0-9_]`)

// scraping is Prometheus' configuration of the monitors that are there, as the
// Prometheus operator would make it.
func (w *world) scraping() []byte {
	w.Helper()
	var found monitors
	require.NoError(w.T, json.Unmarshal([]byte(w.kubectl("", "get", "servicemonitors,podmonitors", "-A", "-o", "json")), &found))
	require.Len(w.T, found.Items, 6, "one of each part")
	var jobs []any
	for _, each := range found.Items {
		role, kind, port, endpoints := "endpointslice", "service", "__meta_kubernetes_endpointslice_port_name", each.Spec.Endpoints
		if each.Kind == "PodMonitor" {
			role, kind, port, endpoints = "pod", "pod", "__meta_kubernetes_pod_container_port_name", each.Spec.PodMetricsEndpoints
		}
		require.Len(w.T, endpoints, 1)
		var rules []any
		keep := func(label, value string) {
			rules = append(rules, map[string]any{"action": "keep", "source_labels": []string{label}, "regex": regexp.QuoteMeta(value)})
		}
		require.NotEmpty(w.T, each.Spec.Selector.MatchLabels)
		for _, label := range slices.Sorted(maps.Keys(each.Spec.Selector.MatchLabels)) {
			keep("__meta_kubernetes_"+kind+"_label_"+notInLabels.ReplaceAllString(label, "_"), each.Spec.Selector.MatchLabels[label])
		}
		keep(port, endpoints[0].Port)
		for label, source := range map[string]string{"namespace": "namespace", "pod": "pod_name", "service": "service_name", "container": "pod_container_name"} {
			rules = append(rules, map[string]any{"source_labels": []string{"__meta_kubernetes_" + source}, "target_label": label})
		}
		jobs = append(jobs, map[string]any{
			"job_name": each.Kind + "/" + each.Metadata.Namespace + "/" + each.Metadata.Name, "scrape_interval": endpoints[0].Interval, "scrape_timeout": endpoints[0].Interval,
			"metrics_path": endpoints[0].Path, "relabel_configs": rules,
			"kubernetes_sd_configs": []any{map[string]any{"role": role, "namespaces": map[string]any{"names": []string{each.Metadata.Namespace}}}},
		})
	}
	config, err := yaml.Marshal(map[string]any{"scrape_configs": jobs})
	require.NoError(w.T, err)
	return config
}

// adapterRules are those that users get for prometheus-adapter, as its chart hands
// them on.
func (w *world) adapterRules() []byte {
	w.Helper()
	rules, err := helmchart.AdapterRules(harness.Root(w.T))
	require.NoError(w.T, err)
	require.Len(w.T, rules, 2)
	config, err := yaml.Marshal(map[string]any{"rules": rules})
	require.NoError(w.T, err)
	return config
}

// asked is Prometheus' answer to a query with one number in it; false without one.
func (w *world) asked(query string) (float64, bool) {
	output, err := w.tryKubectl("", "get", "--raw", "/api/v1/namespaces/monitoring/services/prometheus-operated:9090/proxy/api/v1/query?query="+url.QueryEscape(query))
	var answer struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	if err != nil || json.Unmarshal([]byte(output), &answer) != nil || len(answer.Data.Result) != 1 {
		return 0, false
	}
	text, _ := answer.Data.Result[0].Value[1].(string)
	number, err := strconv.ParseFloat(text, 64)
	return number, err == nil
}
