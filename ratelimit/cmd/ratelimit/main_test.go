package main

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"weir.dev/kit/certs"
	"weir.dev/ratelimit/ersettings"
	"weir.dev/ratelimit/internal/redistest"
)

const patience = 20 * time.Second

const oneADay = "domain: shop\ndescriptors: [{key: user, rate_limit: {unit: year, requests_per_unit: 1}}]"

// process is the program under test.
type process struct {
	t    *testing.T
	at   addresses
	conn *grpc.ClientConn
	logs *buffer
	stop func() int
}

type buffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}
func (b *buffer) String() string { b.mu.Lock(); defer b.mu.Unlock(); return b.Buffer.String() }

// configure writes the files of a runtime folder and returns the variables of
// a process on it.
func configure(t *testing.T, files map[string]string) (root string, set map[string]string) {
	root = t.TempDir()
	dir := filepath.Join(root, "ratelimit", "config")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	for name, text := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return dir, map[string]string{
		"HOST": "127.0.0.1", "PORT": "0", "DEBUG_HOST": "127.0.0.1", "DEBUG_PORT": "0", "GRPC_HOST": "127.0.0.1", "GRPC_PORT": "0",
		"RUNTIME_ROOT": root, "RUNTIME_SUBDIRECTORY": "ratelimit", "BACKEND_TYPE": "memory", "LOG_LEVEL": "info",
		"USE_PROMETHEUS": "true", "PROMETHEUS_ADDR": "127.0.0.1:0",
	}
}

func lookup(set map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { value, ok := set[name]; return value, ok }
}

func start(t *testing.T, set map[string]string, secure ...credentials.TransportCredentials) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p := &process{t: t, logs: &buffer{}}
	bound, code := make(chan addresses, 1), make(chan int, 1)
	go func() { code <- run(ctx, nil, lookup(set), p.logs, func(at addresses) { bound <- at }) }()
	select {
	case p.at = <-bound:
	case exit := <-code:
		t.Fatalf("ended with %d: %s", exit, p.logs)
	case <-time.After(patience):
		t.Fatal("does not start")
	}
	creds := insecure.NewCredentials()
	if len(secure) > 0 {
		creds = secure[0]
	}
	target := p.at.grpc
	if !strings.Contains(target, ":") {
		target = "unix://" + target
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	require.NoError(t, err)
	p.conn = conn
	var once sync.Once
	exit := 0
	p.stop = func() int {
		once.Do(func() { _ = conn.Close(); cancel(); exit = <-code })
		return exit
	}
	t.Cleanup(func() { p.stop() })
	return p
}

func (p *process) ask(user string) (rlsv3.RateLimitResponse_Code, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	response, err := rlsv3.NewRateLimitServiceClient(p.conn).ShouldRateLimit(ctx, &rlsv3.RateLimitRequest{
		Domain: "shop", Descriptors: []*ratelimitv3.RateLimitDescriptor{{Entries: []*ratelimitv3.RateLimitDescriptor_Entry{{Key: "user", Value: user}}}},
	})
	return response.GetOverallCode(), err
}

func (p *process) code(user string) rlsv3.RateLimitResponse_Code {
	p.t.Helper()
	code, err := p.ask(user)
	require.NoError(p.t, err)
	return code
}

func (p *process) health(service string) healthpb.HealthCheckResponse_ServingStatus {
	response, err := healthpb.NewHealthClient(p.conn).Check(p.t.Context(), &healthpb.HealthCheckRequest{Service: service})
	require.NoError(p.t, err)
	return response.GetStatus()
}

func get(t *testing.T, url string) (int, string) {
	response, err := http.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(body)
}

func TestServes(t *testing.T) {
	_, set := configure(t, map[string]string{"shop.yaml": oneADay})
	set["USE_STATSD"], set["RUNTIME_WATCH_ROOT"] = "false", "false"
	p := start(t, set)
	require.Equal(t, rlsv3.RateLimitResponse_OK, p.code("ann"))
	require.Equal(t, rlsv3.RateLimitResponse_OVER_LIMIT, p.code("ann"))
	for _, name := range []string{"", "ratelimit", "envoy.service.ratelimit.v3.RateLimitService"} {
		require.Equal(t, healthpb.HealthCheckResponse_SERVING, p.health(name), name)
	}
	status, body := get(t, "http://"+p.at.http+"/healthcheck")
	require.Equal(t, 200, status)
	require.Equal(t, "OK", body)
	_, body = get(t, "http://"+p.at.debug+"/rlconfig")
	require.Equal(t, "shop.user: unit=YEAR requests_per_unit=1, shadow_mode: false, quota_mode: false\n", body)
	_, body = get(t, "http://"+p.at.debug+"/rlconfig?format=json")
	require.Contains(t, body, `"requestsPerUnit":1,"unit":"year"`)
	for _, address := range []string{"http://" + p.at.metrics + "/metrics", "http://" + p.at.debug + "/metrics"} {
		_, body = get(t, address)
		require.Contains(t, body, `ratelimit_service_rate_limit_total_hits{domain="shop",key1="user",key2=""} 2`)
		require.Contains(t, body, `ratelimit_service_total_requests{grpc_method="ShouldRateLimit"} 2`)
	}
	_, body = get(t, "http://"+p.at.debug+"/stats")
	require.Regexp(t, `^cmdline: \[.+\]\nmemstats: \{"Alloc":\d+,`, body)
	require.NotContains(t, body, "total_hits")
	for _, path := range []string{"/", "/nothing"} {
		status, body = get(t, "http://"+p.at.debug+path)
		require.Equal(t, 200, status)
		require.Contains(t, body, "\n/rlconfig: ")
	}
	require.Contains(t, p.logs.String(), "RUNTIME_WATCH_ROOT: both the link and the files are watched")
	require.Zero(t, p.stop())
}

func TestJSON(t *testing.T) {
	_, set := configure(t, map[string]string{"shop.yaml": oneADay})
	p := start(t, set)
	post := func(body string) (int, string) {
		response, err := http.Post("http://"+p.at.http+"/json", "application/json", strings.NewReader(body))
		require.NoError(t, err)
		defer response.Body.Close()
		raw, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, string(raw)
	}
	const ask = `{"domain": "shop", "descriptors": [{"entries": [{"key": "user", "value": "ann"}]}]}`
	status, body := post(ask)
	require.Equal(t, 200, status, body)
	require.JSONEq(t, `"OK"`, strings.SplitN(strings.SplitN(body, `"overallCode":`, 2)[1], ",", 2)[0])
	status, _ = post(ask)
	require.Equal(t, 429, status)
	for _, bad := range []string{"", "{", `{"domain": "shop"}`, `{"descriptors": []}`, `{"nothing": 1}`, strings.Repeat(" ", maxJSONBytes+1)} {
		status, _ = post(bad)
		require.Equal(t, 400, status, bad[:min(len(bad), 20)])
	}
}

// As a ConfigMap's volume changes: a link to another folder is renamed over.
func TestConfigMapSwap(t *testing.T) {
	dir, set := configure(t, nil)
	mount := func(name, text string) {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name, "shop.yaml"), []byte(text), 0o600))
		require.NoError(t, os.Symlink(name, filepath.Join(dir, "..data_tmp")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	mount("..one", oneADay)
	require.NoError(t, os.Symlink("..data/shop.yaml", filepath.Join(dir, "shop.yaml")))
	p := start(t, set)
	p.code("ann")
	require.Equal(t, rlsv3.RateLimitResponse_OVER_LIMIT, p.code("ann"))
	mount("..two", strings.ReplaceAll(oneADay, "requests_per_unit: 1", "requests_per_unit: 2"))
	require.Eventually(t, func() bool { return p.code("ann") == rlsv3.RateLimitResponse_OK }, patience, 20*time.Millisecond)
	require.Equal(t, rlsv3.RateLimitResponse_OVER_LIMIT, p.code("ann"), "what was counted before stays counted")
	mount("..three", "domain: shop\ndescriptors: [{}]")
	require.Eventually(t, func() bool { return strings.Contains(p.logs.String(), "descriptors[0].key: is required") }, patience, 20*time.Millisecond)
	require.Equal(t, rlsv3.RateLimitResponse_OVER_LIMIT, p.code("ann"), "a broken one leaves what was in effect")
	_, body := get(t, "http://"+p.at.metrics+"/metrics")
	require.Contains(t, body, "ratelimit_service_config_load_error 1")
	require.Contains(t, body, "ratelimit_service_config_load_success 2")
}

func TestFirstConfiguration(t *testing.T) {
	_, set := configure(t, map[string]string{"shop.yaml": "domain: shop\nlimits: []"})
	var logs buffer
	require.Equal(t, 1, run(t.Context(), nil, lookup(set), &logs, nil))
	require.Contains(t, logs.String(), "limits: is not known here")
	require.Contains(t, logs.String(), "refused; none is in effect")
	require.NotContains(t, logs.String(), "what was in effect stays")
	missing := maps.Clone(set)
	missing["RUNTIME_SUBDIRECTORY"] = "nothing"
	require.Equal(t, 1, run(t.Context(), nil, lookup(missing), &logs, nil))
	require.Contains(t, logs.String(), "RUNTIME_ROOT/RUNTIME_SUBDIRECTORY/RUNTIME_APPDIRECTORY: configuration folder: open "+filepath.Join(set["RUNTIME_ROOT"], "nothing", "config"))
	set["FORCE_START_WITHOUT_INITIAL_CONFIG"] = "true"
	p := start(t, set)
	require.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, p.health(""))
	_, err := p.ask("ann")
	require.ErrorContains(t, err, "no rate limit configuration is loaded")
	status, body := get(t, "http://"+p.at.http+"/healthcheck")
	require.Equal(t, 500, status)
	require.Contains(t, body, "no configuration is loaded")
}

func TestWrongUse(t *testing.T) {
	var logs buffer
	require.Equal(t, 2, run(t.Context(), []string{"serve"}, lookup(nil), &logs, nil))
	require.Equal(t, 0, run(t.Context(), []string{"--version"}, lookup(nil), &logs, nil))
	require.Equal(t, 1, run(t.Context(), nil, lookup(map[string]string{"PORT": "x", "BACKEND_TYPE": "etcd"}), &logs, nil))
	require.Contains(t, logs.String(), "BACKEND_TYPE: ")
	require.Contains(t, logs.String(), "PORT: ")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	_, set := configure(t, map[string]string{"shop.yaml": oneADay})
	set["GRPC_PORT"] = strings.TrimPrefix(taken.Addr().String(), "127.0.0.1:")
	require.Equal(t, 1, run(t.Context(), nil, lookup(set), &logs, nil))
	require.Contains(t, logs.String(), "GRPC_HOST and GRPC_PORT")
}

// Counters are shared through Redis, health tells that it went, calls are
// answered soon all the while, and all comes back by itself.
func TestRedis(t *testing.T) {
	redis := redistest.Start(t)
	_, set := configure(t, map[string]string{"shop.yaml": oneADay})
	set["BACKEND_TYPE"], set["REDIS_SOCKET_TYPE"], set["REDIS_URL"] = "redis", "unix", strings.TrimPrefix(redis.URL(), "unix://")
	first, second := start(t, set), start(t, set)
	require.Equal(t, rlsv3.RateLimitResponse_OK, first.code("ann"))
	require.Equal(t, rlsv3.RateLimitResponse_OVER_LIMIT, second.code("ann"))
	redis.Kill(t)
	require.Eventually(t, func() bool { return first.health("") == healthpb.HealthCheckResponse_NOT_SERVING }, patience, 20*time.Millisecond)
	_, err := first.ask("bob")
	require.ErrorContains(t, err, "limits cannot be checked")
	redis.Restart(t)
	require.Eventually(t, func() bool {
		_, err := first.ask("bob")
		return err == nil && first.health("ratelimit") == healthpb.HealthCheckResponse_SERVING
	}, patience, 20*time.Millisecond)
}

// Redis that is away at start keeps nothing from serving; health is false from the
// first moment until it has answered.
func TestRedisAwayAtStart(t *testing.T) {
	redis := redistest.Start(t)
	redis.Kill(t)
	_, set := configure(t, map[string]string{"shop.yaml": oneADay})
	set["BACKEND_TYPE"], set["REDIS_SOCKET_TYPE"], set["REDIS_URL"] = "redis", "unix", strings.TrimPrefix(redis.URL(), "unix://")
	p := start(t, set)
	require.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, p.health("ratelimit"))
	_, err := p.ask("ann")
	require.ErrorContains(t, err, "limits cannot be checked")
	require.Eventually(t, func() bool { return strings.Contains(p.logs.String(), "Redis does not answer; health says so") }, patience, 20*time.Millisecond)
	redis.Restart(t)
	require.Eventually(t, func() bool {
		_, err := p.ask("ann")
		return err == nil && p.health("ratelimit") == healthpb.HealthCheckResponse_SERVING
	}, patience, 20*time.Millisecond)
}

func TestMutualTLS(t *testing.T) {
	authority, err := certs.OpenAuthority(t.TempDir(), time.Now())
	require.NoError(t, err)
	files, _, err := authority.Ensure("ratelimit", t.TempDir(), time.Now())
	require.NoError(t, err)
	_, set := configure(t, map[string]string{"shop.yaml": oneADay})
	set["GRPC_SERVER_USE_TLS"], set["GRPC_SERVER_TLS_CERT"], set["GRPC_SERVER_TLS_KEY"] = "true", files.CertFile, files.KeyFile
	set["GRPC_CLIENT_TLS_CACERT"], set["GRPC_CLIENT_TLS_SAN"] = files.CAFile, certs.PeerID("ingress")
	as := func(component string) *process {
		own, _, err := authority.Ensure(component, t.TempDir(), time.Now())
		require.NoError(t, err)
		config, err := own.ClientConfig(certs.PeerID("ratelimit"))
		require.NoError(t, err)
		return start(t, set, credentials.NewTLS(config))
	}
	require.Equal(t, rlsv3.RateLimitResponse_OK, as("ingress").code("ann"))
	_, err = as("data").ask("ann")
	require.Error(t, err, "negative control: another name")
	plain := start(t, set)
	_, err = plain.ask("ann")
	require.Error(t, err, "negative control: no certificate")
}

func TestUnixSocket(t *testing.T) {
	_, set := configure(t, map[string]string{"shop.yaml": oneADay})
	set["GRPC_UDS"] = filepath.Join(t.TempDir(), "s")
	require.Equal(t, rlsv3.RateLimitResponse_OK, start(t, set).code("ann"))
}

func TestRedisAddresses(t *testing.T) {
	for name, test := range map[string]struct {
		set  map[string]string
		want string
	}{
		"socket":   {map[string]string{"REDIS_URL": "/run/redis.sock"}, "unix:///run/redis.sock"},
		"one":      {map[string]string{"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": "redis:6379"}, "redis://redis:6379"},
		"TLS":      {map[string]string{"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": "redis:6379", "REDIS_TLS": "true", "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION": "true"}, "rediss://redis:6379?skip_verify=true"},
		"cluster":  {map[string]string{"REDIS_SOCKET_TYPE": "tcp", "REDIS_TYPE": "CLUSTER", "REDIS_URL": "a:1,b:2,c:3"}, "redis://a:1?addr=b%3A2&addr=c%3A3"},
		"URL":      {map[string]string{"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": "redis://u:hunter2@redis:6379/3"}, "redis://redis:6379/3"},
		"sentinel": {map[string]string{"REDIS_SOCKET_TYPE": "tcp", "REDIS_TYPE": "SENTINEL", "REDIS_URL": "main,a:1,b:2"}, "redis://a:1?addr=b%3A2&master_name=main"},
	} {
		t.Run(name, func(t *testing.T) {
			settings, err := readSettings(test.set)
			require.NoError(t, err)
			config, err := redisConfig(settings)
			require.NoError(t, err)
			require.Equal(t, test.want, config.URL)
			client, err := config.NewClient(time.Second)
			require.NoError(t, err)
			require.NoError(t, client.Close())
		})
	}
}

// A login is the variables', or else the URL's, which with sentinels is theirs, as
// in envoyproxy/ratelimit.
func TestRedisLogins(t *testing.T) {
	for name, test := range map[string]struct {
		set  map[string]string
		want [4]string
	}{
		"variables":    {map[string]string{"REDIS_URL": "a:1", "REDIS_AUTH": "u:p"}, [4]string{"u", "p"}},
		"a password":   {map[string]string{"REDIS_URL": "a:1", "REDIS_AUTH": "p"}, [4]string{"", "p"}},
		"URL":          {map[string]string{"REDIS_URL": "redis://v:q@a:1"}, [4]string{"v", "q"}},
		"both":         {map[string]string{"REDIS_URL": "redis://v:q@a:1", "REDIS_AUTH": "u:p"}, [4]string{"u", "p"}},
		"cluster":      {map[string]string{"REDIS_TYPE": "cluster", "REDIS_URL": "a:1,redis://v:q@b:2"}, [4]string{"v", "q"}},
		"sentinel":     {map[string]string{"REDIS_TYPE": "sentinel", "REDIS_URL": "m,a:1", "REDIS_AUTH": "u:p", "REDIS_SENTINEL_AUTH": "s:r"}, [4]string{"u", "p", "s", "r"}},
		"sentinel URL": {map[string]string{"REDIS_TYPE": "sentinel", "REDIS_URL": "m,redis://:q@a:1", "REDIS_AUTH": "p"}, [4]string{"", "p", "", "q"}},
	} {
		t.Run(name, func(t *testing.T) {
			test.set["REDIS_SOCKET_TYPE"] = "tcp"
			settings, err := readSettings(test.set)
			require.NoError(t, err)
			config, err := redisConfig(settings)
			require.NoError(t, err)
			require.Equal(t, test.want, [4]string{config.Username, config.Password, config.SentinelUsername, config.SentinelPassword})
		})
	}
}

// Sentinels that ask for a password are given REDIS_SENTINEL_AUTH.
func TestSentinelsWithPassword(t *testing.T) {
	watched := redistest.StartWatched(t)
	parsed, err := url.Parse(watched.URL())
	require.NoError(t, err)
	addresses := append([]string{parsed.Host}, parsed.Query()["addr"]...)
	for _, address := range addresses {
		client := goredis.NewClient(&goredis.Options{Addr: address})
		require.NoError(t, client.Do(t.Context(), "ACL", "SETUSER", "default", "resetpass", ">secret").Err())
		require.NoError(t, client.Close())
	}
	_, set := configure(t, map[string]string{"shop.yaml": oneADay})
	set["BACKEND_TYPE"], set["REDIS_SOCKET_TYPE"], set["REDIS_TYPE"] = "redis", "tcp", "SENTINEL"
	set["REDIS_URL"] = parsed.Query().Get("master_name") + "," + strings.Join(addresses, ",")
	without := start(t, set)
	_, err = without.ask("ann")
	require.Error(t, err, "negative control: they do ask")
	set["REDIS_SENTINEL_AUTH"] = "secret"
	require.Equal(t, rlsv3.RateLimitResponse_OK, start(t, set).code("ann"))
}

func readSettings(set map[string]string) (*ersettings.Settings, error) {
	return ersettings.Read(lookup(set))
}
