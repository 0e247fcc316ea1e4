package envoy_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"weir.dev/controlplane/envoy"
	"weir.dev/policy"
)

var update = flag.Bool("update", false, "write the golden files")

// options are those of the goldens.
func options() envoy.Options {
	return envoy.Options{
		ListenAddress: "127.0.0.1", PortMap: map[int32]int32{80: 10080},
		ExtAuthzAddress: "127.0.0.1:9101", ExtAuthzPeer: "spiffe://weir.local/extauthz",
		RateLimitAddress: "localhost:9102", RateLimitPeer: "spiffe://weir.local/ratelimit",
		OTLPAddress: "127.0.0.1:4317",
	}
}

func parser(t testing.TB) *policy.Parser {
	t.Helper()
	p, err := policy.NewParser()
	require.NoError(t, err)
	return p
}

func planOf(p *policy.Parser, content []byte) *policy.Plan {
	var input policy.Input
	for _, document := range p.Parse("test.yaml", content) {
		if document.Object != nil {
			input.Objects = append(input.Objects, document.Object)
		}
		if document.Closing != nil {
			input.Closings = append(input.Closings, *document.Closing)
		}
	}
	plan, _ := policy.Resolve(input)
	return plan
}

// goldens are the inputs by name.
func goldens(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/*.in.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	inputs := map[string][]byte{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		inputs[strings.TrimSuffix(filepath.Base(file), ".in.yaml")] = content
	}
	return inputs
}

func compile(t testing.TB, content []byte, options envoy.Options) envoy.Set {
	t.Helper()
	set, err := envoy.Compile(planOf(parser(t), content), options)
	require.NoError(t, err)
	return set
}

func TestGoldens(t *testing.T) {
	for name, content := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			got := render(t, compile(t, content, options()), name == "listeners" || name == "tls" || name == "edge", name != "listeners")
			if name == "traffic" || name == "backends" {
				got = append(got, httpFilters(t, compile(t, content, options()))...)
			}
			path := filepath.Join("testdata", name+".out.yaml")
			if *update {
				require.NoError(t, os.WriteFile(path, got, 0o644))
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err, "run with -update")
			require.Equal(t, string(want), string(got))
		})
	}
}

// render writes a set for people to review in a diff. Listeners differ by their
// port only, and are shown whole once.
func render(t testing.TB, set envoy.Set, listeners bool, brief ...bool) []byte {
	t.Helper()
	out := map[string]map[string]any{}
	for typeURL, resources := range set {
		if typeURL == envoy.TypeSecret && len(resources) == 0 {
			continue
		}
		short := typeURL[strings.LastIndexByte(typeURL, '.')+1:]
		out[short] = map[string]any{}
		for name, resource := range resources {
			raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(resource.Body)
			require.NoError(t, err)
			var value map[string]any
			require.NoError(t, json.Unmarshal(raw, &value))
			if typeURL == envoy.TypeListener && !listeners {
				value = map[string]any{"name": value["name"], "address": value["address"]}
			}
			if len(brief) > 0 && brief[0] {
				dropRepeated(value)
			}
			out[short][name] = shorten(value)
		}
	}
	raw, err := yaml.Marshal(out)
	require.NoError(t, err)
	return append(raw, '\n')
}

// dropRepeated takes out what every chain has and the golden of listeners shows.
func dropRepeated(value any) {
	switch value := value.(type) {
	case map[string]any:
		for _, key := range []string{"local_reply_config", "access_log", "tracing"} {
			delete(value, key)
		}
		for _, inner := range value {
			dropRepeated(inner)
		}
	case []any:
		for _, inner := range value {
			dropRepeated(inner)
		}
	}
}

// httpFilters shows the filters that the chains have because of their routes.
func httpFilters(t testing.TB, set envoy.Set) []byte {
	t.Helper()
	out := map[string]any{}
	for name, resource := range set[envoy.TypeListener] {
		raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(resource.Body)
		require.NoError(t, err)
		var value any
		require.NoError(t, json.Unmarshal(raw, &value))
		var filters []any
		find(value, "http_filters", func(list any) {
			for _, filter := range list.([]any) {
				if name := filter.(map[string]any)["name"].(string); strings.Contains(name, "/") || !slices.Contains(always(), name) {
					filters = append(filters, shorten(filter))
				}
			}
		})
		out[name] = filters
	}
	raw, err := yaml.Marshal(map[string]any{"http_filters": out})
	require.NoError(t, err)
	return raw
}

// always are the filters that every chain has.
func always() []string {
	return []string{
		"envoy.filters.http.header_mutation", "envoy.filters.http.cors", "envoy.filters.http.grpc_web", "envoy.filters.http.ext_authz",
		"envoy.filters.http.ratelimit.open", "envoy.filters.http.ratelimit.closed", "envoy.filters.http.router",
	}
}

// find calls f with every value of a key.
func find(value any, key string, f func(any)) {
	switch value := value.(type) {
	case map[string]any:
		for name, inner := range value {
			if name == key {
				f(inner)
			}
			find(inner, key, f)
		}
	case []any:
		for _, inner := range value {
			find(inner, key, f)
		}
	}
}

// shorten replaces what nobody reviews here by its hash.
func shorten(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for key, inner := range value {
			text, _ := inner.(string)
			if (key == "proto_descriptor_bin" || key == "inline_string" || key == "inline_bytes") && len(text) > 200 {
				sum := sha256.Sum256([]byte(text))
				value[key] = "sha256 " + hex.EncodeToString(sum[:8])
				continue
			}
			value[key] = shorten(inner)
		}
	case []any:
		for i := range value {
			value[i] = shorten(value[i])
		}
	case float64:
		if whole := int64(value); float64(whole) == value {
			return whole
		}
	}
	return value
}

func versions(set envoy.Set) map[string]string {
	all := map[string]string{}
	for typeURL, resources := range set {
		for name, resource := range resources {
			all[typeURL+" "+name] = resource.Version
		}
	}
	return all
}

func TestTheSamePlanGivesTheSameVersions(t *testing.T) {
	p := parser(t)
	for name, content := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			want := versions(compile(t, content, options()))
			documents := strings.Split(string(content), "\n---\n")
			for run := range 100 {
				if run%2 == 1 { // documents in another order are the same policy
					documents = append(documents[1:], documents[0])
				}
				set, err := envoy.Compile(planOf(p, []byte(strings.Join(documents, "\n---\n"))), options())
				require.NoError(t, err)
				require.Equal(t, want, versions(set), "run %d", run)
			}
		})
	}
}

// A version changes with the content of its resource, and with nothing else.
func TestVersionsChangeWithContent(t *testing.T) {
	const rds, cds, eds = "RouteConfiguration port-8080", "Cluster backend/default/", "ClusterLoadAssignment backend/default/"
	for name, tc := range map[string]struct {
		golden, before, after string
		want                  []string
	}{
		"an endpoint":        {"matches", "port: 9000", "port: 9999", []string{eds + "web"}},
		"a protocol":         {"matches", "protocol: GRPC", "protocol: HTTP2", nil},
		"a spoken protocol":  {"backends", "protocol: HTTP2", "protocol: HTTP", []string{cds + "names", rds}},
		"a path":             {"matches", "value: /prefix", "value: /other", []string{rds}},
		"a comment":          {"matches", "# Every", "# Each", nil},
		"a limit's number":   {"policies", "requests: 1000,", "requests: 1001,", []string{"RateLimitRule default/limits/together"}},
		"a limit's key":      {"policies", "[{type: ClientIP}], shadow", "[{type: Route}], shadow", []string{rds}},
		"an expression":      {"policies", "'read' in", "'write' in", []string{"AuthRoute httproute/default/api/closed@default/edge/http~05016bfa"}},
		"a consumer's tier":  {"policies", "tier: gold\n", "tier: iron\n", []string{"Consumer default/alice"}},
		"the mesh's peer":    {"backends", "spiffe://weir.local/data", "spiffe://weir.local/user", []string{cds + "mesh", eds + "mesh", rds}},
		"the size of a body": {"backends", "65536", "65537", []string{"Listener port-8080"}},
	} {
		t.Run(name, func(t *testing.T) {
			content := string(goldens(t)[tc.golden])
			require.Contains(t, content, tc.before)
			p := parser(t)
			one, two := planOf(p, []byte(content)), planOf(p, []byte(strings.Replace(content, tc.before, tc.after, 1)))
			first, err := envoy.Compile(one, options())
			require.NoError(t, err)
			second, err := envoy.Compile(two, options())
			require.NoError(t, err)
			before, after := withoutTransport(versions(first)), withoutTransport(versions(second))
			var changed []string
			for key := range before {
				if before[key] != after[key] {
					changed = append(changed, key[strings.LastIndexByte(strings.Fields(key)[0], '.')+1:])
				}
			}
			slices.Sort(changed)
			require.Equal(t, tc.want, changed)
			require.Equal(t, slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
			if len(changed) > 0 {
				require.NotEqual(t, one.Digest, two.Digest, "the control plane looks at the digest first")
			}
		})
	}
}

// withoutTransport leaves out what follows the names of clusters that speak TLS
// or HTTP/2.
func withoutTransport(versions map[string]string) map[string]string {
	names := map[string]string{}
	for name, version := range versions {
		if strings.Contains(name, " backend/") {
			name, _, _ = strings.Cut(name, "~")
		}
		names[name] = version
	}
	return names
}

// Every resource that others name exists, whatever the order of updates.
func TestReferencesHold(t *testing.T) {
	for name, content := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			set := compile(t, content, options())
			for name := range set[envoy.TypeEndpoint] {
				require.Contains(t, set[envoy.TypeCluster], name)
			}
			for _, name := range referred(t, set, "route_config_name") {
				require.Contains(t, set[envoy.TypeRoute], name)
			}
			for _, name := range referred(t, set, "tls_certificate_sds_secret_configs", "validation_context_sds_secret_config") {
				require.Contains(t, set[envoy.TypeSecret], name)
			}
			for typeURL, resources := range set {
				for name, resource := range resources {
					require.Equal(t, name, resource.Name)
					require.Equal(t, typeURL, resource.Body.GetTypeUrl())
				}
			}
		})
	}
}

// Without the server that would check them, protected routes are refused, and
// open ones are served.
func TestProtectedRoutesNeedTheirServer(t *testing.T) {
	without := options()
	without.ExtAuthzAddress, without.RateLimitAddress, without.OTLPAddress = "", "", ""
	routes := string(render(t, compile(t, goldens(t)["policies"], without), false))
	with := string(render(t, compile(t, goldens(t)["policies"], options()), false))
	require.Equal(t, 1, strings.Count(with, "status: 503"), "the broken one")
	require.Equal(t, 2, strings.Count(routes, "status: 503"), "the protected one too")
}

// How long ratelimitd is waited for is the operator's to say: the filter's timeout,
// and that of its calls.
func TestTheTimeoutOfRateLimits(t *testing.T) {
	longer := options()
	longer.RateLimitTimeout = 1234 * time.Millisecond
	standard := string(render(t, compile(t, goldens(t)["policies"], options()), true))
	changed := string(render(t, compile(t, goldens(t)["policies"], longer), true))
	said := strings.Count(changed, "timeout: 1.234s")
	require.Positive(t, said)
	require.Zero(t, said%4, "two filters in each chain, each with two timeouts")
	require.Equal(t, standard, strings.ReplaceAll(changed, "timeout: 1.234s", "timeout: 0.100s"), "nothing else changes")
}

func TestUnpackableContentIsAnError(t *testing.T) {
	plan := &policy.Plan{Ports: []policy.Port{{Number: 1, Chains: []policy.Chain{{Name: policy.PlainChain, Hosts: []policy.Host{{Name: "\xff"}}}}}}}
	_, err := envoy.Compile(plan, options())
	require.ErrorContains(t, err, "resource port-1")
}

// FuzzCompile: whatever parses, compiles, without a panic and always the same.
func FuzzCompile(f *testing.F) {
	for _, content := range goldens(f) {
		f.Add(content)
	}
	p := parser(f)
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > 1<<16 {
			return
		}
		plan := planOf(p, content)
		one, err := envoy.Compile(plan, options())
		require.NoError(t, err)
		two, err := envoy.Compile(planOf(p, content), options())
		require.NoError(t, err)
		require.Equal(t, versions(one), versions(two))
	})
}

// manyRoutes is a plan of n routes over a hundred backends.
func manyRoutes(n int) *policy.Plan {
	plan := &policy.Plan{Ports: []policy.Port{{Number: 8080, Chains: []policy.Chain{{Name: policy.PlainChain, Hosts: []policy.Host{{Name: "*"}}}}}}}
	for i := range 100 {
		plan.Backends = append(plan.Backends, policy.Backend{ID: fmt.Sprintf("default/b%02d", i), Protocol: "HTTP"})
	}
	host := &plan.Ports[0].Chains[0].Hosts[0]
	for i := range n {
		id := fmt.Sprintf("httproute/default/r%05d/all@default/edge/http", i)
		host.Routes = append(host.Routes, policy.Route{
			ID: id, Match: policy.Match{Path: policy.PathMatch{Kind: policy.PathPrefix, Value: fmt.Sprintf("/r/%05d", i)}},
			Backends: []policy.WeightedBackend{{Backend: fmt.Sprintf("default/b%02d", i%100), Weight: 1}},
			Auth:     &policy.Auth{RouteID: id},
			Limits:   []policy.Limit{{Rule: "default/limits/consumer"}},
		})
	}
	return plan
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{100, 5000} {
		b.Run(fmt.Sprintf("routes=%d", n), func(b *testing.B) {
			plan := manyRoutes(n)
			var size int
			for b.Loop() {
				set, err := envoy.Compile(plan, options())
				require.NoError(b, err)
				size = len(set[envoy.TypeRoute]["port-8080"].Body.GetValue())
			}
			b.ReportMetric(float64(size), "rds-bytes")
		})
	}
}

// BenchmarkCompileTranscoding has a descriptor set of the size of a small
// service's on every route.
func BenchmarkCompileTranscoding(b *testing.B) {
	plan := manyRoutes(5000)
	for i := range plan.Backends {
		plan.Backends[i].Protocol = "GRPC"
		plan.Backends[i].Transcoding = &policy.Transcoding{DescriptorSet: make([]byte, 20<<10), Services: []string{"a.B"}}
	}
	var size int
	for b.Loop() {
		set, err := envoy.Compile(plan, options())
		require.NoError(b, err)
		size = len(set[envoy.TypeRoute]["port-8080"].Body.GetValue())
	}
	b.ReportMetric(float64(size), "rds-bytes")
}
