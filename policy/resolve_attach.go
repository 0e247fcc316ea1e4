package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

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
		chain := Chain{Name: PlainChain, Hosts: r.order(hosts[key])}
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
		r.refsStatus(object, parent, rules)
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

// intersect is the hostname that both a listener and a route serve: the more
// specific of the two when one covers the other. "" stands for every name.
func intersect(a, b string) (string, bool) {
	switch {
	case a == "" || a == b:
		return b, true
	case b == "":
		return a, true
	case covers(a, b):
		return b, true
	case covers(b, a):
		return a, true
	default:
		return "", false
	}
}

// covers reports whether the wildcard holds name, which may be a wildcard too.
func covers(wildcard, name string) bool {
	suffix, ok := strings.CutPrefix(wildcard, "*")
	return ok && strings.HasSuffix(name, suffix) && len(name) > len(suffix) && name != wildcard
}
