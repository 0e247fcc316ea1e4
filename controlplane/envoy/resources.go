package envoy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"weir.dev/policy"
)

// Names of the static secrets of the bootstrap, see package bootstrap.
const (
	SecretIdentity = "weir_identity"
	SecretTrust    = "weir_trust"
	// SecretPublicTrust holds the authorities that Envoy's system trusts.
	SecretPublicTrust = "weir_public_trust"
)

// Type URLs of the resources that Compile makes.
const (
	TypeListener = "type.googleapis.com/envoy.config.listener.v3.Listener"
	TypeRoute    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	TypeCluster  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	TypeScope    = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
	TypeEndpoint = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	// Those of Weir's own servers.
	TypeAuthRoute = "type.googleapis.com/weir.rules.v1.AuthRoute"
	TypeConsumer  = "type.googleapis.com/weir.rules.v1.Consumer"
	TypeRateLimit = "type.googleapis.com/weir.rules.v1.RateLimitRule"
)

// Options are what the Plan does not say: where Weir's own parts are.
type Options struct {
	// ListenAddress is the IP address that listeners bind.
	ListenAddress string
	// PortMap replaces a Gateway listener's port by the one to bind.
	PortMap map[int32]int32
	// ExtAuthzAddress and RateLimitAddress are host:port of the two servers, and
	// the SPIFFE ids that they must present.
	ExtAuthzAddress  string
	ExtAuthzPeer     string
	RateLimitAddress string
	RateLimitPeer    string
	// RateLimitTimeout is how long a request waits for ratelimitd; 0 means
	// DefaultRateLimitTimeout.
	RateLimitTimeout time.Duration
	// Fleet is whose ports are compiled.
	Fleet string
	// ShardAbove is the number of routes of a chain above which a Cache spreads them
	// over several RouteConfigurations; 0 means 256, a negative one never.
	ShardAbove int
	// OTLPAddress is host:port of an OTLP/gRPC collector; empty means no traces.
	OTLPAddress string
}

// Resource is one xDS resource.
type Resource struct {
	Name string
	// Version is a hash of Body.
	Version string
	Body    *anypb.Any
}

// Set holds resources by type URL and name.
type Set map[string]map[string]Resource

// Add packs a message under its type URL.
func (s Set) Add(name string, message proto.Message) error {
	body := new(anypb.Any)
	if err := anypb.MarshalFrom(body, message, proto.MarshalOptions{Deterministic: true}); err != nil {
		return fmt.Errorf("resource %s: %w", name, err)
	}
	if s[body.GetTypeUrl()] == nil {
		s[body.GetTypeUrl()] = map[string]Resource{}
	}
	sum := sha256.Sum256(body.GetValue())
	s[body.GetTypeUrl()][name] = Resource{Name: name, Version: hex.EncodeToString(sum[:12]), Body: body}
	return nil
}

// Compile makes every resource of one fleet's part of a Plan, and all of Weir's
// own rules.
func Compile(plan *policy.Plan, options Options) (Set, error) {
	set, err := CompileFleet(plan, options)
	rules, rulesErr := CompileRules(plan)
	maps.Copy(set, rules)
	return set, errors.Join(err, rulesErr)
}

// CompileFleet makes what the proxies of one fleet are served.
func CompileFleet(plan *policy.Plan, options Options) (Set, error) {
	return compileFleet(plan, options, nil)
}

func compileFleet(plan *policy.Plan, options Options, cache *Cache) (Set, error) {
	b := builder{set: Set{}}
	for _, typeURL := range []string{TypeListener, TypeRoute, TypeCluster, TypeEndpoint, TypeSecret} {
		b.set[typeURL] = map[string]Resource{}
	}
	compiler := newCompiler(options, plan.Backends)
	used := usedBackends(plan, options.Fleet)
	if cache != nil {
		compiler.trees = cache.shard(plan, &options)
	}
	for i := range plan.Ports {
		port := &plan.Ports[i]
		if port.Fleet != options.Fleet {
			continue
		}
		for _, listener := range compiler.listeners(port) {
			b.add(listener.GetName(), listener, nil)
		}
		for j := range port.Chains {
			if port.Chains[j].Forward != nil {
				continue
			}
			if cache == nil || !b.addShards(compiler, port, &port.Chains[j], cache) {
				b.addRoutes(compiler, port, &port.Chains[j], cache)
			}
		}
	}
	for id, from := range fleetSecrets(plan, options.Fleet, used) {
		b.add(id, secret(from), nil)
	}
	for i := range plan.Backends {
		if used != nil && !used[plan.Backends[i].ID] {
			continue
		}
		cluster, endpoints, err := compiler.backend(&plan.Backends[i])
		b.add(cluster.GetName(), cluster, err)
		if endpoints != nil {
			b.add(endpoints.GetClusterName(), endpoints, nil)
		}
	}
	for _, own := range compiler.ownClusters() {
		b.add(own.GetName(), own, nil)
	}
	return b.set, errors.Join(b.errs...)
}

// CompileRules makes what Weir's own servers are served: the rules of all fleets.
func CompileRules(plan *policy.Plan) (Set, error) { return compileRules(plan, nil) }

func compileRules(plan *policy.Plan, cache *Cache) (Set, error) {
	b := builder{set: Set{}}
	for _, rule := range plan.AuthRoutes {
		b.addRule(TypeAuthRoute, rule.GetRouteId(), rule, cache)
	}
	for _, consumer := range plan.Consumers {
		b.addRule(TypeConsumer, consumer.GetName(), consumer, cache)
	}
	for _, rule := range plan.RateLimits {
		b.addRule(TypeRateLimit, rule.GetId(), rule, cache)
	}
	return b.set, errors.Join(b.errs...)
}

type builder struct {
	set  Set
	errs []error
}

func (b *builder) add(name string, message proto.Message, err error) {
	if err == nil {
		err = b.set.Add(name, message)
	}
	if err != nil {
		b.errs = append(b.errs, err)
	}
}

type compiler struct {
	options  Options
	backends map[string]*policy.Backend
	// transcodes says whether any of them does.
	transcodes bool
	// trees are those of the chains that are sharded, by name.
	trees map[string]*tree
}

func newCompiler(options Options, backends []policy.Backend) *compiler {
	c := &compiler{options: options, backends: make(map[string]*policy.Backend, len(backends))}
	for i := range backends {
		c.backends[backends[i].ID] = &backends[i]
		c.transcodes = c.transcodes || backends[i].Transcoding != nil
	}
	return c
}

// portName names a port's listener. It stays when the port's addresses change, so
// that ones which cannot be bound leave the listener as it was.
func portName(port *policy.Port) string {
	name := fmt.Sprintf("port-%d", port.Number)
	if port.Gateway != "" {
		name += "@" + port.Gateway
	}
	return name
}

// chainName names a chain's route configuration.
func chainName(port *policy.Port, chain *policy.Chain) string {
	if chain.Name == policy.PlainChain {
		return portName(port)
	}
	return portName(port) + "/" + chain.Name
}

// clusterName names a Backend's cluster.
func clusterName(backend string) string { return "backend/" + backend }

// packed is anypb.New for messages that always marshal: ones made here, of
// valid UTF-8.
func packed(message proto.Message) *anypb.Any {
	body := new(anypb.Any)
	if err := anypb.MarshalFrom(body, message, proto.MarshalOptions{Deterministic: true}); err != nil {
		// Envoy rejects an empty Any where a filter is expected, which is seen and
		// quarantined like any rejection.
		return body
	}
	return body
}
