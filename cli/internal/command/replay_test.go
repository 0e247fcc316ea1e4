package command

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// replayPolicy is one policy of a few routes, with changes made to it.
func replayPolicy(t *testing.T, changes ...string) string {
	t.Helper()
	text := strings.NewReplacer(changes...).Replace(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: api}
spec:
  parentRefs: [{name: edge}]
  rules:
    - name: beta
      matches: [{path: {value: /users}, headers: [{name: x-beta, value: "1"}]}]
      backendRefs: [{group: weir.dev, kind: Backend, name: new}]
    - name: users
      matches: [{path: {value: /users}}]
      backendRefs: [{group: weir.dev, kind: Backend, name: old}]
    - name: orders
      matches: [{path: {value: /orders}, method: GET}]
      backendRefs: [{group: weir.dev, kind: Backend, name: old}]
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: old}
spec: {endpoints: [{address: 10.0.0.1, port: 80}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: new}
spec: {endpoints: [{address: 10.0.0.2, port: 80}]}
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: who}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: api}]
  authentication: [{name: key, apiKey: {}}]
  authorization: {rules: [{name: r, effect: Allow, when: "identity.tenant != ''"}]}
---
apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: often}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: api, sectionName: orders}]
  limits: [{name: all, requests: 100, window: 1m}]
`)
	path := filepath.Join(t.TempDir(), "policy.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func logLine(method, path, rule string) string {
	route := ""
	if rule != "" {
		route = "httproute/default/api/" + rule + "@default/edge/http"
	}
	return fmt.Sprintf(`{"log":"access","method":%q,"host":"h","path":%q,"route":%q,"port":"80","status":200,"time":"t"}`+"\n", method, path, route)
}

func writeLog(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "access.log")
	require.NoError(t, os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600))
	return path
}

func sampleLog(t *testing.T) string {
	t.Helper()
	return writeLog(t,
		logLine("GET", "/users/1", "users"), logLine("GET", "/users/2", "users"), logLine("GET", "/users/1", "beta"),
		logLine("GET", "/orders", "orders"), logLine("POST", "/orders", ""), logLine("GET", "/", ""),
		`{"level":"warning","msg":"not a request"}`+"\n", "not JSON\n",
	)
}

func TestReplayTellsWhatWouldChange(t *testing.T) {
	log, running := sampleLog(t), replayPolicy(t)
	for name, test := range map[string]struct {
		changes []string
		want    []string // kinds of the groups, by count
		changed int
		unknown int
	}{
		"nothing":           {},
		"a backend":         {[]string{"name: users\n      matches: [{path: {value: /users}}]\n      backendRefs: [{group: weir.dev, kind: Backend, name: old}]", "name: users\n      matches: [{path: {value: /users}}]\n      backendRefs: [{group: weir.dev, kind: Backend, name: new}]"}, []string{"destination"}, 2, 0},
		"a rule":            {[]string{"identity.tenant != ''", "identity.tenant == 'a'"}, []string{"authorization"}, 4, 0},
		"a limit":           {[]string{"requests: 100", "requests: 10"}, []string{"limits"}, 1, 0},
		"a route goes":      {[]string{"{path: {value: /orders}, method: GET}", "{path: {value: /other}, method: GET}"}, []string{"route"}, 1, 0},
		"a method opens":    {[]string{"{path: {value: /orders}, method: GET}", "{path: {value: /orders}}"}, []string{"route"}, 1, 0},
		"a header is new":   {[]string{"{path: {value: /users}}", "{path: {value: /users}, headers: [{name: x-other, value: \"1\"}]}"}, []string{"unknown"}, 0, 2},
		"a header changes":  {[]string{"{name: x-beta, value: \"1\"}", "{name: x-beta, value: \"2\"}"}, []string{"unknown"}, 0, 3},
		"a policy goes":     {[]string{"kind: HTTPRoute, name: api}]", "kind: HTTPRoute, name: api, sectionName: users}]"}, []string{"authorization"}, 2, 0},
		"same rule, anew":   {[]string{"metadata: {name: who}", "metadata: {name: whom}"}, []string{"authorization"}, 4, 0},
		"everything closes": {[]string{"authentication: [{name: key, apiKey: {}}]", "authentication: [{name: key, apiKey: {nothing: 1}}]"}, []string{"authorization"}, 4, 0},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := runApp(t, "replay", "--alone", "-o", "json", "--against", running, log, replayPolicy(t, test.changes...))
			var result replayed
			require.NoError(t, json.Unmarshal([]byte(out), &result), errs)
			require.Equal(t, 6, result.Requests)
			require.Equal(t, 2, result.Skipped)
			require.Equal(t, test.changed, result.Changed, out)
			require.Equal(t, test.unknown, result.Unknown, out)
			require.Equal(t, 6, result.Same+result.Changed+result.Unknown)
			if test.changed+test.unknown == 0 {
				require.Equal(t, 0, code)
				return
			}
			require.Equal(t, 2, code)
			require.Equal(t, test.want[0], result.Groups[0].Flips[0].Kind, out)
			require.NotEmpty(t, result.Groups[0].Examples)
		})
	}
}

func TestReplayOutputs(t *testing.T) {
	log, running, proposed := sampleLog(t), replayPolicy(t), replayPolicy(t, "requests: 100", "requests: 10", "identity.tenant != ''", "false")
	code, out, _ := runApp(t, "replay", "--alone", "--against", running, log, proposed)
	require.Equal(t, 2, code)
	golden(t, "replay.txt", out)
	code, out, errs := runApp(t, "replay", "--alone", "--each", "--against", running, log, proposed)
	require.Equal(t, 2, code)
	require.Equal(t, 4, strings.Count(out, "\n"))
	require.Contains(t, out, `"path":"/orders"`)
	require.Contains(t, errs, "4 would change")
}

func TestReplayBadInput(t *testing.T) {
	running := replayPolicy(t)
	for want, args := range map[string][]string{
		"no such file":                     {filepath.Join(t.TempDir(), "none"), running, "--against", running},
		"has no line of Envoy's access":    {writeLog(t, "{}\n", "x\n"), running, "--against", running},
		"needs an argument":                {writeLog(t), "--against", running},
		"gzip":                             {writeLog(t, "\x1f\x8bnot gzip"), running, "--against", running},
		`--output "csv" is not known; use`: {writeLog(t), running, "--against", running, "-o", "csv"},
	} {
		code, _, errs := runApp(t, append([]string{"replay"}, args...)...)
		require.Equal(t, 1, code, "%v", args)
		require.Contains(t, errs, want)
	}
	// A policy that has changed since cannot tell what the request was.
	code, out, _ := runApp(t, "replay", "--alone", "--against", running, writeLog(t, logLine("GET", "/users", "gone")), running)
	require.Equal(t, 2, code)
	require.Contains(t, out, "it has changed since")
	// A line without end or measure is skipped.
	code, out, _ = runApp(t, "replay", "--alone", "--against", running, writeLog(t, strings.Repeat("x", 2*maxLogLine)+"\n", logLine("GET", "/users", "users")), running)
	require.Equal(t, 0, code)
	require.Contains(t, out, "1 request: 1 as before, 0 would change, 0 unknown; 1 line of other kinds skipped")
}

// A log of 100,000 different requests is read in memory that does not grow with
// it.
func TestReplayOfALongLog(t *testing.T) {
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	for i := range 100_000 {
		rule := []string{"users", "beta"}[i%2]
		_, err := writer.Write([]byte(logLine("GET", fmt.Sprintf("/users/%d", i), rule)))
		require.NoError(t, err)
	}
	require.NoError(t, writer.Close())
	path := filepath.Join(t.TempDir(), "access.log.gz")
	require.NoError(t, os.WriteFile(path, packed.Bytes(), 0o600))
	running, proposed := replayPolicy(t), replayPolicy(t, "name: users\n", "name: people\n")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	code, out, errs := runApp(t, "replay", "--alone", "--against", running, path, proposed)
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Equal(t, 2, code, errs)
	require.Contains(t, out, "100000 requests: 50000 as before, 50000 would change, 0 unknown")
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(32<<20))
}
