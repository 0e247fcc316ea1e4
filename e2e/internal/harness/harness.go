// Package harness starts Weir for a test and steers it: folders of policy,
// processes, logs and metrics. Every system has a state folder, ports and
// processes of its own, and is gone when its test ends.
package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// System is a running Weir.
type System struct {
	T       testing.TB
	State   string
	Policy  string
	URL     string
	APIKey  string
	Token   string
	Issuer  string
	Started string
	env     []string
}

// Status is what `weir status -o json` prints.
type Status struct {
	Ready   bool `json:"ready"`
	Ingress struct {
		HTTP string `json:"http"`
	} `json:"ingress"`
	Components []Component `json:"components"`
}

// Component is one line of it.
type Component struct {
	Name     string `json:"name"`
	State    string `json:"state"`
	Address  string `json:"address"`
	PID      int    `json:"pid"`
	Restarts int    `json:"restarts"`
}

// Root is the checkout.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	for dir != "/" {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	t.Fatal("not inside the checkout")
	return ""
}

// Bin is the path of a binary; `make build` makes them.
func Bin(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(Root(t), "bin", name)
	_, err := os.Stat(path)
	require.NoError(t, err, "run `make build` first")
	return path
}

// Files are policy files by name, added to a copy of the quickstart.
type Files map[string]string

// Start runs `weir up --detach` on a copy of the quickstart with files added
// (an empty content removes one), and stops it when the test ends. env entries
// are "NAME=value".
func Start(t testing.TB, files Files, env ...string) *System {
	t.Helper()
	return StartWith(t, files, nil, env...)
}

// StartWith is Start with more arguments for `weir up`.
func StartWith(t testing.TB, files Files, arguments []string, env ...string) *System {
	t.Helper()
	s := &System{T: t, State: tempDir(t, "weir-state-"), Policy: tempDir(t, "weir-policy-"), env: env}
	quickstart := filepath.Join(Root(t), "examples", "quickstart")
	require.NoError(t, os.CopyFS(s.Policy, os.DirFS(quickstart)))
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if files[name] == "" {
			require.NoError(t, os.Remove(filepath.Join(s.Policy, name)))
			continue
		}
		s.Write(name, files[name])
	}
	t.Cleanup(s.stop)
	s.Started = s.Weir(append([]string{"up", "--detach", "--dir", s.Policy}, arguments...)...)
	s.URL = s.Status().Ingress.HTTP
	var credentials struct{ APIKey, Token, Issuer string }
	require.NoError(t, json.Unmarshal([]byte(s.Weir("credentials", "-o", "json")), &credentials))
	s.APIKey, s.Token, s.Issuer = credentials.APIKey, credentials.Token, credentials.Issuer
	return s
}

// tempDir is t.TempDir with a short path, which unix sockets need.
func tempDir(t testing.TB, prefix string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", prefix)
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (s *System) stop() {
	if s.T.Failed() {
		s.T.Logf("last log lines:\n%s", s.tail(60))
	}
	if out, err := s.command("down").CombinedOutput(); err != nil {
		s.T.Errorf("weir down: %v\n%s", err, out)
	}
}

func (s *System) tail(lines int) string {
	out, _ := s.command("logs", "-n", strconv.Itoa(lines)).CombinedOutput()
	return string(out)
}

func (s *System) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	s.T.Cleanup(cancel)
	command := exec.CommandContext(ctx, Bin(s.T, "weir"), append(args, "--state-dir", s.State)...)
	command.Env = append(environment(), s.env...)
	return command
}

// environment is ours without what would change the system under test.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return strings.HasPrefix(name, "OTEL_") || strings.HasPrefix(name, "WEIR_") && name != "WEIR_CACHE_DIR"
	})
}

// Weir runs the command and returns what it printed; failing fails the test.
func (s *System) Weir(args ...string) string {
	s.T.Helper()
	out, errs, err := s.TryWeir(args...)
	require.NoError(s.T, err, "weir %s\n%s\n%s", strings.Join(args, " "), out, errs)
	return out
}

// TryWeir runs the command.
func (s *System) TryWeir(args ...string) (stdout, stderr string, err error) {
	command := s.command(args...)
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	err = command.Run()
	return out.String(), errs.String(), err
}

// Status asks for the status, ready or not.
func (s *System) Status() Status {
	s.T.Helper()
	out, errs, _ := s.TryWeir("status", "-o", "json")
	var status Status
	require.NoError(s.T, json.Unmarshal([]byte(out), &status), "status: %s%s", out, errs)
	return status
}

// Component is the status of one component.
func (s *System) Component(name string) Component {
	s.T.Helper()
	for _, component := range s.Status().Components {
		if component.Name == name {
			return component
		}
	}
	s.T.Fatalf("no component %q", name)
	return Component{}
}

// Signal sends a signal to a component's process.
func (s *System) Signal(name string, signal syscall.Signal) {
	s.T.Helper()
	require.NoError(s.T, syscall.Kill(s.Component(name).PID, signal))
}

// Freeze stops a process and waits until all of its threads stand still.
func (s *System) Freeze(pid int) {
	s.T.Helper()
	require.NoError(s.T, syscall.Kill(pid, syscall.SIGSTOP))
	s.Eventually("the process to stop", 5*time.Second, func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		require.NoError(s.T, err)
		for _, thread := range threads {
			raw, err := os.ReadFile(thread)
			if err != nil {
				return false
			}
			_, fields, _ := strings.Cut(string(raw), ") ")
			if !strings.HasPrefix(fields, "T") {
				return false
			}
		}
		return len(threads) > 0
	})
}

// Write replaces a policy file as careful editors do, by rename.
func (s *System) Write(name, content string) {
	s.T.Helper()
	temp := filepath.Join(s.Policy, "."+name+".tmp")
	require.NoError(s.T, os.WriteFile(temp, []byte(content), 0o644))
	require.NoError(s.T, os.Rename(temp, filepath.Join(s.Policy, name)))
}

// Read returns a policy file.
func (s *System) Read(name string) string {
	s.T.Helper()
	raw, err := os.ReadFile(filepath.Join(s.Policy, name))
	require.NoError(s.T, err)
	return string(raw)
}

// patience is what a condition is waited for at least: a busy machine is no fault.
const patience = 30 * time.Second

// Eventually waits for a condition and returns how long that took. What takes
// longer than usual is said in the log; the test fails after patience, or after
// usual where that is more.
func (s *System) Eventually(what string, usual time.Duration, condition func() bool) time.Duration {
	s.T.Helper()
	started := time.Now()
	for !condition() {
		require.Less(s.T, time.Since(started), max(usual, patience), "waited for: %s", what)
		time.Sleep(5 * time.Millisecond)
	}
	took := time.Since(started)
	if took > usual {
		s.T.Logf("%s took %s, where %s is usual", what, took, usual)
	}
	return took
}

// Do sends a request to the ingress. Headers are pairs.
func (s *System) Do(method, path, body string, headers ...string) *Response {
	s.T.Helper()
	response, err := s.TryDo(method, path, body, headers...)
	require.NoError(s.T, err)
	return response
}

// Response is an answer with its body read.
type Response struct {
	Status int
	Header http.Header
	Body   string
}

// TryDo is Do that returns transport errors.
func (s *System) TryDo(method, path, body string, headers ...string) (*Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, s.URL+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Add(headers[i], headers[i+1])
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	return &Response{Status: answer.StatusCode, Header: answer.Header, Body: string(raw)}, err
}

var client = &http.Client{
	Transport:     &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Key is the header pair of the sample API key.
func (s *System) Key() []string { return []string{"X-API-Key", s.APIKey} }

// Get is an authenticated GET.
func (s *System) Get(path string, headers ...string) *Response {
	s.T.Helper()
	return s.Do(http.MethodGet, path, "", append(s.Key(), headers...)...)
}

// Problem is an RFC 9457 body.
type Problem struct {
	Type, Title, Detail, Code, RequestID string
	Status                               int
	Errors                               []struct{ Field, Detail string }
}

// Problem requires the answer to be problem details of a status and code.
func (r *Response) Problem(t testing.TB, status int, code string) Problem {
	t.Helper()
	require.Equal(t, status, r.Status, r.Body)
	require.Equal(t, "application/problem+json", r.Header.Get("Content-Type"), r.Body)
	var problem Problem
	require.NoError(t, json.Unmarshal([]byte(r.Body), &problem), r.Body)
	require.Equal(t, status, problem.Status)
	require.Equal(t, code, problem.Code)
	require.NotEmpty(t, problem.Type)
	require.NotEmpty(t, problem.Title)
	return problem
}

var adminLine = regexp.MustCompile(`admin:\s*(?:\{?\s*)listen:\s*"?([0-9.:]+)`)

// Admin is the admin address of a component, from its configuration.
func (s *System) Admin(component string) string {
	s.T.Helper()
	raw, err := os.ReadFile(filepath.Join(s.State, "run", component+".yaml"))
	require.NoError(s.T, err)
	found := adminLine.FindStringSubmatch(string(raw))
	require.NotNil(s.T, found, string(raw))
	return "http://" + found[1]
}

// Metric sums the samples of a component's metric whose line holds all of the
// given texts.
func (s *System) Metric(component, name string, holding ...string) float64 {
	s.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Admin(component)+"/metrics", nil)
	require.NoError(s.T, err)
	answer, err := client.Do(request)
	require.NoError(s.T, err)
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	require.NoError(s.T, err)
	sum := 0.0
	for _, line := range strings.Split(string(raw), "\n") {
		metric, value, ok := strings.Cut(line, "} ")
		if !ok { // without labels
			metric, value, ok = strings.Cut(line, " ")
			metric += "{"
		}
		if !ok || !strings.HasPrefix(metric, name+"{") {
			continue
		}
		if slices.ContainsFunc(holding, func(text string) bool { return !strings.Contains(metric, text) }) {
			continue
		}
		number, err := strconv.ParseFloat(value, 64)
		require.NoError(s.T, err)
		sum += number
	}
	return sum
}

// Calls counts the RPCs that a service began to serve for callers outside: health
// checks and the feed of keys, which extauthz asks for by itself, are left out.
func (s *System) Calls(component string) float64 {
	s.T.Helper()
	const started = "grpc_server_started_total"
	return s.Metric(component, started, `grpc_service="weir.`) - s.Metric(component, started, `grpc_service="weir.keys.`)
}

// ResidentBytes is a process's resident memory.
func (s *System) ResidentBytes(component string) int64 {
	s.T.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.Component(component).PID))
	require.NoError(s.T, err)
	pages, err := strconv.ParseInt(strings.Fields(string(raw))[1], 10, 64)
	require.NoError(s.T, err)
	return pages * int64(os.Getpagesize())
}
