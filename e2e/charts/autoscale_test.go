package charts_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v4/pkg/strvals"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weir.dev/e2e/internal/harness"
	"weir.dev/e2e/internal/helmchart"
)

// last is the last entry of a list in an object's spec.
func last(t *testing.T, o map[string]any, list string) map[string]any {
	t.Helper()
	entries, found, err := unstructured.NestedSlice(o, "spec", list)
	require.NoError(t, err)
	require.True(t, found)
	return entries[len(entries)-1].(map[string]any)
}

// What KEDA asks of a part is what the adapter's rule says of its pods, and each
// autoscaler goes by a metric that there is a rule for.
func TestRequestsAreCountedTheSameWay(t *testing.T) {
	custom, err := helmchart.AdapterRules(harness.Root(t))
	require.NoError(t, err)
	rules := map[string]helmchart.AdapterRule{}
	for _, rule := range custom {
		require.NotContains(t, rules, rule.Name.As, "the adapter keeps one series of a name")
		rules[rule.Name.As] = rule
	}
	used := map[string]bool{}
	for _, part := range []string{"extauthz", "ratelimit", "services.user", "services.data", "ingress"} {
		name := "weir-" + part[strings.LastIndex(part, ".")+1:]
		values := readValues(t, "prod")
		require.NoError(t, strvals.ParseInto(part+".replicas=2,"+part+".autoscaling.requestsPerSecond=700", values))
		objects, err := render(t, "weir", values)
		require.NoError(t, err)
		metric := last(t, find(t, objects, "HorizontalPodAutoscaler/"+name).Object, "metrics")
		require.Equal(t, "Pods", metric["type"], part)
		goesBy, _, err := unstructured.NestedString(metric, "pods", "metric", "name")
		require.NoError(t, err)
		require.Contains(t, rules, goesBy, part)
		used[goesBy] = true

		values = readValues(t, "prod", "keda")
		require.NoError(t, strvals.ParseInto(part+".replicas=2,"+part+".autoscaling.requestsPerSecond=700", values))
		objects, err = render(t, "weir", values)
		require.NoError(t, err)
		trigger := last(t, find(t, objects, "ScaledObject/"+name).Object, "triggers")
		asks, _, err := unstructured.NestedStringMap(trigger, "metadata")
		require.NoError(t, err)
		require.Equal(t, "700", asks["threshold"], part)
		require.Equal(t, "http://prometheus-operated.monitoring:9090", asks["serverAddress"])

		rule := rules[goesBy]
		series, _, _ := strings.Cut(rule.SeriesQuery, "{")
		require.Equal(t, strings.NewReplacer(
			"<<.Series>>", series, "<<.LabelMatchers>>", `namespace="weir-system",pod=~"`+name+`-.+"`, " by (<<.GroupBy>>)", "",
		).Replace(rule.MetricsQuery), asks["query"], part)
		require.Equal(t, "pod", rule.Resources.Overrides["pod"].Resource)
	}
	require.Len(t, used, len(rules), "no rule is for nothing")
}
