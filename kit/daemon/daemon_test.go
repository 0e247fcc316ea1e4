package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"weir.dev/kit/daemon"
)

type testConfig struct {
	daemon.Config `yaml:",inline"`
	Word          string `yaml:"word"`
}

func (c *testConfig) SetDefaults() { c.Config.SetDefaults(); c.Word = "default" }

func (c *testConfig) Validate() error {
	if c.Word == "" {
		return errors.Join(c.Config.Validate(), errors.New("word: must not be empty"))
	}
	return c.Config.Validate()
}

// buffer is written to by the daemon while the test reads.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// lines decodes the log; every line must be JSON.
func (b *buffer) lines(t *testing.T) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for _, line := range strings.Split(strings.TrimSpace(b.String()), "\n") {
		var entry map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &entry), line)
		lines = append(lines, entry)
	}
	return lines
}

func writeConfig(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func TestExitCodesAndMessages(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = busy.Close() }()
	nothing := func(context.Context, *daemon.Runtime) error { return nil }
	for name, tc := range map[string]struct {
		args []string
		run  daemon.Run
		code int
		want string
	}{
		"help":             {args: []string{"--help"}, code: 0, want: "-config file"},
		"version":          {args: []string{"--version"}, code: 0, want: "testd dev"},
		"unknown flag":     {args: []string{"--nope"}, code: 2, want: "flag provided but not defined: -nope"},
		"argument":         {args: []string{"serve"}, code: 2, want: `unexpected argument "serve"; see --help`},
		"no such file":     {args: []string{"--config", "/nonexistent.yaml"}, code: 1, want: "/nonexistent.yaml"},
		"unknown key":      {args: []string{"--config", writeConfig(t, "log: {level: info}\nwrod: x\n")}, code: 1, want: "line 2"},
		"bad level":        {args: []string{"--config", writeConfig(t, "log: {level: loud}\n")}, code: 1, want: "loud"},
		"all mistakes (1)": {args: []string{"--config", writeConfig(t, "admin: {listen: nowhere}\nword: ''\n")}, code: 1, want: `admin.listen: "nowhere" is not host:port`},
		"all mistakes (2)": {args: []string{"--config", writeConfig(t, "admin: {listen: nowhere}\nword: ''\n")}, code: 1, want: "word: must not be empty"},
		"port taken":       {args: []string{"--config", writeConfig(t, "admin: {listen: '"+busy.Addr().String()+"'}\n")}, code: 1, want: "admin server cannot listen on " + busy.Addr().String()},
		"good":             {args: []string{"--check", "--config", writeConfig(t, "word: x\n")}, code: 0, want: "testd: the configuration is good"},
		"not good":         {args: []string{"--check", "--config", writeConfig(t, "wrod: x\n")}, code: 1, want: "line 1"},
		"orderly":          {code: 0, want: `"msg":"stopped"`},
		"cancelled":        {run: func(context.Context, *daemon.Runtime) error { return context.Canceled }, code: 0, want: `"msg":"stopped"`},
		"failed":           {run: func(context.Context, *daemon.Runtime) error { return errors.New("the well is dry") }, code: 1, want: "the well is dry"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.run == nil {
				tc.run = nothing
			}
			var stderr buffer
			code := daemon.Execute(context.Background(), "testd", tc.args, new(testConfig), tc.run, &stderr)
			require.Equal(t, tc.code, code, stderr.String())
			require.Contains(t, stderr.String(), tc.want)
		})
	}
}

func TestConfigReachesTheDaemon(t *testing.T) {
	cfg := new(testConfig)
	var stderr buffer
	code := daemon.Execute(context.Background(), "testd", []string{"--config", writeConfig(t, "word: weir\nlog: {level: debug}\n")}, cfg,
		func(ctx context.Context, runtime *daemon.Runtime) error {
			runtime.Logger.DebugContext(ctx, "seen", "word", cfg.Word)
			return nil
		}, &stderr)
	require.Zero(t, code)
	found := false
	for _, line := range stderr.lines(t) {
		require.Equal(t, "testd", line["component"])
		found = found || line["msg"] == "seen" && line["word"] == "weir" && line["level"] == "DEBUG"
	}
	require.True(t, found, stderr.String())
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second}
	response, err := client.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(body)
}

// adminAddress is taken from the log, since the port was left to the system.
func adminAddress(t *testing.T, log *buffer) string {
	t.Helper()
	for _, line := range log.lines(t) {
		if line["msg"] == "serving admin HTTP" {
			return line["address"].(string)
		}
	}
	t.Fatal("the admin address was not logged")
	return ""
}

func TestAdminServer(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	var stderr buffer
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	started, done := make(chan *daemon.Runtime), make(chan int, 1)
	go func() {
		done <- daemon.Execute(ctx, "testd", nil, new(testConfig), func(ctx context.Context, runtime *daemon.Runtime) error {
			runtime.Admin.HandleFunc("GET /extra", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "extra") })
			runtime.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "weir_test_gauge"}, func() float64 { return 7 }))
			started <- runtime
			<-ctx.Done()
			return ctx.Err()
		}, &stderr)
	}()
	runtime := <-started
	base := "http://" + adminAddress(t, &stderr)

	code, body := get(t, base+"/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, "starting", "no condition yet is not ready")
	runtime.SetReady("rules", errors.New("none received"))
	runtime.SetReady("store", errors.New("not open"))
	_, body = get(t, base+"/readyz")
	require.Equal(t, "rules: none received\nstore: not open\n", body)
	runtime.SetReady("rules", nil)
	code, _ = get(t, base+"/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code, "one of two is not enough")
	runtime.SetReady("store", nil)
	code, _ = get(t, base+"/readyz")
	require.Equal(t, http.StatusOK, code)
	runtime.SetReady("rules", errors.New("lost"))
	code, _ = get(t, base+"/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code, "readiness may be lost again")

	code, _ = get(t, base+"/livez")
	require.Equal(t, http.StatusOK, code)
	_, body = get(t, base+"/metrics")
	require.Contains(t, body, "weir_test_gauge 7")
	require.Contains(t, body, "go_goroutines")
	_, body = get(t, base+"/extra")
	require.Equal(t, "extra", body)

	cancel()
	select {
	case code := <-done:
		require.Zero(t, code)
	case <-time.After(time.Minute):
		t.Fatal("did not stop")
	}
	_, err := net.DialTimeout("tcp", strings.TrimPrefix(base, "http://"), time.Second)
	require.Error(t, err, "the admin server ends with the daemon")
}

func TestReadinessIsSafeForConcurrentUse(t *testing.T) {
	var stderr buffer
	code := daemon.Execute(context.Background(), "testd", nil, new(testConfig), func(_ context.Context, runtime *daemon.Runtime) error {
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				for range 200 {
					runtime.SetReady("x", errors.New("no"))
					_ = runtime.Ready()
					runtime.SetReady("x", nil)
				}
			})
		}
		group.Wait()
		return runtime.Ready()
	}, &stderr)
	require.Zero(t, code)
}
