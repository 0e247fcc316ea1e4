package command_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"weir.dev/cli/internal/command"
	"weir.dev/cli/internal/stack"
)

// The test binary plays every part, by the name that it is run under.
func TestMain(m *testing.M) {
	switch name := filepath.Base(os.Args[0]); name {
	case "weir":
		os.Exit(playWeir())
	case "envoy":
		os.Exit(playEnvoy())
	case "controlplaned", "extauthzd", "ratelimitd", "userd", "datad":
		os.Exit(playDaemon(name))
	default:
		os.Exit(m.Run())
	}
}

type fixtureBootstrap struct{}

func (fixtureBootstrap) JSON(c stack.BootstrapConfig) ([]byte, error) { return json.Marshal(c) }

func playWeir() int {
	executable, err := os.Executable()
	if err != nil {
		return 99
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	app := &command.App{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Env: os.Environ(),
		Invoked: os.Args[0], Executable: executable, Signals: signals, Bootstrap: fixtureBootstrap{},
	}
	return app.Execute(context.Background(), os.Args[1:])
}

// note adds a line to the file that shows the order of events.
func note(format string, args ...any) {
	file, err := os.OpenFile(os.Getenv("WEIR_TEST_EVENTS"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer file.Close()
	fmt.Fprintf(file, format+"\n", args...)
}

type fakeConfig struct {
	Admin  struct{ Listen string }
	Server struct {
		Listen string
	}
	Sources struct{ Folders []string }
	Ingress struct {
		PortMap map[string]int `yaml:"portMap"`
	}
}

func readConfig(path string) (c fakeConfig, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	return c, yaml.Unmarshal(raw, &c)
}

func playDaemon(name string) int {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	path := flags.String("config", "", "")
	if flags.Parse(os.Args[1:]) != nil {
		return 2
	}
	if os.Getenv("WEIR_TEST_BROKEN") == name {
		fmt.Fprintln(os.Stderr, `{"level":"ERROR","msg":"the flux capacitor is missing"}`)
		return 1
	}
	config, err := readConfig(*path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if os.Getenv("WEIR_TEST_NEVER_READY") == name {
			http.Error(w, "rules: none received", http.StatusServiceUnavailable)
		}
	})
	fmt.Fprintf(os.Stderr, `{"time":%q,"level":"INFO","msg":"serving","component":%q,"secret_seen":%t}`+"\n",
		time.Now().Format(time.RFC3339Nano), name, os.Getenv("WEIR_REDIS_URL") != "")
	return serveUntilTold(name, map[string]http.Handler{config.Admin.Listen: mux, config.Server.Listen: http.NotFoundHandler()})
}

func playEnvoy() int {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("envoy  version: 9e55809337/1.40.0/Clean/RELEASE/BoringSSL")
		return 0
	}
	var bootstrap stack.BootstrapConfig
	raw, err := os.ReadFile(os.Args[2])
	if err == nil {
		err = json.Unmarshal(raw, &bootstrap)
	}
	config, configErr := readConfig(filepath.Join(filepath.Dir(os.Args[2]), "controlplaned.yaml"))
	if err != nil || configErr != nil {
		return 1
	}
	listeners, err := stack.Listeners(config.Sources.Folders[0])
	if err != nil {
		return 1
	}
	port := listeners[0].Port
	if moved, ok := config.Ingress.PortMap[fmt.Sprint(port)]; ok {
		port = moved
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "LIVE") })
	mux.HandleFunc("POST /drain_listeners", func(http.ResponseWriter, *http.Request) { note("envoy draining") })
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, `{"stats":[]}`) })
	return serveUntilTold("envoy", map[string]http.Handler{
		bootstrap.AdminAddress: mux, fmt.Sprintf("127.0.0.1:%d", port): http.NotFoundHandler(),
	})
}

func serveUntilTold(name string, servers map[string]http.Handler) int {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	listeners := map[string]net.Listener{}
	for address := range servers {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		listeners[address] = listener
	}
	note("%s up", name) // Before it can be seen to be ready.
	for address, handler := range servers {
		go http.Serve(listeners[address], handler) //nolint:errcheck,gosec // Ends with the process.
	}
	<-told
	note("%s told", name)
	return 0
}

// machine is a place with everything that weir needs, all of it fake.
type machine struct {
	t          *testing.T
	bin, state string
	policies   string
	port       int
	events     string
	env        []string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	root := t.TempDir()
	m := &machine{
		t: t, bin: filepath.Join(root, "bin"), state: filepath.Join(root, "state"),
		policies: filepath.Join(root, "policies"), events: filepath.Join(root, "events"), port: freePort(t),
	}
	require.NoError(t, os.MkdirAll(m.bin, 0o700))
	self, err := os.Executable()
	require.NoError(t, err)
	for _, name := range append(stack.Names(), "weir") {
		link(t, self, filepath.Join(m.bin, name))
	}
	m.writePolicies(m.policies)
	m.env = []string{
		"HOME=" + root, "WEIR_STATE_DIR=" + m.state, "WEIR_CACHE_DIR=" + filepath.Join(root, "cache"),
		"PATH=/usr/bin:/bin", "ENVOY_BIN=" + filepath.Join(m.bin, "envoy"), "WEIR_TEST_EVENTS=" + m.events,
	}
	t.Cleanup(func() { m.run("down") })
	return m
}

func (m *machine) writePolicies(dir string) {
	require.NoError(m.t, os.MkdirAll(dir, 0o700))
	gateway := fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  gatewayClassName: weir\n  listeners:\n    - {name: http, protocol: HTTP, port: %d}\n", m.port)
	require.NoError(m.t, os.WriteFile(filepath.Join(dir, "gateway.yaml"), []byte(gateway), 0o600))
}

// link makes a second name for a file, or a copy across file systems.
func link(t *testing.T, from, to string) {
	t.Helper()
	if os.Link(from, to) == nil {
		return
	}
	source, err := os.Open(from)
	require.NoError(t, err)
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755) //nolint:gosec // Must be executable.
	require.NoError(t, err)
	_, err = io.Copy(target, source)
	require.NoError(t, err)
	require.NoError(t, target.Close())
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port
}

type result struct {
	code           int
	stdout, stderr string
}

func (m *machine) command(args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(m.bin, "weir"), args...)
	c.Env = m.env
	return c
}

// run runs weir to its end.
func (m *machine) run(args ...string) result {
	m.t.Helper()
	var stdout, stderr bytes.Buffer
	c := m.command(args...)
	c.Stdout, c.Stderr = &stdout, &stderr
	c.WaitDelay = time.Minute
	err := c.Run()
	if c.ProcessState == nil {
		require.NoError(m.t, err)
	}
	return result{code: c.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
}

func (m *machine) up(args ...string) result {
	m.t.Helper()
	r := m.run(append([]string{"up", "--detach", "--dir", m.policies}, args...)...)
	require.Zero(m.t, r.code, "stdout: %s\nstderr: %s", r.stdout, r.stderr)
	return r
}

func (m *machine) eventLines() []string {
	raw, _ := os.ReadFile(m.events)
	return strings.Split(strings.TrimSpace(string(raw)), "\n")
}
