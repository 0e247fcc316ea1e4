package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Records are the metrics of the audit log and of candidates. Safe for concurrent
// use.
type Records struct {
	committed  prometheus.Counter
	failed     prometheus.Counter
	commit     prometheus.Histogram
	size       prometheus.Gauge
	free       prometheus.Gauge
	healthy    prometheus.Gauge
	lost       *prometheus.CounterVec
	candidates *prometheus.CounterVec
}

// NewRecords registers the metrics.
func NewRecords(registry prometheus.Registerer) (*Records, error) {
	m := &Records{
		committed: prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_extauthz_audit_records_total", Help: "Records written to the audit log."}),
		failed:    prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_extauthz_audit_failed_records_total", Help: "Records that could not be written to the audit log."}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_extauthz_audit_commit_duration_seconds", Help: "Time to write and sync one group of records.",
			Buckets: []float64{1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, .01, .025, .1, .5, 2.5},
		}),
		size:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "weir_extauthz_audit_size", Help: "Records that the audit log has ever had."}),
		free:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "weir_extauthz_audit_free_bytes", Help: "Space left on the audit log's file system."}),
		healthy: prometheus.NewGauge(prometheus.GaugeOpts{Name: "weir_extauthz_audit_healthy", Help: "1 while the audit log can be written, 0 while it cannot."}),
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_extauthz_audit_lost_total", Help: "Decisions that are not in the audit log though their policy asks for it; those of mode required were refused.",
		}, []string{"mode"}),
		candidates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_extauthz_candidate_decisions_total", Help: "Decisions compared with a candidate's, by outcome and, for flips, by the candidate's rule or reason.",
		}, []string{"policy", "outcome", "rule"}),
	}
	for _, collector := range []prometheus.Collector{m.committed, m.failed, m.commit, m.size, m.free, m.healthy, m.lost, m.candidates} {
		if err := registry.Register(collector); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// AuditCommitted implements audit.Events.
func (m *Records) AuditCommitted(records int, took time.Duration) {
	m.committed.Add(float64(records))
	m.commit.Observe(took.Seconds())
}

// AuditFailed implements audit.Events.
func (m *Records) AuditFailed(records int) { m.failed.Add(float64(records)) }

// AuditSize implements audit.Events.
func (m *Records) AuditSize(records int64) { m.size.Set(float64(records)) }

// AuditFree implements audit.Events.
func (m *Records) AuditFree(bytes int64) { m.free.Set(float64(bytes)) }

// AuditHealthy implements audit.Events.
func (m *Records) AuditHealthy(healthy bool) {
	value := 0.0
	if healthy {
		value = 1
	}
	m.healthy.Set(value)
}

// AuditLost implements record.Events.
func (m *Records) AuditLost(required bool) {
	mode := "bestEffort"
	if required {
		mode = "required"
	}
	m.lost.WithLabelValues(mode).Inc()
}

// Candidate implements record.Events.
func (m *Records) Candidate(policy, outcome, rule string) {
	m.candidates.WithLabelValues(policy, outcome, rule).Inc()
}
