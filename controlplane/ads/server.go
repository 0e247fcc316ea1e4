package ads

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"weir.dev/kit/fault"
)

// Access is a total table: what each peer, by SPIFFE id, may subscribe to. Who
// or what is not in it is refused. Nothing that a client says of itself counts.
type Access map[string]Grant

// Grant is what one peer may have.
type Grant struct {
	// Group is the fleet that the peer is of.
	Group string
	// Types are type URLs.
	Types []string
}

// Server routes each client to its Group. Safe for concurrent use.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	logger  *slog.Logger
	metrics *metrics
	// serving is closed when every group of the start has something to serve.
	serving chan struct{}

	mu     sync.Mutex
	access Access
	groups map[string]*Group
	closed bool
}

// NewServer makes a server with a Group for each that access names. They have
// nothing to serve yet: clients wait until their group's first rollout begins,
// so that a restart never takes anything away.
func NewServer(access Access, logger *slog.Logger, registry prometheus.Registerer) *Server {
	s := &Server{logger: logger, metrics: newMetrics(registry), access: maps.Clone(access), groups: map[string]*Group{}, serving: make(chan struct{})}
	var missing sync.WaitGroup
	for _, grant := range access {
		if s.groups[grant.Group] == nil {
			missing.Add(1)
			s.groups[grant.Group] = newGroup(grant.Group, logger, s.metrics, missing.Done)
		}
	}
	go func() {
		missing.Wait()
		close(s.serving)
	}()
	return s
}

// Group is the named one, nil if no peer's grant names one such.
func (s *Server) Group(name string) *Group {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.groups[name]
}

// Admit lets a peer subscribe from now on, and returns the Group of its grant,
// which is made if there is none. As at a start, clients wait until the first
// rollout of a new Group begins.
func (s *Server) Admit(peer string, grant Grant) *Group {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.access == nil {
		s.access = Access{}
	}
	s.access[peer] = grant
	group := s.groups[grant.Group]
	if group == nil {
		group = newGroup(grant.Group, s.logger, s.metrics, func() {})
		s.groups[grant.Group] = group
		if s.closed {
			group.close()
		}
	}
	return group
}

// Dismiss takes back what Admit gave: the peers of the group are refused from now
// on, and their streams end.
func (s *Server) Dismiss(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	group := s.groups[name]
	if group == nil {
		return
	}
	maps.DeleteFunc(s.access, func(_ string, grant Grant) bool { return grant.Group == name })
	delete(s.groups, name)
	group.close()
}

// Serving is closed once there is something to serve to everyone.
func (s *Server) Serving() <-chan struct{} { return s.serving }

// Close ends every stream, so that a server which drains need not wait for
// subscriptions, which never end by themselves. It may be called again.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, group := range s.groups {
		group.close()
	}
}

// Clients lists the connected subscribers of all groups by node id.
func (s *Server) Clients() []Client {
	s.mu.Lock()
	groups := slices.Collect(maps.Values(s.groups))
	s.mu.Unlock()
	var clients []Client
	for _, group := range groups {
		clients = append(clients, group.Clients()...)
	}
	slices.SortFunc(clients, compareClients)
	return clients
}

func compareClients(a, b Client) int {
	return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.Peer, b.Peer))
}

// DeltaAggregatedResources implements the service.
func (s *Server) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return s.serve(stream.Context(), deltaTransport{stream})
}

// StreamAggregatedResources implements the service: the state-of-the-world
// variant.
func (s *Server) StreamAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return s.serve(stream.Context(), &stateTransport{stream: stream})
}

func (s *Server) serve(ctx context.Context, stream transport) error {
	peerID, err := peerOf(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	grant, ok := s.access[peerID]
	group := s.groups[grant.Group]
	s.mu.Unlock()
	if !ok {
		return fault.New(codes.PermissionDenied, "PEER_NOT_ALLOWED", "%s may not subscribe to configuration", peerID)
	}
	session := &session{group: group, peer: peerID, allowed: grant.Types, types: map[string]*subscription{}}
	_, session.whole = stream.(*stateTransport)
	group.join(session)
	defer group.leave(session)
	return session.run(ctx, stream)
}

func peerOf(ctx context.Context) (string, error) {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
			for _, uri := range info.State.PeerCertificates[0].URIs {
				return uri.String(), nil
			}
		}
	}
	return "", fault.New(codes.Unauthenticated, "PEER_UNKNOWN", "the connection carries no SPIFFE identity")
}

func shortType(typeURL string) string { return typeURL[strings.LastIndexByte(typeURL, '.')+1:] }
