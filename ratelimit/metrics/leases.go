package metrics

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Leases is a lease.Observer. It is safe for concurrent use.
type Leases struct{ spent, taken, returned prometheus.Counter }

// NewLeases registers with registry.
func NewLeases(registry prometheus.Registerer) (*Leases, error) {
	l := &Leases{
		spent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_ratelimit_lease_decisions_total", Help: "Charges that were decided from a slice, without a call to the store.",
		}),
		taken: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_ratelimit_lease_taken_total", Help: "Cost that was charged beforehand for slices.",
		}),
		returned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_ratelimit_lease_returned_total", Help: "Cost of slices that was given back unused.",
		}),
	}
	return l, errors.Join(registry.Register(l.spent), registry.Register(l.taken), registry.Register(l.returned))
}

// LeaseSpent implements lease.Observer.
func (l *Leases) LeaseSpent() { l.spent.Inc() }

// LeaseTaken implements lease.Observer.
func (l *Leases) LeaseTaken(cost uint64) { l.taken.Add(float64(cost)) }

// LeaseReturned implements lease.Observer.
func (l *Leases) LeaseReturned(cost uint64) { l.returned.Add(float64(cost)) }
