package ads

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	clients    prometheus.Gauge
	rejections *prometheus.CounterVec
	rollouts   *prometheus.CounterVec
	duration   prometheus.Histogram
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		clients:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "weir_ads_clients", Help: "Connected ADS clients."}),
		rejections: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_ads_rejections_total", Help: "Responses rejected by clients, by resource type."}, []string{"type"}),
		rollouts:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_rollouts_total", Help: "Rollouts, by outcome."}, []string{"outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_rollout_seconds", Help: "Time from the start of a rollout until every client acknowledged it.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
	}
	if registry != nil {
		registry.MustRegister(m.clients, m.rejections, m.rollouts, m.duration)
	}
	return m
}
