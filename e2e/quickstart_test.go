package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// What `weir up` prints is true: the table, the credentials, and the commands,
// pasted into a shell as they stand.
func TestWhatUpPrintsWorks(t *testing.T) {
	s := harness.Start(t, nil)
	for _, name := range []string{"envoy", "controlplaned", "extauthzd", "ratelimitd", "userd", "datad"} {
		require.Regexp(t, `(?m)^`+name+`\s+ready\s+127\.0\.0\.1:\d+\s+\d+\s+0`, s.Started)
	}
	commands := regexp.MustCompile(`(?m)^\s+(REST|gRPC|gRPC-web)\s+(\S.*)$`).FindAllStringSubmatch(s.Started, -1)
	require.Len(t, commands, 3, s.Started)
	created := s.Do(http.MethodPost, "/v1/organizations?organizationId=acme", `{"displayName":"Acme"}`, append(s.Key(), "Content-Type", "application/json")...)
	require.Equal(t, http.StatusOK, created.Status, created.Body)
	for _, command := range commands {
		shell := exec.Command("sh", "-c", command[2])
		shell.Dir = harness.Root(t)
		shell.Env = append(os.Environ(), "WEIR_STATE_DIR="+s.State)
		out, err := shell.CombinedOutput()
		require.NoError(t, err, "%s\n%s", command[2], out)
		require.Contains(t, string(out), "organizations/acme", command[1])
	}
}

func TestStatusAndCredentialsShapes(t *testing.T) {
	s := harness.Start(t, nil)
	var status map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(s.Weir("status", "-o", "json")), &status))
	require.ElementsMatch(t, []string{"ready", "ingress", "components"}, keys(status))
	require.JSONEq(t, "true", string(status["ready"]))
	var components []map[string]any
	require.NoError(t, json.Unmarshal(status["components"], &components))
	require.Len(t, components, 6)
	for _, component := range components {
		require.ElementsMatch(t, []string{"name", "state", "address", "pid", "restarts"}, keys(component))
	}
	var credentials map[string]string
	require.NoError(t, json.Unmarshal([]byte(s.Weir("credentials", "-o", "json")), &credentials))
	require.ElementsMatch(t, []string{"apiKey", "token", "issuer"}, keys(credentials))
	examined := s.Weir("doctor")
	require.Contains(t, examined, "envoy: ")
	require.Contains(t, examined, "nothing in it undoes what extauthz does")
}

func keys[V any](m map[string]V) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	return names
}

// A second up on the same state prints the picture again; another folder is
// refused; a taken port is shifted and said; down leaves nothing behind.
func TestUpIsIdempotentShiftsPortsAndCleansUp(t *testing.T) {
	held, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = held.Close() }()
	port := strconv.Itoa(held.Addr().(*net.TCPAddr).Port)
	gateway := "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: quickstart}\nspec:\n  gatewayClassName: weir\n  listeners: [{name: http, protocol: HTTP, port: " + port + "}]\n"
	const aimless = "apiVersion: weir.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: aimless}\nspec:\n" +
		"  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: nowhere}]\n  timeouts: {request: 5s}\n"
	s := harness.Start(t, harness.Files{"gateway.yaml": gateway, "aimless.yaml": aimless})
	require.Contains(t, s.Started, "there is no HTTPRoute default/nowhere", "what is wrong with the policy is said at once")
	require.NotContains(t, s.URL, ":"+port)
	require.Contains(t, s.Started, port, "the shift is explained")
	require.Equal(t, http.StatusOK, s.Get("/v1/users").Status)
	require.Contains(t, s.Weir("up", "--detach", "--dir", s.Policy), "running already")
	_, errs, err := s.TryWeir("up", "--detach", "--dir", t.TempDir())
	require.Error(t, err)
	require.Contains(t, errs, s.Policy)

	var pids []int
	for _, component := range s.Status().Components {
		pids = append(pids, component.PID)
	}
	s.Weir("down")
	for _, pid := range pids {
		require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "process %d is left", pid)
	}
	out, _, err := s.TryWeir("status", "-o", "json")
	require.Error(t, err, "not running is exit code 1")
	require.Contains(t, out, `"ready":false`)
	s.Weir("down", "--purge")
	entries, _ := os.ReadDir(s.State)
	require.Empty(t, entries)
}

// Ctrl-C in the foreground ends everything, in order.
func TestInterruptStopsEverything(t *testing.T) {
	state, err := os.MkdirTemp("", "weir-state-")
	require.NoError(t, err)
	defer os.RemoveAll(state)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, harness.Bin(t, "weir"), "up", "--dir", filepath.Join(harness.Root(t), "examples", "quickstart"), "--state-dir", state)
	var out bytes.Buffer
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	command.Stdout, command.Stderr = writer, writer
	require.NoError(t, command.Start())
	require.NoError(t, writer.Close())
	buffer := make([]byte, 4096)
	for !strings.Contains(out.String(), "Ctrl-C stops it") {
		n, err := reader.Read(buffer)
		out.Write(buffer[:n])
		require.NoError(t, err, out.String())
	}
	found := regexp.MustCompile(`(?m)^\w+\s+ready\s+\S+\s+(\d+)`).FindAllStringSubmatch(out.String(), -1)
	require.Len(t, found, 6, out.String())
	require.NoError(t, command.Process.Signal(os.Interrupt))
	require.NoError(t, command.Wait())
	for _, line := range found {
		pid, err := strconv.Atoi(line[1])
		require.NoError(t, err)
		require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, line[0])
	}
}

// Preflights are answered without credentials; foreign origins get no leave.
func TestCORS(t *testing.T) {
	s := harness.Start(t, nil)
	preflight := func(origin, path string) *harness.Response {
		return s.Do(http.MethodOptions, path, "", "Origin", origin, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "x-api-key")
	}
	for _, path := range []string{"/v1/users", "/weir.user.v1.UserService/ListUsers"} {
		answer := preflight("http://localhost:5173", path)
		require.Equal(t, http.StatusOK, answer.Status)
		require.Equal(t, "http://localhost:5173", answer.Header.Get("Access-Control-Allow-Origin"))
		require.Contains(t, answer.Header.Get("Access-Control-Allow-Headers"), "x-api-key")
		for _, foreign := range []string{"http://evil.example", "http://localhost.evil.example:80", "http://localhost:80x", "null"} {
			require.Empty(t, preflight(foreign, path).Header.Get("Access-Control-Allow-Origin"), foreign)
		}
	}
	require.Empty(t, s.Get("/v1/users", "Origin", "http://evil.example").Header.Get("Access-Control-Allow-Origin"))
}
