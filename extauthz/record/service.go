package record

import (
	"context"

	"google.golang.org/grpc/codes"

	decisionv1 "weir.dev/api/gen/weir/decision/v1"
	"weir.dev/kit/fault"
)

// Service answers weir.decision.v1.DecisionService from a Keeper. Who may ask is
// for the server to say.
type Service struct {
	decisionv1.UnimplementedDecisionServiceServer
	keeper *Keeper
}

// NewService makes a service.
func NewService(keeper *Keeper) *Service { return &Service{keeper: keeper} }

// FindDecisions implements the service.
func (s *Service) FindDecisions(_ context.Context, request *decisionv1.FindDecisionsRequest) (*decisionv1.FindDecisionsResponse, error) {
	if request.GetId() == "" {
		return nil, fault.New(codes.InvalidArgument, "REQUEST_INVALID", "id: is required")
	}
	return &decisionv1.FindDecisionsResponse{Decisions: s.keeper.ring.find(s.keeper.options.Server, request.GetId())}, nil
}

// ListCandidates implements the service.
func (s *Service) ListCandidates(context.Context, *decisionv1.ListCandidatesRequest) (*decisionv1.ListCandidatesResponse, error) {
	return &decisionv1.ListCandidatesResponse{Candidates: s.keeper.shadow.list()}, nil
}
