// Package redistest starts real Redis servers for tests, on Unix sockets.
package redistest

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
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
	dir     string
	binary  string
	command *exec.Cmd
	waited  chan struct{}
}

// Start starts a server or fails the test with what to do.
func Start(t testing.TB) *Server {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	require.NoError(t, err, "these tests need a real Redis: install it so that redis-server is on PATH (Debian: apt-get install redis-server)")
	dir, err := os.MkdirTemp("", "redis") // not t.TempDir: socket paths must be short
	require.NoError(t, err)
	server := &Server{dir: dir, binary: binary}
	t.Cleanup(func() {
		server.Kill(t)
		_ = os.RemoveAll(dir)
	})
	server.Restart(t)
	return server
}

// URL is where the server listens.
func (s *Server) URL() string { return "unix://" + filepath.Join(s.dir, "s") }

// Restart starts a server that was killed, with nothing kept.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.command = exec.CommandContext(context.Background(), s.binary, "--port", "0", "--unixsocket", filepath.Join(s.dir, "s"),
		"--save", "", "--appendonly", "no", "--dir", s.dir, "--daemonize", "no", "--loglevel", "notice")
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
			if !announced && strings.Contains(strings.ToLower(scanner.Text()), "ready to accept connections") {
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
