package ads

import (
	"cmp"
	"context"
	"log/slog"
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
	access Access
	groups map[string]*Group
	closed chan struct{}
	once   sync.Once
	// serving is closed when every group has something to serve.
	serving chan struct{}
}

// NewServer makes a server with a Group for each that access names. They have
// nothing to serve yet: clients wait until their group's first rollout begins,
// so that a restart never takes anything away.
func NewServer(access Access, logger *slog.Logger, registry prometheus.Registerer) *Server {
	s := &Server{access: access, groups: map[string]*Group{}, closed: make(chan struct{}), serving: make(chan struct{})}
	metrics := newMetrics(registry)
	var missing sync.WaitGroup
	for _, grant := range access {
		if s.groups[grant.Group] == nil {
			missing.Add(1)
			s.groups[grant.Group] = newGroup(grant.Group, logger, metrics, s.closed, missing.Done)
		}
	}
	go func() {
		missing.Wait()
		close(s.serving)
	}()
	return s
}

// Group is the named one, nil if access names none such.
func (s *Server) Group(name string) *Group { return s.groups[name] }

// Serving is closed once there is something to serve to everyone.
func (s *Server) Serving() <-chan struct{} { return s.serving }

// Close ends every stream, so that a server which drains need not wait for
// subscriptions, which never end by themselves. It may be called again.
func (s *Server) Close() { s.once.Do(func() { close(s.closed) }) }

// Clients lists the connected subscribers of all groups by node id.
func (s *Server) Clients() []Client {
	var clients []Client
	for _, group := range s.groups {
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
	grant, ok := s.access[peerID]
	if !ok {
		return fault.New(codes.PermissionDenied, "PEER_NOT_ALLOWED", "%s may not subscribe to configuration", peerID)
	}
	group := s.groups[grant.Group]
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
