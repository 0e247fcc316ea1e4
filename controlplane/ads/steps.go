package ads

import (
	"maps"
	"slices"

	"weir.dev/controlplane/envoy"
)

type step struct {
	name   string
	types  []string
	target envoy.Set
}

func steps(current, next envoy.Set) []step {
	rules := ruleTypes(current, next)
	upstream := []string{envoy.TypeSecret, envoy.TypeCluster, envoy.TypeEndpoint}
	routing := []string{envoy.TypeListener, envoy.TypeScope, envoy.TypeRoute}
	added := merge(current, next, rules...)
	warmed := merge(added, next, upstream...)
	endpoints := maps.Clone(warmed[envoy.TypeEndpoint])
	for name := range endpoints {
		// A cluster that no longer has endpoints of its own, but looks them up, is
		// not asked for any by the proxy.
		_, stays := next[envoy.TypeCluster][name]
		if _, wanted := next[envoy.TypeEndpoint][name]; stays && !wanted {
			delete(endpoints, name)
		}
	}
	if len(endpoints) != len(warmed[envoy.TypeEndpoint]) {
		warmed[envoy.TypeEndpoint] = endpoints
	}
	// A proxy that is to look for routes elsewhere has them there before, and those
	// of where it looked stay until it no longer does.
	spread := withShards(warmed, next)
	switched := replace(spread, next, envoy.TypeListener)
	switched[envoy.TypeScope] = mergeType(spread[envoy.TypeScope], next[envoy.TypeScope])
	switched[envoy.TypeRoute] = keepShards(next, spread)
	all := slices.Concat(rules, upstream, routing)
	return []step{
		{"add rules", rules, added},
		{"add clusters", upstream, warmed},
		{"add shards", routing[1:], spread},
		{"switch routes", routing, switched},
		{"remove what is unused", all, next},
	}
}

// withShards is base with the shards of routes that are new in next.
func withShards(base, next envoy.Set) envoy.Set {
	added := map[string]envoy.Resource{}
	for name, resource := range next[envoy.TypeScope] {
		if _, known := base[envoy.TypeScope][name]; !known {
			added[name] = resource
		}
	}
	if len(added) == 0 {
		return base
	}
	spread := maps.Clone(base)
	spread[envoy.TypeScope] = mergeType(base[envoy.TypeScope], added)
	routes := map[string]envoy.Resource{}
	for name := range added {
		routes[name] = next[envoy.TypeRoute][name]
	}
	spread[envoy.TypeRoute] = mergeType(base[envoy.TypeRoute], routes)
	return spread
}

// keepShards are the routes of next, and those that scopes of base lead to.
func keepShards(next, base envoy.Set) map[string]envoy.Resource {
	kept := map[string]envoy.Resource{}
	for name := range base[envoy.TypeScope] {
		if resource, ok := base[envoy.TypeRoute][name]; ok {
			kept[name] = resource
		}
	}
	return Retain(next[envoy.TypeRoute], kept)
}

// Retain is resources with what is missing there of others, neither of which is
// changed.
func Retain(resources, others map[string]envoy.Resource) map[string]envoy.Resource {
	cloned := false
	for name, resource := range others {
		if _, ok := resources[name]; ok {
			continue
		}
		if !cloned {
			resources, cloned = maps.Clone(resources), true
			if resources == nil {
				resources = map[string]envoy.Resource{}
			}
		}
		resources[name] = resource
	}
	return resources
}

// ruleTypes are the types that are Weir's own.
func ruleTypes(sets ...envoy.Set) []string {
	var types []string
	for _, set := range sets {
		for typeURL := range set {
			if isRule(typeURL) && !slices.Contains(types, typeURL) {
				types = append(types, typeURL)
			}
		}
	}
	slices.Sort(types)
	return types
}
