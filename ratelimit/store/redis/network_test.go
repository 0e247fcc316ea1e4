package redis_test

import (
	"context"
	"strings"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/internal/redistest"
	"weir.dev/ratelimit/store/guard"
	"weir.dev/ratelimit/store/redis"
)

// newNetwork is an outage whose Redis is behind a network that can be spoilt.
func newNetwork(t *testing.T) (*outage, *toxiproxy.Proxy) {
	o := &outage{server: redistest.StartTCP(t)}
	proxy := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), t.Name(), "127.0.0.1:0", o.server.Address())
	require.NoError(t, proxy.Start())
	t.Cleanup(proxy.Stop)
	var cfg redis.Config
	cfg.SetDefaults()
	cfg.URL = "redis://" + proxy.Listen
	client, err := cfg.NewClient(storeTimeout)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	store, err := redis.New(client, redis.Options{Prefix: "weir"})
	require.NoError(t, err)
	o.guard = guard.New(store, guard.Options{Timeout: storeTimeout, Observer: o})
	o.limit(t, ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 1_000_000, Window: time.Minute})
	return o, proxy
}

func spoil(t *testing.T, proxy *toxiproxy.Proxy, toxic string) {
	_, err := proxy.Toxics.AddToxicJson(strings.NewReader(toxic))
	require.NoError(t, err)
}

// TestSpoiltNetworks: whatever the network does, each answer is the rule's failure
// mode, no caller waits long, and it ends when the network is well again.
func TestSpoiltNetworks(t *testing.T) {
	for name, toxic := range map[string]string{
		"too slow":                   `{"name":"x","type":"latency","attributes":{"latency":500}}`,
		"reset":                      `{"name":"x","type":"reset_peer","attributes":{"timeout":0}}`,
		"a black hole":               `{"name":"x","type":"timeout","stream":"upstream","attributes":{"timeout":0}}`,
		"half-open: no answers come": `{"name":"x","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`,
		"answers break off":          `{"name":"x","type":"limit_data","stream":"downstream","attributes":{"bytes":3}}`,
	} {
		t.Run(name, func(t *testing.T) {
			o, proxy := newNetwork(t)
			o.requireHealthy(t)
			spoil(t, proxy, toxic)
			require.Eventually(t, func() bool { // the first calls find it out
				_, _ = o.ask("open")
				return o.guard.Open()
			}, time.Minute, time.Millisecond)
			o.requireFailureModes(t)
			proxy.Toxics.ResetToxics(t.Context())
			o.requireHealthy(t)
			require.Zero(t, o.changes.Load()%2, "each episode is told, and its end")
		})
	}
}

func TestASlowNetworkWithinTheDeadlineIsServed(t *testing.T) {
	o, proxy := newNetwork(t)
	o.requireHealthy(t)
	spoil(t, proxy, `{"name":"x","type":"latency","attributes":{"latency":5}}`)
	for range 20 {
		verdict, err := o.ask("closed")
		require.NoError(t, err)
		require.True(t, verdict.Allowed)
	}
	require.False(t, o.guard.Open())
}

// TestLostAnswersNeverAdmitMore charges while answers get lost: what Redis has
// charged without anybody hearing of it stays charged.
func TestLostAnswersNeverAdmitMore(t *testing.T) {
	o, proxy := newNetwork(t)
	o.limit(t, ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 50, Window: 24 * time.Hour})
	admitted := 0
	for i := range 100 {
		if i%10 == 5 {
			spoil(t, proxy, `{"name":"x","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`)
			_, err := o.ask("closed")
			require.Error(t, err)
			proxy.Toxics.ResetToxics(context.Background())
			continue
		}
		if verdict, err := o.ask("closed"); err == nil && verdict.Allowed {
			admitted++
		}
	}
	require.LessOrEqual(t, admitted, 50)
	require.GreaterOrEqual(t, admitted, 50-10, "each lost answer costs one at most")
}
