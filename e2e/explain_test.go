package e2e

import (
	"bufio"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/stretchr/testify/require"

	"weir.dev/controlplane/envoy"
	"weir.dev/controlplane/folder"
	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

// answeringByName has every route answer with its own name, so that what Envoy
// chose can be seen; how it chooses stays as it is.
func answeringByName(t *testing.T, set envoy.Set) envoy.Set {
	t.Helper()
	named := envoy.Set{}
	for typeURL, resources := range set {
		if typeURL != envoy.TypeRoute {
			named[typeURL] = resources
			continue
		}
		for name, resource := range resources {
			var config routev3.RouteConfiguration
			require.NoError(t, resource.Body.UnmarshalTo(&config))
			for _, host := range config.GetVirtualHosts() {
				host.TypedPerFilterConfig = nil
				for _, route := range host.GetRoutes() {
					route.TypedPerFilterConfig = nil
					if route.GetDirectResponse().GetStatus() == http.StatusMisdirectedRequest {
						continue // of another chain; no route of the policy's
					}
					route.ResponseHeadersToAdd = []*corev3.HeaderValueOption{{
						Header: &corev3.HeaderValue{Key: "answered-by", Value: host.GetName() + " " + route.GetName()},
					}}
					route.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 200}}
				}
			}
			require.NoError(t, named.Add(name, &config))
		}
	}
	return named
}

// ask sends a request byte by byte as given, for Go's client cleans paths, and
// returns "host route", or the status when it is not 200.
func ask(t *testing.T, address string, q policy.Question) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	return askOn(t, conn, q)
}

// askOn asks over a connection.
func askOn(t *testing.T, conn net.Conn, q policy.Question) string {
	t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", q.Method, q.Path, q.Host)
	for _, header := range q.Headers {
		fmt.Fprintf(&text, "%s: %s\r\n", header.Name, header.Value)
	}
	_, err := io.WriteString(conn, text.String()+"\r\n")
	require.NoError(t, err)
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: q.Method})
	require.NoError(t, err, text.String())
	defer response.Body.Close()
	switch by := response.Header.Get("Answered-By"); {
	case by != "":
		return by
	case response.Header.Get("Grpc-Status") != "":
		return "refused" // as a gRPC error, which has no HTTP status
	default:
		return fmt.Sprint(response.StatusCode)
	}
}

// explained is the same from Explain.
func explained(plan *policy.Plan, q policy.Question) string {
	e := policy.Explain(plan, q)
	if e.Refused != nil {
		return fmt.Sprint(e.Refused.Status)
	}
	return e.Host.Name + " " + e.Route
}

// Explain chooses as Envoy does: hosts, paths in every form, methods, headers,
// query parameters, preflights and gRPC, and that whatever the edge's settings.
func TestExplainChoosesAsEnvoyDoes(t *testing.T) {
	p := startEnvoy(t)
	p.options.ExtAuthzAddress, p.options.RateLimitAddress = "", "" // there are none to ask
	address := fmt.Sprintf("127.0.0.1:%d", p.ports[8080])
	for name, change := range map[string]func(*policy.Edge){
		"by default":         nil,
		"slashes unescaped":  func(e *policy.Edge) { e.EscapedSlashes = v1alpha1.EscapedSlashesForward },
		"slashes redirected": func(e *policy.Edge) { e.EscapedSlashes = v1alpha1.EscapedSlashesRedirect },
		"slashes kept":       func(e *policy.Edge) { e.EscapedSlashes = v1alpha1.EscapedSlashesKeep },
		"paths as they are":  func(e *policy.Edge) { e.NormalizePath, e.MergeSlashes = false, false },
		"parameters kept":    func(e *policy.Edge) { e.PathParameters = v1alpha1.PathParametersKeep },
		"nothing touched": func(e *policy.Edge) {
			e.NormalizePath, e.MergeSlashes, e.PathParameters = false, false, v1alpha1.PathParametersKeep
		},
		"slashes not merged":  func(e *policy.Edge) { e.MergeSlashes = false },
		"underscores allowed": func(e *policy.Edge) { e.Underscores = v1alpha1.UnderscoresAllow },
		"underscores dropped": func(e *policy.Edge) { e.Underscores = v1alpha1.UnderscoresDrop },
	} {
		t.Run(name, func(t *testing.T) {
			p.t = t
			plan, count := p.planOf(filepath.Join("testdata", "explain.yaml")), 3000
			if change != nil {
				edge := policy.DefaultEdge()
				change(&edge)
				plan.Ports[0].Chains[0].Edge, count = &edge, 800
			}
			set, err := envoy.Compile(plan, p.options)
			require.NoError(t, err)
			p.requireAccepted(answeringByName(t, set))
			answers := requireSameAnswers(t, plan, address, count)
			require.Greater(t, len(answers), 8, "the requests hardly differ: %v", answers)
		})
	}
}

// Where routes are spread over shards, the answers stay as they are, whatever the
// edge's settings: the shard is that of the host and path which routes match.
func TestShardsAnswerAsOneConfigurationDoes(t *testing.T) {
	p := startEnvoy(t)
	p.options.ExtAuthzAddress, p.options.RateLimitAddress = "", ""
	address := fmt.Sprintf("127.0.0.1:%d", p.ports[8080])
	for name, change := range map[string]func(*policy.Edge){
		"by default":         nil,
		"slashes unescaped":  func(e *policy.Edge) { e.EscapedSlashes = v1alpha1.EscapedSlashesForward },
		"slashes redirected": func(e *policy.Edge) { e.EscapedSlashes = v1alpha1.EscapedSlashesRedirect },
		"slashes kept":       func(e *policy.Edge) { e.EscapedSlashes = v1alpha1.EscapedSlashesKeep },
		"paths as they are":  func(e *policy.Edge) { e.NormalizePath, e.MergeSlashes = false, false },
		"parameters kept":    func(e *policy.Edge) { e.PathParameters = v1alpha1.PathParametersKeep },
	} {
		t.Run(name, func(t *testing.T) {
			p.t = t
			plan := p.planOf(filepath.Join("testdata", "explain.yaml"))
			if change != nil {
				edge := policy.DefaultEdge()
				change(&edge)
				plan.Ports[0].Chains[0].Edge = &edge
			}
			var cache envoy.Cache
			options := p.options
			options.ShardAbove = 5
			set, err := cache.CompileFleet(plan, options)
			require.NoError(t, err)
			require.Greater(t, len(set[envoy.TypeScope]), 2, "nothing is spread")
			p.requireAccepted(answeringByName(t, set))
			answers := requireSameAnswers(t, plan, address, 1500)
			require.Greater(t, len(answers), 8, "the requests hardly differ: %v", answers)
		})
	}
}

// requireSameAnswers sends requests and returns how often each answer came.
func requireSameAnswers(t *testing.T, plan *policy.Plan, address string, count int) map[string]int {
	t.Helper()
	random := rand.New(rand.NewSource(4))
	answers := map[string]int{}
	differ := 0
	for i := range count {
		q := question(random)
		if i < len(oddPaths()) {
			q = policy.Question{Method: "GET", Host: "api.example.com", Path: oddPaths()[i]}
		}
		q.Port = 8080
		got, want := explained(plan, q), ask(t, address, q)
		if answers[want]++; got != want && (want != "refused" || len(got) != 3) {
			t.Errorf("%s %s%s %v: Explain says %q, Envoy %q", q.Method, q.Host, q.Path, q.Headers, got, want)
			if differ++; differ == 20 {
				t.FailNow()
			}
		}
	}
	return answers
}

func (p *proxied) planOf(path string) *policy.Plan {
	p.t.Helper()
	parser, err := policy.NewParser()
	require.NoError(p.t, err)
	update, err := folder.Read(parser, path)
	require.NoError(p.t, err)
	plan, problems := policy.Resolve(update.Input)
	require.Empty(p.t, append(update.Problems, problems...).Errors())
	return plan
}

func pick[T any](random *rand.Rand, from ...T) T { return from[random.Intn(len(from))] }

// question makes a request that has a fair chance to match something.
func question(random *rand.Rand) policy.Question {
	q := policy.Question{
		Method: pick(random, "GET", "GET", "POST", "PUT", "OPTIONS", "DELETE", "PATCH"),
		Host: pick(random, "api.example.com", "api.example.com", "api.example.com", "x.example.com", "API.Example.com", "api.example.com:8080", "x.example.com", "a.b.example.com", "example.com",
			"deep.x.example.com", "other.test", "api.example.com.", "127.0.0.1", "[::1]:80", ".example.com"),
	}
	q.Path = pick(random, "", "", "/v1/users", "/v1/users", "/users", "/files", "/v1", "/grpc.Service", "/exact")
	segments := []string{
		"v1", "v1", "users", "users", "42", "report", "", "..", ".", "%2e%2e", "%41", "a%20b", "%7Euser", "files", "files.txt",
		"Users", "grpc.Service", "Method", "%c3%a9", "v1;x=1", "a+b", "%2F", "%5c", "\\", "%", "%zz", "x", "exact", "regex-17",
	}
	for range 1 + random.Intn(2) {
		q.Path += "/" + pick(random, segments...)
	}
	if random.Intn(4) == 0 {
		q.Path += "/"
	}
	if random.Intn(2) == 0 {
		q.Path += "?" + pick(random, "debug=1", "debug=2", "debug=1&debug=2", "x=1&debug=1", "debug", "debug=", "d%65bug=1", "debug=%31", "q=a+b", "q=a%20b", "q=a%2Bb", "debug=1#x", "a=/../", "q=%zz", "v=abc123", "?debug=1")
	}
	for range random.Intn(4) {
		q.Headers = append(q.Headers, policy.Header{
			Name:  pick(random, "X-Version", "x-version", "Content-Type", "Access-Control-Request-Method", "X-Weir-Consumer", "x-beta", "bad_name"),
			Value: pick(random, "2", "2", "1", "application/grpc", "application/grpc-web+proto", "application/json", "GET", "POST", "PUT", "beta-7", "beta-", " 2 "),
		})
	}
	return q
}

func oddPaths() []string {
	return []string{
		"/", "//", "///", "/.", "/..", "/./", "/../", "/a/..", "/a/../", "/a/./b", "/a//../b", "/a/b/../../..", "/a/.../b",
		"/v1/%2e/users", "/v1/%2e%2e/users", "/v1/.%2e/users", "/v1/%252e%252e/users", "/v1/%2fusers", "/v1%5cusers", "/v1\\users",
		"/v1/users%00", "/v1/users%", "/v1/users%4", "/v1/users%4g", "/v1/us%65rs", "/v1/us%45rs", "/v1/users%20x", "/v1/users%3f", "/v1/users%23",
		"/v1/users#x", "/v1/users?#x", "/v1/users?a=%2f", "/v1/users;a=b", "/v1/users/", "/v1/users//", "/v1//users", "//v1/users", "/V1/users",
		"/v1/users/%2E", "/v1/users/%2e%2E/", "/v1/users/..;/x", "/v1/users|x", "/v1/users\"x", "/v1/users<x>", "/v1/users{x}", "/v1/users^x", "/v1/users`x",
		"/v1/users/\xc3\xa9", "/v1/users/%C3%A9", "/v1/users/%c3%a9", "/v1/users/%E0%80%80", "/v1/users/%7e", "/v1/users/%7E", "/v1/users/%2d", "/v1/users/%21",
		"/v1/users/:x", "/v1/users/@x", "/v1/users/a=b&c", "/v1/users/a,b", "/v1/users/'x'", "/v1/users/(x)", "/v1/users/*", "/v1/users/$x", "/v1/users/!x",
		"/v1/users/%u0041", "/exact", "/exact/", "/exact//", "/exact?x", "/regex-17", "/regex-17/", "/regex-", "/files/a%20b", "/files/a b",
		"/v1/users/.;/x", "/v1/users/..;a=b/x", "/v1/users/..;", "/v1/users/.;", "/v1/users;x/../y", "/v1/users/..%3b/x", "/v1/users/%2e%2e;x/y", "/v1/users/...;/x",
		"/v1/users/..;/..;/exact", "/v1/users/;/x", "/v1/users/;..", "/v1/users/..x;", "/v1/users\\..\\x", "/v1/users/.%2E;y/x", "/v1/users/%2e;/x", "/v1/users/\t", "/v1/users/%0a", "/v1/users/%7f", "/v1/users/\x7f", "/v1/%41\\..", "/exact/.;", "/v1/users/.;/../users2", "/v1/users/.;x/../y", "/v1/users\\..;/x", "/v1/users/..;\\x", "/v1/users/x/..;%2e/y", "/exact/.;x", "/exact/x/..;", "/exact/;", "/exact;", "/exact/y/..;/.", "/exact/y/..;b/z/..;c",
	}
}
