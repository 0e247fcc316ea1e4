//go:build unix

package pgtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 20 * time.Second
	// readyLine is what the server logs, in the C locale, once it takes
	// connections.
	readyLine = "database system is ready to accept connections"
	logLines  = 50
)

// Server is a running PostgreSQL server. Safe for concurrent use.
type Server struct {
	dir     string
	process *exec.Cmd
	exited  chan struct{}
	mu      sync.Mutex
	log     []string
	count   int
}

// New starts a server that lives as long as the test. It fails the test when
// PostgreSQL isn't installed.
func New(t testing.TB) *Server {
	t.Helper()
	server, err := Start(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	return server
}

// Start starts a server; the caller stops it. When this process runs as root
// the server runs as the user postgres, or else nobody: PostgreSQL refuses root.
func Start(ctx context.Context) (*Server, error) {
	programs, err := programs()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "weirpg")
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	server := &Server{dir: dir, exited: make(chan struct{})}
	if err := server.start(ctx, programs); err != nil {
		return nil, errors.Join(fmt.Errorf("pgtest: %w", err), os.RemoveAll(dir))
	}
	return server, nil
}

// programs is the folder that holds initdb and postgres.
func programs() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if resolved, err := filepath.EvalSymlinks(path); err == nil {
			path = resolved
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(path), "postgres")); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // the pattern is good
	if len(found) == 0 {
		return "", errors.New("pgtest: PostgreSQL is not installed (no initdb in PATH or /usr/lib/postgresql/*/bin); install it: apt-get install postgresql")
	}
	version := func(path string) int {
		v, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return v
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })
	return filepath.Dir(newest), nil
}

// unprivileged is whom to run as when this process is root, nil otherwise.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(account.Uid, 10, 32)
		if err != nil {
			continue
		}
		gid, err := strconv.ParseUint(account.Gid, 10, 32)
		if err != nil {
			continue
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")
}

func (s *Server) start(ctx context.Context, programs string) error {
	credential, err := unprivileged()
	if err != nil {
		return err
	}
	if credential != nil {
		if err := os.Chown(s.dir, int(credential.Uid), int(credential.Gid)); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	cluster := filepath.Join(s.dir, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(programs, "initdb"), "--pgdata", cluster, "--username", "postgres",
		"--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	initdb.SysProcAttr, initdb.Dir, initdb.Env = attributes(credential), s.dir, environment()
	if output, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, output)
	}
	// fsync is off: tests survive the death of processes, not of the machine.
	s.process = exec.Command(filepath.Join(programs, "postgres"), "-D", cluster, "-k", s.dir,
		"-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200", "-c", "shared_buffers=64MB", "-c", "lc_messages=C")
	s.process.SysProcAttr, s.process.Dir, s.process.Env = attributes(credential), s.dir, environment()
	stderr, err := s.process.StderrPipe()
	if err != nil {
		return err
	}
	if err := s.process.Start(); err != nil {
		return err
	}
	ready := make(chan struct{})
	go s.follow(bufio.NewScanner(stderr), ready)
	select {
	case <-ready:
		return nil
	case <-s.exited:
		return fmt.Errorf("postgres ended at once: %s", s.tail())
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("postgres was not ready in time: %s", s.tail()), s.Stop())
	}
}

// environment drops what would lead the programs astray.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "PG") || strings.HasPrefix(entry, "LC_") || strings.HasPrefix(entry, "LANG")
	})
}

// follow reads the server's log to its end, then reaps the process.
func (s *Server) follow(lines *bufio.Scanner, ready chan struct{}) {
	announced := false
	for lines.Scan() {
		line := lines.Text()
		s.mu.Lock()
		s.log = append(s.log, line)
		if len(s.log) > logLines {
			s.log = s.log[1:]
		}
		s.mu.Unlock()
		if !announced && strings.Contains(line, readyLine) {
			announced = true
			close(ready)
		}
	}
	_ = s.process.Wait() // how it ended is in the log
	close(s.exited)
}

func (s *Server) tail() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.log, "\n")
}

// URL is the URL of a database of this server.
func (s *Server) URL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/" + database, RawQuery: url.Values{"host": {s.dir}}.Encode()}
	return u.String()
}

// Database makes an empty database and returns its URL.
func (s *Server) Database(ctx context.Context) (string, error) {
	s.mu.Lock()
	s.count++
	name := fmt.Sprintf("weir%d", s.count)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	connection, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return "", fmt.Errorf("pgtest: %w", err)
	}
	_, err = connection.Exec(ctx, "CREATE DATABASE "+name)
	if err := errors.Join(err, connection.Close(ctx)); err != nil {
		return "", fmt.Errorf("pgtest: %w", err)
	}
	return s.URL(name), nil
}

// Stop ends the server and removes its files.
func (s *Server) Stop() error {
	var err error
	for _, signal := range []os.Signal{syscall.SIGINT, syscall.SIGQUIT, os.Kill} {
		if failed := s.process.Process.Signal(signal); failed != nil && !errors.Is(failed, os.ErrProcessDone) {
			err = errors.Join(err, failed)
		}
		select {
		case <-s.exited:
			return errors.Join(err, os.RemoveAll(s.dir))
		case <-time.After(stopTimeout):
		}
	}
	return errors.Join(err, errors.New("pgtest: postgres did not end"))
}
