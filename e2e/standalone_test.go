package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"weir.dev/e2e/internal/harness"
)

// Keys of examples/standalone.
const (
	demoKey = "demo-key-of-the-example-0123456789"
	rootKey = "root-key-of-the-example-0123456789"
)

// rawEcho answers with the request line's target and the host as they arrived.
func rawEcho(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Seen-Target", r.RequestURI)
			w.Header().Set("X-Seen-Host", r.Host)
			w.Header().Set("X-Seen-Consumer", strings.Join(r.Header.Values("X-Weir-Consumer"), "|"))
			w.Header().Set("X-Seen-Key", strings.Join(r.Header.Values("X-Api-Key"), "|"))
		}),
		DisableGeneralOptionsHandler: true,
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String()
}

// alone is an extauthzd with a file of rules.
type alone struct {
	grpc, http, rules string
	process           *exec.Cmd
	log               *lockedLog
}

func startAlone(t *testing.T) *alone {
	t.Helper()
	return startAloneAt(t, "127.0.0.1:0", "127.0.0.1:0", "")
}

// startAloneAt says where it listens, and adds to its configuration.
func startAloneAt(t *testing.T, grpc, http, more string) *alone {
	t.Helper()
	dir := t.TempDir()
	a := &alone{rules: filepath.Join(dir, "rules.yaml"), log: &lockedLog{}}
	example := filepath.Join(harness.Root(t), "examples", "standalone")
	content, err := os.ReadFile(filepath.Join(example, "rules.yaml"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(a.rules, content, 0o600))
	config, err := os.ReadFile(filepath.Join(example, "extauthzd.yaml"))
	require.NoError(t, err)
	text := strings.NewReplacer("127.0.0.1:9001", grpc, "127.0.0.1:9002", "127.0.0.1:0", "127.0.0.1:9003", http,
		"examples/standalone/rules.yaml", a.rules).Replace(string(config)) + more
	file := filepath.Join(dir, "extauthzd.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	a.process = exec.Command(harness.Bin(t, "extauthzd"), "--config", file)
	stderr, err := a.process.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, a.process.Start())
	t.Cleanup(func() { _ = a.process.Process.Kill(); _ = a.process.Wait() })
	addresses := make(chan [2]string, 8)
	go func() {
		defer close(addresses)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			_, _ = a.log.Write(append(lines.Bytes(), '\n'))
			var record struct{ Msg, Address string }
			if json.Unmarshal(lines.Bytes(), &record) == nil && strings.HasPrefix(record.Msg, "serving") {
				addresses <- [2]string{record.Msg, record.Address}
			}
		}
	}()
	for a.grpc == "" || a.http == "" {
		select {
		case found, running := <-addresses:
			switch {
			case !running:
				t.Fatalf("extauthzd ended:\n%s", a.log)
			case strings.Contains(found[0], "gRPC"):
				a.grpc = found[1]
			case strings.Contains(found[0], "over HTTP"):
				a.http = found[1]
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("extauthzd does not serve:\n%s", a.log)
		}
	}
	return a
}

type tree = map[string]any

func dig(node any, path ...any) any {
	for _, step := range path {
		switch key := step.(type) {
		case string:
			node = node.(tree)[key]
		case int:
			node = node.([]any)[key]
		}
	}
	return node
}

// mode is one way in which Envoy may tidy paths up.
type mode struct {
	name             string
	normalize, merge bool
	escaped          string
	http, unguarded  bool
}

func modes() []mode {
	var all []mode
	for _, normalize := range []bool{true, false} {
		for _, merge := range []bool{true, false} {
			for _, escaped := range []string{"KEEP_UNCHANGED", "REJECT_REQUEST", "UNESCAPE_AND_REDIRECT", "UNESCAPE_AND_FORWARD"} {
				all = append(all, mode{name: fmt.Sprintf("normalize=%t merge=%t %s", normalize, merge, escaped), normalize: normalize, merge: merge, escaped: escaped})
			}
		}
	}
	return append(all,
		mode{name: "over HTTP", normalize: true, merge: true, escaped: "REJECT_REQUEST", http: true},
		mode{name: "over HTTP, nothing tidied up", escaped: "KEEP_UNCHANGED", http: true},
		mode{name: "nothing asked", escaped: "KEEP_UNCHANGED", unguarded: true})
}

// plainEnvoy runs the example's Envoy with a listener for each mode, and returns
// their addresses by name.
func plainEnvoy(t *testing.T, a *alone, upstream string, modes []mode) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(harness.Root(t), "examples", "standalone", "envoy.yaml"))
	require.NoError(t, err)
	text := strings.NewReplacer("port_value: 9901", "port_value: 0", "port_value: 10000", "port_value: 0",
		"port_value: 9001", "port_value: "+port(a.grpc), "port_value: 8000", "port_value: "+port(upstream)).Replace(string(raw))
	var config tree
	require.NoError(t, yaml.Unmarshal([]byte(text), &config))
	web := clone(t, dig(config, "static_resources", "clusters", 1)).(tree)
	encoded, err := yaml.Marshal(web)
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal([]byte(strings.NewReplacer(port(upstream), port(a.http), "service", "extauthz-http").Replace(string(encoded))), &web))
	resources := dig(config, "static_resources").(tree)
	resources["clusters"] = append(resources["clusters"].([]any), web)
	var listeners []any
	for _, m := range modes {
		listener := clone(t, dig(config, "static_resources", "listeners", 0)).(tree)
		listener["name"] = m.name
		hcm := dig(listener, "filter_chains", 0, "filters", 0, "typed_config").(tree)
		hcm["normalize_path"], hcm["merge_slashes"], hcm["path_with_escaped_slashes_action"] = m.normalize, m.merge, m.escaped
		for _, route := range dig(hcm, "route_config", "virtual_hosts", 0, "routes").([]any) {
			route.(tree)["response_headers_to_add"] = []any{
				tree{"header": tree{"key": "x-envoy-route", "value": route.(tree)["name"]}},
				tree{"header": tree{"key": "x-weir-route", "value": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:route)%"}},
			}
		}
		filters := hcm["http_filters"].([]any)
		switch {
		case m.unguarded:
			hcm["http_filters"] = filters[1:]
		case m.http:
			filter := dig(filters, 0, "typed_config").(tree)
			delete(filter, "grpc_service")
			delete(filter, "encode_raw_headers")
			filter["http_service"] = tree{
				"server_uri": tree{"uri": "http://extauthz", "cluster": "extauthz-http", "timeout": "1s"}, "path_prefix": "/check",
				"authorization_response": tree{"allowed_upstream_headers": tree{"patterns": []any{tree{"prefix": "x-weir-"}}}},
			}
			filter["allowed_headers"] = tree{"patterns": []any{tree{"exact": "x-api-key"}}}
		}
		listeners = append(listeners, listener)
	}
	resources["listeners"] = listeners
	return runEnvoy(t, config)
}

// runEnvoy runs Envoy with a configuration, and returns where its listeners are by
// name.
func runEnvoy(t *testing.T, config tree) map[string]string {
	t.Helper()
	listeners := dig(config, "static_resources", "listeners").([]any)
	file := filepath.Join(t.TempDir(), "envoy.json")
	content, err := json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, content, 0o600))
	admin := filepath.Join(t.TempDir(), "admin")
	process := exec.Command(findEnvoy(t), "-c", file, "--use-dynamic-base-id", "--admin-address-path", admin, "-l", "warning", "--concurrency", "1")
	var log lockedLog
	process.Stdout, process.Stderr = &log, &log
	require.NoError(t, process.Start())
	t.Cleanup(func() { _ = process.Process.Kill(); _ = process.Wait() })
	var found struct {
		Listeners []struct {
			Name    string `json:"name"`
			Address struct {
				Socket struct {
					Port int `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	require.Eventually(t, func() bool {
		address, err := os.ReadFile(admin)
		if err != nil {
			return false
		}
		answer, err := http.Get("http://" + strings.TrimSpace(string(address)) + "/listeners?format=json")
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		return json.NewDecoder(answer.Body).Decode(&found) == nil && len(found.Listeners) == len(listeners)
	}, 30*time.Second, 20*time.Millisecond, "%s", &log)
	addresses := map[string]string{}
	for _, listener := range found.Listeners {
		addresses[listener.Name] = fmt.Sprintf("127.0.0.1:%d", listener.Address.Socket.Port)
	}
	return addresses
}

func clone(t *testing.T, node any) any {
	t.Helper()
	raw, err := yaml.Marshal(node)
	require.NoError(t, err)
	var copied any
	require.NoError(t, yaml.Unmarshal(raw, &copied))
	return copied
}

func port(address string) string {
	_, number, _ := strings.Cut(address, ":")
	return number
}

// rawRequest sends a request as it is, since Go's client would tidy it up.
func rawRequest(address, target, host string, headers ...string) (*http.Response, error) {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // the answer is read
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n%sConnection: close\r\n\r\n", target, host, strings.Join(append(headers, ""), "\r\n"))
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(answer.Body)
	answer.Body = io.NopCloser(bytes.NewReader(body))
	return answer, err
}

// trickyPaths are paths that two programs may read in two ways; "ADMIN" stands
// for each spelling of what is not for everybody.
func trickyPaths() []string {
	var paths []string
	for _, admin := range []string{"admin", "%61dmin", "ADMIN", "adm%69n", "admin%00", "admin;x", "admin%3bx", "admin.", "admin%20", "%2561dmin"} {
		for _, shape := range []string{
			"/%s", "//%s", "/%s/", "/./%s", "/public/../%s", "/public/..%%2f%s", "/public/%%2e%%2e/%s", "/public/%%2E./%s", "/public%%2f..%%2f%s", "/public/..;/%s",
			"/public/..;x=1/%s", "/public/%%2e%%2e;/%s", "/public\\..\\%s", "/public/..%%5c%s", "/public%%5c..%%5c%s", "/public//../../%s", "/public/%%252e%%252e/%s",
			"/public/..%%c0%%af%s", "/public/x/../../%s", "/public?/../%s", "/public#/../%s", "/public/%%23/../../%s", "/public%%3f/../%s", "/public;/../%s",
			"/public/;/../../%s", "/public/./../%s", "/public/.%%00./%s", "/public/..%%00/%s", "/%%2f%s", "/%%5c%s", "/public/%%2e%%2e%%2f%s", "/PUBLIC/../%s",
			"http://api.example.com/public/../%s", "http://other/public/../%s", "/public%%252f..%%252f%s", "/public/..%%09/%s", "/;/%s", "/.;/%s", "/%%09/%s",
		} {
			paths = append(paths, fmt.Sprintf(shape, admin))
		}
	}
	return append(paths, "/", "/public", "/public/", "/public/a%20b", "/public/%C3%A9", "/public/a;v=1", "/publicity", "*", "/public/..", "/public/.", "/..", "/%2e%2e", "/public/%zz", "/public/%")
}

// worst is what an obliging server could make of a path: parameters dropped before
// and after every escape is undone, twice over, backslashes and overlong UTF-8
// for slashes, control characters dropped, slashes merged, dots resolved.
func worst(target string) string {
	path := target
	if rest, found := strings.CutPrefix(path, "http://"); found {
		_, after, _ := strings.Cut(rest, "/")
		path = "/" + after
	}
	path, _, _ = strings.Cut(path, "?")
	path, _, _ = strings.Cut(path, "#")
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		segments[i], _, _ = strings.Cut(segment, ";")
	}
	path = strings.Join(segments, "/")
	for range 2 {
		if undone, err := url.PathUnescape(path); err == nil {
			path = undone
		}
	}
	path = strings.NewReplacer("\\", "/", "\xc0\xaf", "/").Replace(path)
	var kept []string
	for _, segment := range strings.Split(path, "/") {
		segment = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return -1
			}
			return r
		}, segment)
		switch segment {
		case "", ".":
		case "..":
			kept = kept[:max(0, len(kept)-1)]
		default:
			kept = append(kept, segment)
		}
	}
	return "/" + strings.Join(kept, "/")
}

func isPublic(path string) bool { return path == "/public" || strings.HasPrefix(path, "/public/") }

// In every way in which Envoy may tidy up paths, and for every spelling of a path
// and a host that has caught somebody out: what a caller without a key gets from
// the service is public, however the service reads it; and whoever is let
// through was judged by the rules of the route that Envoy took.
func TestNoSpellingOfAPathGetsPast(t *testing.T) {
	upstream := rawEcho(t)
	a := startAlone(t)
	all := modes()
	addresses := plainEnvoy(t, a, upstream, all)
	hosts := []string{
		"api.example.com", "API.EXAMPLE.com", "api.example.com:80", "x.api.example.com", "api.example.com.", "localhost", "other.example", "api.example.com@other", "api.example.com:80:80",
		".api.example.com", "[::1]", "api.example.com%00", "api.example.com,other", "a b", "",
	}
	for _, m := range all {
		t.Run(m.name, func(t *testing.T) {
			served, public, past := 0, 0, 0
			probe := func(target, host string, headers ...string) {
				answer, err := rawRequest(addresses[m.name], target, host, headers...)
				if err != nil || answer.StatusCode != http.StatusOK {
					return // refused by one of the three, or not HTTP to begin with
				}
				seen := answer.Header.Get("X-Seen-Target")
				if served++; seen == "" {
					t.Errorf("%q at %q was answered by nobody that it was meant for", target, host)
				}
				if len(headers) == 0 {
					if public++; !isPublic(worst(seen)) {
						if past++; !m.unguarded {
							t.Logf("without a key, %q at %q reached the service as %q", target, host, seen)
						}
					}
				}
				route, judged := answer.Header.Get("X-Envoy-Route"), answer.Header.Get("X-Weir-Route")
				if !m.http && !m.unguarded && judged != "api/"+route {
					t.Errorf("%q at %q: Envoy took %q, and the rules were those of %q", target, host, route, judged)
				}
				if reading := worst(seen); (reading == "/admin" || strings.HasPrefix(reading, "/admin/")) && len(headers) > 0 && !strings.Contains(headers[0], rootKey) {
					if past++; !m.unguarded {
						t.Logf("without the right key, %q at %q reached the service as %q", target, host, seen)
					}
				}
			}
			for _, path := range trickyPaths() {
				probe(path, "api.example.com")
				probe(path, "api.example.com", "X-API-Key: "+demoKey)
				probe(path, "api.example.com", "X-API-Key: "+rootKey)
			}
			for _, host := range hosts {
				for _, path := range []string{"/public", "/admin", "/"} {
					probe(path, host)
				}
			}
			require.Positive(t, public, "the control: something is public")
			if m.unguarded {
				require.Positive(t, past, "the control: with nobody asked, this test finds what gets past")
				return
			}
			require.Zero(t, past, "requests that got past the rules")
			t.Logf("%d of %d were served", served, 3*len(trickyPaths())+3*len(hosts))
		})
	}
}

// An Envoy that reads paths otherwise, or doesn't ask, is found out at the start,
// and nothing is served through it.
func TestSelfTest(t *testing.T) {
	modes := []mode{
		{name: "as advised", normalize: true, merge: true, escaped: "REJECT_REQUEST"},
		{name: "redirects", normalize: true, merge: true, escaped: "UNESCAPE_AND_REDIRECT"},
		{name: "not normalized", merge: true, escaped: "REJECT_REQUEST"},
		{name: "not merged", normalize: true, escaped: "REJECT_REQUEST"},
		{name: "escaped slashes", normalize: true, merge: true, escaped: "KEEP_UNCHANGED"},
		{name: "not asked", normalize: true, merge: true, escaped: "REJECT_REQUEST", unguarded: true},
	}
	fixes := map[string]string{
		"not normalized": "set normalize_path: true", "not merged": "set merge_slashes: true",
		"escaped slashes": "set path_with_escaped_slashes_action", "not asked": "did not ask extauthz",
	}
	grpc, web := fmt.Sprintf("127.0.0.1:%d", freePort(t)), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	addresses := plainEnvoy(t, &alone{grpc: grpc, http: web}, rawEcho(t), modes)
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			a := startAloneAt(t, grpc, web, fmt.Sprintf("selfTest: {url: %q, host: api.example.com}\n", "http://"+addresses[m.name]))
			ask := func() (int, string) {
				answer, err := rawRequest(addresses["as advised"], "/public", "api.example.com", "weir-self-test: guessed.0")
				require.NoError(t, err)
				body, err := io.ReadAll(answer.Body)
				require.NoError(t, err)
				return answer.StatusCode, string(body)
			}
			fix := fixes[m.name]
			if fix == "" {
				require.Eventually(t, func() bool { status, _ := ask(); return status == http.StatusOK }, patience, 10*time.Millisecond, "%s", a.log)
				require.Eventually(t, func() bool { return strings.Contains(a.log.String(), "self-test passed") }, patience, 10*time.Millisecond, "%s", a.log)
			} else {
				require.Eventually(t, func() bool { return strings.Contains(a.log.String(), fix) }, patience, 10*time.Millisecond, "%s", a.log)
				status, body := ask()
				require.Equal(t, http.StatusServiceUnavailable, status)
				require.Contains(t, body, "SELF_TEST_FAILED")
			}
			require.NoError(t, a.process.Process.Signal(syscall.SIGTERM))
			_ = a.process.Wait()
		})
	}
}

// What the example's guide promises, over both protocols.
func TestStandaloneExample(t *testing.T) {
	a := startAlone(t)
	addresses := plainEnvoy(t, a, rawEcho(t), []mode{
		{name: "grpc", normalize: true, merge: true, escaped: "REJECT_REQUEST"}, {name: "http", normalize: true, merge: true, escaped: "REJECT_REQUEST", http: true},
	})
	for protocol, address := range addresses {
		t.Run(protocol, func(t *testing.T) {
			status := func(target string, headers ...string) int {
				answer, err := rawRequest(address, target, "api.example.com", headers...)
				require.NoError(t, err)
				return answer.StatusCode
			}
			require.Equal(t, 200, status("/public"))
			require.Equal(t, 401, status("/"))
			require.Equal(t, 401, status("/", "X-API-Key: wrong"))
			require.Equal(t, 200, status("/", "X-API-Key: "+demoKey))
			require.Equal(t, 403, status("/admin", "X-API-Key: "+demoKey))
			require.Equal(t, 200, status("/admin/x", "X-API-Key: "+rootKey))
			require.NotEqual(t, 200, status("/", "X-API-Key: "+demoKey, "X-API-Key: "+rootKey), "twice")
			answer, err := rawRequest(address, "/", "api.example.com", "X-API-Key: "+demoKey, "X-Weir-Consumer: example/root")
			require.NoError(t, err)
			require.Equal(t, "example/demo", answer.Header.Get("X-Seen-Consumer"), "the client's own is gone")
			require.Empty(t, answer.Header.Get("X-Seen-Key"), "the credential stays here")
		})
	}
	// A change is taken, a mistake is not.
	content, err := os.ReadFile(a.rules)
	require.NoError(t, err)
	ask := func() int {
		answer, err := rawRequest(addresses["grpc"], "/public", "api.example.com")
		require.NoError(t, err)
		return answer.StatusCode
	}
	closed := strings.Replace(string(content), "{name: everybody, anonymous: {}}", "{name: key, apiKey: {header: x-api-key}}", 1)
	require.NoError(t, os.WriteFile(a.rules, []byte(closed), 0o600))
	require.Eventually(t, func() bool { return ask() == 401 }, patience, 10*time.Millisecond)
	require.NoError(t, os.WriteFile(a.rules, []byte(string(content)+"nonsense: 1\n"), 0o600))
	require.Eventually(t, func() bool { return strings.Contains(a.log.String(), "the last good one stays") }, patience, 10*time.Millisecond)
	require.Equal(t, 401, ask())
	require.NoError(t, a.process.Process.Signal(syscall.SIGTERM))
	require.NoError(t, a.process.Wait())
	require.Equal(t, 503, ask(), "nobody to ask, nobody let through")
}
