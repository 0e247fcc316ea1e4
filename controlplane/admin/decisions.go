package admin

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	decisionv1 "weir.dev/api/gen/weir/decision/v1"
	"weir.dev/kit/fault"
)

// Bounds of asking the extauthz servers.
const (
	maxServers     = 64
	askServer      = 5 * time.Second
	maxIDBytes     = 256
	maxDecisions   = 100
	maxFlipExample = 5
)

const reasonNoServer = "EXTAUTHZ_NOT_CONFIGURED"

// Decisions is where decisions are asked for.
type Decisions struct {
	// Address is host:port; all addresses of the host are asked.
	Address string
	// TLS proves who asks, and checks whom; nil where nobody can be asked.
	TLS func() (*tls.Config, error)
}

// ListDecisions implements the service.
func (s *Server) ListDecisions(ctx context.Context, request *adminv1.ListDecisionsRequest) (*adminv1.ListDecisionsResponse, error) {
	if err := s.admit(ctx); err != nil {
		return nil, err
	}
	if id := request.GetId(); id == "" || len(id) > maxIDBytes {
		return nil, invalid("id", "is required, of at most %d bytes", maxIDBytes)
	}
	out := &adminv1.ListDecisionsResponse{}
	var mu sync.Mutex
	var err error
	out.Unreachable, err = s.options.Decisions.each(ctx, func(ctx context.Context, client decisionv1.DecisionServiceClient) error {
		found, err := client.FindDecisions(ctx, &decisionv1.FindDecisionsRequest{Id: request.GetId()})
		mu.Lock()
		defer mu.Unlock()
		out.Decisions = append(out.Decisions, found.GetDecisions()...)
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(out.GetDecisions(), func(a, b *decisionv1.Decision) int { return b.GetTime().AsTime().Compare(a.GetTime().AsTime()) })
	out.Decisions = out.GetDecisions()[:min(len(out.GetDecisions()), maxDecisions)]
	return out, nil
}

// ListCandidates implements the service.
func (s *Server) ListCandidates(ctx context.Context, _ *adminv1.ListCandidatesRequest) (*adminv1.ListCandidatesResponse, error) {
	if err := s.admit(ctx); err != nil {
		return nil, err
	}
	out := &adminv1.ListCandidatesResponse{}
	var mu sync.Mutex
	var err error
	sums := map[[2]string]*decisionv1.Candidate{}
	out.Unreachable, err = s.options.Decisions.each(ctx, func(ctx context.Context, client decisionv1.DecisionServiceClient) error {
		found, err := client.ListCandidates(ctx, &decisionv1.ListCandidatesRequest{})
		mu.Lock()
		defer mu.Unlock()
		for _, candidate := range found.GetCandidates() {
			key := [2]string{candidate.GetPolicy(), candidate.GetDigest()}
			if sums[key] == nil {
				sums[key] = candidate
				out.Candidates = append(out.Candidates, candidate)
				continue
			}
			addCandidate(sums[key], candidate)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(out.GetCandidates(), func(a, b *decisionv1.Candidate) int {
		return cmp.Or(cmp.Compare(a.GetPolicy(), b.GetPolicy()), cmp.Compare(a.GetDigest(), b.GetDigest()))
	})
	return out, nil
}

// addCandidate adds what another server counted.
func addCandidate(to, more *decisionv1.Candidate) {
	if more.GetSince().AsTime().Before(to.GetSince().AsTime()) {
		to.Since = more.GetSince()
	}
	to.Server = ""
	to.Compared += more.GetCompared()
	to.Same += more.GetSame()
	to.Undecided += more.GetUndecided()
	to.Failed += more.GetFailed()
	to.Dropped += more.GetDropped()
	for _, flip := range more.GetFlips() {
		i := slices.IndexFunc(to.GetFlips(), func(f *decisionv1.Flip) bool {
			return f.GetKind() == flip.GetKind() && f.GetRule() == flip.GetRule() && f.GetReason() == flip.GetReason()
		})
		if i < 0 {
			to.Flips = append(to.Flips, flip)
			continue
		}
		known := to.GetFlips()[i]
		known.Count += flip.GetCount()
		known.Examples = append(known.GetExamples(), flip.GetExamples()...)
		known.Examples = known.GetExamples()[:min(len(known.GetExamples()), maxFlipExample)]
	}
	slices.SortStableFunc(to.GetFlips(), func(a, b *decisionv1.Flip) int { return -cmp.Compare(a.GetCount(), b.GetCount()) })
}

// each asks every server; those that cannot be asked are listed.
func (d *Decisions) each(ctx context.Context, ask func(context.Context, decisionv1.DecisionServiceClient) error) ([]*adminv1.UnreachableServer, error) {
	if d == nil || d.TLS == nil {
		return nil, fault.New(codes.FailedPrecondition, reasonNoServer, "this control plane does not know of an extauthz to ask")
	}
	return askEach(ctx, d.Address, d.TLS, func(ctx context.Context, conn *grpc.ClientConn) error {
		return ask(ctx, decisionv1.NewDecisionServiceClient(conn))
	})
}

// askEach asks every server of an address at once; those that cannot be asked are
// listed.
func askEach(ctx context.Context, address string, config func() (*tls.Config, error), ask func(context.Context, *grpc.ClientConn) error) ([]*adminv1.UnreachableServer, error) {
	ctx, cancel := context.WithTimeout(ctx, askServer)
	defer cancel()
	tlsConfig, err := config()
	if err != nil {
		return nil, err
	}
	addresses, err := lookUp(ctx, address)
	if err != nil {
		return []*adminv1.UnreachableServer{{Address: address, Reason: err.Error()}}, nil
	}
	var mu sync.Mutex
	var failed []*adminv1.UnreachableServer
	var group sync.WaitGroup
	for _, address := range addresses[:min(len(addresses), maxServers)] {
		group.Go(func() {
			if err := askOne(ctx, address, tlsConfig, ask); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, &adminv1.UnreachableServer{Address: address, Reason: status.Convert(err).Message()})
			}
		})
	}
	group.Wait()
	slices.SortFunc(failed, func(a, b *adminv1.UnreachableServer) int { return cmp.Compare(a.GetAddress(), b.GetAddress()) })
	return failed, nil
}

func askOne(ctx context.Context, address string, tlsConfig *tls.Config, ask func(context.Context, *grpc.ClientConn) error) error {
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxBody)))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return ask(ctx, conn)
}

// lookUp lists the addresses of a host:port.
func lookUp(ctx context.Context, address string) ([]string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	hosts, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return nil, err
	}
	addresses := make([]string, len(hosts))
	for i, host := range hosts {
		addresses[i] = net.JoinHostPort(host, port)
	}
	return addresses, nil
}
