package ads

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"weir.dev/controlplane/envoy"
)

// transport is one stream in either variant of the protocol; what it hands on is
// the same in both.
type transport interface {
	// recv waits for the client's next message. It may be called while send is.
	recv() (*request, error)
	// accept completes a message. It returns false for one that is out of date and
	// says nothing. It is not called while send is.
	accept(r *request) bool
	// send sends a response. It may be called while recv is.
	send(r *response) error
}

// request is what a client says.
type request struct {
	typeURL, node string
	// nonce is that of the response answered, "" for none; failure is set where
	// the client rejects it.
	nonce                  string
	failure                *statuspb.Status
	subscribe, unsubscribe []string
	// initial are the versions that the client has from an earlier stream.
	initial map[string]string
	// had says that the client has something from an earlier stream.
	had bool
	// names is everything that a client of the state-of-the-world variant wants.
	names []string
}

// response changes what the client has of a type.
type response struct {
	typeURL, nonce string
	send           []envoy.Resource
	remove         []string
}

// deltaTransport is the incremental variant.
type deltaTransport struct {
	stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
}

func (t deltaTransport) recv() (*request, error) {
	m, err := t.stream.Recv()
	if err != nil {
		return nil, err
	}
	return &request{
		typeURL: m.GetTypeUrl(), node: m.GetNode().GetId(), nonce: m.GetResponseNonce(), failure: m.GetErrorDetail(),
		subscribe: m.GetResourceNamesSubscribe(), unsubscribe: m.GetResourceNamesUnsubscribe(), initial: m.GetInitialResourceVersions(),
		had: len(m.GetInitialResourceVersions()) > 0,
	}, nil
}

func (deltaTransport) accept(*request) bool { return true }

func (t deltaTransport) send(r *response) error {
	message := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: r.typeURL, Nonce: r.nonce, RemovedResources: r.remove}
	for _, resource := range r.send {
		message.Resources = append(message.Resources, &discoveryv3.Resource{Name: resource.Name, Version: resource.Version, Resource: resource.Body})
	}
	return t.stream.Send(message)
}

// stateTransport is the state-of-the-world variant: every response holds all that
// the client is to have of its type, and every request all that it asks for.
type stateTransport struct {
	stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer
	types  map[string]*stateOfType
}

type stateOfType struct {
	names map[string]bool
	nonce string
	// has is what the client accepted, offered what the last response held. A
	// client that rejects a response stays with what it has.
	has, offered map[string]envoy.Resource
}

func (t *stateTransport) recv() (*request, error) {
	m, err := t.stream.Recv()
	if err != nil {
		return nil, err
	}
	return &request{
		typeURL: m.GetTypeUrl(), node: m.GetNode().GetId(), nonce: m.GetResponseNonce(), failure: m.GetErrorDetail(), names: m.GetResourceNames(),
		had: m.GetVersionInfo() != "",
	}, nil
}

// accept makes a whole list of names into what is new and what is no longer in
// it. A request that answers an older response is passed over: the client sends
// another one for the newer (xDS transport protocol, "ACK and NACK semantics
// summary").
func (t *stateTransport) accept(r *request) bool {
	known := t.types[r.typeURL]
	if known == nil {
		if t.types == nil {
			t.types = map[string]*stateOfType{}
		}
		known = &stateOfType{names: map[string]bool{}, has: map[string]envoy.Resource{}}
		t.types[r.typeURL] = known
	} else if r.nonce != known.nonce {
		if len(r.names) > 0 || len(known.names) == 0 {
			return false
		}
		// It wants nothing of the type any more, and Envoy does not answer what it
		// has no use for.
		r.nonce = known.nonce
	}
	if known.offered != nil && r.failure == nil {
		known.has = known.offered
	}
	known.offered = nil
	wanted := map[string]bool{}
	for _, name := range r.names {
		wanted[name] = true
		if !known.names[name] {
			r.subscribe = append(r.subscribe, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(known.names)) {
		if !wanted[name] {
			r.unsubscribe = append(r.unsubscribe, name)
			delete(known.has, name)
		}
	}
	known.names = wanted
	return true
}

func (t *stateTransport) send(r *response) error {
	known := t.types[r.typeURL]
	known.nonce, known.offered = r.nonce, maps.Clone(known.has)
	for _, name := range r.remove {
		delete(known.offered, name)
	}
	for _, resource := range r.send {
		known.offered[resource.Name] = resource
	}
	message := &discoveryv3.DiscoveryResponse{TypeUrl: r.typeURL, Nonce: r.nonce, Resources: []*anypb.Any{}}
	version := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(known.offered)) {
		resource := known.offered[name]
		message.Resources = append(message.Resources, resource.Body)
		version.Write([]byte(name + "\x00" + resource.Version + "\x00"))
	}
	message.VersionInfo = hex.EncodeToString(version.Sum(nil)[:12])
	return t.stream.Send(message)
}
