package redis_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/internal/redistest"
	"weir.dev/ratelimit/store/redis"
)

// TestTLSWithClientCertificateAndPassword runs as a user who may do nothing but
// what the store does.
func TestTLSWithClientCertificateAndPassword(t *testing.T) {
	server := redistest.StartSecure(t)
	limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 2, Window: time.Hour}
	take := func(change func(*redis.Config)) (ratelimit.Outcome, error) {
		var cfg redis.Config
		cfg.SetDefaults()
		cfg.URL, cfg.Username, cfg.Password = server.URL(), server.User, server.Password
		cfg.TLS = redis.TLSConfig{CAFile: server.CAFile, CertFile: server.Client.CertFile, KeyFile: server.Client.KeyFile}
		change(&cfg)
		require.NoError(t, cfg.Validate())
		client, err := cfg.NewClient(2 * time.Second)
		require.NoError(t, err)
		defer func() { _ = client.Close() }()
		store, err := redis.New(client, redis.Options{Prefix: "weir"})
		require.NoError(t, err)
		return store.Take(t.Context(), []ratelimit.Charge{{Key: "k", Limit: limit, Cost: 1}})
	}
	for range 2 {
		outcome, err := take(func(*redis.Config) {})
		require.NoError(t, err)
		require.True(t, outcome.Admitted)
	}
	outcome, err := take(func(*redis.Config) {})
	require.NoError(t, err)
	require.False(t, outcome.Admitted, "it is one counter")
	for name, change := range map[string]func(*redis.Config){
		"wrong password":         func(c *redis.Config) { c.Password = "wrong" },
		"no client certificate":  func(c *redis.Config) { c.TLS.CertFile, c.TLS.KeyFile = "", "" },
		"unknown authority":      func(c *redis.Config) { c.TLS.CAFile = "" },
		"another server's name":  func(c *redis.Config) { c.URL = "rediss://weir.test:1/0" },
		"no password at all":     func(c *redis.Config) { c.Username, c.Password = "", "" },
		"plaintext":              func(c *redis.Config) { c.URL, c.TLS = "redis"+c.URL[len("rediss"):], redis.TLSConfig{} },
		"keys of another prefix": func(c *redis.Config) { c.URL += "/7" }, // a database the user has no right to select
	} {
		_, err := take(change)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), server.Password, name)
	}
}

func TestSentinelFailover(t *testing.T) {
	watched := redistest.StartWatched(t)
	var cfg redis.Config
	cfg.SetDefaults()
	cfg.URL, cfg.Mode = watched.URL(), "sentinel"
	client, err := cfg.NewClient(time.Second)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	store, err := redis.New(client, redis.Options{Prefix: "weir"})
	require.NoError(t, err)
	limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 10, Window: 24 * time.Hour}
	take := func() (ratelimit.Outcome, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return store.Take(ctx, []ratelimit.Charge{{Key: "k", Limit: limit, Cost: 1}})
	}
	for range 4 {
		outcome, err := take()
		require.NoError(t, err)
		require.True(t, outcome.Admitted)
	}
	watched.Failover(t)
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		role, err := client.Do(ctx, "role").Slice()
		if err != nil || role[0] != "master" {
			return false
		}
		info, err := client.ConfigGet(ctx, "port").Result()
		return err == nil && "redis://127.0.0.1:"+info["port"] == watched.Replica.URL()
	}, 30*time.Second, 50*time.Millisecond, "the client follows to the new master")
	outcome, err := take()
	require.NoError(t, err)
	require.EqualValues(t, 5, outcome.Results[0].State.Count, "and the counters are there")

	watched.Replica.Kill(t) // now the master
	require.Eventually(t, func() bool {
		outcome, err := take()
		return err == nil && outcome.Admitted
	}, 60*time.Second, 100*time.Millisecond, "the sentinels choose again")
}
