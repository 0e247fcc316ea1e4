//go:build slow

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

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

// startPeer runs it on the same files with a Redis of its own.
func startPeer(t *testing.T, root string) *grpc.ClientConn {
	redis := redistest.Start(t)
	port := func() string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { _ = listener.Close() }()
		_, port, _ := net.SplitHostPort(listener.Addr().String())
		return port
	}
	rpc := port()
	command := exec.CommandContext(t.Context(), buildPeer(t))
	var output buffer
	command.Stdout, command.Stderr = &output, &output
	command.Env = append(os.Environ(),
		"HOST=127.0.0.1", "PORT="+port(), "DEBUG_HOST=127.0.0.1", "DEBUG_PORT="+port(), "GRPC_HOST=127.0.0.1", "GRPC_PORT="+rpc,
		"RUNTIME_ROOT="+root, "RUNTIME_SUBDIRECTORY=ratelimit", "DISABLE_STATS=true", "LOG_LEVEL=warn",
		"REDIS_SOCKET_TYPE=unix", "REDIS_URL="+strings.TrimPrefix(redis.URL(), "unix://"))
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
	return conn
}

// generator makes configurations and requests. Their windows are long, so that
// none ends while both are asked. Quota mode is left out: the version that can be
// built never refuses by it, later ones refuse when every quota is exhausted.
type generator struct{ *rand.Rand }

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
		for _, flag := range []string{"shadow_mode", "detailed_metric", "value_to_metric"} {
			if g.IntN(8) == 0 {
				fmt.Fprintf(text, "%s  %s: true\n", indent, flag)
			}
		}
		if strings.Contains(value, "*") && g.IntN(2) == 0 {
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
		fmt.Fprintf(text, "%s  rate_limit: {unit: year, requests_per_unit: %d, name: %s}\n", indent, g.IntN(4), pick(g, "one", "two"))
	default:
		fmt.Fprintf(text, "%s  rate_limit: {unit: %s, requests_per_unit: %d}\n", indent, pick(g, "month", "YEAR", "Year"), g.IntN(6))
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

// TestSlowAnswersAsEnvoyRatelimit asks both the same random requests on the same random
// configurations. A domain is left once a request of several limits is refused
// in it: from there on both count differently, on purpose.
func TestSlowAnswersAsEnvoyRatelimit(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("WEIR_SEED"); text != "" {
		_, err := fmt.Sscan(text, &seed)
		require.NoError(t, err)
	}
	t.Logf("WEIR_SEED=%d", seed)
	g := generator{rand.New(rand.NewPCG(seed, 0))}
	const domains = 150
	files := map[string]string{}
	for i := range domains {
		name := fmt.Sprintf("d%d", i)
		files[name+".yaml"] = g.configuration(name)
	}
	dir, set := configure(t, files)
	redis := redistest.Start(t)
	set["BACKEND_TYPE"], set["REDIS_URL"], set["LOG_LEVEL"] = "redis", strings.TrimPrefix(redis.URL(), "unix://"), "warn"
	peer := rlsv3.NewRateLimitServiceClient(startPeer(t, filepath.Dir(filepath.Dir(dir))))
	own := rlsv3.NewRateLimitServiceClient(start(t, set).conn)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	compared, refused, left := 0, 0, 0
	for i := range domains {
		domain := fmt.Sprintf("d%d", i)
		history := ""
		for range 60 {
			request := g.request(domain)
			theirs, err := peer.ShouldRateLimit(ctx, request, grpc.WaitForReady(true))
			require.NoError(t, err)
			ours, err := own.ShouldRateLimit(ctx, request)
			require.NoError(t, err)
			compared++
			over := strings.Contains(describe(theirs, true), "OVER_LIMIT")
			if over {
				refused++
			}
			several := over && len(request.GetDescriptors()) > 1
			require.Equal(t, describe(theirs, !several), describe(ours, !several), "%s\nrequests:\n%s%v", files[domain+".yaml"], history, request)
			history += fmt.Sprintf("%v\n  %s\n", request, describe(theirs, true))
			for j, status := range theirs.GetStatuses() {
				require.InDelta(t, status.GetDurationUntilReset().GetSeconds(), ours.GetStatuses()[j].GetDurationUntilReset().GetSeconds(), 5)
			}
			if several {
				left++
				break
			}
		}
	}
	t.Logf("%d requests answered alike, %d of them refused; %d of %d domains left early", compared, refused, left, domains)
	require.Greater(t, refused, 60, "negative control: limits were met")
}
