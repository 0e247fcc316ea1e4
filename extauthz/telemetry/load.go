package telemetry

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// RegisterLoad registers how many checks run and how many wait to.
func RegisterLoad(registry prometheus.Registerer, running, waiting func() int) error {
	return errors.Join(
		registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_extauthz_checks_in_flight", Help: "Checks that are being answered.",
		}, func() float64 { return float64(running()) })),
		registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_extauthz_checks_waiting", Help: "Checks that wait to be answered, because limits.inFlight others are.",
		}, func() float64 { return float64(waiting()) })),
	)
}
