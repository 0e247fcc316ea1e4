package telemetry

import "github.com/prometheus/client_golang/prometheus"

// Logins are the metrics of people's sessions. Safe for concurrent use.
type Logins struct {
	refreshes *prometheus.CounterVec
	dropped   prometheus.Counter
}

// NewLogins registers the metrics.
func NewLogins(registry prometheus.Registerer) (*Logins, error) {
	l := &Logins{
		refreshes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_extauthz_session_refreshes_total", Help: "Times that a provider was asked to renew a session, by outcome: ok, error (it did not answer).",
		}, []string{"outcome"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_extauthz_session_revocations_dropped_total", Help: "Logouts of sessions in cookies that were forgotten before the sessions ended, since there are too many.",
		}),
	}
	for _, collector := range []prometheus.Collector{l.refreshes, l.dropped} {
		if err := registry.Register(collector); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// LoginRefresh implements login.Events.
func (l *Logins) LoginRefresh(err error) {
	outcome := "ok"
	if err != nil {
		outcome = "error"
	}
	l.refreshes.WithLabelValues(outcome).Inc()
}

// LoginRevocationDropped implements login.Events.
func (l *Logins) LoginRevocationDropped() { l.dropped.Inc() }
