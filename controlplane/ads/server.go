package ads

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

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
	// stepTimeout is how long one step of a rollout waits for acknowledgement.
	stepTimeout time.Duration
	// serving is closed when the first target is set, closed by Close.
	serving, closed chan struct{}

	mu       sync.Mutex
	target   envoy.Set
	ready    bool
	ended    bool
	changed  chan struct{}
	sessions map[*session]struct{}
}

// Rejection is a NACK.
type Rejection struct {
	Node      string   `json:"node"`
	TypeURL   string   `json:"type"`
	Resources []string `json:"resources"`
	Message   string   `json:"message"`
}

// NewServer makes a server that has nothing to serve yet: clients wait until
// the first rollout begins, so that a restart never takes anything away.
func NewServer(access Access, logger *slog.Logger, registry prometheus.Registerer) *Server {
	return &Server{
		access: access, logger: logger, metrics: newMetrics(registry), stepTimeout: stepTimeout,
		serving: make(chan struct{}), closed: make(chan struct{}),
		target: envoy.Set{}, changed: make(chan struct{}), sessions: map[*session]struct{}{},
	}
}

// Serving is closed once there is something to serve.
func (s *Server) Serving() <-chan struct{} { return s.serving }

// Close ends every stream, so that a server which drains need not wait for
// subscriptions, which never end by themselves. It may be called again.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ended = true
		close(s.closed)
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
	if !s.ready {
		s.ready = true
		close(s.serving)
	}
	s.target = target
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

// Client is a connected subscriber, for status.
type Client struct {
	Node string `json:"node"`
	Peer string `json:"peer"`
	// InSync says that everything it subscribed to is acknowledged.
	InSync bool `json:"inSync"`
	// Rejected is what it refuses of what is served now.
	Rejected *Rejection `json:"rejected,omitempty"`
}

// Clients lists the connected subscribers by node id.
func (s *Server) Clients() []Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	var clients []Client
	for session := range s.sessions {
		client := Client{Node: session.node, Peer: session.peer, Rejected: session.rejected(s.target, nil, nil)}
		client.InSync = s.ready && client.Rejected == nil && session.inSync(s.target, nil)
		clients = append(clients, client)
	}
	slices.SortFunc(clients, func(a, b Client) int { return strings.Compare(a.Node+a.Peer, b.Node+b.Peer) })
	return clients
}

// outOfSync lists the clients that have not answered the target for types (nil
// for all); rejected is set when one of them refused a part of it that base does
// not have too. Clients that are late already are not waited for.
func (s *Server) outOfSync(base envoy.Set, types []string) (waiting []*session, rejected *Rejection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for session := range s.sessions {
		if rejection := session.rejected(s.target, base, types); rejection != nil {
			rejected = rejection
		}
		session.late = session.late && !session.inSync(s.target, nil)
		if !session.late && !session.inSync(s.target, types) {
			waiting = append(waiting, session)
		}
	}
	return waiting, rejected
}

// leaveBehind marks clients that do not answer, and names them.
func (s *Server) leaveBehind(sessions []*session) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, len(sessions))
	for i, session := range sessions {
		session.late, names[i] = true, session.node
	}
	slices.Sort(names)
	return names
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
