package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/controlplane/envoy"
	"weir.dev/policy"
)

const shardsGateway = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: weir
  listeners: [{name: http, port: 8080, protocol: HTTP}]
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: b}
spec: {endpoints: [{address: 127.0.0.1, port: 9}]}
`

// shardsRoute is a route of one match; no host stands for all.
func shardsRoute(name, host, kind, path string) string {
	hostnames := ""
	if host != "" {
		hostnames = fmt.Sprintf("\n  hostnames: [%q]", host)
	}
	return fmt.Sprintf(`---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s}
spec:
  parentRefs: [{name: edge}]%s
  rules:
    - name: all
      matches: [{path: {type: %s, value: %q}}]
      backendRefs: [{group: weir.dev, kind: Backend, name: b}]
`, name, hostnames, kind, path)
}

// shardedPlan has many hosts, with wildcards between them, and many paths.
func shardedPlan(t *testing.T, p *proxied) *policy.Plan {
	t.Helper()
	var text strings.Builder
	text.WriteString(shardsGateway)
	add := func(host, kind, path string) {
		text.WriteString(shardsRoute(fmt.Sprintf("r%04d", strings.Count(text.String(), "HTTPRoute")), host, kind, path))
	}
	for _, host := range shardHosts() {
		add(host, "PathPrefix", "/")
		add(host, "PathPrefix", "/v1/only")
	}
	for i := range 60 {
		add("", "PathPrefix", fmt.Sprintf("/r/%02d", i))
		add("paths.example.com", "Exact", fmt.Sprintf("/p/%02d", i))
		add("paths.example.com", "RegularExpression", fmt.Sprintf("/q/%02d[a-f]*", i))
	}
	add("", "PathPrefix", "/r")
	add("paths.example.com", "RegularExpression", "/.*/report")
	add("*.example.com", "PathPrefix", "/r/07")
	return p.planOfText(text.String())
}

func shardHosts() []string {
	hosts := []string{"*.example.com", "*.b.example.com"}
	for _, name := range []string{"a", "a-a", "a1", "a0", "aa", "ab", "b", "ba", "0", "9z", "m", "mm", "m-m", "n", "x.b", "z", "zz", "x1-2", "x1"} {
		hosts = append(hosts, name+".example.com", name+".example.net", name+"-example.org")
	}
	return hosts
}

func shardQuestion(random *rand.Rand) policy.Question {
	pick := func(from []string) string { return from[random.Intn(len(from))] }
	host := strings.TrimPrefix(pick(shardHosts()), "*.")
	switch random.Intn(5) {
	case 0:
		host = pick([]string{"paths.example.com", "PATHS.example.com", "nobody.example.com", "nobody.example", "127.0.0.1", "[::1]", "a_b.example.com"})
	case 1: // another name nearby
		at := random.Intn(len(host))
		host = host[:at] + pick([]string{"", "a", "0", "-", "Z"}) + host[at:]
	}
	bytes := []byte(host)
	for i := range bytes {
		if random.Intn(3) == 0 {
			bytes[i] = strings.ToUpper(string(bytes[i]))[0]
		}
	}
	host = string(bytes) + pick([]string{"", "", "", ":8080", ":1", "."})
	path := pick([]string{
		"/", "/r", "/r/", "/r/%02d", "/r/%02d/", "/r/%02d/x", "/r/%02dx", "/r/%02d?x=/a", "/p/%02d", "/p/%02d/", "/q/%02dabc", "/q/%02dx", "/q/report",
		"/v1/only", "/v1/only2", "/v1", "/zz/report", "/%%72/%02d", "/r//%02d", "/x/../r/%02d", "/r/./%02d", "/r/%02d;a", "*", "/r/%02d%%00", "/~", "/\x7f",
	})
	if strings.Contains(path, "%") {
		path = fmt.Sprintf(path, random.Intn(62))
	}
	method := "GET"
	if path == "*" {
		method = "OPTIONS"
	}
	q := policy.Question{Method: method, Host: host, Path: path, Port: 8080}
	if random.Intn(3) == 0 { // Nobody but the edge says which shard a request is for.
		q.Headers = append(q.Headers, policy.Header{Name: pick([]string{"x-weir-shard", "X-Weir-Shard"}), Value: "0"})
	}
	return q
}

// A request's answer does not depend on whether routes are spread, and over how
// many shards: the real Envoy is asked the same of one configuration and of its
// parts.
func TestShardsByHostAndPath(t *testing.T) {
	whole, spread := startEnvoy(t), startEnvoy(t)
	whole.options.ExtAuthzAddress, whole.options.RateLimitAddress = "", ""
	spread.options.ExtAuthzAddress, spread.options.RateLimitAddress = "", ""
	plan := shardedPlan(t, whole)
	set, err := envoy.Compile(plan, whole.options)
	require.NoError(t, err)
	whole.requireAccepted(answeringByName(t, set))
	for _, above := range []int{10, 100} {
		var cache envoy.Cache
		spread.options.ShardAbove = above
		set, err = cache.CompileFleet(plan, spread.options)
		require.NoError(t, err)
		require.Greater(t, len(set[envoy.TypeScope]), 300/above)
		spread.requireAccepted(answeringByName(t, set))
		random := rand.New(rand.NewSource(5))
		answers := map[string]int{}
		for range 3000 {
			q := shardQuestion(random)
			want := ask(t, fmt.Sprintf("127.0.0.1:%d", whole.ports[8080]), q)
			got := ask(t, fmt.Sprintf("127.0.0.1:%d", spread.ports[8080]), q)
			require.Equal(t, want, got, "%+v", q)
			answers[want]++
		}
		require.Greater(t, len(answers), 100, "the requests hardly differ: %v", answers)
	}
}

func (p *proxied) planOfText(text string) *policy.Plan {
	p.t.Helper()
	path := filepath.Join(p.t.TempDir(), "p.yaml")
	require.NoError(p.t, os.WriteFile(path, []byte(text), 0o600))
	return p.planOf(path)
}

// rollOut brings Envoy to a policy by way of shards, as a control plane does, and
// returns how many there are.
func (p *proxied) rollOut(cache *envoy.Cache, text string) int {
	p.t.Helper()
	set, err := cache.CompileFleet(p.planOfText(text), p.options)
	require.NoError(p.t, err)
	require.NoError(p.t, p.ads.Rollout(p.t.Context(), set))
	return len(set[envoy.TypeScope])
}

// While a chain grows from one configuration to many shards, and those are made
// anew, no request fails, on connections new and old, and what is acknowledged
// is served.
func TestShardsAreMadeUnderLoad(t *testing.T) {
	for name, stateOfTheWorld := range map[string]bool{"delta": false, "state of the world": true} {
		t.Run(name, func(t *testing.T) {
			shardsUnderLoad(t, startEnvoyWith(t, func(p *proxied) { p.stateOfTheWorld = stateOfTheWorld }))
		})
	}
}

func shardsUnderLoad(t *testing.T, p *proxied) {
	t.Helper()
	p.options.ExtAuthzAddress, p.options.RateLimitAddress, p.options.ShardAbove = "", "", 20
	var seen sync.Map
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		for name := range r.Header {
			seen.Store(strings.ToLower(name), true)
		}
	}))
	defer upstream.Close()
	policyOf := func(from, routes int) string {
		text := strings.Replace(shardsGateway, "port: 9}", "port: "+upstream.URL[strings.LastIndexByte(upstream.URL, ':')+1:]+"}", 1)
		for i := range routes {
			if i < 10 || i >= from {
				text += shardsRoute(fmt.Sprintf("r%04d", i), "", "PathPrefix", fmt.Sprintf("/r/%04d", i))
			}
		}
		return text
	}
	var cache envoy.Cache
	require.Zero(t, p.rollOut(&cache, policyOf(0, 10)))
	base := fmt.Sprintf("http://127.0.0.1:%d", p.ports[8080])
	p.listening(8080)
	get := func(client *http.Client, path string) int {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+path, nil)
		if err != nil {
			return 0
		}
		request.Header.Set("X-Weir-Shard", "nowhere")
		response, err := client.Do(request)
		if err != nil {
			return 0
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		return response.StatusCode
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	var asked, failed atomic.Int64
	for i := range 4 {
		client := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
		wait.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				if asked.Add(1); get(client, fmt.Sprintf("/r/%04d", n%10)) != http.StatusOK {
					failed.Add(1)
				}
				if i == 0 { // a connection that is mostly idle
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	shards := 0
	client := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	for _, step := range []struct{ from, routes int }{{0, 15}, {0, 30}, {0, 31}, {0, 60}, {0, 120}, {0, 400}, {200, 400}, {390, 400}, {0, 401}} {
		now := p.rollOut(&cache, policyOf(step.from, step.routes))
		shards = max(shards, now)
		require.Equal(t, step.routes > 20, now > 0, "%v", step)
		for i := range step.routes {
			if i < 10 || i >= step.from {
				require.Equal(t, http.StatusOK, get(client, fmt.Sprintf("/r/%04d/x", i)), "%v", step)
			} else {
				require.Equal(t, http.StatusNotFound, get(client, fmt.Sprintf("/r/%04d/x", i)), "%v", step)
			}
		}
	}
	cancel()
	wait.Wait()
	require.Greater(t, shards, 60)
	require.Greater(t, asked.Load(), int64(500))
	require.Zero(t, failed.Load(), "of %d", asked.Load())
	_, there := seen.Load("x-weir-shard")
	require.False(t, there, "the key of the shard reaches the backend")
}
