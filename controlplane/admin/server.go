package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	"weir.dev/controlplane/envoy"
	"weir.dev/kit/fault"
	"weir.dev/policy"
)

// Reasons of errors.
const (
	reasonNotAllowed  = "PEER_NOT_ALLOWED"
	reasonNotReady    = "POLICY_NOT_READ"
	reasonNotFound    = "OBJECT_NOT_FOUND"
	reasonInvalid     = "REQUEST_INVALID"
	reasonNotApplied  = "POLICY_NOT_APPLIED"
	reasonNoFolder    = "APPLY_NOT_CONFIGURED"
	reasonFollowed    = "OBJECT_FOLLOWED"
	maxProblems       = 10_000
	maxDocuments      = 10_000
	defaultPage       = 100
	maxPage           = 1000
	maxAttachedRoutes = 200
)

// Options of a Server.
type Options struct {
	Running Running
	Parser  *policy.Parser
	// Peers are the SPIFFE ids that may call.
	Peers []string
	// Store keeps what is applied; nil refuses to apply.
	Store  *Store
	Logger *slog.Logger
	// Decisions is where decisions are asked for; nil for nowhere.
	Decisions *Decisions
	// Limits is where counters are asked for; nil for nowhere.
	Limits *Limits
}

// Server implements weir.admin.v1.AdminService. Safe for concurrent use; one
// Apply runs at a time.
type Server struct {
	adminv1.UnimplementedAdminServiceServer
	options  Options
	applying sync.Mutex
}

// NewServer makes a server.
func NewServer(options Options) *Server { return &Server{options: options} }

// state admits the caller and returns the state to answer from.
func (s *Server) state(ctx context.Context) (State, error) {
	if err := s.admit(ctx); err != nil {
		return State{}, err
	}
	state := s.options.Running.State()
	if state.Plan == nil {
		return State{}, fault.New(codes.Unavailable, reasonNotReady, "the policy has not been read yet")
	}
	return state, nil
}

// admit refuses whom the table does not name.
func (s *Server) admit(ctx context.Context) error {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
			for _, uri := range info.State.PeerCertificates[0].URIs {
				if slices.Contains(s.options.Peers, uri.String()) {
					return nil
				}
			}
		}
	}
	return fault.New(codes.PermissionDenied, reasonNotAllowed, "the certificate's identity may not use the admin API")
}

// GetStatus implements the service.
func (s *Server) GetStatus(ctx context.Context, _ *adminv1.GetStatusRequest) (*adminv1.Status, error) {
	state, err := s.state(ctx)
	if err != nil {
		return nil, err
	}
	out := &adminv1.Status{
		Plan: state.Plan.Digest, AcknowledgedPlan: state.Acknowledged, UpdateTime: timestamppb.New(state.Time),
		ObjectCount: int32(len(state.Input.Objects)), RouteCount: int32(countRoutes(state.Plan)), //nolint:gosec // bounded by memory
	}
	out.Programmed, out.Waiting = state.programmed()
	errors := len(state.Problems.Errors())
	out.ErrorCount, out.NoticeCount = int32(errors), int32(len(state.Problems)-errors) //nolint:gosec // bounded by memory
	for _, fleet := range state.Fleets {
		converted := &adminv1.Fleet{}
		if err := convert(fleet, converted); err != nil {
			return nil, err
		}
		out.Fleets = append(out.Fleets, converted)
	}
	return out, nil
}

func countRoutes(plan *policy.Plan) int {
	count := 0
	for _, port := range plan.Ports {
		for _, chain := range port.Chains {
			for _, host := range chain.Hosts {
				count += len(host.Routes)
			}
		}
	}
	return count
}

// GetPlan implements the service.
func (s *Server) GetPlan(ctx context.Context, _ *adminv1.GetPlanRequest) (*adminv1.Plan, error) {
	state, err := s.state(ctx)
	if err != nil {
		return nil, err
	}
	content, err := policy.EncodePlan(state.Plan)
	if err != nil {
		return nil, err
	}
	return &adminv1.Plan{Digest: state.Plan.Digest, Content: content}, nil
}

// ListProblems implements the service.
func (s *Server) ListProblems(ctx context.Context, request *adminv1.ListProblemsRequest) (*adminv1.ListProblemsResponse, error) {
	state, err := s.state(ctx)
	if err != nil {
		return nil, err
	}
	wanted := policy.Severity(request.GetSeverity())
	if wanted != "" && wanted != policy.SeverityError && wanted != policy.SeverityNotice {
		return nil, invalid("severity", "%q is not known; use error or notice", wanted)
	}
	out := &adminv1.ListProblemsResponse{}
	for _, problem := range state.Problems {
		if wanted == "" || problem.Severity == wanted {
			out.Problems = append(out.Problems, problemOf(problem))
		}
		if len(out.Problems) == maxProblems {
			break
		}
	}
	return out, nil
}

// ListClients implements the service.
func (s *Server) ListClients(ctx context.Context, _ *adminv1.ListClientsRequest) (*adminv1.ListClientsResponse, error) {
	state, err := s.state(ctx)
	if err != nil {
		return nil, err
	}
	out := &adminv1.ListClientsResponse{}
	return out, convert(map[string]any{"clients": ClientsOf(state.Clients)}, out)
}

// Explain implements the service.
func (s *Server) Explain(ctx context.Context, request *adminv1.ExplainRequest) (*adminv1.Explanation, error) {
	state, err := s.state(ctx)
	if err != nil {
		return nil, err
	}
	question := policy.Question{
		Scheme: request.GetScheme(), Method: request.GetMethod(), Host: request.GetHost(), Path: request.GetPath(),
		SNI: request.GetSni(), Port: request.GetPort(), Fleet: request.GetFleet(),
	}
	for _, header := range request.GetHeaders() {
		question.Headers = append(question.Headers, policy.Header{Name: header.GetName(), Value: header.GetValue()})
	}
	out := &adminv1.Explanation{}
	return out, convert(policy.Explain(state.Plan, question), out)
}

// Translate implements the service.
func (s *Server) Translate(ctx context.Context, request *adminv1.TranslateRequest) (*adminv1.TranslateResponse, error) {
	state, err := s.state(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range request.GetTypes() {
		if envoy.Types()[name] == "" {
			return nil, invalid("types", "%q is not known", name)
		}
	}
	out := &adminv1.TranslateResponse{}
	for _, fleet := range fleetsOf(state.Plan) {
		set, err := envoy.Compile(state.Plan, s.options.Running.Options(fleet))
		if err != nil {
			return nil, err
		}
		if err := translate(out, request, fleet, set); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func translate(out *adminv1.TranslateResponse, request *adminv1.TranslateRequest, fleet string, set envoy.Set) error {
	for _, typeURL := range set.TypeURLs() {
		short := envoy.ShortType(typeURL)
		if len(request.GetTypes()) > 0 && !slices.Contains(request.GetTypes(), short) {
			continue
		}
		for _, name := range sortedNames(set[typeURL]) {
			if len(request.GetNames()) > 0 && !slices.Contains(request.GetNames(), name) {
				continue
			}
			body, err := envoy.Show(set[typeURL][name])
			if err != nil {
				return err
			}
			resource := &adminv1.Resource{}
			if err := convert(map[string]any{"type": short, "fleet": fleet, "name": name, "body": body}, resource); err != nil {
				return err
			}
			out.Resources = append(out.Resources, resource)
		}
	}
	return nil
}

func sortedNames(resources map[string]envoy.Resource) []string {
	names := make([]string, 0, len(resources))
	for name := range resources {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// fleetsOf lists a Plan's fleets; one without ports has the nameless one.
func fleetsOf(plan *policy.Plan) []string {
	fleets := []string{}
	for _, port := range plan.Ports {
		if !slices.Contains(fleets, port.Fleet) {
			fleets = append(fleets, port.Fleet)
		}
	}
	if len(fleets) == 0 {
		fleets = append(fleets, "")
	}
	return fleets
}

// convert fills a message from a value of the same JSON; a test holds the two
// together.
// What the message has no field for yet is left out rather than refused.
func convert(value any, message proto.Message) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("convert to %T: %w", message, err)
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, message); err != nil {
		return fmt.Errorf("convert to %T: %w", message, err)
	}
	return nil
}

func refOf(ref policy.ObjectRef) *adminv1.ObjectRef {
	return &adminv1.ObjectRef{Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}
}

func originOf(origin policy.Origin) *adminv1.Origin {
	return &adminv1.Origin{Object: refOf(origin.Object), Field: origin.Field, File: origin.File, Line: int32(origin.Line)} //nolint:gosec // a line
}

func problemOf(problem policy.Problem) *adminv1.Problem {
	return &adminv1.Problem{
		Object: refOf(problem.Object), Field: problem.Field, File: problem.File, Line: int32(problem.Line), //nolint:gosec // a line
		Code: string(problem.Code), Severity: string(problem.Severity), Message: problem.Message,
	}
}

func problemsOf(problems policy.Problems) []*adminv1.Problem {
	var out []*adminv1.Problem
	for _, problem := range problems[:min(len(problems), maxProblems)] {
		out = append(out, problemOf(problem))
	}
	return out
}

func invalid(field, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	return fault.New(codes.InvalidArgument, reasonInvalid, "%s: %s", field, text).WithField(field, text)
}
