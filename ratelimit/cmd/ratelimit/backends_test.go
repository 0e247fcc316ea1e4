package main

import (
	"bufio"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit/internal/redistest"
)

// startMemcached runs a real memcached and returns its address.
func startMemcached(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	path, err := exec.LookPath("memcached")
	require.NoError(t, err, "install memcached")
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	command := exec.CommandContext(t.Context(), path, "-u", "nobody", "-l", "127.0.0.1", "-p", port)
	require.NoError(t, command.Start())
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, patience, 5*time.Millisecond, "memcached listens")
	return address
}

// The program on a real memcached, with refusals remembered, metrics to StatsD.
func TestMemcachedLocalCacheAndStatsd(t *testing.T) {
	memcached := startMemcached(t)
	statsd, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = statsd.Close() })
	lines := make(chan string, 100)
	go func() {
		for {
			conn, err := statsd.Accept()
			if err != nil {
				return
			}
			for scanner := bufio.NewScanner(conn); scanner.Scan(); {
				lines <- scanner.Text()
			}
		}
	}()
	_, set := configure(t, map[string]string{"shop.yaml": oneADay})
	set["BACKEND_TYPE"], set["MEMCACHE_HOST_PORT"], set["LOCAL_CACHE_SIZE_IN_BYTES"] = "memcache", memcached, "100000"
	_, statsdPort, err := net.SplitHostPort(statsd.Addr().String())
	require.NoError(t, err)
	delete(set, "USE_PROMETHEUS")
	set["USE_STATSD"], set["STATSD_HOST"], set["STATSD_PORT"], set["STATS_FLUSH_INTERVAL"] = "true", "127.0.0.1", statsdPort, "100ms"
	p := start(t, set)
	require.Eventually(t, func() bool { _, err := p.ask("warm"); return err == nil }, patience, 10*time.Millisecond)
	require.Equal(t, rlsv3.RateLimitResponse_OK, p.code("x"))
	for range 3 {
		require.Equal(t, rlsv3.RateLimitResponse_OVER_LIMIT, p.code("x"))
	}
	require.Equal(t, rlsv3.RateLimitResponse_OK, p.code("y"))
	deadline := time.After(patience)
	sums := map[string]int{}
	for sums["ratelimit.service.rate_limit.shop.user.over_limit_with_local_cache"] < 2 || sums["ratelimit.service.rate_limit.shop.user.over_limit"] < 3 {
		select {
		case line := <-lines:
			name, rest, _ := strings.Cut(line, ":")
			count, _, _ := strings.Cut(rest, "|")
			number, err := strconv.Atoi(count)
			require.NoError(t, err, line)
			sums[name] += number
		case <-deadline:
			require.FailNow(t, "too few metrics came", "%v", sums)
		}
	}
}

// Limits per second are in the Redis for them, all others in the other one.
func TestRedisForLimitsPerSecond(t *testing.T) {
	others, seconds := redistest.Start(t), redistest.Start(t)
	_, set := configure(t, map[string]string{"shop.yaml": `domain: shop
descriptors:
  - {key: user, rate_limit: {unit: year, requests_per_unit: 2}}
  - {key: burst, rate_limit: {unit: second, requests_per_unit: 1000}}
`})
	set["BACKEND_TYPE"], set["REDIS_SOCKET_TYPE"], set["REDIS_URL"] = "redis", "unix", strings.TrimPrefix(others.URL(), "unix://")
	set["REDIS_PERSECOND"], set["REDIS_PERSECOND_URL"] = "true", strings.TrimPrefix(seconds.URL(), "unix://")
	p := start(t, set)
	ask := func() rlsv3.RateLimitResponse_Code {
		response, err := rlsv3.NewRateLimitServiceClient(p.conn).ShouldRateLimit(t.Context(), &rlsv3.RateLimitRequest{Domain: "shop", Descriptors: []*commonv3.RateLimitDescriptor{
			{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "user", Value: "x"}}}, {Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "burst", Value: "x"}}},
		}})
		require.NoError(t, err)
		return response.GetOverallCode()
	}
	keys := func(server *redistest.Server) string {
		options, err := goredis.ParseURL(server.URL())
		require.NoError(t, err)
		client := goredis.NewClient(options)
		defer func() { _ = client.Close() }()
		all, err := client.Keys(t.Context(), "*").Result()
		require.NoError(t, err)
		return strings.Join(all, " ")
	}
	require.Equal(t, rlsv3.RateLimitResponse_OK, ask())
	require.Len(t, strings.Fields(keys(others)), 1)
	require.Contains(t, keys(others), "user")
	require.Equal(t, rlsv3.RateLimitResponse_OK, ask())
	require.Equal(t, rlsv3.RateLimitResponse_OVER_LIMIT, ask())
	require.NotContains(t, keys(others), "burst")
	require.NotContains(t, keys(seconds), "user")
}
