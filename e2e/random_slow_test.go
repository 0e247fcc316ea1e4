//go:build slow

package e2e

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/controlplane/envoy"
	"weir.dev/policy"
)

// setting is a number from the environment, for longer runs.
func setting(t *testing.T, name string, otherwise int64) int64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	value, err := strconv.ParseInt(text, 10, 64)
	require.NoError(t, err, name)
	return value
}

// local stands addresses of this machine for those of a plan, which it does not
// have: each for one.
func local(wanted []string, known map[string]string) []string {
	own := slices.Clone(wanted)
	for i, address := range own {
		if address == "" { // Where listeners bind by default.
			continue
		}
		if known[address] == "" {
			known[address] = "127.0.1." + strconv.Itoa(1+len(known)%250)
		}
		own[i] = known[address]
	}
	return own
}

// Whatever the parser takes, the real Envoy takes: random policies, one after the
// other, to one Envoy. WEIR_PLANS=2000 WEIR_SEED=7 make a longer run or another.
func TestSlowEnvoyAcceptsRandomPlans(t *testing.T) {
	seed, count := setting(t, "WEIR_SEED", 20261121), setting(t, "WEIR_PLANS", 200)
	t.Logf("WEIR_SEED=%d WEIR_PLANS=%d", seed, count)
	plans := newRandomPlans(t, seed)
	p := startEnvoy(t)
	bound, addresses := map[int32]int32{}, map[string]string{}
	routes, backends, rejected := 0, 0, 0
	started := time.Now()
	for i := range int(count) {
		input, text := plans.next()
		plan, _ := policy.Resolve(input)
		for i := range plan.Ports {
			port := &plan.Ports[i]
			port.Addresses = local(port.Addresses, addresses)
			if bound[port.Number] == 0 {
				bound[port.Number] = freePort(t)
			}
			for _, chain := range port.Chains {
				for _, host := range chain.Hosts {
					routes += len(host.Routes)
				}
			}
		}
		backends += len(plan.Backends)
		p.options.PortMap = bound
		set, err := envoy.Compile(plan, p.options)
		require.NoError(t, err, "plan %d:\n%s", i, text)
		if err := p.ads.Rollout(t.Context(), set); err != nil {
			if strings.Contains(err.Error(), "Address already in use") {
				clear(bound) // Somebody else took a port that was free.
				continue
			}
			rejected++
			t.Errorf("plan %d is rejected: %v\n%s", i, err, text)
			if rejected == 3 {
				t.FailNow()
			}
		}
	}
	t.Logf("%d plans with %d routes and %d backends in %s", count, routes, backends, time.Since(started).Round(time.Second))
	require.Greater(t, routes, int(count), "the plans hardly say anything")
	require.Greater(t, backends, int(count)/4)
}
