package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/stretchr/testify/require"

	envoybin "weir.dev/cli/envoy"
	"weir.dev/controlplane"
	"weir.dev/controlplane/ads"
	"weir.dev/controlplane/bootstrap"
	"weir.dev/controlplane/envoy"
	"weir.dev/controlplane/folder"
	"weir.dev/e2e/internal/harness"
	"weir.dev/kit/certs"
	"weir.dev/kit/rpcserver"
	"weir.dev/policy"
)

// findEnvoy is the Envoy that `weir up` would take, fetched when it must be.
func findEnvoy(t *testing.T) string {
	t.Helper()
	pin, err := envoybin.Pinned()
	require.NoError(t, err)
	cache, err := envoybin.CacheDir(os.Getenv)
	require.NoError(t, err)
	found, err := envoybin.Finder{
		Env: os.Environ(), Platform: runtime.GOOS + "/" + runtime.GOARCH, CacheDir: cache, Pin: pin, Progress: func(int64, int64) {},
	}.Find(t.Context())
	require.NoError(t, err)
	return found.Path
}

// proxied is a real Envoy that subscribes to an ADS server of the test's own.
type proxied struct {
	t       *testing.T
	ads     *ads.Group
	server  *ads.Server
	options envoy.Options
	admin   string
	// ports are where listeners are bound.
	ports map[int32]int32
	log   *bytes.Buffer
	own   lockedLog
	// zone is where Envoy is.
	zone string
	// maxConnections of clients and maxHeap of Envoy; 0 for the default.
	maxConnections int64
	maxHeap        uint64
	// rewrite changes the bootstrap, unless it is nil.
	rewrite func([]byte) []byte
	// access is the access log.
	access lockedLog
	// stateOfTheWorld has Envoy use that variant of the protocol.
	stateOfTheWorld bool
}

// lockedLog is the control plane's log.
type lockedLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// written configures an Envoy and its control plane, and names the file.
func (p *proxied) written(dir string) (path string, server *rpcserver.Server) {
	p.t.Helper()
	authority, err := certs.OpenAuthority(filepath.Join(dir, "ca"), time.Now())
	require.NoError(p.t, err)
	files, err := authority.Issue("controlplane", filepath.Join(dir, "controlplane"), time.Now())
	require.NoError(p.t, err)
	_, err = authority.Issue("ingress", filepath.Join(dir, "ingress"), time.Now())
	require.NoError(p.t, err)
	var config rpcserver.Config
	config.SetDefaults()
	config.TLS, config.AllowedPeers, config.MaxMessageBytes = files, []string{certs.PeerID("ingress")}, 64<<20
	server, err = rpcserver.New(config, rpcserver.Options{Name: "test", Quiet: true})
	require.NoError(p.t, err)
	raw, err := bootstrap.JSON(bootstrap.Config{
		NodeID: "envoy-1", AdminAddress: "127.0.0.1:0", ControlPlaneAddress: server.Address(),
		ControlPlanePeer: certs.PeerID("controlplane"), CertDir: filepath.Join(dir, "ingress"), Zone: p.zone,
		StateOfTheWorld: p.stateOfTheWorld, MaxConnections: p.maxConnections, MaxHeapBytes: p.maxHeap,
	})
	require.NoError(p.t, err)
	if p.rewrite != nil {
		raw = p.rewrite(raw)
	}
	path = filepath.Join(dir, "bootstrap.json")
	require.NoError(p.t, os.WriteFile(path, raw, 0o600))
	return path, server
}

func startEnvoy(t *testing.T) *proxied {
	t.Helper()
	return startEnvoyWith(t, nil)
}

// startEnvoyWith starts one that is set up as change says.
func startEnvoyWith(t *testing.T, change func(*proxied)) *proxied {
	t.Helper()
	p := &proxied{t: t, zone: "here", ports: map[int32]int32{8080: freePort(t), 8081: freePort(t), 8443: freePort(t), 80: freePort(t)}, log: &bytes.Buffer{}}
	if change != nil {
		change(p)
	}
	p.options = envoy.Options{
		ListenAddress: "127.0.0.1", PortMap: p.ports,
		ExtAuthzAddress: "127.0.0.1:1", ExtAuthzPeer: certs.PeerID("extauthz"),
		RateLimitAddress: "localhost:1", RateLimitPeer: certs.PeerID("ratelimit"), OTLPAddress: "127.0.0.1:1",
	}
	dir := t.TempDir()
	config, server := p.written(dir)
	logger := slog.New(slog.NewTextHandler(&p.own, &slog.HandlerOptions{Level: slog.LevelWarn}))
	fleets := []controlplane.FleetConfig{{Peers: []string{certs.PeerID("ingress")}}}
	adsServer := ads.NewServer(controlplane.Access(fleets, certs.PeerID("extauthz"), certs.PeerID("ratelimit")), logger, nil)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server.GRPC(), adsServer)
	p.ads, p.server = adsServer.Group(""), adsServer
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Run(ctx) }()
	adminFile := filepath.Join(dir, "admin")
	command := exec.Command(findEnvoy(t), "-c", config, "--disable-hot-restart", "--concurrency", "2", //nolint:gosec // as found
		"--admin-address-path", adminFile, "--log-level", "warning", "--file-flush-interval-msec", "10")
	command.Stderr, command.Stdout = p.log, &p.access
	require.NoError(t, command.Start())
	exited := make(chan error, 1)
	go func() { exited <- command.Wait() }()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		require.Error(t, <-exited, "it was killed")
		adsServer.Close()
		cancel()
		require.NoError(t, <-served)
		if t.Failed() {
			t.Logf("Envoy's log: %.8000s\nthe control plane's: %.8000s", p.log.String(), p.own.String())
		}
	})
	require.Eventually(t, func() bool {
		raw, _ := os.ReadFile(adminFile)
		p.admin = string(raw)
		return p.admin != ""
	}, patience, 10*time.Millisecond, "Envoy did not start")
	require.Eventually(t, func() bool { return len(p.ads.Clients()) == 1 }, patience, 10*time.Millisecond, "Envoy did not connect")
	return p
}

func freePort(t *testing.T) int32 {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	return int32(listener.Addr().(*net.TCPAddr).Port)
}

// compile makes the resources of a policy file.
func (p *proxied) compile(path string) envoy.Set {
	p.t.Helper()
	parser, err := policy.NewParser()
	require.NoError(p.t, err)
	update, err := folder.Read(parser, path)
	require.NoError(p.t, err)
	plan, _ := policy.Resolve(update.Input)
	set, err := envoy.Compile(plan, p.options)
	require.NoError(p.t, err)
	return set
}

func (p *proxied) compileText(text string) envoy.Set {
	p.t.Helper()
	path := filepath.Join(p.t.TempDir(), "p.yaml")
	require.NoError(p.t, os.WriteFile(path, []byte(text), 0o600))
	return p.compile(path)
}

// stats asks Envoy for the counters whose names match.
func (p *proxied) stats(filter string) map[string]float64 {
	p.t.Helper()
	response, err := http.Get("http://" + p.admin + "/stats?format=json&filter=" + filter)
	require.NoError(p.t, err)
	defer response.Body.Close()
	var body struct {
		Stats []struct {
			Name  string
			Value json.Number
		}
	}
	require.NoError(p.t, json.NewDecoder(response.Body).Decode(&body))
	values := map[string]float64{}
	for _, stat := range body.Stats {
		values[stat.Name], _ = stat.Value.Float64()
	}
	return values
}

// requireAccepted rolls out a set, which Envoy must take without a complaint.
func (p *proxied) requireAccepted(set envoy.Set) {
	p.t.Helper()
	before := p.stats("update_rejected")
	require.NoError(p.t, p.ads.Rollout(p.t.Context(), set))
	require.Eventually(p.t, func() bool {
		client := p.ads.Clients()[0]
		return client.InSync && p.stats("warming_clusters")["cluster_manager.warming_clusters"] == 0
	}, patience, 10*time.Millisecond, "clusters are warm, and Envoy has everything")
	for name, count := range p.stats("update_rejected") {
		require.Equal(p.t, before[name], count, name)
	}
	require.Equal(p.t, "envoy-1", p.ads.Clients()[0].Node)
	require.NotContains(p.t, p.own.String(), "in time", "no step waited in vain")
}

func goldenPolicies(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(harness.Root(t), "controlplane", "envoy", "testdata", "*.in.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files
}

func TestEnvoyAcceptsEveryGolden(t *testing.T) {
	acceptEveryGolden(t, startEnvoy(t))
}

// The other variant of the protocol serves the same.
func TestEnvoyAcceptsEveryGoldenByStateOfTheWorld(t *testing.T) {
	acceptEveryGolden(t, startEnvoyWith(t, func(p *proxied) { p.stateOfTheWorld = true }))
}

func acceptEveryGolden(t *testing.T, p *proxied) {
	t.Helper()
	for _, file := range append(goldenPolicies(t), filepath.Join(harness.Root(t), "examples", "quickstart")) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			p := &proxied{t: t, ads: p.ads, options: p.options, admin: p.admin}
			p.requireAccepted(p.compile(file))
		})
	}
}

// The negative control: what Envoy cannot take is seen, named, and taken back.
func TestEnvoyRejectsWhatIsBroken(t *testing.T) {
	p := startEnvoy(t)
	good := p.compileText(rewritesYAML(1))
	p.requireAccepted(good)
	broken := p.compileText(rewritesYAML(1))
	require.NoError(t, broken.Add("port-8080", &routev3.RouteConfiguration{
		Name: "port-8080",
		VirtualHosts: []*routev3.VirtualHost{{Name: "x", Domains: []string{"*"}, Routes: []*routev3.Route{{
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: "("}}},
			Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 200}},
		}}}},
	}))
	err := p.ads.Rollout(t.Context(), broken)
	var rejection *ads.Rejection
	require.ErrorAs(t, err, &rejection)
	require.Equal(t, "envoy-1", rejection.Node)
	require.Equal(t, envoy.TypeRoute, rejection.TypeURL)
	require.Equal(t, []string{"port-8080"}, rejection.Resources)
	require.Contains(t, rejection.Message, "missing )")
	require.Positive(t, p.stats("rds.*update_rejected")["http.port-8080.rds.port-8080.update_rejected"])
	require.Equal(t, http.StatusFound, p.get(8080, "/r/host").StatusCode, "the last good one serves")
	p.requireAccepted(p.compileText(rewritesYAML(1)))
	require.True(t, p.ads.Clients()[0].InSync)
}

func TestEnvoyValidatesTheBootstrap(t *testing.T) {
	p := &proxied{t: t}
	path, _ := p.written(t.TempDir())
	validate := func() (string, error) {
		out, err := exec.Command(findEnvoy(t), "--mode", "validate", "-c", path).CombinedOutput() //nolint:gosec // as found
		return string(out), err
	}
	out, err := validate()
	require.NoError(t, err, out)
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, bytes.Replace(raw, []byte("DELTA_GRPC"), []byte("DELTA_NONSENSE"), 1), 0o600))
	out, err = validate()
	require.Error(t, err, "the negative control: %s", out)
}

// rewritesYAML are redirects and rewrites whose outcome is looked at.
func rewritesYAML(backend int) string {
	rule := func(path, filter string, backend bool) string {
		text := "    - {matches: [{path: {value: " + path + "}}], filters: [" + filter + "]"
		if backend {
			text += ", backendRefs: [{group: weir.dev, kind: Backend, name: web}]"
		}
		return text + "}\n"
	}
	redirect := func(path, spec string) string {
		return rule(path, "{type: RequestRedirect, requestRedirect: {"+spec+"}}", false)
	}
	rewrite := func(path, spec string) string { return rule(path, "{type: URLRewrite, urlRewrite: {"+spec+"}}", true) }
	prefix := func(to string) string { return "path: {type: ReplacePrefixMatch, replacePrefixMatch: " + to + "}" }
	return `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 8080}, {name: plain, protocol: HTTP, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  rules:
` + redirect("/r/scheme", "scheme: https, statusCode: 301") + redirect("/r/host", "hostname: new.example") +
		redirect("/r/port", "port: 9443, scheme: https") + redirect("/r/prefix", prefix("/v2/")) + redirect("/r/base", prefix("/")) +
		redirect("/r/full", "path: {type: ReplaceFullPath, replaceFullPath: /elsewhere}") +
		rewrite("/w/full", `path: {type: ReplaceFullPath, replaceFullPath: '/one\1'}`) + rewrite("/w/prefix", prefix("/v2")) +
		rewrite("/w/slash/", prefix("/v2/")) + rewrite("/w/to.root", prefix("/")) + rewrite("/w/to-nothing", prefix(`""`)) +
		rewrite("/", prefix("/v2")) +
		rule("/h", "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: '%REQ(:path)% 100%'}]}}", true) + `---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: plain}
spec:
  parentRefs: [{name: edge, sectionName: plain}]
  rules:
` + redirect("/", prefix("/v2")) + fmt.Sprintf(`---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: web}
spec: {endpoints: [{address: 127.0.0.1, port: %d}]}
`, backend)
}

func (p *proxied) get(port int32, path string) *http.Response {
	p.t.Helper()
	client := &http.Client{Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	var response *http.Response
	require.Eventually(p.t, func() bool { // a listener binds a moment after Envoy took it
		var err error
		response, err = client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", p.ports[port], path))
		return err == nil
	}, patience, 10*time.Millisecond)
	body, err := io.ReadAll(response.Body)
	require.NoError(p.t, err)
	require.NoError(p.t, response.Body.Close())
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response
}

func TestRedirectsAndRewritesThroughEnvoy(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Was-Set", r.Header.Get("X-Set"))
		_, _ = io.WriteString(w, r.RequestURI)
	}))
	defer backend.Close()
	p := startEnvoy(t)
	p.requireAccepted(p.compileText(rewritesYAML(backend.Listener.Addr().(*net.TCPAddr).Port)))
	own, plain := fmt.Sprintf("http://127.0.0.1:%d", p.ports[8080]), fmt.Sprintf("http://127.0.0.1:%d", p.ports[80])
	for path, want := range map[string]string{
		"/r/scheme/a": "https://127.0.0.1:443/r/scheme/a", // as the request names a port, and the route no host
		"/r/host/a":   fmt.Sprintf("http://new.example:%d/r/host/a", p.ports[8080]),
		"/r/port/a":   "https://127.0.0.1:9443/r/port/a",
		"/r/prefix/a": own + "/v2/a",
		"/r/prefix":   own + "/v2",
		"/r/base/a/b": own + "/a/b",
		"/r/base":     own + "/",
		"/r/full/a":   own + "/elsewhere",
	} {
		require.Equal(t, want, p.get(8080, path).Header.Get("Location"), path)
	}
	require.Equal(t, plain+"/v2/a", p.get(80, "/a").Header.Get("Location"))
	require.Equal(t, plain+"/v2/", p.get(80, "/").Header.Get("Location"))
	for path, want := range map[string]string{
		"/w/full/a?q=1":       `/one\1?q=1`,
		"/w/prefix/a":         "/v2/a",
		"/w/prefix":           "/v2",
		"/w/slash/a":          "/v2/a",
		"/w/to.root/a?q=1":    "/a?q=1",
		"/w/to.root":          "/",
		"/w/to-nothing/a":     "/a",
		"/w/to-rootless/a":    "/v2/w/to-rootless/a",
		"/other":              "/v2/other",
		"/":                   "/v2/",
		"/w/prefixed/segment": "/v2/w/prefixed/segment",
	} {
		body, err := io.ReadAll(p.get(8080, path).Body)
		require.NoError(t, err)
		require.Equal(t, want, string(body), path)
	}
	require.Equal(t, "%REQ(:path)% 100%", p.get(8080, "/h").Header.Get("X-Was-Set"))
}

// A cluster that changes while its endpoints do not, a backend that moves, one
// that becomes a name: none of it fails a request, and it is in effect at once.
func TestChangingABackendFailsNoRequest(t *testing.T) {
	var second atomic.Int64
	serve := func(count *atomic.Int64) *httptest.Server {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if count != nil {
				count.Add(1)
			}
			_, _ = io.WriteString(w, r.Proto)
		}))
		server.Config.Protocols = new(http.Protocols)
		server.Config.Protocols.SetHTTP1(true)
		server.Config.Protocols.SetUnencryptedHTTP2(true)
		server.Start()
		t.Cleanup(server.Close)
		return server
	}
	port := func(server *httptest.Server) string { return server.URL[strings.LastIndexByte(server.URL, ':')+1:] }
	one, two := serve(nil), serve(&second)
	p := startEnvoy(t)
	text := func(protocol, address, port string) string {
		return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{group: weir.dev, kind: Backend, name: web}]}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: web}
spec: {protocol: %s, endpoints: [{address: %s, port: %s}]}
`, protocol, address, port)
	}
	p.requireAccepted(p.compileText(text("HTTP", "127.0.0.1", port(one))))
	p.get(8080, "/")

	stop, failures := make(chan struct{}), make(chan string, 10_000)
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
			for {
				select {
				case <-stop:
					return
				default:
				}
				response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", p.ports[8080]))
				if err != nil {
					failures <- err.Error()
					continue
				}
				body, _ := io.ReadAll(response.Body)
				_ = response.Body.Close()
				if response.StatusCode != http.StatusOK {
					failures <- fmt.Sprint(response.StatusCode, " ", string(body))
				}
			}
		})
	}
	answer := func() string {
		body, err := io.ReadAll(p.get(8080, "/").Body)
		require.NoError(t, err)
		return string(body)
	}
	for round := range 5 {
		began := time.Now()
		p.requireAccepted(p.compileText(text("HTTP2", "127.0.0.1", port(one))))
		require.Equal(t, "HTTP/2.0", answer(), "round %d", round)
		require.Less(t, time.Since(began), 2900*time.Millisecond, "the same endpoints, another cluster: nobody waits for a step's end")
		p.requireAccepted(p.compileText(text("HTTP", "localhost", port(one))))
		p.requireAccepted(p.compileText(text("HTTP", "127.0.0.1", port(two))))
		require.Eventually(t, func() bool { before := second.Load(); answer(); return second.Load() > before }, patience, time.Millisecond)
		p.requireAccepted(p.compileText(text("HTTP", "127.0.0.1", port(one))))
	}
	close(stop)
	load.Wait()
	close(failures)
	count := len(failures)
	require.Zero(t, count, "the first: %s", <-failures)
}
