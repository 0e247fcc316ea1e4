package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// ruleSource is one rule of a route object, of either kind.
type ruleSource struct {
	object *Object
	index  int
	name   string
	grpc   bool
	// matches and what they are called in the object
	matches []Match
	fill    func(*Route)
	refs    []gatewayv1.BackendRef
}

func (s *ruleSource) field() string { return fmt.Sprintf("spec.rules[%d]", s.index) }

// id names the rule: by its name where it has one, so that reordering does not
// change it.
func (s *ruleSource) id() string {
	// No name can hold "#", so that no rule is taken for another one.
	name := "#" + strconv.Itoa(s.index)
	if s.name != "" {
		name = s.name
	}
	return s.group() + "/" + name
}

func (s *ruleSource) group() string {
	return strings.ToLower(s.object.Ref.Kind) + "/" + s.object.Ref.Namespace + "/" + s.object.Ref.Name
}

// portKey is one port of one fleet.
type portKey struct {
	fleet  string
	number int32
}

func (k portKey) compare(other portKey) int {
	return cmp.Or(cmp.Compare(k.fleet, other.fleet), cmp.Compare(k.number, other.number))
}

func (l *listener) portKey() portKey { return portKey{l.fleet, l.port} }

// routes builds the virtual hosts of every port.
func (r *resolver) routes(listeners []*listener) []Port {
	hosts := map[portKey]map[string][]Route{}
	for _, l := range listeners {
		if hosts[l.portKey()] == nil {
			hosts[l.portKey()] = map[string][]Route{}
		}
	}
	for _, route := range ofType[*gatewayv1.HTTPRoute](r) {
		spec := &route.value.Spec
		r.attach(route.object, listeners, spec.ParentRefs, spec.Hostnames, httpRules(route.object, spec), hosts)
	}
	for _, route := range ofType[*gatewayv1.GRPCRoute](r) {
		spec := &route.value.Spec
		r.attach(route.object, listeners, spec.ParentRefs, spec.Hostnames, grpcRules(route.object, spec), hosts)
	}
	var ports []Port
	for _, key := range slices.SortedFunc(maps.Keys(hosts), portKey.compare) {
		chain := Chain{Name: PlainChain}
		for _, name := range slices.Sorted(maps.Keys(hosts[key])) {
			routes := hosts[key][name]
			slices.SortStableFunc(routes, r.compareRoutes)
			chain.Hosts = append(chain.Hosts, Host{Name: name, Routes: r.dropShadowed(routes)})
		}
		ports = append(ports, Port{Fleet: key.fleet, Number: key.number, Chains: []Chain{chain}})
	}
	return ports
}

func (r *resolver) attach(object *Object, listeners []*listener, parents []gatewayv1.ParentReference,
	hostnames []gatewayv1.Hostname, rules []*ruleSource, hosts map[portKey]map[string][]Route,
) {
	names := []string{""}
	if len(hostnames) > 0 {
		names = names[:0]
		for _, name := range hostnames {
			names = append(names, string(name))
		}
	}
	open := false
	for i, parent := range parents {
		found := 0
		for _, l := range listeners {
			if !matchesParent(l, object, parent) || !l.allows(object) {
				continue
			}
			for _, host := range commonHosts(l.hostname, names) {
				found++
				for _, rule := range rules {
					built, unprotected := r.build(rule, l)
					open = open || unprotected
					hosts[l.portKey()][host] = append(hosts[l.portKey()][host], built...)
				}
			}
		}
		if found == 0 {
			r.report(object.problem(CodeNotAttached, fmt.Sprintf("spec.parentRefs[%d]", i),
				fmt.Sprintf("no listener of Gateway %q takes this route: check the name, sectionName, port, hostnames and allowedRoutes", string(parent.Name))))
		}
	}
	if open {
		r.report(object.notice(CodeOpenRoute, "", "no AuthPolicy is attached to this route or its Gateway: anyone may call it"))
	}
}

func matchesParent(l *listener, route *Object, parent gatewayv1.ParentReference) bool {
	namespace := route.Ref.Namespace
	if parent.Namespace != nil {
		namespace = string(*parent.Namespace)
	}
	return l.gateway.Ref.Namespace == namespace && l.gateway.Ref.Name == string(parent.Name) &&
		(parent.SectionName == nil || string(*parent.SectionName) == l.name) &&
		(parent.Port == nil || *parent.Port == l.port)
}

func commonHosts(listenerHost string, names []string) []string {
	var hosts []string
	for _, name := range names {
		if host, ok := intersect(listenerHost, name); ok {
			if host == "" {
				host = "*"
			}
			if !slices.Contains(hosts, host) {
				hosts = append(hosts, host)
			}
		}
	}
	return hosts
}

// build makes the routes of one rule on one listener. open is set when nothing
// says who may call them.
func (r *resolver) build(rule *ruleSource, l *listener) (routes []Route, open bool) {
	base := Route{ID: rule.id() + "@" + l.id(), GRPC: rule.grpc}
	rule.fill(&base)
	if base.Redirect == nil {
		base.Backends = r.weighted(rule)
	}
	base.Auth, open = r.authFor(rule, l, base.ID)
	if base.CORS == nil {
		base.CORS = r.corsFor(rule, l)
	}
	base.Limits = r.limitsFor(rule, l)
	routes = make([]Route, len(rule.matches))
	for i, match := range rule.matches {
		routes[i] = base
		routes[i].Match = match
		routes[i].Origin = rule.object.Origin(fmt.Sprintf("%s.matches[%d]", rule.field(), i))
	}
	return routes, open && base.Redirect == nil
}
