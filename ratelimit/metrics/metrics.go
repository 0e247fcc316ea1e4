// Package metrics counts decisions and store calls for Prometheus, with labels
// bounded by the configured rules, and logs each outage of the store once.
package metrics

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/store/guard"
)

// Metrics is a ratelimit.Observer and a guard.Observer. It is safe for
// concurrent use.
type Metrics struct {
	logger    *slog.Logger
	decisions *decisions
	rules     prometheus.Gauge
	rejected  prometheus.Counter
	latency   prometheus.Histogram
	errors    *prometheus.CounterVec
	breaker   prometheus.Gauge
	// episode counts the calls without an answer since the breaker last closed.
	episode atomic.Int64
}

// New registers everything with registry.
func New(registry prometheus.Registerer, logger *slog.Logger) (*Metrics, error) {
	m := &Metrics{
		logger:    logger,
		decisions: newDecisions(),
		rules: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_ratelimit_rules", Help: "Rules in effect.",
		}),
		rejected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_ratelimit_rule_updates_rejected_total", Help: "Rule updates that were rejected as a whole.",
		}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_ratelimit_store_duration_seconds", Help: "Time of calls that were sent to the store.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1},
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_ratelimit_store_errors_total", Help: "Calls without an answer: timeout, error, busy (too many waiting), breaker_open.",
		}, []string{"reason"}),
		breaker: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_ratelimit_store_breaker_open", Help: "1 while the store is not asked because it keeps failing.",
		}),
	}
	for _, collector := range []prometheus.Collector{m.decisions, m.rules, m.rejected, m.latency, m.errors, m.breaker} {
		if err := registry.Register(collector); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// SetRules names the rules that decisions are counted for; series of other
// rules end.
func (m *Metrics) SetRules(ids []string) {
	m.decisions.set(ids)
	m.rules.Set(float64(len(ids)))
}

// RulesRejected counts an update that was not taken.
func (m *Metrics) RulesRejected() { m.rejected.Inc() }

// Decided implements ratelimit.Observer. Rules not named by SetRules, such as
// one removed during the decision, are left out.
func (m *Metrics) Decided(rule string, event ratelimit.Event) {
	if counts := m.decisions.of(rule); counts != nil && int(event) < len(counts.events) {
		counts.events[event].Add(1)
	}
}

// NearLimit implements offenders.Observer. Rules not named by SetRules are left
// out.
func (m *Metrics) NearLimit(rule string) {
	if counts := m.decisions.of(rule); counts != nil {
		counts.near.Add(1)
	}
}

// StoreCalled implements guard.Observer.
func (m *Metrics) StoreCalled(duration time.Duration, err error) {
	reason := ""
	switch {
	case err == nil:
	case errors.Is(err, guard.ErrOpen):
		reason = "breaker_open"
	case errors.Is(err, guard.ErrBusy):
		reason = "busy"
	case errors.Is(err, context.DeadlineExceeded):
		reason = "timeout"
	default:
		reason = "error"
	}
	if reason != "" {
		m.errors.WithLabelValues(reason).Inc()
		m.episode.Add(1)
	}
	if reason != "breaker_open" && reason != "busy" {
		m.latency.Observe(duration.Seconds())
	}
}

// BreakerChanged implements guard.Observer: one line at the start of an outage
// and one at its end.
func (m *Metrics) BreakerChanged(cause error) {
	if cause != nil {
		m.breaker.Set(1)
		m.logger.Error("the counter store fails; rules answer by their failure mode until it is back", "error", cause)
		return
	}
	m.breaker.Set(0)
	m.logger.Info("the counter store is back", "calls_without_answer", m.episode.Swap(0))
}

// WatchKeys adds gauges for a store that knows what it holds.
func WatchKeys(registry prometheus.Registerer, held func() int, evictedLive func() uint64) error {
	return errors.Join(
		registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_ratelimit_keys", Help: "Counters held in memory.",
		}, func() float64 { return float64(held()) })),
		registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "weir_ratelimit_keys_evicted_live_total", Help: "Counters dropped while they still mattered, for want of room; raise store.memory.maxKeys.",
		}, func() float64 { return float64(evictedLive()) })),
	)
}
