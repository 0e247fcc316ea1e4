package metrics

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"weir.dev/ratelimit"
)

// decisions counts what was decided by each rule. It holds numbers alone, and makes
// metrics of them when they are asked for: those of ten thousand rules would be a
// hundred thousand objects, through which the garbage collector goes each time.
// Safe for concurrent use.
type decisions struct {
	total, near *prometheus.Desc

	mu    sync.Mutex // between changes of the rules
	rules atomic.Pointer[map[string]*counts]
}

// counts are those of one rule.
type counts struct {
	events [ratelimit.EventCount]atomic.Uint64
	near   atomic.Uint64
}

func newDecisions() *decisions {
	d := &decisions{
		total: prometheus.NewDesc("weir_ratelimit_decisions_total",
			"Decisions per rule: ok, over_limit, shadow_over_limit, spared (another rule refused), failed_open, failed_closed, local_ok and local_over_limit (by this replica's share).",
			[]string{"rule", "decision"}, nil),
		near: prometheus.NewDesc("weir_ratelimit_near_limit_total", "Requests admitted with less than a fifth of the limit left, per rule.", []string{"rule"}, nil),
	}
	d.rules.Store(&map[string]*counts{})
	return d
}

// set names the rules that are counted; those that were before go on counting.
func (d *decisions) set(ids []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := *d.rules.Load()
	rules := make(map[string]*counts, len(ids))
	for _, id := range ids {
		if rules[id] = old[id]; rules[id] == nil {
			rules[id] = &counts{}
		}
	}
	d.rules.Store(&rules)
}

// of is nil for a rule that isn't counted.
func (d *decisions) of(rule string) *counts { return (*d.rules.Load())[rule] }

// Describe implements prometheus.Collector.
func (d *decisions) Describe(into chan<- *prometheus.Desc) { into <- d.total; into <- d.near }

// Collect implements prometheus.Collector.
func (d *decisions) Collect(into chan<- prometheus.Metric) {
	send := func(desc *prometheus.Desc, value uint64, labels ...string) {
		metric, err := prometheus.NewConstMetric(desc, prometheus.CounterValue, float64(value), labels...)
		if err != nil {
			metric = prometheus.NewInvalidMetric(desc, err)
		}
		into <- metric
	}
	for id, rule := range *d.rules.Load() {
		for event := range rule.events {
			send(d.total, rule.events[event].Load(), id, ratelimit.Event(event).String()) //nolint:gosec // the index of an array
		}
		if near := rule.near.Load(); near > 0 {
			send(d.near, near, id)
		}
	}
}
