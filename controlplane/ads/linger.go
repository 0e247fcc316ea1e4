package ads

import (
	"maps"
	"time"

	"weir.dev/controlplane/envoy"
)

// linger is how long clusters, their endpoints and the rules of routes stay after
// the last route that refers to them is gone: a request that chose its route
// before the switch may still wait for extauthz, the rate limit or an extension
// before it goes to the cluster.
const linger = 5 * time.Second

// lingers reports whether what is unused may stay for a while. Consumers may not:
// a revoked key is revoked.
func lingers(typeURL string) bool {
	return typeURL == envoy.TypeCluster || typeURL == envoy.TypeEndpoint || isRule(typeURL) && typeURL != envoy.TypeConsumer
}

// remaining is next with what has just become unused, or has not been so for
// long. It is called by Rollout alone.
func (g *Group) remaining(current, next envoy.Set) envoy.Set {
	if g.linger <= 0 {
		return next
	}
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	for typeURL, resources := range current {
		if !lingers(typeURL) {
			continue
		}
		for name := range resources {
			if used(next, typeURL, name) {
				delete(g.unused[typeURL], name)
				continue
			}
			if g.unused[typeURL] == nil {
				g.unused[typeURL] = map[string]time.Time{}
			}
			if _, known := g.unused[typeURL][name]; !known {
				g.unused[typeURL][name] = now
			}
		}
	}
	return g.without(current, next, now)
}

// used reports whether a resource is in a set, or has no place there: a proxy
// does not ask for the endpoints of a cluster that looks them up itself now.
func used(set envoy.Set, typeURL, name string) bool {
	_, there := set[typeURL][name]
	if typeURL == envoy.TypeEndpoint && !there {
		_, there = set[envoy.TypeCluster][name]
	}
	return there
}

// without is next with the unused of current that are not past their time. The
// caller holds mu.
func (g *Group) without(current, next envoy.Set, now time.Time) envoy.Set {
	kept := next
	for typeURL, names := range g.unused {
		var resources map[string]envoy.Resource
		for name, since := range names {
			resource, ok := current[typeURL][name]
			if !ok || used(next, typeURL, name) || now.Sub(since) >= g.linger {
				continue
			}
			if resources == nil {
				resources = maps.Clone(next[typeURL])
				if resources == nil {
					resources = map[string]envoy.Resource{}
				}
			}
			resources[name] = resource
		}
		if resources != nil {
			kept = maps.Clone(kept)
			kept[typeURL] = resources
		}
	}
	return kept
}

// sweep removes what has been unused for long, once a rollout is over; what is
// left is looked at again later.
func (g *Group) sweep() {
	g.mu.Lock()
	if g.rolling || len(g.unused) == 0 {
		g.mu.Unlock()
		return
	}
	now := time.Now()
	bare := maps.Clone(g.target)
	for typeURL, names := range g.unused {
		resources := maps.Clone(bare[typeURL])
		for name := range names {
			delete(resources, name)
		}
		bare[typeURL] = resources
	}
	target := g.without(g.target, bare, now)
	left := false
	for typeURL, names := range g.unused {
		maps.DeleteFunc(names, func(_ string, since time.Time) bool { return now.Sub(since) >= g.linger })
		if len(names) == 0 {
			delete(g.unused, typeURL)
		}
		left = left || len(names) > 0
	}
	g.setLocked(target)
	g.mu.Unlock()
	if left {
		time.AfterFunc(g.linger/2, g.sweep)
	}
}
