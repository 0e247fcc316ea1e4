package telemetry

import "github.com/prometheus/client_golang/prometheus"

// Answers counts what others are asked for authorization: sources of metadata,
// relationship stores, token exchanges. Safe for concurrent use.
type Answers struct{ total *prometheus.CounterVec }

// NewAnswers registers the metric.
func NewAnswers(registry prometheus.Registerer) (*Answers, error) {
	a := &Answers{total: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_extauthz_answers_total", Help: "Questions of authorization by kind (metadata, relationships, token_exchange) and outcome: hit (known), miss (asked), error.",
	}, []string{"kind", "outcome"})}
	return a, registry.Register(a.total)
}

// AnswerCache counts one question.
func (a *Answers) AnswerCache(kind, outcome string) { a.total.WithLabelValues(kind, outcome).Inc() }
