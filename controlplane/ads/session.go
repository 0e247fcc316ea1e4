package ads

import (
	"maps"
	"slices"
	"strconv"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"

	"weir.dev/controlplane/envoy"
	"weir.dev/kit/fault"
)

// maxSubscribedNames bounds what one client may ask for by name.
const maxSubscribedNames = 100_000

// session is one stream. Its state is guarded by the server's mutex; only its
// own goroutine sends.
type session struct {
	server  *Server
	peer    string
	node    string
	allowed []string
	types   map[string]*subscription
	nonce   uint64
}

// subscription is what a client asked for and has, of one type.
type subscription struct {
	wildcard bool
	names    map[string]bool
	// known is the version of each resource that the client has; "" when it may
	// have any, after a rejection.
	known map[string]string
	// refused is the version of each resource that the client rejected.
	refused map[string]string
	message string
	// inFlight is the response that waits for an answer, nil if none.
	inFlight *delivery
	answered bool
}

type delivery struct {
	nonce    string
	sent     map[string]string
	removed  []string
	previous map[string]string
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
		sub.wildcard = len(request.GetResourceNamesSubscribe()) == 0
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
		s.server.reject(*rejection)
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
	sub.inFlight = nil
	if request.GetErrorDetail() == nil {
		sub.answered = true
		return nil
	}
	// A client may have taken some of the resources (Envoy does) or none (Weir's
	// servers): from now on each of them counts as unknown, and this version of
	// them is not offered again.
	for name, version := range flight.sent {
		sub.known[name] = ""
		sub.refused[name] = version
	}
	for _, name := range flight.removed {
		if version, had := flight.previous[name]; had {
			sub.known[name] = version
		}
	}
	sub.message = request.GetErrorDetail().GetMessage()
	return &Rejection{Resources: slices.Sorted(maps.Keys(flight.sent)), Message: sub.message}
}

// order is the order in which types are offered: what is referred to comes
// before what refers to it (xDS, "eventual consistency considerations").
func order() []string {
	return []string{envoy.TypeCluster, envoy.TypeEndpoint, envoy.TypeListener, envoy.TypeRoute}
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
		send, remove := sub.diff(target[typeURL])
		if len(send) == 0 && len(remove) == 0 && sub.answered {
			continue
		}
		s.nonce++
		nonce := strconv.FormatUint(s.nonce, 10)
		responses = append(responses, sub.deliver(typeURL, nonce, target[typeURL], send, remove))
	}
	return responses
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
		if _, exists := resources[name]; !exists {
			remove = append(remove, name)
		}
	}
	slices.Sort(send)
	slices.Sort(remove)
	return send, remove
}

func (sub *subscription) deliver(typeURL, nonce string, resources map[string]envoy.Resource, send, remove []string) *discoveryv3.DeltaDiscoveryResponse {
	flight := &delivery{nonce: nonce, sent: map[string]string{}, removed: remove, previous: map[string]string{}}
	response := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: nonce, RemovedResources: remove}
	for _, name := range remove {
		flight.previous[name] = sub.known[name]
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

// inSync reports whether everything of the types asked for is acknowledged. The
// caller holds the server's mutex.
func (s *session) inSync(target envoy.Set, types []string) bool {
	for typeURL, sub := range s.types {
		if types != nil && !slices.Contains(types, typeURL) {
			continue
		}
		if sub.inFlight != nil || !sub.answered {
			return false
		}
		if send, remove := sub.diff(target[typeURL]); len(send)+len(remove) > 0 {
			return false
		}
	}
	// A proxy that took new clusters asks for their endpoints next; until it has
	// them the clusters are not warm.
	if _, proxy := s.types[envoy.TypeCluster]; proxy && (types == nil || slices.Contains(types, envoy.TypeEndpoint)) {
		endpoints := s.types[envoy.TypeEndpoint]
		for name := range target[envoy.TypeEndpoint] {
			if endpoints == nil || endpoints.known[name] == "" && endpoints.refused[name] == "" {
				return false
			}
		}
	}
	return true
}

// rejected finds a resource of the target that this client refused. The caller
// holds the server's mutex.
func (s *session) rejected(target envoy.Set, types []string) *Rejection {
	for typeURL, sub := range s.types {
		if types != nil && !slices.Contains(types, typeURL) {
			continue
		}
		var names []string
		for name, version := range sub.refused {
			if resource, ok := target[typeURL][name]; ok && resource.Version == version {
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
