// Package adstest is a small delta ADS server for tests: it sends what changed
// since what it last sent, as the protocol asks, and records what clients say.
package adstest

import (
	"crypto/tls"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Server serves any number of streams. Safe for concurrent use.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	tls     *tls.Config
	address string
	grpc    *grpc.Server

	mu        sync.Mutex
	resources map[string]map[string]resource // by type and name
	version   int
	streams   map[chan struct{}]bool
	requests  chan *discoveryv3.DeltaDiscoveryRequest
}

type resource struct {
	version string
	body    *anypb.Any
}

// Start serves on a free port until the test ends.
func Start(t testing.TB, tlsConfig *tls.Config) *Server {
	t.Helper()
	s := &Server{
		tls: tlsConfig, address: "127.0.0.1:0", resources: map[string]map[string]resource{},
		streams: map[chan struct{}]bool{}, requests: make(chan *discoveryv3.DeltaDiscoveryRequest, 1000),
	}
	s.Up(t)
	t.Cleanup(s.Down)
	return s
}

// Address is host:port; it stays the same across Down and Up.
func (s *Server) Address() string { return s.address }

// Up starts serving again after Down.
func (s *Server) Up(t testing.TB) {
	t.Helper()
	var listener net.Listener
	// While nothing listened, a client that dialled the port may have got it as its
	// own, as TCP allows on one machine; it gives it up at once.
	require.Eventually(t, func() bool {
		var err error
		var network net.ListenConfig
		listener, err = network.Listen(t.Context(), "tcp", s.address)
		return err == nil
	}, 10*time.Second, 5*time.Millisecond, "cannot listen on %s", s.address)
	s.address = listener.Addr().String()
	s.grpc = grpc.NewServer(grpc.Creds(credentials.NewTLS(s.tls)))
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s.grpc, s)
	server := s.grpc
	go func() { _ = server.Serve(listener) }()
}

// Down ends all streams and stops listening, as a crash would.
func (s *Server) Down() { s.grpc.Stop() }

// Set replaces all resources of a type, by name, and pushes what changed.
func (s *Server) Set(t testing.TB, typeURL string, messages map[string]proto.Message) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	old, next := s.resources[typeURL], map[string]resource{}
	for name, message := range messages {
		body, ok := message.(*anypb.Any)
		if !ok {
			var err error
			body, err = anypb.New(message)
			require.NoError(t, err)
		}
		if known, ok := old[name]; ok && proto.Equal(known.body, body) {
			next[name] = known
			continue
		}
		s.version++
		next[name] = resource{version: "v" + strconv.Itoa(s.version), body: body}
	}
	s.resources[typeURL] = next
	for wake := range s.streams {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

// Request returns the next request that any client sent.
func (s *Server) Request(t testing.TB) *discoveryv3.DeltaDiscoveryRequest {
	t.Helper()
	select {
	case request := <-s.requests:
		return request
	case <-time.After(10 * time.Second):
		require.FailNow(t, "the client sent nothing for 10 s")
		return nil
	}
}

// DeltaAggregatedResources implements the service.
func (s *Server) DeltaAggregatedResources(stream grpc.BidiStreamingServer[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]) error {
	wake := make(chan struct{}, 1)
	s.mu.Lock()
	s.streams[wake] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.streams, wake)
		s.mu.Unlock()
	}()
	subscribe := make(chan *discoveryv3.DeltaDiscoveryRequest)
	go func() {
		for {
			request, err := stream.Recv()
			if err != nil {
				close(subscribe)
				return
			}
			s.requests <- request
			if len(request.GetResourceNamesSubscribe()) == 0 {
				continue // an ACK or NACK
			}
			select {
			case subscribe <- request:
			case <-stream.Context().Done():
			}
		}
	}()
	sent := map[string]map[string]string{} // versions by type and name
	for {
		select {
		case request, ok := <-subscribe:
			if !ok {
				return nil
			}
			sent[request.GetTypeUrl()] = maps.Clone(request.GetInitialResourceVersions())
			if sent[request.GetTypeUrl()] == nil {
				sent[request.GetTypeUrl()] = map[string]string{}
			}
			// A wildcard subscription is answered even when nothing is new.
			if err := s.push(stream, request.GetTypeUrl(), sent[request.GetTypeUrl()], true); err != nil {
				return err
			}
		case <-wake:
			for _, typeURL := range slices.Sorted(maps.Keys(sent)) {
				if err := s.push(stream, typeURL, sent[typeURL], false); err != nil {
					return err
				}
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (s *Server) push(stream grpc.BidiStreamingServer[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse], typeURL string, sent map[string]string, always bool) error {
	s.mu.Lock()
	current := maps.Clone(s.resources[typeURL])
	s.version++
	response := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: "n" + strconv.Itoa(s.version)}
	s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(current)) {
		if sent[name] != current[name].version {
			response.Resources = append(response.Resources, &discoveryv3.Resource{
				Name: name, Version: current[name].version, Resource: current[name].body,
			})
			sent[name] = current[name].version
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sent)) {
		if _, ok := current[name]; !ok {
			response.RemovedResources = append(response.RemovedResources, name)
			delete(sent, name)
		}
	}
	if !always && len(response.GetResources()) == 0 && len(response.GetRemovedResources()) == 0 {
		return nil
	}
	return stream.Send(response)
}
