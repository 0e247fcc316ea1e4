package command_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/cli/process"
	"weir.dev/cli/state"
)

type statusJSON struct {
	Ready   bool `json:"ready"`
	Ingress struct {
		HTTP string `json:"http"`
	} `json:"ingress"`
	Components []struct {
		Name     string `json:"name"`
		State    string `json:"state"`
		Address  string `json:"address"`
		PID      int    `json:"pid"`
		Restarts int    `json:"restarts"`
	} `json:"components"`
}

func (m *machine) status() (statusJSON, int) {
	m.t.Helper()
	r := m.run("status", "-o", "json")
	var s statusJSON
	decoder := json.NewDecoder(strings.NewReader(r.stdout))
	decoder.DisallowUnknownFields()
	require.NoError(m.t, decoder.Decode(&s), r.stdout+r.stderr)
	return s, r.code
}

func (m *machine) record() state.Record {
	m.t.Helper()
	dir, err := state.At(m.state)
	require.NoError(m.t, err)
	record, err := dir.ReadRecord()
	require.NoError(m.t, err)
	return record
}

func (m *machine) requireNothingLeft(record state.Record) {
	m.t.Helper()
	for _, c := range record.Components {
		require.True(m.t, c.Process.AwaitEnd(time.Minute), c.Name)
	}
	require.NoDirExists(m.t, filepath.Join(m.state, "run"))
}

func TestUpStatusDown(t *testing.T) {
	m := newMachine(t)
	s, code := m.status()
	require.Equal(t, 1, code)
	require.False(t, s.Ready)
	require.NotNil(t, s.Components, "an empty list, not null")

	m.env = append(m.env, "WEIR_REDIS_URL=redis://:hunter2@localhost/0")
	out := m.up().stdout
	for _, want := range []string{"COMPONENT", "controlplaned", "ready", "X-API-Key: weir_", "call weir.user.v1.UserService/ListOrganizations", "application/grpc-web+proto", "grpcurl"} {
		require.Contains(t, out, want)
	}
	s, code = m.status()
	require.Zero(t, code)
	require.True(t, s.Ready)
	require.Equal(t, fmt.Sprintf("http://127.0.0.1:%d", m.port), s.Ingress.HTTP)
	require.Len(t, s.Components, 6)
	for _, c := range s.Components {
		require.Equal(t, "ready", c.State)
		require.NotZero(t, c.PID)
		require.NotEmpty(t, c.Address)
	}
	record := m.record()

	again := m.up()
	require.Contains(t, again.stdout, "running already")
	require.Equal(t, record.Supervisor, m.record().Supervisor)
	other := filepath.Join(t.TempDir(), "other")
	m.writePolicies(other)
	refused := m.run("up", "--dir", other)
	require.Equal(t, 1, refused.code)
	require.Contains(t, refused.stderr, "a weir that serves "+m.policies)

	m.checkLogs()
	require.NoError(t, filepath.Walk(m.state, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		require.NotContains(t, string(raw), "hunter2", path)
		if strings.HasPrefix(path, filepath.Join(m.state, "run")) {
			require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), path)
		}
		return err
	}))

	down := m.run("down")
	require.Zero(t, down.code, down.stderr)
	require.Contains(t, down.stdout, "has stopped")
	m.requireNothingLeft(record)
	m.checkOrder()
	_, code = m.status()
	require.Equal(t, 1, code)
	require.Contains(t, m.run("down", "--purge").stdout, "is removed")
	require.NoDirExists(t, m.state)
}

func (m *machine) checkLogs() {
	t := m.t
	t.Helper()
	require.Contains(t, m.run("logs", "ratelimitd").stdout, "INFO  serving secret_seen=true")
	require.Contains(t, m.run("logs", "controlplaned").stdout, "secret_seen=false")
	raw := m.run("logs", "-o", "json", "-n", "1", "userd").stdout
	require.True(t, json.Valid([]byte(raw)), raw)
	require.Contains(t, m.run("logs", "weir").stdout, "started")
	require.Contains(t, m.run("logs").stdout, "datad")
}

// checkOrder checks who was started and told to end when.
func (m *machine) checkOrder() {
	t := m.t
	t.Helper()
	lines := m.eventLines()
	require.Len(t, lines, 13)
	require.Equal(t, "controlplaned up", lines[0])
	require.ElementsMatch(t, []string{"extauthzd up", "ratelimitd up", "userd up", "datad up"}, lines[1:5])
	require.Equal(t, []string{"envoy up", "envoy draining", "envoy told"}, lines[5:8])
	require.ElementsMatch(t, []string{"userd told", "datad told"}, lines[8:10])
	require.ElementsMatch(t, []string{"extauthzd told", "ratelimitd told"}, lines[10:12])
	require.Equal(t, "controlplaned told", lines[12])
}

func TestKilledComponentComesBack(t *testing.T) {
	m := newMachine(t)
	m.up()
	s, _ := m.status()
	victim := s.Components[2]
	require.NoError(t, syscall.Kill(victim.PID, syscall.SIGKILL))
	require.Eventually(t, func() bool {
		s, code := m.status()
		return code == 0 && s.Components[2].Restarts == 1 && s.Components[2].PID != victim.PID
	}, time.Minute, 20*time.Millisecond)
	require.Contains(t, m.run("logs", "weir").stdout, "signal: killed")
	require.Contains(t, m.run("doctor").stdout, "was restarted 1 times")
}

func TestForegroundStopsOnCtrlC(t *testing.T) {
	m := newMachine(t)
	c := m.command("up", "--dir", m.policies)
	c.Stderr = c.Stdout
	stdout, err := c.StdoutPipe()
	require.NoError(t, err)
	stderr := &strings.Builder{}
	c.Stderr = stderr
	require.NoError(t, c.Start())
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "More:") {
		continue
	}
	record := m.record()
	require.True(t, record.Ready)
	require.NoError(t, c.Process.Signal(os.Interrupt))
	for lines.Scan() {
		continue
	}
	require.NoError(t, c.Wait(), stderr)
	require.Contains(t, stderr.String(), "stopping ...")
	require.Contains(t, stderr.String(), "down --purge removes them")
	m.requireNothingLeft(record)
}

func TestCrashedSupervisorLeavesNothingInTheWay(t *testing.T) {
	m := newMachine(t)
	m.up()
	record := m.record()
	require.NoError(t, record.Supervisor.Signal(syscall.SIGKILL))
	for _, c := range record.Components {
		require.True(t, c.Process.AwaitEnd(time.Minute), "%s outlived its supervisor", c.Name)
	}
	require.True(t, record.Supervisor.AwaitEnd(time.Minute))
	dir, err := state.At(m.state)
	require.NoError(t, err)
	lock, err := dir.LockWithin(time.Minute)
	require.NoError(t, err)
	require.NoError(t, lock.Unlock())
	require.Contains(t, m.run("doctor").stdout, "did not end in order")

	// As on a system that does not end children with their parent.
	orphan := exec.Command("sleep", "600")
	require.NoError(t, orphan.Start())
	ended := make(chan error, 1)
	go func() { ended <- orphan.Wait() }()
	record.Components[0].Process = process.Identify(orphan.Process.Pid)
	require.NoError(t, dir.WriteRecord(record))
	require.Contains(t, m.run("doctor").stdout, "left from a weir that crashed")
	m.up()
	select {
	case err := <-ended:
		require.ErrorContains(t, err, "killed")
	case <-time.After(time.Minute):
		t.Fatal("the orphan still runs")
	}
	_, code := m.status()
	require.Zero(t, code)
}

func TestComponentThatFailsIsExplained(t *testing.T) {
	for _, detach := range []bool{false, true} {
		m := newMachine(t)
		m.env = append(m.env, "WEIR_TEST_BROKEN=datad")
		r := m.run("up", "--dir", m.policies, fmt.Sprintf("--detach=%t", detach))
		require.Equal(t, 1, r.code)
		require.Contains(t, r.stderr, "the flux capacitor is missing")
		require.Contains(t, r.stderr, "weir: datad did not become ready: exit status 1")
		require.NoDirExists(t, filepath.Join(m.state, "run"))
		_, code := m.status()
		require.Equal(t, 1, code)
	}
}

func TestComponentThatIsNeverReadyIsExplained(t *testing.T) {
	m := newMachine(t)
	m.env = append(m.env, "WEIR_TEST_NEVER_READY=extauthzd")
	r := m.run("up", "--dir", m.policies, "--timeout", "1s")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stderr, "extauthzd did not become ready: waited 1s: ")
	require.Contains(t, r.stderr, "rules: none received")
}

func TestBusyPortIsExplained(t *testing.T) {
	m := newMachine(t)
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", m.port))
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	out := m.up().stdout
	require.Contains(t, out, fmt.Sprintf("note: %d is held by %d/", m.port, os.Getpid()))
	s, _ := m.status()
	require.NotEqual(t, fmt.Sprintf("http://127.0.0.1:%d", m.port), s.Ingress.HTTP)
	require.Contains(t, out, "using "+s.Ingress.HTTP[len("http://127.0.0.1:"):])
}

func TestTwoWeirsDoNotShareAPort(t *testing.T) {
	one, two := newMachine(t), newMachine(t)
	two.port = one.port
	two.writePolicies(two.policies)
	one.up()
	out := two.up().stdout
	require.Contains(t, out, fmt.Sprintf("%d is held by another weir", one.port))
}

func TestCredentials(t *testing.T) {
	m := newMachine(t)
	r := m.run("credentials")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stderr, "no credentials in")
	m.up()
	var got map[string]string
	require.NoError(t, json.Unmarshal([]byte(m.run("credentials", "-o", "json").stdout), &got))
	require.Len(t, got, 3)
	require.Regexp(t, `^weir_[A-Za-z0-9_-]{43}$`, got["apiKey"])
	require.Len(t, strings.Split(got["token"], "."), 3)
	require.Equal(t, "https://issuer.weir.local", got["issuer"])
}

func TestBadInput(t *testing.T) {
	m := newMachine(t)
	for _, tc := range []struct {
		args string
		code int
		want string
	}{
		{"frobnicate", 2, `unknown command "frobnicate"`},
		{"up --frobnicate", 2, "unknown flag: --frobnicate; see weir up --help"},
		{"up extra", 2, `does not take the argument "extra"`},
		{"up --dir /nonexistent", 2, `--dir "/nonexistent" is not a folder`},
		{"up --port-base 80", 2, "--port-base 80 is outside"},
		{"up --logs some", 2, "use all, warn or none"},
		{"up --timeout 1ms", 2, "--timeout 1ms is outside"},
		{"up --dir " + t.TempDir(), 1, "has no Gateway"},
		{"status -o yaml", 2, `--output "yaml" is not known; use text or json`},
		{"logs nobody", 2, `no component "nobody"; known are envoy, controlplaned`},
		{"logs -n -1", 2, "--lines -1 is outside"},
		{"call", 2, "needs an argument"},
		{"call weir.user.v1.UserService/Nope", 2, "it has CreateOrganization"},
		{"call weir.user.v1.UserService/ListUsers {} -H bad", 2, `--header "bad" is not name: value`},
		{"call weir.user.v1.UserService/ListUsers @/nonexistent", 2, "no such file"},
		{"call weir.user.v1.UserService/ListUsers --no-auth --token=x", 2, "contradict"},
		{"call weir.user.v1.UserService/ListUsers --no-auth", 1, "weir is not running"},
		{"call weir.user.v1.UserService/ListUsers --no-auth --plaintext nowhere", 2, "is not host:port"},
		{"call weir.user.v1.UserService/ListUsers", 1, "no credentials"},
		{"call weir.user.v1.UserService/ListUsers {]", 1, "no credentials"},
		{"call weir.user.v1.UserService/ListUsers {] --no-auth --plaintext 127.0.0.1:1", 1, "input message 1"},
		{"call weir.user.v1.UserService/ListUsers {} --no-auth --plaintext 127.0.0.1:1", 1, "UNAVAILABLE"},
		{"status --state-dir /etc/hosts", 1, "not a directory"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			r := m.run(strings.Fields(tc.args)...)
			require.Equal(t, tc.code, r.code, r.stderr)
			require.Contains(t, r.stderr, tc.want)
			require.Equal(t, 1, strings.Count(strings.TrimSpace(r.stderr)+"\n", "\n"), "one line: %s", r.stderr)
			require.Empty(t, r.stdout)
		})
	}
}

func TestDownWithoutUp(t *testing.T) {
	m := newMachine(t)
	r := m.run("down", "--purge")
	require.Zero(t, r.code, r.stderr)
	require.Contains(t, r.stdout, "not running")
	require.NoDirExists(t, m.state)
}

func TestDownRefusesToPurgeAForeignFolder(t *testing.T) {
	m := newMachine(t)
	r := m.run("down", "--purge", "--state-dir", m.policies)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stderr, "not a Weir state folder")
	entries, err := os.ReadDir(m.policies)
	require.NoError(t, err)
	require.Len(t, entries, 1, "not even a lock file")
}

func TestDoctor(t *testing.T) {
	m := newMachine(t)
	r := m.run("doctor", "--dir", m.policies, "-o", "json")
	require.Zero(t, r.code, r.stdout)
	var report struct {
		OK       bool
		Findings []struct{ Check, Level, Message, Fix string }
	}
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
	require.True(t, report.OK)
	for _, f := range report.Findings {
		require.Equal(t, f.Level != "ok", f.Fix != "", "%+v", f)
	}
	require.NoError(t, os.Remove(filepath.Join(m.bin, "userd")))
	r = m.run("doctor", "--dir", m.policies)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stdout, "userd is not beside weir")
	require.Contains(t, r.stdout, "fix: make build")
}

func TestVersion(t *testing.T) {
	m := newMachine(t)
	require.Contains(t, m.run("version").stdout, "Envoy 1.40.0")
	require.Contains(t, m.run("version", "-o", "json").stdout, `"envoy":"1.40.0"`)
	require.Contains(t, m.run("--help").stdout, "credentials")
}
