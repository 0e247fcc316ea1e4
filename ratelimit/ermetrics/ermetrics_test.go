package ermetrics_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit/ermetrics"
	"weir.dev/ratelimit/erservice"
)

func TestNames(t *testing.T) {
	registry := prometheus.NewRegistry()
	m, err := ermetrics.New(registry)
	require.NoError(t, err)
	m.Limited("shop.tier_free.path.more", 3, erservice.Outcome{Near: 1})
	m.Limited("shop.tier_free.path.more", 2, erservice.Outcome{Over: true, Shadow: true})
	m.Limited("shop.user", 1, erservice.Outcome{Over: true})
	m.Failed(true)
	m.Failed(false)
	m.ShadowedAll()
	m.Loaded(true)
	m.Loaded(false)
	m.UnknownDomain("other")
	m.Called("ShouldRateLimit", time.Millisecond)
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP ratelimit_service_rate_limit_total_hits Hits that a limit was asked about.
# TYPE ratelimit_service_rate_limit_total_hits counter
ratelimit_service_rate_limit_total_hits{domain="_other",key1="",key2=""} 0
ratelimit_service_rate_limit_total_hits{domain="shop",key1="tier_free",key2="path"} 5
ratelimit_service_rate_limit_total_hits{domain="shop",key1="user",key2=""} 1
# HELP ratelimit_service_rate_limit_over_limit Hits that a limit refused, or would have but for its mode.
# TYPE ratelimit_service_rate_limit_over_limit counter
ratelimit_service_rate_limit_over_limit{domain="_other",key1="",key2=""} 0
ratelimit_service_rate_limit_over_limit{domain="shop",key1="tier_free",key2="path"} 2
ratelimit_service_rate_limit_over_limit{domain="shop",key1="user",key2=""} 1
# HELP ratelimit_service_should_rate_limit_error Requests that ended in an error: redis_error or service_error.
# TYPE ratelimit_service_should_rate_limit_error counter
ratelimit_service_should_rate_limit_error{err_type="redis_error"} 1
ratelimit_service_should_rate_limit_error{err_type="service_error"} 1
# HELP ratelimit_service_config_load_error Configurations that were refused.
# TYPE ratelimit_service_config_load_error counter
ratelimit_service_config_load_error 1
`), "ratelimit_service_rate_limit_total_hits", "ratelimit_service_rate_limit_over_limit", "ratelimit_service_should_rate_limit_error",
		"ratelimit_service_config_load_error"))
}

// What clients send cannot make series without end.
func TestBounded(t *testing.T) {
	registry := prometheus.NewRegistry()
	m, err := ermetrics.New(registry)
	require.NoError(t, err)
	for i := range ermetrics.MaxLimits + 100 {
		m.Limited(fmt.Sprintf("shop.user_%d", i), 1, erservice.Outcome{})
		m.UnknownDomain(fmt.Sprint("domain", i))
	}
	count, err := testutil.GatherAndCount(registry, "ratelimit_service_rate_limit_total_hits", "ratelimit_service_rate_limit_domain_not_found")
	require.NoError(t, err)
	require.LessOrEqual(t, count, ermetrics.MaxLimits+3)
}
