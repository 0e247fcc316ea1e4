package ads

import (
	"slices"
	"time"

	"weir.dev/controlplane/envoy"
)

// hasShards reports whether a proxy that knows scopes has the routes that each of
// them leads to, be it an earlier version. It asks for them after it took the
// scope. A listener that looks for routes in shards comes after them.
func (s *session) hasShards() bool {
	scopes, routes := s.types[envoy.TypeScope], s.types[envoy.TypeRoute]
	if scopes == nil {
		return true
	}
	for name, resource := range s.group.target[envoy.TypeScope] {
		if !scopes.wants(name) || scopes.refused[name] == resource.Version {
			continue
		}
		if version := scopes.version(name); version == none || version == "" || scopes.isInFlight(name) {
			return false
		}
		if _, there := s.group.target[envoy.TypeRoute][name]; there && (routes == nil || !routes.hasSome(name)) {
			return false
		}
	}
	return true
}

func (sub *subscription) isInFlight(name string) bool {
	if sub.inFlight == nil {
		return false
	}
	_, sent := sub.inFlight.sent[name]
	return sent
}

// hasSome reports whether the client has a version of a resource that it asked
// for, or refused the one that it was sent.
func (sub *subscription) hasSome(name string) bool {
	if !sub.wants(name) || sub.isInFlight(name) {
		return false
	}
	if _, refused := sub.refused[name]; refused {
		return true
	}
	version := sub.version(name)
	return version != none && version != ""
}

// letGo are the names of those to be removed that a proxy has no more use for.
// Scopes that it brought along are another control plane's, or of an earlier life
// of this one, which would divide a chain's routes otherwise. Connections from
// before the listener is changed still look there, until Envoy has drained them.
func (s *session) letGo(typeURL string, remove []string) []string {
	scopes := s.types[envoy.TypeScope]
	if scopes == nil || len(remove) == 0 || len(scopes.brought) == 0 {
		return remove
	}
	if time.Since(scopes.since) > s.group.drain {
		scopes.brought = nil
		return remove
	}
	return slices.DeleteFunc(remove, func(name string) bool {
		// A name that does not exist is answered at once.
		return slices.Contains(scopes.brought, name) && s.types[typeURL].version(name) != ""
	})
}
