package envoy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/stretchr/testify/require"

	"weir.dev/policy"
)

func randomName(random *rand.Rand) string {
	letters := "aaabz019-."
	name := make([]byte, 1+random.IntN(7))
	for i := range name {
		name[i] = letters[random.IntN(len(letters))]
	}
	return string(name)
}

// The expression for hosts says what comparing them in lower case says, also of
// names of which the beginning is known, and whatever the port.
func TestHostsBefore(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for range 3000 {
		boundary, name := randomName(random), randomName(random)
		skip := random.IntN(3)
		if skip > 0 {
			name = boundary[:min(skip, len(boundary))] + name
		}
		said := []byte(name)
		for i := range said {
			if random.IntN(2) == 0 {
				said[i] = strings.ToUpper(string(said[i]))[0]
			}
		}
		if random.IntN(2) == 0 {
			said = fmt.Appendf(said, ":%d", random.IntN(1<<16)) // decides nothing
		}
		expression := regexp.MustCompile(hostsBefore(boundary, skip))
		require.Equal(t, name < boundary, expression.Match(said), "%s < %s, past %d: %s", said, boundary, skip, expression)
	}
}

// leafOf is where the tree has a request looked up.
func (t *tree) leafOf(host, path string) int {
	at := t.root
	for at.boundary != "" {
		value := path
		if at.byHost {
			value = strings.ToLower(host)
		}
		if value < at.boundary {
			at = at.left
		} else {
			at = at.right
		}
	}
	return at.leaf
}

func shardRoute(random *rand.Rand, i int) policy.Route {
	match := policy.PathMatch{Kind: policy.PathPrefix, Value: fmt.Sprintf("/%s/%d", randomName(random), random.IntN(50))}
	switch random.IntN(6) {
	case 0:
		match.Kind = policy.PathExact
	case 1:
		match = policy.PathMatch{Kind: policy.PathRegex, Value: regexp.QuoteMeta(match.Value) + "[a-z]*"}
	case 2:
		match.Value = "/" + randomName(random)
	}
	if i%97 == 0 {
		match = policy.PathMatch{Kind: policy.PathPrefix, Value: "/"}
	}
	return policy.Route{ID: fmt.Sprint("r", i), Match: policy.Match{Path: match}}
}

// takes is Envoy's matching of paths.
func takes(match policy.PathMatch, path string) bool {
	switch match.Kind {
	case policy.PathExact:
		return path == match.Value
	case policy.PathRegex:
		return regexp.MustCompile("^(?:" + match.Value + ")$").MatchString(path)
	default:
		prefix := strings.TrimSuffix(match.Value, "/")
		return path == prefix || strings.HasPrefix(path, prefix+"/") || prefix == ""
	}
}

// Whatever the hosts and paths are, a request's shard has every route that takes
// it, and every host that it may be for, and shards are bounded.
func TestAShardHasWhatMatches(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 2))
		chain := &policy.Chain{Name: policy.PlainChain}
		for i := range 1 + random.IntN(60) {
			name := randomName(random) + fmt.Sprintf("%d.example.com", i)
			if random.IntN(8) == 0 {
				name = "*." + name
			}
			chain.Hosts = append(chain.Hosts, policy.Host{Name: strings.Trim(name, "-")})
		}
		chain.Hosts = append(chain.Hosts, policy.Host{Name: "*"})
		for i := range 600 {
			host := &chain.Hosts[random.IntN(len(chain.Hosts))]
			host.Routes = append(host.Routes, shardRoute(random, i))
		}
		var cache Cache
		planted := plant("x", cache.items(chain), 30)
		require.LessOrEqual(t, planted.leaves, maxShards)
		leaves := cache.divided(planted, chain)
		for range 300 {
			i := random.IntN(len(chain.Hosts))
			host := strings.Replace(chain.Hosts[i].Name, "*", randomName(random), 1)
			probe := shardRoute(random, 1)
			path := strings.TrimSuffix(strings.TrimSuffix(probe.Match.Path.Value, "[a-z]*"), `\`) + []string{"", "/", "/x", "a", "?"}[random.IntN(5)]
			leaf := leaves[planted.leafOf(host, path)]
			require.Contains(t, leaf, spot{i, onlyHost}, "%s %s", host, path)
			for j := range chain.Hosts[i].Routes {
				if takes(chain.Hosts[i].Routes[j].Match.Path, path) {
					require.Contains(t, leaf, spot{i, j}, "%s %s", host, path)
				}
			}
			require.True(t, slices.IsSortedFunc(leaf, func(a, b spot) int { return (a.host-b.host)*10_000 + a.route - b.route }))
		}
	}
}

// manyRoutes has one host with so many routes, each with a digest.
func manyRoutes(t *testing.T, paths []string) *policy.Plan {
	t.Helper()
	parser, err := policy.NewParser()
	require.NoError(t, err)
	var text strings.Builder
	text.WriteString("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 8080}]}\n")
	for i, path := range paths {
		fmt.Fprintf(&text, "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r%d}\nspec: {parentRefs: [{name: edge}], rules: [{matches: [{path: {value: %q}}], filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, hostname: x.test}}]}]}\n", i, path)
	}
	var input policy.Input
	for _, document := range parser.Parse("p.yaml", []byte(text.String())) {
		require.Empty(t, document.Problems)
		input.Objects = append(input.Objects, document.Object)
	}
	plan, _ := policy.Resolve(input)
	return plan
}

func paths(format string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(format, i)
	}
	return all
}

// A change is its shard's alone. Others stay word for word, and so does the
// listener until a shard has grown too large; what it was before is served on
// while connections may need it.
func TestShardsAreStable(t *testing.T) {
	now := time.Unix(0, 0)
	cache := Cache{now: func() time.Time { return now }}
	options := Options{ListenAddress: "127.0.0.1"}
	compile := func(all []string) Set {
		set, err := cache.CompileFleet(manyRoutes(t, all), options)
		require.NoError(t, err)
		return set
	}
	differ := func(a, b Set, typeURL string) int {
		changed, err := Diff(Set{typeURL: a[typeURL]}, Set{typeURL: b[typeURL]}, false)
		require.NoError(t, err)
		return len(changed)
	}
	few := compile(paths("/r/%04d", 250))
	require.Len(t, few[TypeRoute], 1)
	require.Empty(t, few[TypeScope])

	all := paths("/r/%04d", 1000)
	first := compile(all)
	require.Greater(t, len(first[TypeScope]), 10)
	require.Len(t, first[TypeRoute], len(first[TypeScope])+1, "what was there before stays for a while")
	now = now.Add(RetireAfter + time.Second)
	settled := compile(all)
	require.Equal(t, slices.Sorted(maps.Keys(settled[TypeScope])), slices.Sorted(maps.Keys(settled[TypeRoute])))
	for _, resource := range settled[TypeRoute] {
		var config routev3.RouteConfiguration
		require.NoError(t, resource.Body.UnmarshalTo(&config))
		require.LessOrEqual(t, len(config.GetVirtualHosts()[0].GetRoutes()), shardAbove/2)
	}

	all[500] = "/r/0500x"
	changed := compile(all)
	require.Equal(t, 1, differ(settled, changed, TypeRoute))
	require.Zero(t, differ(settled, changed, TypeListener)+differ(settled, changed, TypeScope))
	more := compile(append(slices.Clone(all), paths("/r/0500/%d", 100)...))
	require.Equal(t, 1, differ(changed, more, TypeRoute))
	require.Zero(t, differ(changed, more, TypeListener))
	fewer := compile(all[400:410])
	require.Zero(t, differ(changed, fewer, TypeListener), "it stays spread")

	grown := compile(append(slices.Clone(all), paths("/r/0500/%d", 600)...))
	require.Equal(t, 1, differ(more, grown, TypeListener), "a shard had too many")
	for name := range settled[TypeScope] {
		require.Contains(t, grown[TypeScope], name)
	}
	now = now.Add(RetireAfter + time.Second)
	for name := range compile(all)[TypeScope] {
		require.NotContains(t, settled[TypeScope], name)
	}
}

// Expressions stay within what Envoy takes for a header's value, whatever the
// routes are, and what cannot be divided is left whole.
func TestExpressionsAreBounded(t *testing.T) {
	var cache Cache
	for name, all := range map[string][]string{
		"long": paths("/"+strings.Repeat("a", 120)+"/%d", 2000), "short": paths("/%d", 2000),
		"signs": paths("/%%41/é'\"/%d", 2000), "same": slices.Repeat([]string{"/"}, 2000),
	} {
		var items []item
		for _, path := range all {
			items = append(items, item{path: cache.pathSpan(&policy.PathMatch{Kind: policy.PathPrefix, Value: path})})
		}
		planted := plant("x", items, 15)
		if name == "signs" || name == "same" {
			require.Equal(t, 1, planted.leaves, name)
			continue
		}
		require.Greater(t, planted.leaves, 32, name)
		expressions := planted.expressions(headerShard)
		require.Equal(t, name == "long", len(expressions) > 1, name)
		for _, expression := range expressions {
			require.LessOrEqual(t, len(expression), maxExpression+200, name)
			require.NotContains(t, expression, "%")
		}
	}
}

// A rejection's numbers are those within its shard.
func TestTraceThroughShards(t *testing.T) {
	var cache Cache
	plan := manyRoutes(t, paths("/r/%04d", 1000))
	options := Options{ListenAddress: "127.0.0.1"}
	set, err := cache.CompileFleet(plan, options)
	require.NoError(t, err)
	for name, resource := range set[TypeRoute] {
		if !IsShard(name) {
			continue
		}
		var config routev3.RouteConfiguration
		require.NoError(t, resource.Body.UnmarshalTo(&config))
		origins := cache.Trace(plan, options, TypeRoute, name, "VirtualHosts[0]: embedded message failed validation | caused by Routes[2]: nonsense")
		require.NotEmpty(t, origins)
		require.True(t, strings.HasPrefix(config.GetVirtualHosts()[0].GetRoutes()[2].GetName(), "httproute/default/"+origins[0].Object.Name+"/"))
	}
}
