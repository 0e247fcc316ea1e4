package redis_test

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	loginredis "weir.dev/extauthz/login/redis"
	"weir.dev/extauthz/login/storetest"
)

// start runs a Redis of the test's own on a socket.
func start(t *testing.T) *goredis.Client {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	require.NoError(t, err, "these tests need a real Redis: install it so that redis-server is on PATH (Debian: apt-get install redis-server)")
	socket := filepath.Join(t.TempDir(), "redis.sock")
	process := exec.Command(binary, "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no")
	require.NoError(t, process.Start())
	client := goredis.NewClient(&goredis.Options{Network: "unix", Addr: socket})
	t.Cleanup(func() {
		_ = client.Close()
		_ = process.Process.Kill()
		_ = process.Wait()
	})
	require.Eventually(t, func() bool { return client.Ping(t.Context()).Err() == nil }, time.Minute, 10*time.Millisecond)
	return client
}

func TestStore(t *testing.T) {
	client := start(t)
	storetest.Run(t, loginredis.New(client, "weir"), time.Sleep) // Redis has a clock of its own
	for _, key := range client.Keys(t.Context(), "*").Val() {
		require.Contains(t, key, "weir:login:")
	}
}

func TestUnreachable(t *testing.T) {
	client := goredis.NewClient(&goredis.Options{Network: "unix", Addr: filepath.Join(t.TempDir(), "nobody.sock"), MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	store := loginredis.New(client, "weir")
	_, err := store.Get(t.Context(), "a")
	require.Error(t, err, "no answer is not the same as no value")
	_, err = store.Add(t.Context(), "a", []byte{1}, time.Minute)
	require.Error(t, err)
	_, err = store.Append(t.Context(), "a", "b", 1, time.Minute)
	require.Error(t, err)
	require.Error(t, store.Delete(t.Context(), "a"))
}
