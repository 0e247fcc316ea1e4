package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Keys are the metrics of issued API keys. It implements livekeys.Events. Safe
// for concurrent use.
type Keys struct {
	count prometheus.Gauge
	up    prometheus.Gauge
	saved *prometheus.CounterVec
}

// NewKeys registers the metrics.
func NewKeys(registry prometheus.Registerer) (*Keys, error) {
	k := &Keys{
		count: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_extauthz_issued_keys", Help: "API keys of the user service that are known, revoked ones among them.",
		}),
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_extauthz_issued_keys_connected", Help: "1 while the feed of the user service is heard.",
		}),
		saved: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_extauthz_issued_keys_saves_total", Help: "Writes of the file that issued keys are kept in by outcome: ok, error.",
		}, []string{"outcome"}),
	}
	for _, collector := range []prometheus.Collector{k.count, k.up, k.saved} {
		if err := registry.Register(collector); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// RegisterKeysAge registers the age of what is known; age is false while the user
// service was never heard of.
func RegisterKeysAge(registry prometheus.Registerer, age func() (time.Duration, bool)) error {
	return registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weir_extauthz_issued_keys_age_seconds", Help: "Since the user service was last heard of; -1 if it never was.",
	}, func() float64 {
		if length, known := age(); known {
			return length.Seconds()
		}
		return -1
	}))
}

// IssuedKeys records how many are known.
func (k *Keys) IssuedKeys(count int) { k.count.Set(float64(count)) }

// KeyFeed records whether the feed is heard.
func (k *Keys) KeyFeed(err error) {
	if err != nil {
		k.up.Set(0)
		return
	}
	k.up.Set(1)
}

// KeysSaved counts one write of the file.
func (k *Keys) KeysSaved(err error) {
	outcome := "ok"
	if err != nil {
		outcome = "error"
	}
	k.saved.WithLabelValues(outcome).Inc()
}
