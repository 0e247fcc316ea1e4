// Package telemetry counts what extauthz does. It is told, and decides nothing.
package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the daemon's own metrics; those of its gRPC server come from
// kit/rpcserver. Safe for concurrent use.
type Metrics struct {
	decisions   *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	tokenCache  *prometheus.CounterVec
	keyFetches  *prometheus.CounterVec
	loaded      *prometheus.GaugeVec
	applyErrors *prometheus.CounterVec
}

// New registers the metrics.
func New(registry prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_extauthz_decisions_total", Help: "Decisions by outcome and reason.",
		}, []string{"decision", "reason"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weir_extauthz_decision_duration_seconds", Help: "Time from check request to answer, without the network.",
			Buckets: []float64{2e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, .025, .1, .5, 2.5},
		}, []string{"decision"}),
		tokenCache: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_extauthz_token_cache_total", Help: "Look-ups in the cache of verified tokens by outcome: hit, negative, miss.",
		}, []string{"outcome"}),
		keyFetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_extauthz_jwks_fetches_total", Help: "Fetches of remote key sets by outcome: ok, error.",
		}, []string{"outcome"}),
		loaded: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_extauthz_rules_loaded", Help: "Rules in effect by kind: routes, consumers, api_keys.",
		}, []string{"kind"}),
		applyErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_extauthz_rules_rejected_total", Help: "Updates of the rules that were rejected by kind.",
		}, []string{"kind"}),
	}
	for _, collector := range []prometheus.Collector{m.decisions, m.duration, m.tokenCache, m.keyFetches, m.loaded, m.applyErrors} {
		if err := registry.Register(collector); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Decided counts one decision.
func (m *Metrics) Decided(allowed bool, reason string, took time.Duration) {
	outcome := "deny"
	if allowed {
		outcome = "allow"
	}
	m.decisions.WithLabelValues(outcome, reason).Inc()
	m.duration.WithLabelValues(outcome).Observe(took.Seconds())
}

// TokenCache counts one look-up.
func (m *Metrics) TokenCache(outcome string) { m.tokenCache.WithLabelValues(outcome).Inc() }

// KeySetFetch counts one fetch.
func (m *Metrics) KeySetFetch(err error) {
	outcome := "ok"
	if err != nil {
		outcome = "error"
	}
	m.keyFetches.WithLabelValues(outcome).Inc()
}

// RulesLoaded records how many of a kind are in effect.
func (m *Metrics) RulesLoaded(kind string, count int) {
	m.loaded.WithLabelValues(kind).Set(float64(count))
}

// RulesRejected counts one rejected update.
func (m *Metrics) RulesRejected(kind string) { m.applyErrors.WithLabelValues(kind).Inc() }
