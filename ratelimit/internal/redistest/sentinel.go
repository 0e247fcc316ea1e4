package redistest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// Watched is a master with a replica, watched by three sentinels.
type Watched struct {
	Master, Replica *Server
	sentinels       []string
	client          *goredis.SentinelClient
}

// watchedName is what the sentinels call the master.
const watchedName = "limits"

// StartWatched starts them all and waits until the sentinels could fail over.
func StartWatched(t testing.TB) *Watched {
	t.Helper()
	w := &Watched{}
	start := func(more ...string) (*Server, string) {
		server := newServer(t)
		port := freePort(t)
		server.url = "redis://" + net.JoinHostPort("127.0.0.1", port)
		server.arguments = append([]string{"--bind", "127.0.0.1", "--port", port, "--repl-diskless-sync-delay", "0"}, more...)
		server.Restart(t)
		return server, port
	}
	var port string
	w.Master, port = start()
	w.Replica, _ = start("--replicaof", "127.0.0.1 "+port)
	for range 3 {
		server := newServer(t)
		own := freePort(t)
		file := filepath.Join(server.dir, "sentinel.conf")
		text := fmt.Sprintf("bind 127.0.0.1\nport %s\nsentinel monitor %s 127.0.0.1 %s 2\nsentinel down-after-milliseconds %s 500\nsentinel failover-timeout %s 3000\n",
			own, watchedName, port, watchedName, watchedName)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		server.arguments = []string{file, "--sentinel"}
		server.ready = "sentinel id is"
		server.Restart(t)
		w.sentinels = append(w.sentinels, "127.0.0.1:"+own)
	}
	w.client = goredis.NewSentinelClient(&goredis.Options{Addr: w.sentinels[0]})
	t.Cleanup(func() { _ = w.client.Close() })
	require.Eventually(t, func() bool {
		replicas, err := w.client.Replicas(context.Background(), watchedName).Result()
		others, otherErr := w.client.Sentinels(context.Background(), watchedName).Result()
		return err == nil && otherErr == nil && len(replicas) == 1 && len(others) == 2 && replicas[0]["master-link-status"] == "ok"
	}, 30*time.Second, 50*time.Millisecond, "the sentinels find each other and the replica")
	return w
}

// URL is where the sentinels are, for redis.Config with mode sentinel.
func (w *Watched) URL() string {
	query := url.Values{"master_name": {watchedName}, "addr": w.sentinels[1:]}
	return "redis://" + w.sentinels[0] + "?" + query.Encode()
}

// Failover makes the replica the master, in good order.
func (w *Watched) Failover(t testing.TB) {
	require.NoError(t, w.client.Failover(t.Context(), watchedName).Err())
}
