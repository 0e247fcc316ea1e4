// Package redistest starts real Redis servers for tests: single ones on Unix
// sockets or with TLS and a password, clusters, and sentinels.
package redistest

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// startTimeout bounds the wait for a server.
const startTimeout = 20 * time.Second

// Server is one redis-server, stopped when the test ends.
type Server struct {
	dir    string
	binary string
	// arguments are those of redis-server, dir and logging left out.
	arguments []string
	// ready is what the server logs when it serves, in lower case.
	ready   string
	url     string
	command *exec.Cmd
	waited  chan struct{}
}

// Start starts a server or fails the test with what to do.
func Start(t testing.TB) *Server {
	t.Helper()
	server := newServer(t)
	socket := filepath.Join(server.dir, "s")
	server.url = "unix://" + socket
	server.arguments = []string{"--port", "0", "--unixsocket", socket}
	server.Restart(t)
	return server
}

// StartTCP starts a server on a port of this machine.
func StartTCP(t testing.TB) *Server {
	t.Helper()
	server := newServer(t)
	port := freePort(t)
	server.url = "redis://127.0.0.1:" + port
	server.arguments = []string{"--bind", "127.0.0.1", "--port", port}
	server.Restart(t)
	return server
}

// Address is where a server on a port listens.
func (s *Server) Address() string { return strings.TrimPrefix(s.url, "redis://") }

// newServer makes a server that is not started, in a directory of its own.
func newServer(t testing.TB) *Server {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	require.NoError(t, err, "these tests need a real Redis: install it so that redis-server is on PATH (Debian: apt-get install redis-server)")
	dir, err := os.MkdirTemp("", "redis") // not t.TempDir: socket paths must be short
	require.NoError(t, err)
	server := &Server{dir: dir, binary: binary, ready: "ready to accept connections"}
	t.Cleanup(func() {
		server.Kill(t)
		_ = os.RemoveAll(dir)
	})
	return server
}

// URL is where the server listens.
func (s *Server) URL() string { return s.url }

// Restart starts a server that was killed, with nothing kept.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	arguments := append(slices.Clone(s.arguments), "--dir", s.dir, "--daemonize", "no", "--loglevel", "notice")
	if !slices.Contains(arguments, "--sentinel") {
		arguments = append(arguments, "--save", "", "--appendonly", "no")
	}
	s.command = exec.CommandContext(context.Background(), s.binary, arguments...)
	output, err := s.command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.command.Start())
	ready, lines := make(chan struct{}), &strings.Builder{}
	s.waited = make(chan struct{})
	go func(command *exec.Cmd, waited chan struct{}) {
		scanner := bufio.NewScanner(output)
		announced := false
		for scanner.Scan() {
			if !announced {
				lines.WriteString(scanner.Text() + "\n")
			}
			if !announced && strings.Contains(strings.ToLower(scanner.Text()), s.ready) {
				announced = true
				close(ready)
			}
		}
		_ = command.Wait()
		close(waited)
	}(s.command, s.waited)
	select {
	case <-ready:
	case <-s.waited:
		require.FailNow(t, "redis-server ended at once", lines.String())
	case <-time.After(startTimeout):
		require.FailNow(t, "redis-server did not become ready")
	}
}

// Kill ends the server with SIGKILL and waits for its end. It does nothing to a
// dead one.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	if s.command == nil || s.command.Process == nil {
		return
	}
	_ = s.command.Process.Kill()
	select {
	case <-s.waited:
	case <-time.After(startTimeout):
		t.Error("redis-server did not die")
	}
}

// Pause stops the server with SIGSTOP: connections stay open, nothing answers.
func (s *Server) Pause(t testing.TB) {
	t.Helper()
	require.NoError(t, s.command.Process.Signal(syscall.SIGSTOP))
}

// Resume continues a paused server.
func (s *Server) Resume(t testing.TB) {
	t.Helper()
	require.NoError(t, s.command.Process.Signal(syscall.SIGCONT))
}
