package redis_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
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

// lossy loses what the server answers to the first command that names a key.
type lossy struct {
	net.Conn
	key  string
	asks *atomic.Int32
	lose bool
}

func (l *lossy) Write(raw []byte) (int, error) {
	if bytes.Contains(raw, []byte(l.key)) && bytes.Contains(raw, []byte("set")) {
		l.lose = l.asks.Add(1) == 1
	}
	return l.Conn.Write(raw)
}

func (l *lossy) Read(raw []byte) (int, error) {
	count, err := l.Conn.Read(raw)
	if l.lose && err == nil {
		return 0, os.ErrDeadlineExceeded
	}
	return count, err
}

// What is asked again, since the answer was lost, is told as it was decided; who
// comes later is not.
func TestAddWhoseAnswerIsLost(t *testing.T) {
	server := start(t).Options().Addr
	var asks atomic.Int32
	client := goredis.NewClient(&goredis.Options{MaxRetries: 1, Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", server)
		return &lossy{Conn: conn, key: "once", asks: &asks}, err
	}})
	t.Cleanup(func() { _ = client.Close() })
	store := loginredis.New(client, "weir")
	added, err := store.Add(t.Context(), "once", []byte("mine"), time.Minute)
	require.NoError(t, err)
	require.EqualValues(t, 2, asks.Load(), "the control: it was asked again")
	require.True(t, added)
	added, err = store.Add(t.Context(), "once", []byte("another's"), time.Minute)
	require.NoError(t, err)
	require.False(t, added)
}
