package replay_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"weir.dev/extauthz/replay"
	"weir.dev/extauthz/replay/replaytest"
)

// redisServer runs a Redis of the test's own on a socket.
func redisServer(t *testing.T) (*redis.Client, *os.Process) {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	require.NoError(t, err, "these tests need a real Redis: install it so that redis-server is on PATH (Debian: apt-get install redis-server)")
	dir, err := os.MkdirTemp("", "redis") // not t.TempDir: socket paths must be short
	require.NoError(t, err)
	socket := filepath.Join(dir, "s")
	command := exec.CommandContext(context.Background(), binary, "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", dir)
	require.NoError(t, command.Start())
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: socket, ContextTimeoutEnabled: true})
	t.Cleanup(func() {
		_ = client.Close()
		_ = command.Process.Kill()
		_ = command.Wait()
		_ = os.RemoveAll(dir)
	})
	require.Eventually(t, func() bool { return client.Ping(t.Context()).Err() == nil }, time.Minute, 10*time.Millisecond)
	return client, command.Process
}

func TestRedis(t *testing.T) {
	client, _ := redisServer(t)
	replaytest.Run(t, func(t *testing.T) replay.Store {
		t.Helper()
		require.NoError(t, client.FlushAll(t.Context()).Err())
		return replay.NewRedis(client, "weir:", 10*time.Second)
	})
	keys, err := client.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.NotEmpty(t, keys)
	for _, key := range keys {
		ttl, err := client.PTTL(t.Context(), key).Result()
		require.NoError(t, err)
		require.Positive(t, ttl, "a key without an end would stay for ever")
		require.LessOrEqual(t, ttl, time.Minute)
	}
}

// A Redis that does not answer refuses, within the timeout.
func TestRedisThatHangs(t *testing.T) {
	client, process := redisServer(t)
	store := replay.NewRedis(client, "weir:", 20*time.Millisecond)
	require.NoError(t, process.Signal(syscall.SIGSTOP))
	first, err := store.First(t.Context(), replay.NewID("a"), time.Now(), time.Minute)
	require.Error(t, err)
	require.False(t, first)
}
