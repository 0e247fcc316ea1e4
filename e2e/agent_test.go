package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// An Envoy that weir up does not run: it starts with what weir envoy bootstrap
// writes, is ready when the agent beside it says so, and is drained when that is
// told to end.
func TestAnEnvoyBesideAnAgent(t *testing.T) {
	s := harness.Start(t, nil)
	binary, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", s.Component("envoy").PID))
	require.NoError(t, err)
	admin, listen := fmt.Sprintf("127.0.0.1:%d", freePort(t)), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	config := filepath.Join(t.TempDir(), "envoy.json")
	certificates := filepath.Join(s.State, "certs", "ingress")
	s.Weir("envoy", "bootstrap", "--node-id", "second", "--control-plane", s.Component("controlplaned").Address,
		"--cert-dir", certificates, "--admin", admin, "--public-trust", filepath.Join(certificates, "ca.crt"), "--output", config)
	agent := startProcess(t, harness.Bin(t, "weir"), "envoy", "agent", "--listen", listen, "--admin", admin, "--delay", "100ms", "--timeout", "20s")
	get := func(path string) (code int, body string) {
		response, err := http.Get("http://" + listen + path)
		if err != nil {
			return 0, err.Error()
		}
		defer response.Body.Close()
		content, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, string(content)
	}
	s.Eventually("the agent serves", 10*time.Second, func() bool { code, _ := get("/ready"); return code == http.StatusServiceUnavailable })
	envoy := startProcess(t, binary, "--config-path", config, "--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
	s.Eventually("Envoy is ready", 30*time.Second, func() bool { code, _ := get("/ready"); return code == http.StatusOK })
	code, _ := get("/live")
	require.Equal(t, http.StatusOK, code)
	_, metrics := get("/metrics")
	require.Contains(t, metrics, "envoy_listener_manager_lds_update_success")
	require.Contains(t, metrics, "envoy_control_plane_connected_state")

	require.NoError(t, agent.Process.Signal(syscall.SIGTERM))
	code, body := get("/drained")
	require.Equal(t, http.StatusOK, code, body)
	code, body = get("/ready")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, "the pod is ending")
	require.NoError(t, envoy.Process.Signal(syscall.SIGTERM))
	require.NoError(t, envoy.Wait())
	require.NoError(t, agent.Wait(), "it ends after Envoy")
}

func startProcess(t *testing.T, path string, args ...string) *exec.Cmd {
	t.Helper()
	command := exec.CommandContext(t.Context(), path, args...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, command.Start())
	t.Cleanup(func() { _ = command.Process.Kill() })
	return command
}
