package ads

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"weir.dev/controlplane/envoy"
)

// Versions of a resource that are no hash.
const (
	// gone: it is not to exist any more.
	gone = "gone"
	// none: the client does not have it.
	none = "none"
)

// subscription is what a client asked for and has, of one type. It costs little
// while the client is in sync: what it has is then the target itself.
type subscription struct {
	wildcard bool
	names    map[string]struct{}
	// known is the version of each resource that the client has, where it differs
	// from base, the part of an earlier or the present target that it has whole: ""
	// when it may have any, after a rejection.
	known map[string]string
	base  map[string]envoy.Resource
	// whole is a part of a target that the client asked for all of.
	whole map[string]envoy.Resource
	// refused is the version of each resource that the client rejected, gone for
	// a removal.
	refused map[string]string
	message string
	// dirty are the names to look at; all stands for every one.
	dirty map[string]struct{}
	all   bool
	// inFlight is the response that waits for an answer, nil if none.
	inFlight *delivery
	// brought are the names that the client has from an earlier stream, noted of
	// scopes alone, and since is when it came.
	brought []string
	since   time.Time
	// answered is set once the client has had a response and said what it thinks
	// of it, be it an empty one.
	answered bool
}

type delivery struct {
	nonce   string
	sent    map[string]string
	removed []string
}

func newSubscription(r *request) *subscription {
	sub := &subscription{names: map[string]struct{}{}, known: map[string]string{}, refused: map[string]string{}, all: true}
	maps.Copy(sub.known, r.initial)
	if r.typeURL == envoy.TypeScope && len(r.initial) > 0 {
		sub.brought, sub.since = slices.Collect(maps.Keys(r.initial)), time.Now()
	}
	sub.wildcard = len(r.subscribe) == 0 && ofAll(r.typeURL)
	return sub
}

// ofAll reports whether naming nothing of a type means everything (xDS transport
// protocol, "How the client specifies what resources to return"; scopes are no
// part of it, and Envoy asks for them the same way).
func ofAll(typeURL string) bool {
	return typeURL == envoy.TypeListener || typeURL == envoy.TypeCluster || typeURL == envoy.TypeScope
}

func (sub *subscription) wants(name string) bool {
	if sub.wildcard {
		return true
	}
	_, named := sub.names[name]
	return named
}

// version is what the client has of a resource.
func (sub *subscription) version(name string) string {
	if version, ok := sub.known[name]; ok {
		return version
	}
	if resource, ok := sub.base[name]; ok && sub.wants(name) {
		return resource.Version
	}
	return none
}

// touch has names looked at again.
func (sub *subscription) touch(names ...string) {
	if sub.dirty == nil && len(names) > 0 {
		sub.dirty = make(map[string]struct{}, len(names))
	}
	for _, name := range names {
		sub.dirty[name] = struct{}{}
	}
}

func (sub *subscription) subscribe(r *request) {
	if len(r.subscribe)+len(r.unsubscribe) > 0 {
		sub.whole = nil
	}
	for _, name := range r.subscribe {
		if name == "*" {
			sub.setWildcard(true)
			continue
		}
		sub.names[name] = struct{}{}
		sub.touch(name)
		// Asked for anew: the client forgot it, or never had it.
		// A name that does not exist is answered as removed, so that the client
		// need not wait for it.
		if _, initial := r.initial[name]; !initial {
			sub.known[name] = ""
			delete(sub.refused, name)
		}
	}
	for _, name := range r.unsubscribe {
		if name == "*" {
			sub.setWildcard(false)
			continue
		}
		delete(sub.names, name)
		if !sub.wildcard {
			sub.known[name] = none
			delete(sub.refused, name)
		}
	}
}

// setWildcard begins or ends the wildcard. What the client named stays known; of the
// rest it has nothing.
func (sub *subscription) setWildcard(wildcard bool) {
	if sub.wildcard == wildcard {
		return
	}
	if sub.base != nil {
		known := map[string]string{}
		for name := range sub.names {
			known[name] = sub.version(name)
		}
		sub.base, sub.known = nil, known
	}
	sub.wildcard, sub.all = wildcard, true
}

// answer takes an ACK or NACK of the response in flight.
func (sub *subscription) answer(r *request) *Rejection {
	flight := sub.inFlight
	if flight == nil || r.nonce != flight.nonce {
		return nil
	}
	sub.inFlight, sub.answered = nil, true
	if r.failure == nil {
		return nil
	}
	// A client may have taken some of the changes (Envoy does) or none (Weir's
	// servers): from now on what it has of each of them is unknown, and the same
	// change is not offered again. Both are settled by the next other version.
	for name, version := range flight.sent {
		sub.known[name], sub.refused[name] = "", version
	}
	for _, name := range flight.removed {
		sub.known[name], sub.refused[name] = "", gone
	}
	sub.message = strings.TrimSpace(strings.ToValidUTF8(r.failure.GetMessage(), "?"))
	if len(sub.message) > maxMessageBytes {
		sub.message = strings.ToValidUTF8(sub.message[:maxMessageBytes], "") + " …"
	}
	resources := append(slices.Collect(maps.Keys(flight.sent)), flight.removed...)
	sub.touch(resources...)
	slices.Sort(resources)
	return &Rejection{Resources: resources, Message: sub.message}
}

// diff names what to send and what to remove, sorted.
func (sub *subscription) diff(resources map[string]envoy.Resource) (send, remove []string) {
	if !sub.all && len(sub.dirty) == 0 {
		sub.rebase(resources)
		return nil, nil
	}
	look := func(name string) {
		resource, exists := resources[name]
		version := sub.version(name)
		switch {
		case exists && sub.wants(name) && version != resource.Version && sub.refused[name] != resource.Version:
			send = append(send, name)
		case !exists && version != none && sub.refused[name] != gone:
			remove = append(remove, name)
		}
	}
	if sub.all {
		for name := range resources {
			look(name)
		}
		for name := range sub.known {
			if _, exists := resources[name]; !exists {
				look(name)
			}
		}
		for name := range sub.base {
			_, exists := resources[name]
			if _, known := sub.known[name]; !exists && !known {
				look(name)
			}
		}
	} else {
		for name := range sub.dirty {
			look(name)
		}
	}
	slices.Sort(send)
	slices.Sort(remove)
	// The others need nothing before the target or the subscription changes.
	sub.all, sub.dirty = false, nil
	sub.touch(send...)
	sub.touch(remove...)
	if len(sub.dirty) == 0 {
		sub.rebase(resources)
	}
	return send, remove
}

// rebase notes that the client has everything that it wants of resources.
func (sub *subscription) rebase(resources map[string]envoy.Resource) {
	if sub.inFlight != nil || len(sub.refused) > 0 || sub.settled(resources) {
		return
	}
	sub.base, sub.known = resources, map[string]string{}
}

// settled reports whether the client is known to have everything that it wants
// of resources.
func (sub *subscription) settled(resources map[string]envoy.Resource) bool {
	return !sub.all && len(sub.dirty)+len(sub.known)+len(sub.refused) == 0 && sub.inFlight == nil && same(sub.base, resources)
}

// same reports whether two maps are one.
func same(a, b map[string]envoy.Resource) bool {
	return len(a) == len(b) && reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}

func (sub *subscription) deliver(typeURL, nonce string, resources map[string]envoy.Resource, send, remove []string) *response {
	flight := &delivery{nonce: nonce, sent: map[string]string{}, removed: remove}
	r := &response{typeURL: typeURL, nonce: nonce, remove: remove}
	for _, name := range remove {
		sub.known[name] = none
		delete(sub.refused, name)
	}
	for _, name := range send {
		resource := resources[name]
		r.send = append(r.send, resource)
		flight.sent[name] = resource.Version
		sub.known[name] = resource.Version
		delete(sub.refused, name)
	}
	sub.inFlight = flight
	return r
}

// forgive forgets that resources were refused.
func (sub *subscription) forgive(which func(name string) bool) {
	for name := range sub.refused {
		if which(name) {
			delete(sub.refused, name)
			sub.touch(name)
		}
	}
}
