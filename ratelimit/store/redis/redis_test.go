package redis_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/internal/redistest"
	"weir.dev/ratelimit/store/guard"
	"weir.dev/ratelimit/store/redis"
	"weir.dev/ratelimit/storetest"
)

func client(t testing.TB, server *redistest.Server) goredis.UniversalClient {
	var cfg redis.Config
	cfg.SetDefaults()
	cfg.URL = server.URL()
	client, err := cfg.NewClient(5 * time.Second)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestConformance(t *testing.T) {
	shared := client(t, redistest.Start(t))
	var stores atomic.Int64
	storetest.Run(t, func(t testing.TB, clock func() time.Time) ratelimit.Store {
		store, err := redis.New(shared, redis.Options{Prefix: fmt.Sprintf("t%d", stores.Add(1)), Clock: clock})
		require.NoError(t, err)
		return store
	})
}

func TestForget(t *testing.T) {
	store, err := redis.New(client(t, redistest.Start(t)), redis.Options{Prefix: "weir"})
	require.NoError(t, err)
	storetest.RunForget(t, store)
	storetest.RunForget(t, guard.New(store, guard.Options{Timeout: 5 * time.Second}))
}

func TestKeysExpireAndShareOneSlot(t *testing.T) {
	redisClient := client(t, redistest.Start(t))
	store, err := redis.New(redisClient, redis.Options{Prefix: "weir"})
	require.NoError(t, err)
	fixed := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 5, Window: time.Minute}
	smooth := ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 5, Window: time.Minute}
	for range 3 {
		_, err = store.Take(t.Context(), []ratelimit.Charge{
			{Key: ratelimit.NewKey("a/b/fixed", fixed, nil), Limit: fixed, Cost: 1},
			{Key: ratelimit.NewKey("a/b/smooth", smooth, nil), Limit: smooth, Cost: 1},
		})
		require.NoError(t, err)
	}
	keys, err := redisClient.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.Len(t, keys, 2)
	for _, key := range keys {
		require.True(t, strings.HasPrefix(key, "{weir}"), key)
		ttl, err := redisClient.PTTL(t.Context(), key).Result()
		require.NoError(t, err)
		require.Positive(t, ttl, "%s has no expiry", key)
		require.LessOrEqual(t, ttl, 2*time.Minute, "not much longer than it matters")
	}
}

func TestForeignValuesCountAsNothing(t *testing.T) {
	redisClient := client(t, redistest.Start(t))
	store, err := redis.New(redisClient, redis.Options{Prefix: "weir"})
	require.NoError(t, err)
	limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 1, Window: time.Minute}
	key := ratelimit.NewKey("a/b/c", limit, nil)
	require.NoError(t, redisClient.Set(t.Context(), "{weir}"+string(key), "not ours", 0).Err())
	outcome, err := store.Take(t.Context(), []ratelimit.Charge{{Key: key, Limit: limit, Cost: 1}})
	require.NoError(t, err)
	require.True(t, outcome.Admitted)
	require.NoError(t, redisClient.Set(t.Context(), "{weir}"+string(key), strings.Repeat("x", 300), 0).Err())
	for _, cost := range []uint64{2, 1} { // refused, which writes nothing, and admitted
		outcome, err = store.Take(t.Context(), []ratelimit.Charge{{Key: key, Limit: limit, Cost: cost}})
		require.NoError(t, err, "what is longer than any of ours is no failure")
		require.Equal(t, cost == 1, outcome.Admitted)
	}
	require.NoError(t, redisClient.Del(t.Context(), "{weir}"+string(key)).Err())
	require.NoError(t, redisClient.LPush(t.Context(), "{weir}"+string(key), "a list").Err())
	_, err = store.Take(t.Context(), []ratelimit.Charge{{Key: key, Limit: limit, Cost: 1}})
	require.ErrorContains(t, err, "another type", "a key of another type is a failure of the store, not an admission")
	var group sync.WaitGroup
	for i := range 32 {
		group.Go(func() {
			other := ratelimit.NewKey(fmt.Sprint("other", i), limit, nil)
			outcome, err := store.Take(t.Context(), []ratelimit.Charge{{Key: other, Limit: limit, Cost: 1}})
			assert.NoError(t, err)
			assert.True(t, outcome.Admitted, "requests in the same call are none the worse for it")
		})
		group.Go(func() {
			_, err := store.Take(t.Context(), []ratelimit.Charge{{Key: key, Limit: limit, Cost: 1}})
			assert.ErrorContains(t, err, "another type")
		})
	}
	group.Wait()
}

// TestOneKeyInManyRequestsOfACall is about counters that the script writes once
// for many requests.
func TestOneKeyInManyRequestsOfACall(t *testing.T) {
	redisClient := client(t, redistest.Start(t))
	store, err := redis.New(redisClient, redis.Options{Prefix: "weir"})
	require.NoError(t, err)
	limit := ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 150, Window: 24 * time.Hour}
	var admitted, last atomic.Int64
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			for range 5 {
				outcome, err := store.Take(t.Context(), []ratelimit.Charge{{Key: "hot", Limit: limit, Cost: 1}, {Key: "look", Limit: limit, Cost: 1, Look: true}})
				assert.NoError(t, err)
				if outcome.Admitted {
					admitted.Add(1)
					last.Store(outcome.Results[0].State.At)
				}
			}
		})
	}
	group.Wait()
	require.EqualValues(t, 150, admitted.Load())
	require.Positive(t, last.Load())
	ttl, err := redisClient.PTTL(t.Context(), "{weir}hot").Result()
	require.NoError(t, err)
	require.Greater(t, ttl, 24*time.Hour-time.Minute, "the expiry follows the charges")
	require.LessOrEqual(t, ttl, 48*time.Hour)
	exists, err := redisClient.Exists(t.Context(), "{weir}look").Result()
	require.NoError(t, err)
	require.Zero(t, exists, "looking leaves nothing")
	sent, err := redisClient.Info(t.Context(), "commandstats").Result()
	require.NoError(t, err)
	require.Less(t, calls(t, sent, "evalsha"), 320, "requests share calls")
	require.Less(t, calls(t, sent, "set"), 150, "and a counter is written once a call")
}

func calls(t *testing.T, info, command string) (count int) {
	_, found, _ := strings.Cut(info, "cmdstat_"+command+":calls=")
	_, err := fmt.Sscan(strings.Split(found, ",")[0], &count)
	require.NoError(t, err, info)
	return count
}

func TestConfigSaysWhatIsWrongWithoutThePassword(t *testing.T) {
	var defaults redis.Config
	defaults.SetDefaults()
	require.NoError(t, defaults.Validate())
	for name, tc := range map[string]struct {
		change func(*redis.Config)
		want   string
	}{
		"scheme":        {func(c *redis.Config) { c.URL = "http://u:hunter2@h:1" }, "url:"},
		"no host":       {func(c *redis.Config) { c.URL = "redis://" }, "url:"},
		"not a url":     {func(c *redis.Config) { c.URL = "redis://u:hunter2@h:port" }, "url:"},
		"mode":          {func(c *redis.Config) { c.Mode = "many" }, "mode:"},
		"prefix":        {func(c *redis.Config) { c.KeyPrefix = "a{b" }, "keyPrefix:"},
		"groups":        {func(c *redis.Config) { c.Groups = redis.MaxGroups + 1 }, "groups:"},
		"pool":          {func(c *redis.Config) { c.PoolSize = 0 }, "poolSize:"},
		"half a client": {func(c *redis.Config) { c.TLS.CertFile = "x" }, "tls:"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := defaults
			tc.change(&cfg)
			err := cfg.Validate()
			require.ErrorContains(t, err, tc.want)
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
	cfg := defaults
	cfg.URL = "redis://u:hunter2@localhost:1/0"
	require.NotContains(t, cfg.Address(), "hunter2")
	cfg.TLS.CAFile = "ca.crt"
	_, err := cfg.NewClient(time.Second)
	require.ErrorContains(t, err, "rediss://")
}

func BenchmarkTake(b *testing.B) {
	shared := client(b, redistest.Start(b))
	store, err := redis.New(shared, redis.Options{Prefix: "bench"})
	require.NoError(b, err)
	for _, count := range []int{1, 2} {
		b.Run(fmt.Sprintf("descriptors=%d", count), func(b *testing.B) {
			charges := make([]ratelimit.Charge, count)
			for i := range charges {
				limit := ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 4_000_000_000, Window: time.Second}
				charges[i] = ratelimit.Charge{Key: ratelimit.NewKey(fmt.Sprintf("a/b/%d", i), limit, nil), Limit: limit, Cost: 1}
			}
			b.ReportAllocs()
			b.SetParallelism(32) // 64 in flight on two cores
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := store.Take(b.Context(), charges); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
