package conformance

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Markdown is the page of a report.
func (r *Report) Markdown(known *Exceptions) string {
	var page strings.Builder
	fmt.Fprintf(&page, `# Gateway API conformance

What Weir makes of the Gateway API's own [conformance suite](https://gateway-api.sigs.k8s.io/concepts/conformance/), %s, with the
definitions of the %s channel. Weir is installed by its charts on a Kubernetes node, with proxies for each Gateway; the suite asks
for every feature that the GatewayClass claims in `+"`status.supportedFeatures`"+`. This page and [report.yaml](report.yaml), which
is the suite's own, are written by `+"`TestSlowGatewayAPIConformance`"+` in e2e/node, which `+"`make e2e`"+` runs, and which fails where
the result is another one.

| Profile | Tests | Passed | Failed |
|---|---|---|---|
`, r.Version, r.Channel)
	for _, profile := range r.Profiles {
		row(&page, profile.Name, "core", &profile.Core)
		if profile.Extended != nil {
			row(&page, profile.Name, "extended", profile.Extended)
		}
	}
	reasons(&page, "Tests that fail", known.Tests)
	reasons(&page, "Features that are not claimed", known.Features)
	page.WriteString("\n## Features that are claimed\n\n")
	claimed := map[string]bool{}
	for _, result := range r.results() {
		for _, feature := range result.SupportedFeatures {
			claimed[feature] = true
		}
	}
	page.WriteString("Beyond the core: " + strings.Join(slices.Sorted(maps.Keys(claimed)), ", ") + ".\n")
	return page.String()
}

func row(page *strings.Builder, profile, tests string, result *Result) {
	fmt.Fprintf(page, "| %s | %s | %d | %d |\n", profile, tests, result.Statistics.Passed, result.Statistics.Failed)
}

func reasons(page *strings.Builder, title string, reasons map[string]string) {
	fmt.Fprintf(page, "\n## %s\n\n", title)
	if len(reasons) == 0 {
		page.WriteString("None.\n")
		return
	}
	for _, name := range slices.Sorted(maps.Keys(reasons)) {
		fmt.Fprintf(page, "- `%s`: %s\n", name, reasons[name])
	}
}
