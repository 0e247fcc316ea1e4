package supervisor_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/cli/supervisor"
)

// Environment of a test binary that plays a child or a supervisor.
const (
	envRole   = "WEIR_TEST_ROLE"
	envName   = "WEIR_TEST_NAME"
	envReport = "WEIR_TEST_REPORT"
)

func TestMain(m *testing.M) {
	switch os.Getenv(envRole) {
	case "":
		os.Exit(m.Run())
	case "supervisor":
		os.Exit(playSupervisor())
	default:
		os.Exit(playChild(os.Getenv(envRole)))
	}
}

// playChild tells the test that it lives, by a connection that ends with it.
func playChild(role string) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	conn, err := net.Dial("tcp", os.Getenv(envReport))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	fmt.Fprintf(conn, "%s started %d\n", os.Getenv(envName), os.Getpid())
	fmt.Println("a line of output of", os.Getenv(envName))
	if role == "crash" {
		return 7
	}
	for range signals {
		fmt.Fprintf(conn, "%s told\n", os.Getenv(envName))
		if role != "stubborn" {
			return 0
		}
	}
	return 0
}

// playSupervisor supervises one child until it is itself killed.
func playSupervisor() int {
	specs := []supervisor.Spec{childSpec("grandchild", "run", os.Getenv(envReport))}
	if err := supervisor.New(specs, supervisor.Options{}).Run(context.Background(), nil, func() {}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func childSpec(name, role, report string) supervisor.Spec {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return supervisor.Spec{
		Name: name, Path: self,
		Env: []string{envRole + "=" + role, envName + "=" + name, envReport + "=" + report},
	}
}

// reports gathers what children say, in order of arrival; "NAME gone" is the
// end of a child's connection.
type reports struct {
	address string
	lines   chan string
}

func listen(t *testing.T) *reports {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &reports{address: listener.Addr().String(), lines: make(chan string, 1000)}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				name := "?"
				for scanner := bufio.NewScanner(conn); scanner.Scan(); {
					name, _, _ = strings.Cut(scanner.Text(), " ")
					r.lines <- scanner.Text()
				}
				r.lines <- name + " gone"
			}()
		}
	}()
	return r
}

// await returns the first line that starts with prefix, and what came before.
func (r *reports) await(t *testing.T, prefix string) string {
	t.Helper()
	deadline := time.After(20 * time.Second)
	var others []string
	for {
		select {
		case line := <-r.lines:
			if strings.HasPrefix(line, prefix) {
				return line
			}
			others = append(others, line)
		case <-deadline:
			t.Fatalf("no %q within 20 s; got %q", prefix, others)
		}
	}
}

// fakeClock lets time pass only when told; waits are announced.
type fakeClock struct {
	mu    sync.Mutex
	now   time.Time
	waits chan fakeWait
}

type fakeWait struct {
	for_ time.Duration
	fire chan<- time.Time
}

func newFakeClock() *fakeClock {
	return &fakeClock{now: time.Unix(1e9, 0), waits: make(chan fakeWait, 100)}
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func (c *fakeClock) After(d time.Duration) <-chan time.Time {
	fire := make(chan time.Time, 1)
	c.waits <- fakeWait{for_: d, fire: fire}
	return fire
}
