package helmchart

import (
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"
)

// AdapterRule is a rule of prometheus-adapter, as far as the charts' rules say it
// (sigs.k8s.io/prometheus-adapter, pkg/config, DiscoveryRule).
type AdapterRule struct {
	SeriesQuery string `json:"seriesQuery"`
	Resources   struct {
		Overrides map[string]struct {
			Resource string `json:"resource"`
		} `json:"overrides"`
	} `json:"resources"`
	Name struct {
		Matches string `json:"matches"`
		As      string `json:"as"`
	} `json:"name"`
	MetricsQuery string `json:"metricsQuery"`
}

// AdapterRules are those that come with the charts, in their order. Fields that a rule
// here doesn't have are refused.
func AdapterRules(root string) ([]AdapterRule, error) {
	path := filepath.Join(root, "charts", "weir", "files", "prometheus-adapter.yaml")
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var values struct {
		Prometheus struct {
			URL  string `json:"url"`
			Port int    `json:"port"`
		} `json:"prometheus"`
		Rules struct {
			Default bool          `json:"default"`
			Custom  []AdapterRule `json:"custom"`
		} `json:"rules"`
	}
	if err := yaml.UnmarshalStrict(content, &values); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(values.Rules.Custom) == 0 {
		return nil, fmt.Errorf("%s: rules.custom is empty", path)
	}
	return values.Rules.Custom, nil
}
