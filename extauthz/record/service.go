package record

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	decisionv1 "weir.dev/api/gen/weir/decision/v1"
	"weir.dev/kit/fault"
)

// Service answers weir.decision.v1.DecisionService from a Keeper, to the peers
// that it names.
type Service struct {
	decisionv1.UnimplementedDecisionServiceServer
	keeper *Keeper
	peers  []string
}

// NewService makes a service; peers are SPIFFE ids.
func NewService(keeper *Keeper, peers []string) *Service {
	return &Service{keeper: keeper, peers: peers}
}

// FindDecisions implements the service.
func (s *Service) FindDecisions(ctx context.Context, request *decisionv1.FindDecisionsRequest) (*decisionv1.FindDecisionsResponse, error) {
	if err := admit(ctx, s.peers); err != nil {
		return nil, err
	}
	if request.GetId() == "" {
		return nil, fault.New(codes.InvalidArgument, "REQUEST_INVALID", "id: is required")
	}
	return &decisionv1.FindDecisionsResponse{Decisions: s.keeper.ring.find(s.keeper.options.Server, request.GetId())}, nil
}

// ListCandidates implements the service.
func (s *Service) ListCandidates(ctx context.Context, _ *decisionv1.ListCandidatesRequest) (*decisionv1.ListCandidatesResponse, error) {
	if err := admit(ctx, s.peers); err != nil {
		return nil, err
	}
	return &decisionv1.ListCandidatesResponse{Candidates: s.keeper.shadow.list()}, nil
}

// admit refuses callers that are none of peers.
func admit(ctx context.Context, peers []string) error {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
			for _, uri := range info.State.PeerCertificates[0].URIs {
				if slices.Contains(peers, uri.String()) {
					return nil
				}
			}
		}
	}
	return fault.New(codes.PermissionDenied, "PEER_NOT_ALLOWED", "the certificate's identity may not ask for decisions")
}
