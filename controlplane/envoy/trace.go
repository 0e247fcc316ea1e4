package envoy

import (
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"weir.dev/policy"
)

// Trace finds what of a Plan a rejection is about, by the resource and by the
// proxy's words: places in it ("VirtualHosts[2]: … Routes[5]"), names of routes,
// and values of fields. The likelier come first; it may name several, or none.
func Trace(plan *policy.Plan, options Options, typeURL, resource, message string) []policy.Origin {
	return trace(plan, options, nil, typeURL, resource, message)
}

// Trace is the function of that name, which knows the shards that the cache has
// made.
func (c *Cache) Trace(plan *policy.Plan, options Options, typeURL, resource, message string) []policy.Origin {
	return trace(plan, options, c, typeURL, resource, message)
}

func trace(plan *policy.Plan, options Options, cache *Cache, typeURL, resource, message string) []policy.Origin {
	t := &tracer{message: message, compiler: newCompiler(options, plan.Backends)}
	switch typeURL {
	case TypeCluster, TypeEndpoint:
		for i := range plan.Backends {
			if clusterName(plan.Backends[i].ID) == resource {
				t.all(reflect.ValueOf(plan.Backends[i]))
			}
		}
	case TypeListener:
		for i := range plan.Ports {
			if port := plan.Ports[i]; port.Fleet == options.Fleet && portName(&port) == strings.TrimSuffix(resource, quicSuffix) {
				port.Chains = slices.Clone(port.Chains)
				for j := range port.Chains {
					port.Chains[j].Hosts = nil
				}
				t.all(reflect.ValueOf(port))
			}
		}
	case TypeRoute, TypeScope:
		for i := range plan.Ports {
			port := &plan.Ports[i]
			for j := range port.Chains {
				if chain := &port.Chains[j]; port.Fleet == options.Fleet && chainName(port, chain) == ChainOf(resource) {
					t.chain(port, cache.partOf(resource, chain))
				}
			}
		}
	}
	return t.origins
}

// ListenersOf are the listeners of Gateways and ListenerSets that a listener of
// Envoy's serves, each once, in the Plan's order.
func ListenersOf(plan *policy.Plan, options Options, resource string) []policy.Origin {
	var listeners []policy.Origin
	for i := range plan.Ports {
		port := &plan.Ports[i]
		if port.Fleet != options.Fleet || portName(port) != strings.TrimSuffix(resource, quicSuffix) {
			continue
		}
		for j := range port.Chains {
			for _, listener := range port.Chains[j].Listeners {
				if !slices.Contains(listeners, listener) {
					listeners = append(listeners, listener)
				}
			}
		}
	}
	return listeners
}

type tracer struct {
	compiler *compiler
	message  string
	origins  []policy.Origin
}

func (t *tracer) found(origin policy.Origin) {
	if origin.Object.Name != "" && !slices.Contains(t.origins, origin) {
		t.origins = append(t.origins, origin)
	}
}

// all finds every origin within a value, the outermost last: it is the least
// precise.
func (t *tracer) all(value reflect.Value) {
	eachOrigin(value, t.found)
}

var (
	inHost  = regexp.MustCompile(`VirtualHosts\[(\d+)\]`)
	inRoute = regexp.MustCompile(`Routes\[(\d+)\]`)
)

// shortest is the least that a value must have to be looked for in a message.
const shortest = 3

func (t *tracer) chain(port *policy.Port, chain *policy.Chain) {
	if host := indexIn(inHost, t.message); host >= 0 && host < len(chain.Hosts) {
		at := indexIn(inRoute, t.message)
		for i, passed := 0, 0; i < len(chain.Hosts[host].Routes); i++ {
			route := &chain.Hosts[host].Routes[i]
			passed += len(t.compiler.route(port, chain.Hosts[host].Name, route))
			if at >= 0 && at < passed {
				t.route(route)
				return
			}
		}
	}
	for i := range chain.Hosts {
		for j := range chain.Hosts[i].Routes {
			if route := &chain.Hosts[i].Routes[j]; strings.Contains(t.message, route.ID) {
				t.route(route)
			}
		}
	}
	if len(t.origins) > 0 {
		return
	}
	// A value that the message repeats; the longest is the most telling.
	longest := shortest
	for i := range chain.Hosts {
		for j := range chain.Hosts[i].Routes {
			route := &chain.Hosts[i].Routes[j]
			length := 0
			eachString(reflect.ValueOf(*route), func(text string) {
				if len(text) > length && strings.Contains(t.message, text) {
					length = len(text)
				}
			})
			if length < longest {
				continue
			}
			if length > longest {
				longest, t.origins = length, nil
			}
			t.route(route)
		}
	}
}

func (t *tracer) route(route *policy.Route) {
	t.found(route.Origin)
	t.all(reflect.ValueOf(*route))
	for i := range route.Policies {
		if use := &route.Policies[i]; use.Effect != policy.PolicyOverridden {
			t.found(use.Policy)
		}
	}
}

func indexIn(pattern *regexp.Regexp, message string) int {
	match := pattern.FindStringSubmatch(message)
	if match == nil {
		return -1
	}
	number, err := strconv.Atoi(match[1])
	if err != nil {
		return -1
	}
	return number
}

// eachOrigin visits the origins in plain data, inner ones first. Those of
// policies that are not in effect are not among them.
func eachOrigin(value reflect.Value, visit func(policy.Origin)) {
	switch value.Kind() {
	case reflect.Struct:
		var own []policy.Origin
		for i := range value.NumField() {
			field := value.Field(i)
			switch field.Type() {
			case reflect.TypeFor[policy.Origin]():
				if origin, ok := reflect.TypeAssert[policy.Origin](field); ok {
					own = append(own, origin)
				}
			case reflect.TypeFor[[]policy.PolicyUse]():
			default:
				eachOrigin(field, visit)
			}
		}
		for _, origin := range own {
			visit(origin)
		}
	case reflect.Slice:
		for i := range value.Len() {
			eachOrigin(value.Index(i), visit)
		}
	case reflect.Pointer, reflect.Interface:
		if !value.IsNil() {
			eachOrigin(value.Elem(), visit)
		}
	}
}
