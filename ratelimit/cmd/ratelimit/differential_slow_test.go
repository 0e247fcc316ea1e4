//go:build slow

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rlsconfv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"weir.dev/ratelimit/erxds"
	"weir.dev/ratelimit/internal/redistest"
)

// peerModule builds envoyproxy/ratelimit from its own module.
const peerModule = "../../../bench/envoyratelimit"

// buildPeer compiles it into the user's cache, once for each version.
func buildPeer(t *testing.T) string {
	raw, err := os.ReadFile(filepath.Join(peerModule, "go.mod"))
	require.NoError(t, err)
	_, version, found := strings.Cut(string(raw), "github.com/envoyproxy/ratelimit ")
	require.True(t, found)
	version, _, _ = strings.Cut(version, "\n")
	base := os.Getenv("WEIR_CACHE_DIR")
	if base == "" {
		user, err := os.UserCacheDir()
		require.NoError(t, err)
		base = filepath.Join(user, "weir")
	}
	binary := filepath.Join(base, "bench", "envoyratelimit-"+version)
	if _, err := os.Stat(binary); err == nil {
		return binary
	}
	require.NoError(t, os.MkdirAll(filepath.Dir(binary), 0o755))
	t.Log("building envoyproxy/ratelimit, once (some minutes) ...")
	made := filepath.Join(t.TempDir(), "ratelimit")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", made, ".")
	build.Dir, build.Env = peerModule, append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	output, err := build.CombinedOutput()
	require.NoError(t, err, string(output))
	copied, err := os.ReadFile(made)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(binary+".new", copied, 0o755))
	require.NoError(t, os.Rename(binary+".new", binary))
	return binary
}

// peer is envoyproxy/ratelimit, running.
type peer struct {
	conn *grpc.ClientConn
	// http and debug are the addresses of its other ports.
	http, debug string
}

// startPeer runs it with what is set beside its addresses.
func startPeer(t *testing.T, set map[string]string) peer {
	port := func() string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { _ = listener.Close() }()
		_, port, _ := net.SplitHostPort(listener.Addr().String())
		return port
	}
	rpc, public, debug := port(), port(), port()
	command := exec.CommandContext(t.Context(), buildPeer(t))
	var output buffer
	command.Stdout, command.Stderr = &output, &output
	command.Env = append(os.Environ(),
		"HOST=127.0.0.1", "PORT="+public, "DEBUG_HOST=127.0.0.1", "DEBUG_PORT="+debug, "GRPC_HOST=127.0.0.1", "GRPC_PORT="+rpc,
		"RUNTIME_SUBDIRECTORY=ratelimit", "DISABLE_STATS=true", "LOG_LEVEL=warn")
	for name, value := range set {
		command.Env = append(command.Env, name+"="+value)
	}
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			t.Log("envoyproxy/ratelimit says:\n" + output.String())
		}
	})
	conn, err := grpc.NewClient("127.0.0.1:"+rpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return peer{conn: conn, http: "127.0.0.1:" + public, debug: "127.0.0.1:" + debug}
}

// generator makes configurations and requests. Their windows are long, so that
// none ends while both are asked. Quota mode is left out: the version that can be
// built never refuses by it, later ones refuse when every quota is exhausted.
type generator struct {
	*rand.Rand
	// messages says only what the messages of xDS can say.
	messages bool
	// units are those of the limits.
	units []string
}

func pick[T any](g generator, from ...T) T { return from[g.IntN(len(from))] }

func (g generator) configuration(domain string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "domain: %s\ndescriptors:\n", domain)
	g.level(&text, "", 1)
	return text.String()
}

func (g generator) level(text *strings.Builder, indent string, depth int) {
	seen := map[string]bool{}
	for range 1 + g.IntN(5) {
		key, value := pick(g, "a", "b", "c"), pick(g, "", "", "x", "y", "xy", "x*", "xy*", "1.2.3.4", "*")
		if seen[key+"_"+value] {
			continue
		}
		seen[key+"_"+value] = true
		fmt.Fprintf(text, "%s- key: %s\n", indent, key)
		if value != "" {
			fmt.Fprintf(text, "%s  value: %q\n", indent, value)
		}
		flags := []string{"shadow_mode", "detailed_metric", "value_to_metric"}
		if g.messages {
			flags = flags[:2]
		}
		for _, flag := range flags {
			if g.IntN(8) == 0 {
				fmt.Fprintf(text, "%s  %s: true\n", indent, flag)
			}
		}
		if !g.messages && strings.Contains(value, "*") && g.IntN(2) == 0 {
			fmt.Fprintf(text, "%s  share_threshold: true\n", indent)
		}
		nested := depth < 3 && g.IntN(2) == 0
		if !nested || g.IntN(2) == 0 {
			g.limit(text, indent)
		}
		if nested {
			fmt.Fprintf(text, "%s  descriptors:\n", indent)
			g.level(text, indent+"  ", depth+1)
		}
	}
}

func (g generator) limit(text *strings.Builder, indent string) {
	switch g.IntN(8) {
	case 0:
		fmt.Fprintf(text, "%s  rate_limit: {unlimited: true, replaces: [{name: %s}]}\n", indent, pick(g, "one", "two"))
	case 1:
		fmt.Fprintf(text, "%s  rate_limit: {unit: %s, requests_per_unit: %d, name: %s}\n", indent, pick(g, g.units...), g.IntN(4), pick(g, "one", "two"))
	default:
		fmt.Fprintf(text, "%s  rate_limit: {unit: %s, requests_per_unit: %d}\n", indent, pick(g, g.units...), g.IntN(6))
	}
}

func (g generator) request(domain string) *rlsv3.RateLimitRequest {
	request := &rlsv3.RateLimitRequest{Domain: domain}
	// Descriptors begin differently, so that none counts what another one does.
	first := g.Perm(4)
	for i := range pick(g, 1, 1, 1, 2) {
		descriptor := &ratelimitv3.RateLimitDescriptor{}
		for j := range pick(g, 1, 1, 2, 3) {
			entry := &ratelimitv3.RateLimitDescriptor_Entry{
				Key: pick(g, "a", "b", "c", "d"), Value: pick(g, "", "x", "y", "xy", "xyz", "x*", "1.2.3.4", "z"),
			}
			if j == 0 {
				entry.Key = string(rune('a' + first[i]))
			}
			descriptor.Entries = append(descriptor.Entries, entry)
		}
		request.Descriptors = append(request.Descriptors, descriptor)
	}
	return request
}

// describe is an answer without what may differ by a second, and, where several
// limits of a refused request are charged differently, without what remains.
func describe(response *rlsv3.RateLimitResponse, remaining bool) string {
	var text strings.Builder
	fmt.Fprint(&text, response.GetOverallCode())
	for _, status := range response.GetStatuses() {
		limit := status.GetCurrentLimit()
		fmt.Fprintf(&text, "; %s of %d a %s %q", status.GetCode(), limit.GetRequestsPerUnit(), limit.GetUnit(), limit.GetName())
		if remaining {
			fmt.Fprint(&text, ", left ", status.GetLimitRemaining())
		}
	}
	return text.String()
}

// comparison asks both the same.
type comparison struct {
	generator
	peer, own rlsv3.RateLimitServiceClient
	// settle waits until the peer has counted; nil where it counts before it answers.
	settle                  func()
	compared, refused, left int
}

// seeded makes the generator of a run, which WEIR_SEED repeats.
func seeded(t *testing.T) generator {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("WEIR_SEED"); text != "" {
		_, err := fmt.Sscan(text, &seed)
		require.NoError(t, err)
	}
	t.Logf("WEIR_SEED=%d", seed)
	return generator{Rand: rand.New(rand.NewPCG(seed, 0)), units: []string{"month", "YEAR", "Year"}}
}

func (g generator) configurations(prefix string, count int) map[string]string {
	files := map[string]string{}
	for i := range count {
		name := fmt.Sprintf("%s%d", prefix, i)
		files[name+".yaml"] = g.configuration(name)
	}
	return files
}

// domains asks random requests of each domain. One is left once a request of
// several limits is refused in it: from there on both count differently, on purpose.
func (c *comparison) domains(t *testing.T, files map[string]string) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		domain, history := strings.TrimSuffix(name, ".yaml"), ""
		for range 60 {
			request := c.request(domain)
			theirs, err := c.peer.ShouldRateLimit(ctx, request, grpc.WaitForReady(true))
			require.NoError(t, err)
			if c.settle != nil {
				c.settle()
			}
			ours, err := c.own.ShouldRateLimit(ctx, request)
			require.NoError(t, err)
			c.compared++
			over := strings.Contains(describe(theirs, true), "OVER_LIMIT")
			if over {
				c.refused++
			}
			several := over && len(request.GetDescriptors()) > 1
			require.Equal(t, describe(theirs, !several), describe(ours, !several), "%s\nrequests:\n%s%v", files[name], history, request)
			history += fmt.Sprintf("%v\n  %s\n", request, describe(theirs, true))
			for j, status := range theirs.GetStatuses() {
				require.InDelta(t, status.GetDurationUntilReset().GetSeconds(), ours.GetStatuses()[j].GetDurationUntilReset().GetSeconds(), 5)
			}
			if several {
				c.left++
				break
			}
		}
	}
}

func (c *comparison) report(t *testing.T, domains int) {
	t.Logf("%d requests answered alike, %d of them refused; %d of %d domains left early", c.compared, c.refused, c.left, domains)
	require.Greater(t, c.refused, domains/3, "negative control: limits were met")
}

func socketOf(server *redistest.Server) string { return strings.TrimPrefix(server.URL(), "unix://") }

// TestSlowAnswersAsEnvoyRatelimit asks both the same random requests on the same
// files, with a Redis each.
func TestSlowAnswersAsEnvoyRatelimit(t *testing.T) {
	const domains = 150
	c := comparison{generator: seeded(t)}
	files := c.configurations("d", domains)
	dir, set := configure(t, files)
	set["BACKEND_TYPE"], set["REDIS_URL"], set["LOG_LEVEL"] = "redis", socketOf(redistest.Start(t)), "warn"
	c.peer = rlsv3.NewRateLimitServiceClient(startPeer(t, map[string]string{
		"RUNTIME_ROOT": filepath.Dir(filepath.Dir(dir)), "REDIS_SOCKET_TYPE": "unix", "REDIS_URL": socketOf(redistest.Start(t)),
	}).conn)
	c.own = rlsv3.NewRateLimitServiceClient(start(t, set).conn)
	c.domains(t, files)
	c.report(t, domains)
}

// TestSlowAnswersAsEnvoyRatelimitOverXDS gives both the same configurations as
// messages, and then others in their place.
func TestSlowAnswersAsEnvoyRatelimitOverXDS(t *testing.T) {
	const domains = 75
	c := comparison{generator: seeded(t)}
	c.messages = true
	before, after := c.configurations("before", domains), c.configurations("after", domains)
	theirs, theirAddress := startConfigServer(t)
	ours, ourAddress := startConfigServer(t)
	_, set := configure(t, nil)
	set["BACKEND_TYPE"], set["REDIS_URL"], set["LOG_LEVEL"] = "redis", socketOf(redistest.Start(t)), "warn"
	set["CONFIG_TYPE"], set["CONFIG_GRPC_XDS_SERVER_URL"] = "GRPC_XDS_SOTW", ourAddress
	c.peer = rlsv3.NewRateLimitServiceClient(startPeer(t, map[string]string{
		"CONFIG_TYPE": "GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_SERVER_URL": theirAddress, "REDIS_SOCKET_TYPE": "unix", "REDIS_URL": socketOf(redistest.Start(t)),
	}).conn)
	c.own = rlsv3.NewRateLimitServiceClient(start(t, set).conn)
	for _, plane := range []*configServer{theirs, ours} {
		require.Equal(t, erxds.TypeURL, plane.next().GetTypeUrl())
		require.Nil(t, plane.send("1", messagesOf(t, before)...).GetErrorDetail())
	}
	c.await(t, "before0")
	c.domains(t, before)
	require.Greater(t, c.refused, domains/3, "negative control: limits were met")
	for _, plane := range []*configServer{theirs, ours} {
		require.Nil(t, plane.send("2", messagesOf(t, after)...).GetErrorDetail())
	}
	c.await(t, "after0")
	c.domains(t, after)
	c.report(t, 2*domains)
	met := c.refused
	c.domains(t, before) // Neither knows these any more.
	require.Equal(t, met, c.refused, "what is not configured passes")
}

// await waits until both know a domain: the peer acknowledges before it serves.
// A request of a key that no configuration has counts nothing.
func (c *comparison) await(t *testing.T, domain string) {
	request := &rlsv3.RateLimitRequest{Domain: domain, Descriptors: []*ratelimitv3.RateLimitDescriptor{{
		Entries: []*ratelimitv3.RateLimitDescriptor_Entry{{Key: "probe", Value: "x"}},
		// An override is honoured where the domain is known, and only there.
		Limit: &ratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1_000_000, Unit: typev3.RateLimitUnit_DAY},
	}}}
	for _, server := range []rlsv3.RateLimitServiceClient{c.peer, c.own} {
		require.Eventually(t, func() bool {
			answer, err := server.ShouldRateLimit(t.Context(), request)
			return err == nil && answer.GetStatuses()[0].GetCurrentLimit() != nil
		}, patience, 5*time.Millisecond, "%s is known", domain)
	}
}

// messagesOf are files as the messages of xDS.
func messagesOf(t *testing.T, files map[string]string) (messages []proto.Message) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		var document map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(files[name]), &document))
		upperUnits(document)
		document["name"] = name
		raw, err := json.Marshal(document)
		require.NoError(t, err)
		message := &rlsconfv3.RateLimitConfig{}
		require.NoError(t, protojson.Unmarshal(raw, message), files[name])
		messages = append(messages, message)
	}
	return messages
}

// upperUnits spells units as the message's enum does.
func upperUnits(value any) {
	switch value := value.(type) {
	case map[string]any:
		if unit, ok := value["unit"].(string); ok {
			value["unit"] = strings.ToUpper(unit)
		}
		for _, inner := range value {
			upperUnits(inner)
		}
	case []any:
		for _, inner := range value {
			upperUnits(inner)
		}
	}
}

// TestSlowAnswersAsEnvoyRatelimitOnMemcached compares both on a memcached each.
// What the peer keeps for more than 30 days, memcached takes to have expired
// in 1971, so that limits per year never refuse there, nor do those per month with
// the jitter that is the default.
func TestSlowAnswersAsEnvoyRatelimitOnMemcached(t *testing.T) {
	const domains = 100
	c := comparison{generator: seeded(t)}
	c.units = []string{"week", "Month", "MONTH"}
	files := c.configurations("m", domains)
	dir, set := configure(t, files)
	yearly := "domain: yearly\ndescriptors: [{key: user, rate_limit: {unit: year, requests_per_unit: 1}}]"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "yearly.yaml"), []byte(yearly), 0o600))
	set["BACKEND_TYPE"], set["MEMCACHE_HOST_PORT"], set["LOG_LEVEL"] = "memcache", startMemcached(t), "warn"
	theirs := startMemcached(t)
	c.settle = func() { counted(t, theirs) }
	c.peer = rlsv3.NewRateLimitServiceClient(startPeer(t, map[string]string{
		"RUNTIME_ROOT": filepath.Dir(filepath.Dir(dir)), "BACKEND_TYPE": "memcache", "MEMCACHE_HOST_PORT": theirs, "EXPIRATION_JITTER_MAX_SECONDS": "0",
	}).conn)
	c.own = rlsv3.NewRateLimitServiceClient(start(t, set).conn)
	c.domains(t, files)
	c.report(t, domains)

	request := askFor("x")
	request.Domain = "yearly"
	for i, ours := range []rlsv3.RateLimitResponse_Code{rlsv3.RateLimitResponse_OK, rlsv3.RateLimitResponse_OVER_LIMIT} {
		answer, err := c.peer.ShouldRateLimit(t.Context(), request)
		require.NoError(t, err)
		require.Equal(t, rlsv3.RateLimitResponse_OK, answer.GetOverallCode(), "call %d: if this is mended there, the compatibility page is out of date", i)
		counted(t, theirs)
		answer, err = c.own.ShouldRateLimit(t.Context(), request)
		require.NoError(t, err)
		require.Equal(t, ours, answer.GetOverallCode())
	}
}

// counted waits until the peer, which reads, answers and increments afterwards,
// has incremented or added each counter that it read.
func counted(t *testing.T, address string) {
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	lines := bufio.NewScanner(conn)
	for {
		_, err := io.WriteString(conn, "stats\r\n")
		require.NoError(t, err)
		stats := map[string]int{}
		for lines.Scan() && lines.Text() != "END" {
			fields := strings.Fields(lines.Text())
			stats[fields[1]], _ = strconv.Atoi(fields[2])
		}
		require.NoError(t, lines.Err(), "the peer counts what it read")
		if stats["cmd_get"] == stats["incr_hits"]+stats["incr_misses"] && stats["cmd_set"] == stats["incr_misses"] {
			return
		}
	}
}
