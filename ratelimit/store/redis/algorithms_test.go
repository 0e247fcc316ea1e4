package redis_test

import (
	"bufio"
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/internal/redistest"
	"weir.dev/ratelimit/store/redis"
)

// What each algorithm costs Redis, with the log of a window as full as it gets.
func BenchmarkAlgorithms(b *testing.B) {
	shared := client(b, redistest.Start(b))
	store, err := redis.New(shared, redis.Options{Prefix: "bench"})
	require.NoError(b, err)
	const plenty = 4_000_000_000
	for name, limit := range map[string]ratelimit.Limit{
		"fixedWindow":   {Algorithm: ratelimit.FixedWindow, Requests: plenty, Window: time.Second},
		"gcra":          {Algorithm: ratelimit.GCRA, Requests: plenty, Window: time.Second},
		"slidingWindow": {Algorithm: ratelimit.SlidingWindow, Requests: plenty, Window: time.Second},
		"calendar":      {Algorithm: ratelimit.FixedWindow, Requests: plenty, Window: ratelimit.Day.Length(), Calendar: ratelimit.Day},
	} {
		b.Run(name, func(b *testing.B) {
			charges := []ratelimit.Charge{{Key: ratelimit.Key(name), Limit: limit, Cost: 1}}
			before := serverCPU(b, shared)
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := store.Take(context.Background(), charges); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric((serverCPU(b, shared)-before)*1e6/float64(b.N), "redis-µs/op")
		})
	}
}

// serverCPU is the seconds of CPU that the server has used.
func serverCPU(b *testing.B, server goredis.UniversalClient) float64 {
	info, err := server.Info(b.Context(), "cpu").Result()
	require.NoError(b, err)
	total := 0.0
	for lines := bufio.NewScanner(strings.NewReader(info)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if name == "used_cpu_user" || name == "used_cpu_sys" {
			seconds, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			require.NoError(b, err)
			total += seconds
		}
	}
	return total
}

// A replica whose clock is a period of the calendar away from the server's gets an
// error, and its rules' failure modes decide, instead of a window of its own.
func TestCalendarsNeedARoughlyRightClock(t *testing.T) {
	shared := client(t, redistest.Start(t))
	limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 3, Window: ratelimit.Day.Length(), Calendar: ratelimit.Day}
	for _, tc := range []struct {
		skew time.Duration
		ok   bool
	}{{0, true}, {20 * time.Hour, true}, {-20 * time.Hour, true}, {72 * time.Hour, false}, {-72 * time.Hour, false}} {
		store, err := redis.New(shared, redis.Options{Prefix: "c", Local: func() time.Time { return time.Now().Add(tc.skew) }})
		require.NoError(t, err)
		outcome, err := store.Take(t.Context(), []ratelimit.Charge{
			{Key: "calendar", Limit: limit, Cost: 1},
			{Key: "other", Limit: ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 3, Window: time.Hour}, Cost: 1},
		})
		if tc.ok {
			require.NoError(t, err)
			require.True(t, outcome.Admitted, "one counter of all, whatever the replica's clock")
		} else {
			require.ErrorContains(t, err, "clock")
		}
	}
	last, err := redis.New(shared, redis.Options{Prefix: "c"})
	require.NoError(t, err)
	for _, key := range []ratelimit.Key{"calendar"} {
		outcome, err := last.Take(t.Context(), []ratelimit.Charge{{Key: key, Limit: limit, Cost: 1}})
		require.NoError(t, err)
		require.False(t, outcome.Admitted, "three were charged, and none by the errors")
	}
}
