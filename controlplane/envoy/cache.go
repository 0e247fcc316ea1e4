package envoy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"weir.dev/policy"
)

// Cache keeps what was compiled of one fleet's routes, or of rules, for the next
// Plan, in which most are the same. It holds what the last Plan needed and no
// more. Not safe for concurrent use; the zero value is ready.
type Cache struct {
	routes, nextRoutes map[routeKey][]byte
	backends           *policy.Backend
	rules              map[proto.Message]*keptRule
	use, used          int
	// chains are the sharded ones, and those that may become so, by name.
	chains  map[string]*sharding
	regexes map[string]span
	bounds  shardBounds
	now     func() time.Time
}

// routeKey is all that a compiled route is made from but for the options, which
// are the same for all of a Cache, and the Backends.
type routeKey struct {
	digest [16]byte
	port   int32
	// host is that of a redirect.
	host string
}

// CompileFleet is the function of that name, with the options that the cache was
// first used with.
func (c *Cache) CompileFleet(plan *policy.Plan, options Options) (Set, error) {
	var backends *policy.Backend
	if len(plan.Backends) > 0 {
		backends = &plan.Backends[0]
	}
	if backends != c.backends { // A route's filters depend on where it leads.
		c.routes, c.backends = nil, backends
		for _, s := range c.chains {
			s.shards = nil
		}
	}
	c.nextRoutes = make(map[routeKey][]byte, len(c.routes))
	defer func() { c.routes, c.nextRoutes = c.nextRoutes, nil }()
	return compileFleet(plan, options, c)
}

// keptRule is a rule's resource, with the use of the cache that it was last
// needed in.
type keptRule struct {
	resource Resource
	use      int
}

// CompileRules is the function of that name.
func (c *Cache) CompileRules(plan *policy.Plan) (Set, error) {
	if c.rules == nil {
		c.rules = map[proto.Message]*keptRule{}
	}
	c.use, c.used = c.use+1, 0
	defer func() {
		if c.used < len(c.rules) {
			maps.DeleteFunc(c.rules, func(_ proto.Message, kept *keptRule) bool { return kept.use != c.use })
		}
	}()
	return compileRules(plan, c)
}

// addRule adds a rule, which is immutable.
func (b *builder) addRule(typeURL, name string, rule proto.Message, cache *Cache) {
	if cache == nil {
		b.add(name, rule, nil)
		return
	}
	kept := cache.rules[rule]
	if kept == nil {
		b.add(name, rule, nil)
		kept = &keptRule{resource: b.set[typeURL][name]}
		cache.rules[rule] = kept
	} else {
		if b.set[typeURL] == nil {
			b.set[typeURL] = make(map[string]Resource, len(cache.rules))
		}
		b.set[typeURL][name] = kept.resource
	}
	if kept.use != cache.use {
		kept.use = cache.use
		cache.used++
	}
}

// addRoutes adds a chain's route configuration.
func (b *builder) addRoutes(c *compiler, port *policy.Port, chain *policy.Chain, cache *Cache) {
	resource, err := c.routeResource(chainName(port, chain), port, chain, cache)
	if err != nil {
		b.errs = append(b.errs, err)
		return
	}
	b.set[TypeRoute][resource.Name] = resource
}

// routeResource makes a route configuration. Its routes are put in as bytes: the
// field of a message that is repeated is its elements one after another
// (protobuf encoding, "Repeated elements").
func (c *compiler) routeResource(name string, port *policy.Port, chain *policy.Chain, cache *Cache) (Resource, error) {
	bare := *chain
	bare.Hosts = slices.Clone(chain.Hosts)
	for i := range bare.Hosts {
		bare.Hosts[i].Routes = nil
	}
	config, err := c.routes(port, &bare)
	if err != nil {
		return Resource{}, err
	}
	hosts := config.GetVirtualHosts()
	config.VirtualHosts, config.Name = nil, name
	marshal := proto.MarshalOptions{Deterministic: true}
	body, err := marshal.Marshal(config)
	for i, host := range hosts {
		var raw []byte
		if err == nil {
			raw, err = marshal.Marshal(host)
		}
		parts, length := make([][]byte, len(chain.Hosts[i].Routes)), len(raw)
		for j := range parts {
			if err == nil {
				parts[j], err = c.routeBytes(port, chain.Hosts[i].Name, &chain.Hosts[i].Routes[j], cache)
			}
			length += len(parts[j])
		}
		body = slices.Grow(body, length+2*binary.MaxVarintLen64)
		body = protowire.AppendTag(body, fieldVirtualHosts, protowire.BytesType)
		body = protowire.AppendVarint(body, uint64(length)) //nolint:gosec // a length
		body = append(body, raw...)
		for _, part := range parts {
			body = append(body, part...)
		}
	}
	if err != nil {
		return Resource{}, fmt.Errorf("resource %s: %w", name, err)
	}
	sum := sha256.Sum256(body)
	return Resource{Name: name, Version: hex.EncodeToString(sum[:12]), Body: &anypb.Any{TypeUrl: TypeRoute, Value: body}}, nil
}

// Numbers of the fields RouteConfiguration.virtual_hosts and VirtualHost.routes.
const (
	fieldVirtualHosts = 2
	fieldRoutes       = 3
)

// routeBytes are the elements of VirtualHost.routes that a route of a host compiles
// to.
func (c *compiler) routeBytes(port *policy.Port, host string, route *policy.Route, cache *Cache) ([]byte, error) {
	key := routeKey{route.Digest(), port.Number, ""}
	if route.Redirect != nil {
		key.host = host // which its Location may name
	}
	known := cache != nil && key.digest != ([16]byte{})
	if known {
		raw, ok := cache.nextRoutes[key]
		if !ok {
			raw, ok = cache.routes[key]
		}
		if ok {
			cache.nextRoutes[key] = raw
			return raw, nil
		}
	}
	var raw []byte
	var errs []error
	for _, compiled := range c.route(port, host, route) {
		one, err := marshalRoute(compiled)
		errs = append(errs, err)
		raw = protowire.AppendTag(raw, fieldRoutes, protowire.BytesType)
		raw = protowire.AppendBytes(raw, one)
	}
	err := errors.Join(errs...)
	if known && err == nil {
		cache.nextRoutes[key] = raw
	}
	return raw, err
}

func marshalRoute(route *routev3.Route) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(route)
}
