package ads

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strconv"

	"google.golang.org/grpc/codes"

	"weir.dev/controlplane/envoy"
	"weir.dev/kit/fault"
)

// Bounds of what one client may say.
const (
	// maxSubscribedNames it may ask for by name.
	maxSubscribedNames = 100_000
	// maxMessageBytes of a rejection are kept.
	maxMessageBytes = 4 << 10
)

// session is one stream. Its state is guarded by the group's mutex; only its
// own goroutine sends.
type session struct {
	group   *Group
	peer    string
	node    string
	allowed []string
	types   map[string]*subscription
	nonce   uint64
	// whole is set for the state-of-the-world variant.
	whole bool
	// poke tells the session's goroutine that there may be something to send.
	poke chan struct{}
	// late is set when a rollout went on without this client; the next ones do
	// not wait for it until it has caught up.
	late bool
	// had is set when the client came with resources of an earlier stream.
	had bool
}

func (s *session) run(ctx context.Context, stream transport) error {
	requests := make(chan *request)
	failed := make(chan error, 1)
	go func() {
		for {
			request, err := stream.recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case requests <- request:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		for _, response := range s.responses() {
			if err := stream.send(response); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.group.closed:
			return fault.New(codes.Unavailable, "SHUTTING_DOWN", "the control plane is stopping; connect again")
		case err := <-failed:
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fault.New(codes.Canceled, "STREAM_ENDED", "the client ended the stream").WithCause(err)
		case <-s.poke:
		case request := <-requests:
			if !slices.Contains(s.allowed, request.typeURL) {
				return fault.New(codes.PermissionDenied, "TYPE_NOT_ALLOWED", "%s may not subscribe to %s", s.peer, request.typeURL)
			}
			if !stream.accept(request) {
				continue
			}
			if err := s.handle(request); err != nil {
				return err
			}
		}
	}
}

func (s *session) handle(r *request) error {
	s.group.mu.Lock()
	if r.node != "" {
		s.node = r.node
	}
	sub := s.types[r.typeURL]
	if sub == nil {
		sub = newSubscription(r)
		s.had = s.had || r.had
		s.types[r.typeURL] = sub
	}
	sub.subscribe(r)
	tooMany := len(sub.names) > maxSubscribedNames
	rejection := sub.answer(r)
	if rejection != nil {
		rejection.Node, rejection.TypeURL = s.node, r.typeURL
	}
	s.group.wake()
	s.group.mu.Unlock()
	if rejection != nil {
		s.group.metrics.rejections.WithLabelValues(shortType(r.typeURL)).Inc()
		s.group.logger.Error("configuration rejected", "node", s.node, "type", shortType(r.typeURL),
			"resources", rejection.Resources, "error", rejection.Message)
	}
	if tooMany {
		return fault.New(codes.ResourceExhausted, "TOO_MANY_NAMES", "more than %d names subscribed", maxSubscribedNames)
	}
	return nil
}

// order is the order in which types are offered: what is referred to comes
// before what refers to it (xDS, "eventual consistency considerations").
func order() []string {
	return []string{envoy.TypeSecret, envoy.TypeCluster, envoy.TypeEndpoint, envoy.TypeListener, envoy.TypeScope, envoy.TypeRoute}
}

// responses makes what has to be sent to bring the client to the target.
func (s *session) responses() []*response {
	s.group.mu.Lock()
	defer s.group.mu.Unlock()
	if !s.group.ready {
		return nil
	}
	var responses []*response
	types := order()
	for _, typeURL := range slices.Sorted(maps.Keys(s.types)) {
		if !slices.Contains(types, typeURL) {
			types = append(types, typeURL)
		}
	}
	for _, typeURL := range types {
		sub := s.types[typeURL]
		if sub == nil || sub.inFlight != nil {
			continue
		}
		send, remove, held := s.pending(typeURL)
		if held || len(send) == 0 && len(remove) == 0 && sub.answered {
			continue
		}
		if s.whole && sub.answered && len(send) == 0 && !ofAll(typeURL) {
			// That variant has no way to say that one of these is gone; Envoy lets go of
			// it with what referred to it.
			sub.deliver(typeURL, "", nil, nil, remove)
			sub.inFlight = nil
			continue
		}
		s.nonce++
		nonce := strconv.FormatUint(s.nonce, 10)
		responses = append(responses, sub.deliver(typeURL, nonce, s.group.target[typeURL], send, remove))
		if typeURL == envoy.TypeCluster {
			s.repeatEndpoints(send)
		}
	}
	return responses
}

// pending names what to send and to remove of a type now. held says that all of
// it has to wait: a proxy gets routes once it has the clusters that they lead
// to, and loses clusters once no route of its leads there. Rollouts come in that
// order anyway; a proxy that connects may be further behind than one step. The
// caller holds the group's mutex.
func (s *session) pending(typeURL string) (send, remove []string, held bool) {
	sub := s.types[typeURL]
	send, remove = sub.diff(s.group.target[typeURL])
	if s.types[envoy.TypeCluster] == nil || s.group.atOnce { // not a proxy
		return send, remove, false
	}
	switch typeURL {
	case envoy.TypeListener:
		held = !s.has(envoy.TypeCluster) || !s.hasEndpoints() || !s.hasShards()
	case envoy.TypeScope, envoy.TypeRoute:
		held = !s.has(envoy.TypeCluster) || !s.hasEndpoints()
		remove = s.letGo(typeURL, remove)
	case envoy.TypeSecret, envoy.TypeCluster, envoy.TypeEndpoint:
		if len(remove) > 0 && (!s.has(envoy.TypeListener) || !s.has(envoy.TypeRoute)) {
			// A name that does not exist is answered at once.
			remove = slices.DeleteFunc(remove, func(name string) bool { return sub.version(name) != "" })
		}
	}
	return send, remove, held
}

// has reports whether the client answered everything that there is to send of a
// type.
func (s *session) has(typeURL string) bool {
	sub := s.types[typeURL]
	if sub == nil || sub.inFlight != nil || !sub.answered {
		return false
	}
	send, _ := sub.diff(s.group.target[typeURL])
	return len(send) == 0
}

// hasEndpoints reports whether a proxy has the endpoints of every cluster. It
// asks for them after it took the cluster, which is not warm before that.
func (s *session) hasEndpoints() bool {
	target := s.group.target[envoy.TypeEndpoint]
	if len(target) == 0 {
		return true
	}
	endpoints, clusters := s.types[envoy.TypeEndpoint], s.types[envoy.TypeCluster]
	if endpoints != nil && endpoints.inFlight != nil {
		return false
	}
	if endpoints != nil && endpoints.settled(target) && same(endpoints.whole, target) {
		return true // It was looked at before.
	}
	for name, resource := range target {
		if _, refused := clusters.refused[name]; refused {
			continue // It never asks for these.
		}
		if endpoints == nil || endpoints.version(name) != resource.Version && endpoints.refused[name] != resource.Version {
			return false
		}
	}
	if endpoints != nil {
		endpoints.whole = target
	}
	return true
}

// repeatEndpoints has the endpoints of changed clusters sent again: a changed
// cluster is not warm until it heard of its endpoints (xDS transport protocol,
// "Resource warming").
func (s *session) repeatEndpoints(clusters []string) {
	endpoints := s.types[envoy.TypeEndpoint]
	if endpoints == nil {
		return
	}
	for _, name := range clusters {
		if version := endpoints.version(name); version != "" && version != none {
			endpoints.known[name] = ""
			endpoints.touch(name)
		}
	}
}

// inSync reports whether everything of the types asked for (nil for all) is
// answered. The caller holds the group's mutex.
func (s *session) inSync(types []string) bool {
	for typeURL, sub := range s.types {
		if types != nil && !slices.Contains(types, typeURL) {
			continue
		}
		if sub.inFlight != nil || !sub.answered {
			return false
		}
		if send, remove, held := s.pending(typeURL); held || len(send)+len(remove) > 0 {
			return false
		}
	}
	proxy := s.types[envoy.TypeCluster] != nil
	if proxy && (types == nil || slices.Contains(types, envoy.TypeScope)) && !s.hasShards() {
		return false
	}
	return !proxy || types != nil && !slices.Contains(types, envoy.TypeEndpoint) || s.hasEndpoints()
}

// follows reports whether a proxy that has just connected is through with asking:
// it asks for listeners after clusters, and then for the routes that these name.
// The caller holds the group's mutex.
func (s *session) follows() bool {
	listeners := s.group.target[envoy.TypeListener]
	if s.types[envoy.TypeCluster] == nil || len(listeners) == 0 {
		return true
	}
	if s.types[envoy.TypeListener] == nil {
		return false
	}
	if s.types[envoy.TypeRoute] != nil || s.types[envoy.TypeScope] != nil {
		return true
	}
	for _, listener := range listeners {
		if bytes.Contains(listener.Body.GetValue(), []byte("HttpConnectionManager")) {
			return false
		}
	}
	return true
}

// rejected finds a part of the target that this client refused, of the given
// types (nil for all). What is the same in base is passed over. The caller holds
// the group's mutex.
func (s *session) rejected(base envoy.Set, types []string) *Rejection {
	for _, typeURL := range slices.Sorted(maps.Keys(s.types)) {
		if types != nil && !slices.Contains(types, typeURL) {
			continue
		}
		sub := s.types[typeURL]
		var names []string
		for name, version := range sub.refused {
			if versionOf(s.group.target, typeURL, name) == version && versionOf(base, typeURL, name) != version {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			slices.Sort(names)
			return &Rejection{Node: s.node, TypeURL: typeURL, Resources: names, Message: sub.message}
		}
	}
	return nil
}

// typesBut are the types that the client subscribed to, without one; never nil.
// The caller holds the group's mutex.
func (s *session) typesBut(without string) []string {
	types := []string{}
	for typeURL := range s.types {
		if typeURL != without {
			types = append(types, typeURL)
		}
	}
	return types
}

// versionOf a resource in a set; a set that is nil has no opinion.
func versionOf(set envoy.Set, typeURL, name string) string {
	if set == nil {
		return ""
	}
	if resource, ok := set[typeURL][name]; ok {
		return resource.Version
	}
	return gone
}
