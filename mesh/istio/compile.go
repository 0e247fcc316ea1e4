package istio

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

// Service is where one of Weir's servers is reached in the mesh.
type Service struct {
	// Host is the name in Istio's registry, such as
	// "weir-extauthz.weir-system.svc.cluster.local".
	Host string
	Port uint32
}

// cluster is Istio's name of the service's cluster (model.BuildSubsetKey).
func (s Service) cluster() string { return clusterName(s.Host, s.Port, "") }

func clusterName(host string, port uint32, subset string) string {
	return fmt.Sprintf("outbound|%d|%s|%s", port, subset, host)
}

// Options are what the Plan does not say.
type Options struct {
	// Namespace is that of the gateway's pods; what is made lives there.
	Namespace string
	// Selector are labels of the gateway's pods, at least one.
	Selector map[string]string
	// Provider is the name of extauthz among the mesh's extension providers.
	Provider string
	// RateLimit is where ratelimitd is.
	RateLimit Service
	// RulesNamespace is where extauthz and ratelimitd read their rules.
	RulesNamespace string
	// CheckKeys is what extauthz asks of a JWK Set before it verifies by any key of it.
	// Without it Istio is given none, and decides about nothing.
	CheckKeys func(jwks []byte) error
}

// DefaultOptions are those of Istio's own charts and of Weir's.
func DefaultOptions() Options {
	return Options{
		Namespace: "istio-ingress", Selector: map[string]string{"istio": "ingressgateway"}, Provider: "weir-extauthz",
		RateLimit:      Service{Host: "weir-ratelimit.weir-system.svc.cluster.local", Port: 8081},
		RulesNamespace: "weir-system",
	}
}

// Input is what is compiled.
type Input struct {
	Plan *policy.Plan
	// Listeners and Routes are what Weir's own target makes of the Plan, without
	// shards: EnvoyFilters are taken from them.
	Listeners []*listenerv3.Listener
	Routes    []*routev3.RouteConfiguration
	// LimitPolicies are the objects of kind RateLimitPolicy, which ratelimitd reads.
	LimitPolicies []*policy.Object
	// AuthPolicies are the objects of kind AuthPolicy, whose annotations say who
	// decides.
	AuthPolicies []*policy.Object
}

// Compile makes the resources of a Plan, sorted by kind and name. What cannot be
// made is a problem of code WEIR6001 and is left out; callers refuse to apply a
// result that has such problems. Notices of code WEIR6002 say of a route that was to
// be Istio's to decide why it is extauthz's.
func Compile(in Input, options Options) ([]Object, policy.Problems) {
	c := &compiler{
		in: in, options: options,
		backends: map[string]*policy.Backend{}, destinations: map[string]destination{},
		lifted: map[string]*routev3.Route{}, managers: map[string]*listenerv3.Listener{},
		ports: map[int32]bool{}, certificates: map[string]bool{}, hashBy: map[string][]v1alpha1.HashBy{},
	}
	c.index()
	c.in.Plan = c.apart(in.Plan)
	c.compileBackends()
	c.decide()
	for i := range c.in.Plan.Ports {
		c.port(&c.in.Plan.Ports[i])
	}
	c.authorization()
	c.limitRules()
	c.unused()
	for i := range c.objects {
		c.objects[i].seal()
	}
	slices.SortFunc(c.objects, func(a, b Object) int { return a.compare(&b) })
	c.problems.Sort()
	// A route is told of for each of its hosts.
	return c.objects, slices.Compact(c.problems)
}

type compiler struct {
	in       Input
	options  Options
	objects  []Object
	problems policy.Problems

	backends     map[string]*policy.Backend
	destinations map[string]destination
	// lifted are the compiled routes by name, managers the listeners by port.
	lifted   map[string]*routev3.Route
	managers map[string]*listenerv3.Listener
	// table is what extauthz chooses by.
	table authTable
	ports map[int32]bool
	// natives are the routes that Istio decides about.
	natives natives
	// certificates are the ids of those that are made.
	certificates map[string]bool
	// hashBy is what the routes to a backend hash by.
	hashBy map[string][]v1alpha1.HashBy
	// incomplete is set while a route lacks something that a problem told of.
	incomplete bool
}

func (c *compiler) index() {
	for i := range c.in.Plan.Backends {
		c.backends[c.in.Plan.Backends[i].ID] = &c.in.Plan.Backends[i]
	}
	for _, port := range c.in.Plan.Ports {
		for i := range port.Chains {
			c.hashes(&port.Chains[i])
		}
	}
	for _, listener := range c.in.Listeners {
		c.managers[listener.GetName()] = listener
	}
	for _, config := range c.in.Routes {
		for _, host := range config.GetVirtualHosts() {
			for _, route := range host.GetRoutes() {
				if c.lifted[route.GetName()] == nil {
					c.lifted[route.GetName()] = route
				}
			}
		}
	}
}

// hashes collects what routes hash by, which Istio says of the host they go to.
func (c *compiler) hashes(chain *policy.Chain) {
	for i := range chain.Hosts {
		for j := range chain.Hosts[i].Routes {
			route := &chain.Hosts[i].Routes[j]
			if route.Traffic == nil {
				continue
			}
			for _, backend := range route.Backends {
				for _, by := range route.Traffic.HashBy {
					same := func(other v1alpha1.HashBy) bool { return reflect.DeepEqual(by, other) }
					if !slices.ContainsFunc(c.hashBy[backend.Backend], same) {
						c.hashBy[backend.Backend] = append(c.hashBy[backend.Backend], by)
					}
				}
			}
		}
	}
}

func (c *compiler) refuse(at policy.Origin, format string, arguments ...any) {
	c.problems = append(c.problems, policy.Problem{
		Origin: at, Code: policy.CodeIstioUnsupported, Severity: policy.SeverityError,
		Message: "unsupported on istio: " + fmt.Sprintf(format, arguments...),
	})
}

func (c *compiler) add(object Object) {
	if object.Namespace == "" {
		object.Namespace = c.options.Namespace
	}
	c.objects = append(c.objects, object)
}

// selector is a copy of the gateway's labels.
func (c *compiler) selector() map[string]string { return maps.Clone(c.options.Selector) }

// unused refuses what is of the target's surroundings.
func (c *compiler) unused() {
	for i := range c.in.Plan.Infrastructure {
		c.refuse(c.in.Plan.Infrastructure[i].Gateway, "the gateway's pods are not made here; label them where they are made")
	}
}
