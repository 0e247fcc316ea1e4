package envoy

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"weir.dev/kit/identity"
	"weir.dev/policy"
)

// headerAuthority is the host of a request, as HTTP/2 has it; HTTP/1.1's Host is that, too.
const headerAuthority = ":authority"

// headerShard carries the key of a request's shard from where it is worked out to
// where the routes are looked up, and no further.
const headerShard = identity.HeaderPrefix + "shard"

// RetireAfter is how long the shards of an earlier tree are served and kept up to
// date: connections that were there before a listener changed stay with how it
// was for Envoy's drain time, by default 600 s.
const RetireAfter = 11 * time.Minute

// shardBounds are how many routes a chain has at least that is spread, how many a
// shard is to have when a tree is made, and how many it may grow to before
// another tree is made, which changes the listener.
type shardBounds struct{ above, size, most int }

func (o *Options) shardBounds() shardBounds {
	above := cmp.Or(o.ShardAbove, shardAbove)
	if above < 0 {
		above = math.MaxInt32
	}
	return shardBounds{above: above, size: max(1, above/5), most: above + above/2}
}

// sharding is how a chain's routes are spread over RouteConfigurations, by what
// its requests are for. Envoy builds a RouteConfiguration anew when a route of it
// changes, which takes as long as it has routes.
type sharding struct {
	// tree is nil for a chain whose routes are in one RouteConfiguration.
	tree *tree
	// planted is how many items there were when a tree was last looked for.
	planted int
	// retired are earlier states, still in use by connections.
	retired []retiredTree
	seen    time.Time
	// shards are those made last, by name.
	shards map[string]*shard
}

type retiredTree struct {
	// tree is nil where the chain was not sharded.
	tree  *tree
	until time.Time
}

// shard is one RouteConfiguration with its scope.
type shard struct {
	// content identifies what it is made from.
	content       []byte
	routes, scope Resource
}

// shard decides about the chains of a fleet, and returns the trees by chain. A
// chain that was spread stays so: each change of how it is changes the listener.
func (c *Cache) shard(plan *policy.Plan, options *Options) map[string]*tree {
	if c.now == nil {
		c.now = time.Now
	}
	c.bounds = options.shardBounds()
	if c.chains == nil {
		c.chains = map[string]*sharding{}
	}
	now, trees := c.now(), map[string]*tree{}
	for i := range plan.Ports {
		port := &plan.Ports[i]
		for j := range port.Chains {
			chain := &port.Chains[j]
			if port.Fleet != options.Fleet || chain.Forward != nil {
				continue
			}
			name := chainName(port, chain)
			if c.chains[name] == nil {
				c.chains[name] = &sharding{}
			}
			if found := c.decide(name, chain, c.chains[name], now); found != nil {
				trees[name] = found
			}
		}
	}
	for name, s := range c.chains {
		// What is tried while something is in quarantine may lack a chain.
		if now.Sub(s.seen) > RetireAfter {
			delete(c.chains, name)
		}
	}
	return trees
}

func (c *Cache) decide(name string, chain *policy.Chain, s *sharding, now time.Time) *tree {
	known := !s.seen.IsZero()
	s.seen = now
	s.retired = slices.DeleteFunc(s.retired, func(r retiredTree) bool { return now.After(r.until) })
	count := 0
	for i := range chain.Hosts {
		count += 1 + len(chain.Hosts[i].Routes)
	}
	if s.tree == nil && count <= c.bounds.above || count <= s.planted+s.planted/4 || s.tree != nil && !s.overgrown(c, chain) {
		return s.tree
	}
	s.planted = count
	planted := plant(name, c.items(chain), c.bounds.size)
	if planted.leaves < 2 || s.tree != nil && s.tree.id == planted.id {
		return s.tree // Nothing tells these routes apart.
	}
	if known {
		s.retired = append(s.retired, retiredTree{s.tree, now.Add(RetireAfter)})
	}
	s.tree = planted
	return s.tree
}

// overgrown reports whether a shard has too many routes.
func (s *sharding) overgrown(c *Cache, chain *policy.Chain) bool {
	return slices.ContainsFunc(c.divided(s.tree, chain), func(leaf []spot) bool { return len(leaf) > c.bounds.most })
}

// items are what a chain's tree divides.
func (c *Cache) items(chain *policy.Chain) []item {
	var items []item
	for i := range chain.Hosts {
		host := hostSpan(chain.Hosts[i].Name)
		items = append(items, item{host: host})
		for j := range chain.Hosts[i].Routes {
			items = append(items, item{host, c.pathSpan(&chain.Hosts[i].Routes[j].Match.Path)})
		}
	}
	return items
}

// spot is a virtual host, or a route of it.
type spot struct{ host, route int }

// onlyHost stands for the virtual host itself: it is wherever its hosts are, so
// that none of them falls to a less specific one.
const onlyHost = -1

// divided is what of a chain is in each shard, in the chain's order.
func (c *Cache) divided(t *tree, chain *policy.Chain) [][]spot {
	leaves := make([][]spot, t.leaves)
	for i := range chain.Hosts {
		at := item{host: hostSpan(chain.Hosts[i].Name)}
		t.root.visit(&at, func(leaf int) { leaves[leaf] = append(leaves[leaf], spot{i, onlyHost}) })
		for j := range chain.Hosts[i].Routes {
			at.path = c.pathSpan(&chain.Hosts[i].Routes[j].Match.Path)
			t.root.visit(&at, func(leaf int) { leaves[leaf] = append(leaves[leaf], spot{i, j}) })
		}
	}
	return leaves
}

// addShards adds what a chain's routes are spread over, and reports whether that
// is all: one RouteConfiguration is wanted where the chain is not sharded, or was
// not until recently.
func (b *builder) addShards(c *compiler, port *policy.Port, chain *policy.Chain, cache *Cache) bool {
	s := cache.chains[chainName(port, chain)]
	made := map[string]*shard{}
	whole := s.tree == nil
	if s.tree != nil {
		b.addTree(c, port, chain, cache, s.tree, made)
	}
	for _, earlier := range s.retired {
		if earlier.tree == nil {
			whole = true
		} else {
			b.addTree(c, port, chain, cache, earlier.tree, made)
		}
	}
	s.shards = made
	return !whole
}

func (b *builder) addTree(c *compiler, port *policy.Port, chain *policy.Chain, cache *Cache, t *tree, made map[string]*shard) {
	before := cache.chains[chainName(port, chain)].shards
	head, err := c.routeResource("", port, &policy.Chain{TLS: chain.TLS}, nil)
	if err != nil {
		b.errs = append(b.errs, err)
		return
	}
	for leaf, places := range cache.divided(t, chain) {
		key := fmt.Sprintf("%s%x", t.prefix(), leaf)
		name := chainName(port, chain) + shardMark + key
		content, known := contentOf(head.Body.GetValue(), chain, places)
		if last := before[name]; known && last != nil && bytes.Equal(last.content, content) {
			made[name] = last
		} else {
			next := &shard{content: content}
			if next.routes, err = c.routeResource(name, port, part(chain, places), nil); err == nil {
				next.scope, err = scope(name, key)
			}
			if err != nil {
				b.errs = append(b.errs, err)
				continue
			}
			made[name] = next
		}
		if b.set[TypeScope] == nil {
			b.set[TypeScope] = map[string]Resource{}
		}
		b.set[TypeRoute][name], b.set[TypeScope][name] = made[name].routes, made[name].scope
	}
}

// contentOf is what a shard is made from, known only when all of its routes have
// digests. head is what all shards of the chain have.
func contentOf(head []byte, chain *policy.Chain, places []spot) (content []byte, known bool) {
	content, known = append(make([]byte, 0, len(head)+len(places)*16), head...), true
	for _, at := range places {
		host := &chain.Hosts[at.host]
		if at.route == onlyHost {
			content = fmt.Appendf(content, "%s %t\n", host.Name, host.Misdirected)
			continue
		}
		digest := host.Routes[at.route].Digest()
		content = append(content, digest[:]...)
		known = known && digest != [16]byte{}
	}
	return content, known
}

// part is the part of a chain that a shard has.
func part(chain *policy.Chain, places []spot) *policy.Chain {
	of := *chain
	of.Hosts = nil
	for _, at := range places {
		host := &chain.Hosts[at.host]
		if at.route == onlyHost {
			of.Hosts = append(of.Hosts, policy.Host{Name: host.Name, Misdirected: host.Misdirected})
			continue
		}
		last := &of.Hosts[len(of.Hosts)-1]
		last.Routes = append(last.Routes, host.Routes[at.route])
	}
	return &of
}

// shardMark stands between the name of a chain and the key of a shard of it. No
// name of a chain holds it.
const shardMark = "~"

// prefix begins the keys of a tree's shards. Envoy has the scopes of all chains in
// one place, so keys are the tree's own.
func (t *tree) prefix() string { return t.id + "." }

// scope leads requests with a key to a shard.
func scope(name, key string) (Resource, error) {
	set := Set{}
	err := set.Add(name, &routev3.ScopedRouteConfiguration{
		Name: name, RouteConfigurationName: name,
		Key: &routev3.ScopedRouteConfiguration_Key{Fragments: []*routev3.ScopedRouteConfiguration_Key_Fragment{{
			Type: &routev3.ScopedRouteConfiguration_Key_Fragment_StringKey{StringKey: key},
		}}},
	})
	return set[TypeScope][name], err
}

// scoped has a connection manager look for a request's shard, and reports whether
// the chain has any. Nobody but the edge says which one it is: headers of that
// name are removed before. A request that the expression has no value for, such
// as a CONNECT without a path, has no route.
func (c *compiler) scoped(manager *hcmv3.HttpConnectionManager, port *policy.Port, chain *policy.Chain) bool {
	t := c.trees[chainName(port, chain)]
	if t == nil {
		return false
	}
	var mutations []*mutationv3.HeaderMutation
	for _, expression := range t.expressions(headerShard) {
		mutations = append(mutations, &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Append{
			Append: &corev3.HeaderValueOption{
				Header:       &corev3.HeaderValue{Key: headerShard, Value: "%CEL(" + expression + ")%"},
				AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
			},
		}})
	}
	manager.EarlyHeaderMutationExtensions = append(manager.EarlyHeaderMutationExtensions, earlyMutations(mutations...))
	// Equal settings of all chains have Envoy subscribe once.
	manager.RouteSpecifier = &hcmv3.HttpConnectionManager_ScopedRoutes{ScopedRoutes: &hcmv3.ScopedRoutes{
		Name: "weir",
		ScopeKeyBuilder: &hcmv3.ScopedRoutes_ScopeKeyBuilder{Fragments: []*hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder{{
			Type: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_{
				HeaderValueExtractor: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor{
					Name:        headerShard,
					ExtractType: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_Index{Index: 0},
				},
			},
		}}},
		RdsConfigSource: adsSource(),
		ConfigSpecifier: &hcmv3.ScopedRoutes_ScopedRds{ScopedRds: &hcmv3.ScopedRds{ScopedRdsConfigSource: adsSource()}},
	}}
	return true
}

// withoutShard takes the key away again once the routes are looked up, before
// extauthz or anybody else sees the request.
func (c *compiler) withoutShard(port *policy.Port, chain *policy.Chain) []*mutationv3.HeaderMutation {
	if c.trees[chainName(port, chain)] == nil {
		return nil
	}
	return []*mutationv3.HeaderMutation{{Action: &mutationv3.HeaderMutation_Remove{Remove: headerShard}}}
}

// ChainOf is the route configuration that a resource is a shard of, the
// resource itself if it is none.
func ChainOf(resource string) string {
	for i := range len(resource) {
		if resource[i:i+1] == shardMark {
			return resource[:i]
		}
	}
	return resource
}

// IsShard reports whether a route configuration is a part of a chain's.
func IsShard(resource string) bool { return ChainOf(resource) != resource }

// partOf is what of a chain a resource has, all of it where that is not known.
func (c *Cache) partOf(resource string, chain *policy.Chain) *policy.Chain {
	if c == nil || !IsShard(resource) || c.chains[ChainOf(resource)] == nil {
		return chain
	}
	s := c.chains[ChainOf(resource)]
	trees := []*tree{s.tree}
	for _, earlier := range s.retired {
		trees = append(trees, earlier.tree)
	}
	for _, t := range trees {
		if t == nil {
			continue
		}
		for leaf, spots := range c.divided(t, chain) {
			if resource == ChainOf(resource)+shardMark+fmt.Sprintf("%s%x", t.prefix(), leaf) {
				return part(chain, spots)
			}
		}
	}
	return chain
}
