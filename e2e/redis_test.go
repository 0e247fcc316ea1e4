package e2e

import (
	"net"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// startRedis runs a private redis-server on a free port.
func startRedis(t *testing.T) string {
	t.Helper()
	url, _ := redisServer(t)
	return url
}

// redisServer is the same, with what kills it.
func redisServer(t *testing.T) (url string, kill func()) {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	require.NoError(t, err, "install it: apt-get install redis-server")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	require.NoError(t, listener.Close())
	command := exec.Command(path, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	require.NoError(t, command.Start())
	kill = func() { _ = command.Process.Kill(); _ = command.Wait() }
	t.Cleanup(kill)
	address := "127.0.0.1:" + strconv.Itoa(port)
	require.Eventually(t, func() bool {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}, patience, 20*time.Millisecond)
	return "redis://" + address + "/0", kill
}
