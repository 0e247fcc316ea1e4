package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// backend is a server that says who it is and does what the path asks for.
type backend struct {
	*httptest.Server
	requests, checks, flaky atomic.Int64
	// sick answers everything with 500.
	sick atomic.Bool
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Backend", b.URL)
	if r.URL.Path == "/healthz" {
		b.checks.Add(1)
	} else {
		b.requests.Add(1)
	}
	w.Header().Set("X-Got", r.Header.Get("X-One")+"|"+r.Header.Get("X-Two")+"|"+r.Host)
	switch {
	case b.sick.Load():
		w.WriteHeader(http.StatusInternalServerError)
	case strings.HasPrefix(r.URL.Path, "/retry"):
		if b.flaky.Add(1)%3 != 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	case strings.HasPrefix(r.URL.Path, "/down"):
		w.WriteHeader(http.StatusServiceUnavailable)
	case strings.HasPrefix(r.URL.Path, "/text"):
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, strings.Repeat("weir ", 1000))
	default:
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, b.URL)
	}
}

func (b *backend) port() int { return b.Listener.Addr().(*net.TCPAddr).Port }

func newBackend(t *testing.T, secure bool) *backend {
	t.Helper()
	b := &backend{}
	b.Server = httptest.NewUnstartedServer(b)
	b.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are what some tests are about
	if secure {
		b.StartTLS()
	} else {
		b.Start()
	}
	t.Cleanup(b.Close)
	return b
}

// traffic is an Envoy in front of backends, with policy of the test's.
type traffic struct {
	*proxied
	a, b   *backend
	client *http.Client
}

func startTraffic(t *testing.T) *traffic {
	t.Helper()
	return startTrafficWith(t, nil)
}

func startTrafficWith(t *testing.T, change func(*proxied)) *traffic {
	t.Helper()
	return &traffic{
		proxied: startEnvoyWith(t, change), a: newBackend(t, false), b: newBackend(t, false),
		client: &http.Client{Timeout: patience, Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 8}},
	}
}

// apply rolls out rules of one route, and other documents.
func (x *traffic) apply(rules string, documents ...string) {
	x.t.Helper()
	x.rollout(rules, documents...)
	x.get(8080, "/none")
}

// rollout is apply without a first request.
func (x *traffic) rollout(rules string, documents ...string) {
	x.t.Helper()
	policy := `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: edge}]
  rules:
` + rules + fmt.Sprintf(`---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: a}
spec: {endpoints: [{address: 127.0.0.1, port: %d}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: b}
spec: {endpoints: [{address: 127.0.0.1, port: %d}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: both}
spec: {endpoints: [{address: 127.0.0.1, port: %d}, {address: 127.0.0.1, port: %d}]}
`, x.a.port(), x.b.port(), x.a.port(), x.b.port()) + strings.Join(documents, "")
	x.requireAccepted(x.compileText(policy))
}

// rule is one rule with a name, which is its path too.
func rule(name, backends string, more ...string) string {
	refs := make([]string, 0, 2)
	for _, backend := range strings.Fields(backends) {
		backend, weight, _ := strings.Cut(backend, ":")
		ref := "{group: weir.dev, kind: Backend, name: " + backend
		if weight != "" {
			ref += ", weight: " + weight
		}
		refs = append(refs, ref+"}")
	}
	text := fmt.Sprintf("  - name: %s\n    matches: [{path: {value: /%s}}]\n    backendRefs: [%s]\n", name, name, strings.Join(refs, ", "))
	for _, line := range more {
		text += "    " + line + "\n"
	}
	return text
}

// trafficPolicy is attached to rules of the route.
func trafficPolicy(rules, settings string) string {
	name := strings.Fields(rules)[0]
	refs := make([]string, 0, 2)
	for _, rule := range strings.Fields(rules) {
		refs = append(refs, "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web, sectionName: "+rule+"}")
	}
	return fmt.Sprintf("---\napiVersion: weir.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: %s}\nspec:\n  targetRefs: [%s]\n  %s\n",
		name, strings.Join(refs, ", "), strings.ReplaceAll(settings, "\n", "\n  "))
}

// ask sends a GET and returns the answer with its body.
func (x *traffic) ask(path string, headers ...string) (*http.Response, string) {
	x.t.Helper()
	request, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", x.ports[8080], path), nil)
	require.NoError(x.t, err)
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			request.Host = headers[i+1]
		}
		request.Header.Add(headers[i], headers[i+1])
	}
	response, err := x.client.Do(request)
	require.NoError(x.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(x.t, err)
	return response, string(body)
}

func (x *traffic) status(path string) int {
	x.t.Helper()
	response, _ := x.ask(path)
	return response.StatusCode
}

// served counts which backends answer n requests.
func (x *traffic) served(n int, path string, headers ...string) map[string]int {
	x.t.Helper()
	counts := map[string]int{}
	for range n {
		response, _ := x.ask(path, headers...)
		counts[response.Header.Get("X-Backend")]++
	}
	return counts
}

func TestMirrorsAndWeightsThroughEnvoy(t *testing.T) {
	x := startTraffic(t)
	x.apply(
		rule("all", "a", "filters: [{type: RequestMirror, requestMirror: {backendRef: {group: weir.dev, kind: Backend, name: b}}}]") +
			rule("half", "a", "filters: [{type: RequestMirror, requestMirror: {backendRef: {group: weir.dev, kind: Backend, name: b}, percent: 50}}]") +
			rule("tenth", "a", "filters: [{type: RequestMirror, requestMirror: {backendRef: {group: weir.dev, kind: Backend, name: b}, fraction: {numerator: 100, denominator: 1000}}}]") +
			rule("weights", "a:9 b:1") + rule("lost", "a:1 none:1"))
	require.Equal(t, map[string]int{x.a.URL: 100}, x.served(100, "/all"))
	require.Eventually(t, func() bool { return x.b.requests.Load() == 100 }, patience, 10*time.Millisecond, "every request is copied")
	for path, bounds := range map[string][2]int64{"/half": {330, 670}, "/tenth": {30, 220}} {
		before := x.b.requests.Load()
		x.served(1000, path)
		x.get(8080, "/none") // the copies were sent before this
		require.Eventually(t, func() bool {
			copies := x.b.requests.Load() - before
			return copies >= bounds[0] && copies <= bounds[1]
		}, patience, 10*time.Millisecond, "%s: %d copies", path, x.b.requests.Load()-before)
	}
	counts := x.served(1000, "/weights")
	require.InDelta(t, 900, counts[x.a.URL], 70)
	require.Equal(t, 1000, counts[x.a.URL]+counts[x.b.URL])
	lost := 0
	for range 200 {
		if x.status("/lost") == http.StatusInternalServerError {
			lost++
		}
	}
	require.InDelta(t, 100, lost, 60, "the share of what does not resolve")
}

func TestRetriesAndTimeoutsThroughEnvoy(t *testing.T) {
	x := startTraffic(t)
	x.apply(rule("retry-own", "a", "retry: {codes: [503], attempts: 2, backoff: 1ms}")+rule("retry-policy", "a")+rule("retry-none", "a"),
		trafficPolicy("retry-policy", "retry: {attempts: 2, codes: [503], backoff: 1ms}\nretryBudget: {percent: 100}"))
	for _, path := range []string{"/retry-own", "/retry-policy"} {
		x.a.flaky.Store(0)
		before := x.a.requests.Load()
		require.Equal(t, http.StatusOK, x.status(path), path)
		require.EqualValues(t, 3, x.a.requests.Load()-before, path)
	}
	x.a.flaky.Store(0)
	require.Equal(t, http.StatusServiceUnavailable, x.status("/retry-none"), "the negative control")
}

func TestSessionsAndHashesThroughEnvoy(t *testing.T) {
	x := startTraffic(t)
	x.apply(rule("cookie", "both", "sessionPersistence: {sessionName: sticky, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}")+
		rule("header", "both", "sessionPersistence: {type: Header, sessionName: sticky}")+rule("hash", "both")+rule("ring", "both")+rule("host", "both")+rule("plain", "both"),
		trafficPolicy("host", "loadBalancing: {algorithm: Maglev, hashBy: [{type: Header, name: Host}]}"),
		trafficPolicy("hash", "loadBalancing: {algorithm: Maglev, hashBy: [{type: Header, name: x-user}, {type: Cookie, name: user, ttl: 1h}]}"),
		trafficPolicy("ring", "loadBalancing: {algorithm: RingHash, hashBy: [{type: ClientIP}]}"))
	first, _ := x.ask("/cookie")
	cookie := first.Header.Get("Set-Cookie")
	require.Contains(t, cookie, "sticky=")
	require.Contains(t, cookie, "Max-Age=3600")
	require.Contains(t, cookie, "Path=/cookie")
	require.Contains(t, cookie, "HttpOnly")
	require.Equal(t, map[string]int{first.Header.Get("X-Backend"): 20}, x.served(20, "/cookie/cart", "Cookie", strings.Split(cookie, ";")[0]))
	first, _ = x.ask("/header")
	require.Equal(t, map[string]int{first.Header.Get("X-Backend"): 20}, x.served(20, "/header", "Sticky", first.Header.Get("Sticky")))
	require.Len(t, x.served(20, "/plain"), 2, "the negative control")
	require.Len(t, x.served(20, "/ring"), 1)
	ports := map[string]int{}
	for port := range 20 {
		for backend := range x.served(1, "/host", "Host", fmt.Sprint("a.example:", 1000+port)) {
			ports[backend]++
		}
	}
	require.Len(t, ports, 1, "the port behind the host is no part of the hash")
	seen := map[string]bool{}
	for i := range 20 {
		counts := x.served(5, "/hash", "X-User", fmt.Sprint("user-", i))
		require.Len(t, counts, 1)
		for url := range counts {
			seen[url] = true
		}
	}
	require.Len(t, seen, 2, "the users are spread")
	first, _ = x.ask("/hash")
	require.Contains(t, first.Header.Get("Set-Cookie"), "user=", "who has no header is given a cookie")
}

func TestHealthThroughEnvoy(t *testing.T) {
	x := startTraffic(t)
	x.b.sick.Store(true)
	x.apply(rule("outliers", "both")+rule("checked", "both")+rule("failover", "b")+rule("closed", "b")+rule("plain", "both"),
		trafficPolicy("outliers", "outlierDetection: {consecutiveErrors: 2, interval: 100ms, maxEjectionPercent: 100}"),
		trafficPolicy("checked", "healthCheck: {interval: 100ms, unhealthyThreshold: 1, healthyThreshold: 1, http: {path: /healthz}}"),
		trafficPolicy("failover", "healthCheck: {interval: 100ms, unhealthyThreshold: 1, healthyThreshold: 1, http: {path: /healthz}}\nfallback: {backendRef: {group: weir.dev, kind: Backend, name: a}}"),
		trafficPolicy("closed", "fallback: {response: {statuses: [500], status: 200, contentType: application/json, body: '{\"open\":false}'}}"))
	require.Len(t, x.served(40, "/plain"), 2, "the negative control")
	only := func(path string) func() bool {
		return func() bool { return x.served(10, path)[x.a.URL] == 10 }
	}
	require.Eventually(t, only("/outliers"), patience, 10*time.Millisecond)
	require.Eventually(t, only("/checked"), patience, 10*time.Millisecond)
	require.Eventually(t, only("/failover"), patience, 10*time.Millisecond, "what takes over serves")
	require.Positive(t, x.b.checks.Load())
	response, body := x.ask("/closed")
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Equal(t, `{"open":false}`, body)
	require.Equal(t, "application/json", response.Header.Get("Content-Type"))
	x.b.sick.Store(false)
	require.Eventually(t, func() bool { return x.served(10, "/failover")[x.b.URL] == 10 }, patience, 10*time.Millisecond, "and hands back")
	require.Eventually(t, func() bool { return len(x.served(10, "/checked")) == 2 }, patience, 10*time.Millisecond)
}

func TestFaultsAndBodiesThroughEnvoy(t *testing.T) {
	x := startTraffic(t)
	x.apply(rule("abort", "a")+rule("delay", "a")+rule("text", "a")+rule("text-gzip", "a")+rule("body", "a")+rule("loaded", "a")+rule("plain", "a"),
		trafficPolicy("abort", "fault: {abort: {status: 418}}"),
		trafficPolicy("delay", "fault: {delay: {duration: 200ms}}"),
		trafficPolicy("text", "compression: {}"),
		trafficPolicy("text-gzip", "compression: {algorithms: [Gzip]}"),
		trafficPolicy("body", "requestBody: {maxBytes: 1000}"),
		trafficPolicy("loaded", "adaptiveConcurrency: {}\nadmissionControl: {}\nconnectionLimits: {maxRequestsPerConnection: 1}"))
	require.Equal(t, http.StatusTeapot, x.status("/abort"))
	require.Equal(t, http.StatusOK, x.status("/plain"))
	require.Equal(t, http.StatusOK, x.status("/loaded"))
	require.Equal(t, http.StatusOK, x.status("/delay"))
	require.EqualValues(t, 1, x.stats("fault.delays_injected")["http.port-8080.fault.delays_injected"])
	for accept, want := range map[string]string{"gzip": "gzip", "br": "br", "zstd": "zstd", "gzip, br, zstd": "br", "identity": ""} {
		response, body := x.ask("/text", "Accept-Encoding", accept)
		require.Equal(t, want, response.Header.Get("Content-Encoding"), accept)
		if want != "" {
			require.Less(t, len(body), 1000, accept)
		}
	}
	response, body := x.ask("/text-gzip", "Accept-Encoding", "gzip, br")
	require.Equal(t, "gzip", response.Header.Get("Content-Encoding"))
	reader, err := gzip.NewReader(strings.NewReader(body))
	require.NoError(t, err)
	plain, err := io.ReadAll(reader)
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("weir ", 1000), string(plain))
	for size, want := range map[int]int{1000: http.StatusOK, 1001: http.StatusRequestEntityTooLarge} {
		for _, path := range []string{"/body", "/plain"} {
			response, err := x.client.Post(fmt.Sprintf("http://127.0.0.1:%d%s", x.ports[8080], path), "text/plain", bytes.NewReader(make([]byte, size)))
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			if path == "/plain" {
				want = http.StatusOK
			}
			require.Equal(t, want, response.StatusCode, "%d bytes to %s", size, path)
		}
	}
}

func TestBackendFiltersAndSocketsThroughEnvoy(t *testing.T) {
	x := startTraffic(t)
	path := filepath.Join(t.TempDir(), "s.sock")
	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "from a socket")
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	x.apply(rule("socket", "socket")+`  - name: parts
    matches: [{path: {value: /parts}}]
    backendRefs:
    - group: weir.dev
      kind: Backend
      name: a
      filters:
      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-One, value: "100%"}], remove: [X-Two]}}
      - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-From, value: a}]}}
      - {type: URLRewrite, urlRewrite: {hostname: a.example}}
`, "---\napiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: socket}\nspec: {endpoints: [{unixSocket: "+path+"}]}\n")
	_, body := x.ask("/socket")
	require.Equal(t, "from a socket", body)
	response, _ := x.ask("/parts", "X-Two", "2")
	require.Equal(t, "100%||a.example", response.Header.Get("X-Got"))
	require.Equal(t, "a", response.Header.Get("X-From"))
}

// service is a Service with one EndpointSlice.
func service(name, more string, ports ...int) string {
	text := fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {ports: [{port: 80, name: web%s}]}\n", name, more)
	for _, port := range ports {
		text += fmt.Sprintf("---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: %s-%d, labels: {kubernetes.io/service-name: %s}}\naddressType: IPv4\nports: [{name: web, port: %d}]\nendpoints: [{addresses: [127.0.0.1]}]\n",
			name, port, name, port)
	}
	return text
}

func tlsPolicy(service, validation string) string {
	return fmt.Sprintf("---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: %s}\nspec:\n  targetRefs: [{group: '', kind: Service, name: %s}]\n  validation: {%s}\n",
		service, service, validation)
}

func TestBackendTLSThroughEnvoy(t *testing.T) {
	x := startTraffic(t)
	secure := newBackend(t, true)
	bundle := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}))
	configMap := func(name, text string) string {
		return fmt.Sprintf("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata:\n  ca.crt: |\n    %s\n", name, strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    "))
	}
	ref := func(service string) string { return fmt.Sprintf("    backendRefs: [{name: %s, port: 80}]\n", service) }
	serviceRule := func(name string) string {
		return fmt.Sprintf("  - name: %s\n    matches: [{path: {value: /%s}}]\n", name, name) + ref(name)
	}
	x.apply(serviceRule("trusted")+serviceRule("named")+serviceRule("misnamed")+serviceRule("system")+serviceRule("broken")+serviceRule("mistyped")+serviceRule("plain")+rule("own", "own"),
		configMap("ca", bundle), configMap("junk", "junk"),
		service("trusted", "", secure.port()), tlsPolicy("trusted", "hostname: example.com, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]"),
		service("named", "", secure.port()), tlsPolicy("named", "hostname: other.test, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}], subjectAltNames: [{type: Hostname, hostname: example.com}]"),
		service("misnamed", "", secure.port()), tlsPolicy("misnamed", "hostname: other.test, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]"),
		service("system", "", secure.port()), tlsPolicy("system", "hostname: example.com, wellKnownCACertificates: System"),
		service("broken", "", secure.port()), tlsPolicy("broken", "hostname: example.com, caCertificateRefs: [{group: '', kind: ConfigMap, name: junk}]"),
		service("mistyped", "", x.b.port()), tlsPolicy("mistyped", "hostnam: example.com, wellKnownCACertificates: System"),
		service("plain", "", x.a.port()),
		fmt.Sprintf("---\napiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: own}\nspec: {endpoints: [{address: 127.0.0.1, port: %d}], tls: {hostname: example.com, caCertificateRef: {name: ca, key: ca.crt}}}\n", secure.port()))
	for path, want := range map[string]int{
		"/trusted": 200, "/named": 200, "/own": 200, "/plain": 200,
		"/misnamed": 503, "/system": 503, "/broken": 500, "/mistyped": 500,
	} {
		require.Equal(t, want, x.status(path), path)
	}
	require.Zero(t, x.b.requests.Load(), "what a broken policy secures is not spoken to in plain text")
	_, body := x.ask("/mistyped")
	require.Contains(t, body, `"code":"BACKEND_UNRESOLVED"`)
}

// Endpoints that come and go under load fail no request, and touch nothing but
// the endpoints.
func TestMovingEndpointsFailNoRequest(t *testing.T) {
	x := startTraffic(t)
	rules := "  - name: web\n    matches: [{path: {value: /}}]\n    backendRefs: [{name: web, port: 80}]\n"
	x.apply(rules, service("web", "", x.a.port()))
	stop, failures := make(chan struct{}), make(chan string, 10_000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		client := &http.Client{Timeout: 5 * time.Second}
		for {
			select {
			case <-stop:
				return
			default:
			}
			response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", x.ports[8080]))
			if err != nil {
				failures <- err.Error()
				continue
			}
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
			if response.StatusCode != http.StatusOK {
				failures <- response.Status
			}
		}
	}()
	clusters := x.stats("cds.update_success")
	for range 10 {
		x.apply(rules, service("web", "", x.a.port(), x.b.port()))
		require.Eventually(t, func() bool { return len(x.served(10, "/")) == 2 }, patience, time.Millisecond)
		x.apply(rules, service("web", "", x.b.port()))
		require.Eventually(t, func() bool { return x.served(10, "/")[x.b.URL] == 10 }, patience, time.Millisecond)
		x.apply(rules, service("web", "", x.a.port()))
		require.Eventually(t, func() bool { return x.served(10, "/")[x.a.URL] == 10 }, patience, time.Millisecond)
	}
	close(stop)
	<-done
	close(failures)
	count := len(failures)
	require.Zero(t, count, "the first: %s", <-failures)
	require.Equal(t, clusters, x.stats("cds.update_success"), "the clusters stood still")
}

func TestZonesThroughEnvoy(t *testing.T) {
	x := startTraffic(t)
	x.apply(rule("near", "zones")+rule("plain", "zones")+rule("away", "away"),
		fmt.Sprintf("---\napiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: zones}\nspec: {endpoints: [{address: 127.0.0.1, port: %d, zone: here}, {address: 127.0.0.1, port: %d, zone: there}]}\n", x.a.port(), x.b.port()),
		fmt.Sprintf("---\napiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: away}\nspec: {endpoints: [{address: 127.0.0.1, port: %d, zone: there}]}\n", x.b.port()),
		trafficPolicy("near away", "loadBalancing: {locality: PreferZone}"))
	require.Equal(t, map[string]int{x.a.URL: 50}, x.served(50, "/near"))
	require.Len(t, x.served(50, "/plain"), 2, "the negative control")
	require.Equal(t, map[string]int{x.b.URL: 10}, x.served(10, "/away"), "better far away than not at all")
}
