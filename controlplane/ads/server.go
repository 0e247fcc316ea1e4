package ads

import (
	"context"
	"fmt"
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

	"weir.dev/controlplane/envoy"
	"weir.dev/kit/fault"
)

// Access is a total table: the resource types that each peer, by SPIFFE id, may
// subscribe to. Who or what is not in it is refused.
type Access map[string][]string

// Server holds the current target and the connected clients. Safe for
// concurrent use.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	access  Access
	logger  *slog.Logger
	metrics *metrics

	mu       sync.Mutex
	target   envoy.Set
	ready    bool
	changed  chan struct{}
	sessions map[*session]struct{}
	// rejections are the latest NACKs by type and resource set, for status.
	rejections []Rejection
}

// Rejection is a NACK.
type Rejection struct {
	Node      string   `json:"node"`
	TypeURL   string   `json:"type"`
	Resources []string `json:"resources"`
	Message   string   `json:"message"`
}

// maxRejections bounds what is kept for status.
const maxRejections = 100

// NewServer makes a server that has nothing to serve yet: clients wait until
// the first rollout begins, so that a restart never takes anything away.
func NewServer(access Access, logger *slog.Logger, registry prometheus.Registerer) *Server {
	return &Server{
		access: access, logger: logger, metrics: newMetrics(registry),
		target: envoy.Set{}, changed: make(chan struct{}), sessions: map[*session]struct{}{},
	}
}

// DeltaAggregatedResources implements the service.
func (s *Server) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	peerID, err := peerOf(stream.Context())
	if err != nil {
		return err
	}
	allowed, ok := s.access[peerID]
	if !ok {
		return fault.New(codes.PermissionDenied, "PEER_NOT_ALLOWED", "%s may not subscribe to configuration", peerID)
	}
	session := &session{server: s, peer: peerID, allowed: allowed, types: map[string]*subscription{}}
	s.mu.Lock()
	s.sessions[session] = struct{}{}
	s.metrics.clients.Set(float64(len(s.sessions)))
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.sessions, session)
		s.metrics.clients.Set(float64(len(s.sessions)))
		s.wake()
		s.mu.Unlock()
	}()
	return session.run(stream)
}

// StreamAggregatedResources refuses the state-of-the-world variant by name.
func (s *Server) StreamAggregatedResources(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return fault.New(codes.Unimplemented, "DELTA_ONLY", "this server speaks the delta variant: set api_type to DELTA_GRPC")
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

// set replaces the target and wakes everybody.
func (s *Server) set(target envoy.Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.target, s.ready = target, true
	s.wake()
}

// wake tells waiters that something changed; the caller holds mu.
func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// look returns the target and a channel that closes at the next change.
func (s *Server) look() (target envoy.Set, ready bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.target, s.ready, s.changed
}

func (s *Server) reject(rejection Rejection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rejections = append(s.rejections, rejection)
	if len(s.rejections) > maxRejections {
		s.rejections = slices.Delete(s.rejections, 0, len(s.rejections)-maxRejections)
	}
	s.metrics.rejections.WithLabelValues(shortType(rejection.TypeURL)).Inc()
}

// Client is a connected subscriber, for status.
type Client struct {
	Node string `json:"node"`
	Peer string `json:"peer"`
	// InSync says that everything it subscribed to is acknowledged.
	InSync bool `json:"inSync"`
}

// Clients lists the connected subscribers by node id.
func (s *Server) Clients() []Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	var clients []Client
	for session := range s.sessions {
		clients = append(clients, Client{Node: session.node, Peer: session.peer, InSync: session.inSync(s.target, nil)})
	}
	slices.SortFunc(clients, func(a, b Client) int { return strings.Compare(a.Node+a.Peer, b.Node+b.Peer) })
	return clients
}

// outOfSync names the clients that have not acknowledged the target for types
// (nil for all); rejected is set when one of them refused a part of it.
func (s *Server) outOfSync(types []string) (waiting []string, rejected *Rejection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for session := range s.sessions {
		if rejection := session.rejected(s.target, types); rejection != nil {
			return nil, rejection
		}
		if !session.inSync(s.target, types) {
			waiting = append(waiting, session.node)
		}
	}
	return waiting, nil
}

func shortType(typeURL string) string { return typeURL[strings.LastIndexByte(typeURL, '.')+1:] }

// merge is base with the resources of the given types added from extra.
func merge(base, extra envoy.Set, types ...string) envoy.Set {
	merged := maps.Clone(base)
	for _, typeURL := range types {
		resources := maps.Clone(base[typeURL])
		if resources == nil {
			resources = map[string]envoy.Resource{}
		}
		maps.Copy(resources, extra[typeURL])
		merged[typeURL] = resources
	}
	return merged
}

// replace is base with the given types taken whole from other.
func replace(base, other envoy.Set, types ...string) envoy.Set {
	merged := maps.Clone(base)
	for _, typeURL := range types {
		merged[typeURL] = other[typeURL]
	}
	return merged
}

func (r *Rejection) Error() string {
	return fmt.Sprintf("%s rejected %s %s: %s", r.Node, shortType(r.TypeURL), strings.Join(r.Resources, ", "), r.Message)
}
