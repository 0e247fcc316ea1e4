package metrics_test

import (
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/metrics"
)

func newMetrics(t testing.TB) (*metrics.Metrics, *prometheus.Registry) {
	registry := prometheus.NewPedanticRegistry()
	m, err := metrics.New(registry, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return m, registry
}

// decided is what the registry says of decisions that isn't 0.
func decided(t *testing.T, registry *prometheus.Registry) (lines []string) {
	t.Helper()
	problems, err := testutil.GatherAndLint(registry, "weir_ratelimit_decisions_total", "weir_ratelimit_near_limit_total")
	require.NoError(t, err)
	require.Empty(t, problems)
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if name := family.GetName(); name != "weir_ratelimit_decisions_total" && name != "weir_ratelimit_near_limit_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetValue())
			}
			if value := metric.GetCounter().GetValue(); value > 0 {
				lines = append(lines, fmt.Sprintf("%s %s %g", strings.TrimPrefix(family.GetName(), "weir_ratelimit_"), strings.Join(labels, " "), value))
			}
		}
	}
	return lines
}

func TestDecisionsAreCountedByRule(t *testing.T) {
	m, registry := newMetrics(t)
	m.SetRules([]string{"a/b/c", "a/b/d"})
	count, err := testutil.GatherAndCount(registry, "weir_ratelimit_decisions_total")
	require.NoError(t, err)
	require.Equal(t, 2*ratelimit.EventCount, count, "all series are there from the start")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 100 {
				m.Decided("a/b/c", ratelimit.Admitted)
				m.Decided("nobody's", ratelimit.Admitted)
			}
		})
	}
	group.Wait()
	m.Decided("a/b/d", ratelimit.Refused)
	m.Decided("a/b/d", ratelimit.Event(200))
	m.NearLimit("a/b/d")
	m.NearLimit("nobody's")
	require.ElementsMatch(t, []string{"decisions_total ok a/b/c 800", "decisions_total over_limit a/b/d 1", "near_limit_total a/b/d 1"}, decided(t, registry))

	m.SetRules([]string{"a/b/d", "a/b/e"})
	require.ElementsMatch(t, []string{"decisions_total over_limit a/b/d 1", "near_limit_total a/b/d 1"}, decided(t, registry), "a rule that goes takes its series along, one that stays keeps them")
	m.SetRules([]string{"a/b/c"})
	require.Empty(t, decided(t, registry), "one that comes back begins anew")
}

// The collector of garbage goes through whatever there is of each rule.
func TestManyRulesHoldLittle(t *testing.T) {
	m, _ := newMetrics(t)
	ids := make([]string, 10_000)
	for i := range ids {
		ids[i] = fmt.Sprintf("namespace/policy-%d/limit", i)
	}
	objects := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapObjects
	}
	before := objects()
	m.SetRules(ids)
	require.Less(t, objects()-before, uint64(2*len(ids)))
	runtime.KeepAlive(m)
}
