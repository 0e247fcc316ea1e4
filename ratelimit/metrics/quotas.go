package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Quotas counts what package envoyrlqs assigns and is told. It is an
// envoyrlqs.Observer, safe for concurrent use.
type Quotas struct {
	assigned, allowed, denied, unassigned *prometheus.CounterVec
	streams                               prometheus.Gauge
	known                                 atomic.Pointer[map[string]bool]
}

// NewQuotas registers everything with registry.
func NewQuotas(registry prometheus.Registerer) (*Quotas, error) {
	rule := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_ratelimit_quota_" + name, Help: help}, []string{"rule"})
	}
	q := &Quotas{
		assigned:   rule("assigned_total", "Requests that were paid for and assigned to an Envoy, per rule."),
		allowed:    rule("allowed_total", "Requests that Envoys report to have let through, per rule."),
		denied:     rule("denied_total", "Requests that Envoys report to have refused, per rule."),
		unassigned: rule("unassigned_total", "Requests that Envoys let through without an assignment for them, per rule; make no_assignment_behavior refuse."),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_ratelimit_quota_streams", Help: "Envoys that are assigned quotas.",
		}),
	}
	q.known.Store(&map[string]bool{})
	for _, collector := range []prometheus.Collector{q.assigned, q.allowed, q.denied, q.unassigned, q.streams} {
		if err := registry.Register(collector); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// SetRules names the rules that are counted; series of others end.
func (q *Quotas) SetRules(ids []string) {
	known := make(map[string]bool, len(ids))
	for _, id := range ids {
		known[id] = true
	}
	for id := range *q.known.Swap(&known) {
		if !known[id] {
			for _, vector := range []*prometheus.CounterVec{q.assigned, q.allowed, q.denied, q.unassigned} {
				vector.DeleteLabelValues(id)
			}
		}
	}
}

// Assigned implements envoyrlqs.Observer.
func (q *Quotas) Assigned(rule string, tokens uint64) { q.add(q.assigned, rule, tokens) }

// Reported implements envoyrlqs.Observer.
func (q *Quotas) Reported(rule string, allowed, denied, unassigned uint64) {
	q.add(q.allowed, rule, allowed)
	q.add(q.denied, rule, denied)
	q.add(q.unassigned, rule, unassigned)
}

// Streams implements envoyrlqs.Observer.
func (q *Quotas) Streams(change int) { q.streams.Add(float64(change)) }

// add leaves rules out that SetRules does not name.
func (q *Quotas) add(vector *prometheus.CounterVec, rule string, count uint64) {
	if count > 0 && (*q.known.Load())[rule] {
		vector.WithLabelValues(rule).Add(float64(count))
	}
}
