package admin

import (
	"cmp"
	"context"
	"crypto/tls"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	limitsv1 "weir.dev/api/gen/weir/limits/v1"
	"weir.dev/kit/fault"
)

// maxOffenders bounds the keys that are listed of one rule.
const maxOffenders = 20

// Limits is where the counters of rate limits are asked for.
type Limits struct {
	// Address is host:port; all addresses of the host are asked.
	Address string
	// TLS proves who asks, and checks whom; nil where nobody can be asked.
	TLS func() (*tls.Config, error)
}

// each asks every server. An error that says that the question is wrong, and not
// the server, is the answer.
func (l *Limits) each(ctx context.Context, ask func(context.Context, limitsv1.LimitServiceClient) error) ([]*adminv1.UnreachableServer, error) {
	if l == nil || l.TLS == nil {
		return nil, fault.New(codes.FailedPrecondition, "RATE_LIMIT_NOT_CONFIGURED", "this control plane does not know of a ratelimit server to ask")
	}
	var mu sync.Mutex
	var wrong error
	unreachable, err := askEach(ctx, l.Address, l.TLS, func(ctx context.Context, conn *grpc.ClientConn) error {
		err := ask(ctx, limitsv1.NewLimitServiceClient(conn))
		switch code := status.Code(err); code {
		case codes.NotFound, codes.InvalidArgument, codes.Unimplemented:
			mu.Lock()
			defer mu.Unlock()
			// Its reason is the server's own, such as RATE_LIMIT_RULE_UNKNOWN.
			wrong = fault.New(code, fault.From(err).Reason, "%s", status.Convert(err).Message())
		default:
		}
		return err
	})
	return unreachable, cmp.Or(err, wrong)
}

// ListLimits implements the service.
func (s *Server) ListLimits(ctx context.Context, request *adminv1.ListLimitsRequest) (*adminv1.ListLimitsResponse, error) {
	if err := s.admit(ctx); err != nil {
		return nil, err
	}
	size := int(cmp.Or(request.GetPageSize(), defaultPage))
	if size < 1 || size > maxPage {
		return nil, invalid("page_size", "must be 1 to %d", maxPage)
	}
	out := &adminv1.ListLimitsResponse{}
	var mu sync.Mutex
	var err error
	found := map[string]*limitsv1.Limit{}
	more := false
	out.Unreachable, err = s.options.Limits.each(ctx, func(ctx context.Context, client limitsv1.LimitServiceClient) error {
		page, err := client.ListLimits(ctx, &limitsv1.ListLimitsRequest{
			Prefix: request.GetPrefix(), Refusing: request.GetRefusing(), PageSize: int32(size), PageToken: request.GetPageToken(), //nolint:gosec // bounded
		})
		mu.Lock()
		defer mu.Unlock()
		more = more || page.GetNextPageToken() != ""
		for _, limit := range page.GetLimits() {
			if known := found[limit.GetRule()]; known != nil {
				addOffenders(known, limit)
				continue
			}
			found[limit.GetRule()] = limit
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, limit := range found {
		out.Limits = append(out.Limits, limit)
	}
	slices.SortFunc(out.GetLimits(), func(a, b *limitsv1.Limit) int { return cmp.Compare(a.GetRule(), b.GetRule()) })
	if len(out.GetLimits()) > size {
		out.Limits, more = out.GetLimits()[:size], true
	}
	if more && len(out.GetLimits()) > 0 {
		out.NextPageToken = out.GetLimits()[len(out.GetLimits())-1].GetRule()
	}
	return out, nil
}

// addOffenders adds what another server refused.
func addOffenders(to, more *limitsv1.Limit) {
	for _, offender := range more.GetOffenders() {
		i := slices.IndexFunc(to.GetOffenders(), func(known *limitsv1.Offender) bool { return entriesText(known) == entriesText(offender) })
		if i < 0 {
			to.Offenders = append(to.Offenders, offender)
			continue
		}
		known := to.GetOffenders()[i]
		known.Refused += offender.GetRefused()
		known.Error += offender.GetError()
		if offender.GetLastTime().AsTime().After(known.GetLastTime().AsTime()) {
			known.LastTime = offender.GetLastTime()
		}
	}
	slices.SortStableFunc(to.GetOffenders(), func(a, b *limitsv1.Offender) int { return -cmp.Compare(a.GetRefused(), b.GetRefused()) })
	to.Offenders = to.GetOffenders()[:min(len(to.GetOffenders()), maxOffenders)]
}

func entriesText(offender *limitsv1.Offender) string {
	var text strings.Builder
	for _, entry := range offender.GetEntries() {
		text.WriteString(entry.GetName() + "\x00" + entry.GetValue() + "\x00")
	}
	return text.String()
}

// GetCounter implements the service.
func (s *Server) GetCounter(ctx context.Context, request *adminv1.GetCounterRequest) (*adminv1.GetCounterResponse, error) {
	if err := s.admit(ctx); err != nil {
		return nil, err
	}
	if err := s.whole(request.GetRule(), request.GetEntries()); err != nil {
		return nil, err
	}
	var found counters
	unreachable, err := s.options.Limits.each(ctx, func(ctx context.Context, client limitsv1.LimitServiceClient) error {
		answer, err := client.GetCounter(ctx, &limitsv1.GetCounterRequest{Rule: request.GetRule(), Entries: request.GetEntries()})
		found.add(answer.GetCounter())
		return err
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.GetCounterResponse{Counters: found.list(), Unreachable: unreachable}, nil
}

// ResetCounter implements the service. All servers are told: where they share a
// store, each also forgets what it remembered of the key.
func (s *Server) ResetCounter(ctx context.Context, request *adminv1.ResetCounterRequest) (*adminv1.ResetCounterResponse, error) {
	if err := s.admit(ctx); err != nil {
		return nil, err
	}
	if err := s.whole(request.GetRule(), request.GetEntries()); err != nil {
		return nil, err
	}
	actor := callerOf(ctx)
	var found counters
	unreachable, err := s.options.Limits.each(ctx, func(ctx context.Context, client limitsv1.LimitServiceClient) error {
		answer, err := client.ResetCounter(ctx, &limitsv1.ResetCounterRequest{Rule: request.GetRule(), Entries: request.GetEntries(), Actor: actor})
		found.add(answer.GetBefore())
		return err
	})
	if err != nil {
		return nil, err
	}
	s.options.Logger.InfoContext(ctx, "a rate limit counter was reset", "audit", "rate_limit_counter_reset", "rule", request.GetRule(), "actor", actor,
		"key_digest", found.digest(), "servers", len(found.all), "unreachable", len(unreachable))
	return &adminv1.ResetCounterResponse{Counters: found.list(), Unreachable: unreachable}, nil
}

// callerOf is the admitted peer.
func callerOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
			for _, uri := range info.State.PeerCertificates[0].URIs {
				return uri.String()
			}
		}
	}
	return ""
}

// counters gathers answers.
type counters struct {
	mu  sync.Mutex
	all []*limitsv1.Counter
}

func (c *counters) add(counter *limitsv1.Counter) {
	if counter == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, counter)
}

func (c *counters) digest() string {
	if len(c.all) == 0 {
		return ""
	}
	return c.all[0].GetKeyDigest()
}

// list is one counter for each server, or the lowest where all share one store:
// of a reset, what the first server found.
func (c *counters) list() []*limitsv1.Counter {
	slices.SortFunc(c.all, func(a, b *limitsv1.Counter) int {
		return cmp.Or(cmp.Compare(a.GetRemaining(), b.GetRemaining()), cmp.Compare(a.GetServer(), b.GetServer()))
	})
	if len(c.all) > 1 && !slices.ContainsFunc(c.all, func(counter *limitsv1.Counter) bool { return !counter.GetShared() }) {
		return c.all[:1]
	}
	return c.all
}
