package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Proofs counts what is remembered of credentials, and what is asked about them.
// Safe for concurrent use.
type Proofs struct {
	lookups  *prometheus.CounterVec
	asked    *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// NewProofs registers the metrics; size tells how many proofs and refusals are
// remembered.
func NewProofs(registry prometheus.Registerer, size func() (kept, refused int)) (*Proofs, error) {
	p := &Proofs{
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_extauthz_credential_cache_total", Help: "Look-ups of credentials that a provider is asked about by method and outcome: hit, negative, miss.",
		}, []string{"method", "outcome"}),
		asked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_extauthz_provider_questions_total", Help: "Questions to providers by method and outcome: ok, refused, unavailable.",
		}, []string{"method", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weir_extauthz_provider_question_duration_seconds", Help: "Time that a provider took to answer.",
			Buckets: []float64{1e-3, 2.5e-3, 5e-3, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"method"}),
	}
	entries := func(kind string, count func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_extauthz_cache_entries", Help: "Credentials remembered, approximately: proved and refused.",
			ConstLabels: prometheus.Labels{"kind": kind},
		}, func() float64 { return float64(count()) })
	}
	for _, collector := range []prometheus.Collector{
		p.lookups, p.asked, p.duration,
		entries("proved", func() int { kept, _ := size(); return kept }),
		entries("refused", func() int { _, refused := size(); return refused }),
	} {
		if err := registry.Register(collector); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// CredentialCache counts one look-up.
func (p *Proofs) CredentialCache(method, outcome string) {
	p.lookups.WithLabelValues(method, outcome).Inc()
}

// Asked counts one question.
func (p *Proofs) Asked(method, outcome string, took time.Duration) {
	p.asked.WithLabelValues(method, outcome).Inc()
	p.duration.WithLabelValues(method).Observe(took.Seconds())
}
