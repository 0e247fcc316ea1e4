package ermetrics

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir.dev/ratelimit/erservice"
)

// MaxLimits bounds the limits that have series of their own; the others are
// counted together as Overflow.
const MaxLimits = 10_000

// Overflow is the domain under which limits beyond MaxLimits are counted.
const Overflow = "_other"

// Metrics is an erservice.Observer. Safe for concurrent use.
type Metrics struct {
	total, over, near, within, shadow, local *prometheus.CounterVec
	unknown                                  *prometheus.CounterVec
	failed                                   *prometheus.CounterVec
	shadowedAll, loaded, refused             prometheus.Counter
	requests                                 *prometheus.CounterVec
	latency                                  *prometheus.HistogramVec

	// methods are the calls of each, made once.
	methods sync.Map // of *methodCalls by name

	mu     sync.RWMutex
	limits map[string]*counters
	other  *counters
}

// counters are those of one limit.
type counters struct{ total, over, near, within, shadow, local prometheus.Counter }

// New registers everything with registry.
func New(registry prometheus.Registerer) (*Metrics, error) {
	limit := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimit_service_rate_limit_" + name, Help: help,
		}, []string{"domain", "key1", "key2"})
	}
	m := &Metrics{
		total:  limit("total_hits", "Hits that a limit was asked about."),
		over:   limit("over_limit", "Hits that a limit refused, or would have but for its mode."),
		near:   limit("near_limit", "Hits admitted above the near part of a limit."),
		within: limit("within_limit", "Hits that a limit admitted."),
		local:  limit("over_limit_with_local_cache", "Hits that were refused without asking the store."),
		shadow: limit("shadow_mode", "Hits above a limit that its shadow mode let pass."),
		unknown: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimit_service_rate_limit_domain_not_found", Help: "Descriptors of a domain that is not configured.",
		}, []string{"domain"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimit_service_should_rate_limit_error", Help: "Requests that ended in an error: redis_error or service_error.",
		}, []string{"err_type"}),
		shadowedAll: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimit_service_global_shadow_mode", Help: "Requests that only the global shadow mode let pass.",
		}),
		loaded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimit_service_config_load_success", Help: "Configurations that came into effect.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimit_service_config_load_error", Help: "Configurations that were refused.",
		}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimit_service_total_requests", Help: "Calls, by method.",
		}, []string{"grpc_method"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ratelimit_service_response_time_seconds", Help: "Time of a call, by method.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1},
		}, []string{"grpc_method"}),
		limits: map[string]*counters{},
	}
	for _, collector := range []prometheus.Collector{
		m.total, m.over, m.near, m.within, m.shadow, m.local, m.unknown, m.failed, m.shadowedAll, m.loaded, m.refused, m.requests, m.latency,
	} {
		if err := registry.Register(collector); err != nil {
			return nil, err
		}
	}
	m.other = m.make(Overflow, "", "")
	return m, nil
}

func (m *Metrics) make(domain, key1, key2 string) *counters {
	return &counters{
		total: m.total.WithLabelValues(domain, key1, key2), over: m.over.WithLabelValues(domain, key1, key2),
		near: m.near.WithLabelValues(domain, key1, key2), within: m.within.WithLabelValues(domain, key1, key2),
		shadow: m.shadow.WithLabelValues(domain, key1, key2), local: m.local.WithLabelValues(domain, key1, key2),
	}
}

// counters finds those of a limit by its name, or makes them.
func (m *Metrics) counters(name string) *counters {
	m.mu.RLock()
	known := m.limits[name]
	full := len(m.limits) >= MaxLimits
	m.mu.RUnlock()
	switch {
	case known != nil:
		return known
	case full:
		return m.other
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if known = m.limits[name]; known == nil {
		// As the default mapping does: the first three parts of the name.
		parts := strings.SplitN(name, ".", 4)
		parts = append(parts, "", "")
		known = m.make(valid(parts[0]), valid(parts[1]), valid(parts[2]))
		m.limits[name] = known
	}
	return known
}

// valid is a label that Prometheus takes.
func valid(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// Limited implements erservice.Observer.
func (m *Metrics) Limited(name string, hits uint64, outcome erservice.Outcome) {
	limit := m.counters(name)
	limit.total.Add(float64(hits))
	switch {
	case outcome.Over:
		limit.over.Add(float64(hits))
		if outcome.Remembered {
			limit.local.Add(float64(hits))
		}
		if outcome.Shadow {
			limit.shadow.Add(float64(hits))
		}
	default:
		limit.within.Add(float64(hits))
		limit.near.Add(float64(outcome.Near))
	}
}

// UnknownDomain implements erservice.Observer. Domains are those of Envoy's
// configuration, and still not ours: the count goes without a name beyond the
// bound.
func (m *Metrics) UnknownDomain(domain string) {
	m.mu.Lock()
	const prefix = "?"
	if _, known := m.limits[prefix+domain]; !known {
		if len(m.limits) >= MaxLimits {
			domain = Overflow
		} else {
			m.limits[prefix+domain] = m.other
		}
	}
	m.mu.Unlock()
	m.unknown.WithLabelValues(strings.Clone(valid(domain))).Inc() // without the request that it is a part of
}

// Failed implements erservice.Observer.
func (m *Metrics) Failed(store bool) {
	kind := "service_error"
	if store {
		kind = "redis_error"
	}
	m.failed.WithLabelValues(kind).Inc()
}

// ShadowedAll implements erservice.Observer.
func (m *Metrics) ShadowedAll() { m.shadowedAll.Inc() }

// Loaded counts a configuration that came into effect, or was refused.
func (m *Metrics) Loaded(good bool) {
	if good {
		m.loaded.Inc()
		return
	}
	m.refused.Inc()
}

// methodCalls are those of one method.
type methodCalls struct {
	requests prometheus.Counter
	latency  prometheus.Observer
}

// Called counts a call of a method, which is one that the server has.
func (m *Metrics) Called(method string, took time.Duration) {
	known, ok := m.methods.Load(method)
	if !ok {
		known, _ = m.methods.LoadOrStore(method, &methodCalls{m.requests.WithLabelValues(method), m.latency.WithLabelValues(method)})
	}
	calls := known.(*methodCalls) //nolint:forcetypeassert // nothing else is stored
	calls.requests.Inc()
	calls.latency.Observe(took.Seconds())
}
