package ads

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
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

// gone stands for the version of a resource that is not to exist any more; the
// versions of others are hashes.
const gone = "gone"

// session is one stream. Its state is guarded by the server's mutex; only its
// own goroutine sends.
type session struct {
	server  *Server
	peer    string
	node    string
	allowed []string
	types   map[string]*subscription
	nonce   uint64
	// late is set when a rollout went on without this client; the next ones do
	// not wait for it until it has caught up.
	late bool
}

// subscription is what a client asked for and has, of one type.
type subscription struct {
	wildcard bool
	names    map[string]bool
	// known is the version of each resource that the client has; "" when it may
	// have any, after a rejection.
	known map[string]string
	// refused is the version of each resource that the client rejected, gone for
	// a removal.
	refused map[string]string
	message string
	// inFlight is the response that waits for an answer, nil if none.
	inFlight *delivery
	// answered is set once the client has had a response and said what it thinks
	// of it, be it an empty one.
	answered bool
}

type delivery struct {
	nonce   string
	sent    map[string]string
	removed []string
}

func (s *session) run(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	ctx := stream.Context()
	requests := make(chan *discoveryv3.DeltaDiscoveryRequest)
	failed := make(chan error, 1)
	go func() {
		for {
			request, err := stream.Recv()
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
		target, ready, changed := s.server.look()
		if ready {
			for _, response := range s.responses(target) {
				if err := stream.Send(response); err != nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.server.closed:
			return fault.New(codes.Unavailable, "SHUTTING_DOWN", "the control plane is stopping; connect again")
		case err := <-failed:
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fault.New(codes.Canceled, "STREAM_ENDED", "the client ended the stream").WithCause(err)
		case <-changed:
		case request := <-requests:
			if err := s.handle(request); err != nil {
				return err
			}
		}
	}
}

func (s *session) handle(request *discoveryv3.DeltaDiscoveryRequest) error {
	typeURL := request.GetTypeUrl()
	if !slices.Contains(s.allowed, typeURL) {
		return fault.New(codes.PermissionDenied, "TYPE_NOT_ALLOWED", "%s may not subscribe to %s", s.peer, typeURL)
	}
	s.server.mu.Lock()
	if id := request.GetNode().GetId(); id != "" {
		s.node = id
	}
	sub := s.types[typeURL]
	if sub == nil {
		sub = &subscription{names: map[string]bool{}, known: map[string]string{}, refused: map[string]string{}}
		maps.Copy(sub.known, request.GetInitialResourceVersions())
		// Only of these two types does naming nothing mean everything (xDS transport
		// protocol, "How the client specifies what resources to return").
		sub.wildcard = len(request.GetResourceNamesSubscribe()) == 0 && (typeURL == envoy.TypeListener || typeURL == envoy.TypeCluster)
		s.types[typeURL] = sub
	}
	sub.subscribe(request)
	tooMany := len(sub.names) > maxSubscribedNames
	rejection := sub.answer(request)
	if rejection != nil {
		rejection.Node, rejection.TypeURL = s.node, typeURL
	}
	s.server.wake()
	s.server.mu.Unlock()
	if rejection != nil {
		s.server.metrics.rejections.WithLabelValues(shortType(typeURL)).Inc()
		s.server.logger.Error("configuration rejected", "node", s.node, "type", shortType(typeURL),
			"resources", rejection.Resources, "error", rejection.Message)
	}
	if tooMany {
		return fault.New(codes.ResourceExhausted, "TOO_MANY_NAMES", "more than %d names subscribed", maxSubscribedNames)
	}
	return nil
}

func (sub *subscription) subscribe(request *discoveryv3.DeltaDiscoveryRequest) {
	for _, name := range request.GetResourceNamesSubscribe() {
		if name == "*" {
			sub.wildcard = true
			continue
		}
		sub.names[name] = true
		// Asked for anew: the client forgot it, or never had it.
		// A name that does not exist is answered as removed, so that the client
		// need not wait for it.
		if _, initial := request.GetInitialResourceVersions()[name]; !initial {
			sub.known[name] = ""
			delete(sub.refused, name)
		}
	}
	for _, name := range request.GetResourceNamesUnsubscribe() {
		if name == "*" {
			sub.wildcard = false
			continue
		}
		delete(sub.names, name)
		if !sub.wildcard {
			delete(sub.known, name)
			delete(sub.refused, name)
		}
	}
}

// answer takes an ACK or NACK of the response in flight.
func (sub *subscription) answer(request *discoveryv3.DeltaDiscoveryRequest) *Rejection {
	flight := sub.inFlight
	if flight == nil || request.GetResponseNonce() != flight.nonce {
		return nil
	}
	sub.inFlight, sub.answered = nil, true
	if request.GetErrorDetail() == nil {
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
	sub.message = strings.ToValidUTF8(request.GetErrorDetail().GetMessage(), "?")
	if len(sub.message) > maxMessageBytes {
		sub.message = strings.ToValidUTF8(sub.message[:maxMessageBytes], "") + " …"
	}
	resources := append(slices.Collect(maps.Keys(flight.sent)), flight.removed...)
	slices.Sort(resources)
	return &Rejection{Resources: resources, Message: sub.message}
}

// order is the order in which types are offered: what is referred to comes
// before what refers to it (xDS, "eventual consistency considerations").
func order() []string {
	return []string{envoy.TypeSecret, envoy.TypeCluster, envoy.TypeEndpoint, envoy.TypeListener, envoy.TypeRoute}
}

// responses makes what has to be sent to bring the client to target.
func (s *session) responses(target envoy.Set) []*discoveryv3.DeltaDiscoveryResponse {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	var responses []*discoveryv3.DeltaDiscoveryResponse
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
		send, remove, held := s.pending(target, typeURL)
		if held || len(send) == 0 && len(remove) == 0 && sub.answered {
			continue
		}
		s.nonce++
		nonce := strconv.FormatUint(s.nonce, 10)
		responses = append(responses, sub.deliver(typeURL, nonce, target[typeURL], send, remove))
		if typeURL == envoy.TypeCluster {
			s.repeatEndpoints(send)
		}
	}
	return responses
}

// pending names what to send and to remove of a type now. held says that all of
// it has to wait: a proxy gets routes once it has the clusters that they lead
// to, and loses clusters once no route of its leads there. Rollouts come in that
// order anyway; a proxy that connects may be further behind than one step.
func (s *session) pending(target envoy.Set, typeURL string) (send, remove []string, held bool) {
	send, remove = s.types[typeURL].diff(target[typeURL])
	if s.types[envoy.TypeCluster] == nil { // not a proxy
		return send, remove, false
	}
	switch typeURL {
	case envoy.TypeListener, envoy.TypeRoute:
		held = !s.has(target, envoy.TypeCluster) || !s.hasEndpoints(target)
	case envoy.TypeSecret, envoy.TypeCluster, envoy.TypeEndpoint:
		if !s.has(target, envoy.TypeListener) || !s.has(target, envoy.TypeRoute) {
			known := s.types[typeURL].known // A name that does not exist is answered at once.
			remove = slices.DeleteFunc(remove, func(name string) bool { return known[name] != "" })
		}
	}
	return send, remove, held
}

// has reports whether the client answered everything that there is to send of a
// type.
func (s *session) has(target envoy.Set, typeURL string) bool {
	sub := s.types[typeURL]
	if sub == nil || sub.inFlight != nil || !sub.answered {
		return false
	}
	send, _ := sub.diff(target[typeURL])
	return len(send) == 0
}

// hasEndpoints reports whether a proxy has the endpoints of every cluster. It
// asks for them after it took the cluster, which is not warm before that.
func (s *session) hasEndpoints(target envoy.Set) bool {
	if len(target[envoy.TypeEndpoint]) == 0 {
		return true
	}
	endpoints, clusters := s.types[envoy.TypeEndpoint], s.types[envoy.TypeCluster]
	if endpoints != nil && (endpoints.inFlight != nil) {
		return false
	}
	for name, resource := range target[envoy.TypeEndpoint] {
		if _, refused := clusters.refused[name]; refused {
			continue // It never asks for these.
		}
		if endpoints == nil || endpoints.known[name] != resource.Version && endpoints.refused[name] != resource.Version {
			return false
		}
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
		if endpoints.known[name] != "" {
			endpoints.known[name] = ""
		}
	}
}

// diff names what to send and what to remove.
func (sub *subscription) diff(resources map[string]envoy.Resource) (send, remove []string) {
	wanted := func(name string) bool { return sub.wildcard || sub.names[name] }
	for name, resource := range resources {
		if wanted(name) && sub.known[name] != resource.Version && sub.refused[name] != resource.Version {
			send = append(send, name)
		}
	}
	for name := range sub.known {
		if _, exists := resources[name]; !exists && sub.refused[name] != gone {
			remove = append(remove, name)
		}
	}
	slices.Sort(send)
	slices.Sort(remove)
	return send, remove
}

func (sub *subscription) deliver(typeURL, nonce string, resources map[string]envoy.Resource, send, remove []string) *discoveryv3.DeltaDiscoveryResponse {
	flight := &delivery{nonce: nonce, sent: map[string]string{}, removed: remove}
	response := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: nonce, RemovedResources: remove}
	for _, name := range remove {
		delete(sub.known, name)
		delete(sub.refused, name)
	}
	for _, name := range send {
		resource := resources[name]
		response.Resources = append(response.Resources, &discoveryv3.Resource{Name: name, Version: resource.Version, Resource: resource.Body})
		flight.sent[name] = resource.Version
		sub.known[name] = resource.Version
		delete(sub.refused, name)
	}
	sub.inFlight = flight
	return response
}

// inSync reports whether everything of the types asked for (nil for all) is
// answered. The caller holds the server's mutex.
func (s *session) inSync(target envoy.Set, types []string) bool {
	for typeURL, sub := range s.types {
		if types != nil && !slices.Contains(types, typeURL) {
			continue
		}
		if sub.inFlight != nil || !sub.answered {
			return false
		}
		if send, remove, held := s.pending(target, typeURL); held || len(send)+len(remove) > 0 {
			return false
		}
	}
	proxy := s.types[envoy.TypeCluster] != nil
	return !proxy || types != nil && !slices.Contains(types, envoy.TypeEndpoint) || s.hasEndpoints(target)
}

// rejected finds a part of the target that this client refused, of the given
// types (nil for all). What is the same in base is passed over. The caller holds
// the server's mutex.
func (s *session) rejected(target, base envoy.Set, types []string) *Rejection {
	for _, typeURL := range slices.Sorted(maps.Keys(s.types)) {
		if types != nil && !slices.Contains(types, typeURL) {
			continue
		}
		sub := s.types[typeURL]
		var names []string
		for name, version := range sub.refused {
			if versionOf(target, typeURL, name) == version && versionOf(base, typeURL, name) != version {
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
