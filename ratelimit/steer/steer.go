package steer

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	limitsv1 "weir.dev/api/gen/weir/limits/v1"
	"weir.dev/kit/fault"
	"weir.dev/ratelimit"
	"weir.dev/ratelimit/envoyrls"
	"weir.dev/ratelimit/offenders"
)

// Bounds of requests.
const (
	defaultPage   = 100
	maxPage       = 1000
	maxActorBytes = 256
	maxTextBytes  = 8 << 10
)

// Limiter is what counters are read and reset by; see ratelimit.Limiter.
type Limiter interface {
	Table() *ratelimit.Table
	Look(ctx context.Context, descriptor ratelimit.Descriptor) (ratelimit.Counter, error)
	Forget(ctx context.Context, descriptor ratelimit.Descriptor) (ratelimit.Counter, error)
}

// Options of a Service.
type Options struct {
	Limiter Limiter
	Watch   *offenders.Watch
	Logger  *slog.Logger
	// Server names this process in answers.
	Server string
	// Shared says that other servers count in the same store.
	Shared bool
}

// Service implements the gRPC service. Safe for concurrent use.
type Service struct {
	limitsv1.UnimplementedLimitServiceServer
	options Options
}

// New makes a service.
func New(options Options) *Service { return &Service{options: options} }

// ListLimits implements the service.
func (s *Service) ListLimits(_ context.Context, request *limitsv1.ListLimitsRequest) (*limitsv1.ListLimitsResponse, error) {
	size := int(cmp.Or(request.GetPageSize(), defaultPage))
	if size < 1 || size > maxPage {
		return nil, invalid("page_size", "must be 1 to "+strconv.Itoa(maxPage))
	}
	table := s.options.Limiter.Table()
	ids := table.IDs()
	slices.Sort(ids)
	out := &limitsv1.ListLimitsResponse{}
	for _, id := range ids {
		if id <= request.GetPageToken() || !strings.HasPrefix(id, request.GetPrefix()) {
			continue
		}
		top := s.options.Watch.Top(id)
		if request.GetRefusing() && len(top) == 0 {
			continue
		}
		if len(out.GetLimits()) == size {
			out.NextPageToken = out.GetLimits()[size-1].GetRule()
			break
		}
		out.Limits = append(out.Limits, limitOf(table.Rule(id), top))
	}
	return out, nil
}

func limitOf(rule *ratelimit.Rule, top []offenders.Offender) *limitsv1.Limit {
	limit := &limitsv1.Limit{
		Rule: rule.ID, Algorithm: rule.Algorithm.String(), Requests: rule.Requests, Window: durationpb.New(rule.Window), Burst: rule.Burst,
		Shadow: rule.Shadow, Digest: rule.Digest,
	}
	for _, offender := range top {
		limit.Offenders = append(limit.Offenders, &limitsv1.Offender{
			Entries: entriesOf(offender.Entries), Refused: offender.Refused, Error: offender.Error, LastTime: timestamppb.New(offender.Last),
		})
	}
	return limit
}

// GetCounter implements the service.
func (s *Service) GetCounter(ctx context.Context, request *limitsv1.GetCounterRequest) (*limitsv1.GetCounterResponse, error) {
	descriptor, err := descriptorOf(request.GetRule(), request.GetEntries())
	if err != nil {
		return nil, err
	}
	counter, err := s.options.Limiter.Look(ctx, descriptor)
	if err != nil {
		return nil, toFault(err)
	}
	return &limitsv1.GetCounterResponse{Counter: s.counter(&counter, descriptor.Entries)}, nil
}

// ResetCounter implements the service. Each reset is logged, and each attempt
// that fails.
func (s *Service) ResetCounter(ctx context.Context, request *limitsv1.ResetCounterRequest) (*limitsv1.ResetCounterResponse, error) {
	descriptor, err := descriptorOf(request.GetRule(), request.GetEntries())
	if err != nil {
		return nil, err
	}
	if len(request.GetActor()) > maxActorBytes {
		return nil, invalid("actor", "is longer than "+strconv.Itoa(maxActorBytes)+" bytes")
	}
	before, err := s.options.Limiter.Forget(ctx, descriptor)
	// What is counted by is left out: it can be an address. The digest tells
	// whoever knows it which counter it was.
	attributes := []any{"audit", "rate_limit_counter_reset", "rule", request.GetRule(), "actor", request.GetActor(), "peer", peerOf(ctx)}
	if err != nil {
		s.options.Logger.WarnContext(ctx, "a rate limit counter could not be reset", append(attributes, "error", err)...)
		return nil, toFault(err)
	}
	s.options.Watch.Forget(descriptor.Rule, descriptor.Entries)
	s.options.Logger.InfoContext(ctx, "a rate limit counter was reset",
		append(attributes, "key_digest", digestOf(before.Key), "remaining_before", before.Decision.Remaining)...)
	return &limitsv1.ResetCounterResponse{Before: s.counter(&before, descriptor.Entries)}, nil
}

func (s *Service) counter(counter *ratelimit.Counter, entries []ratelimit.Entry) *limitsv1.Counter {
	return &limitsv1.Counter{
		Rule: counter.Rule.ID, Entries: entriesOf(entries),
		Requests: counter.Limit.Requests, Window: durationpb.New(counter.Limit.Window), Burst: counter.Limit.Burst,
		Remaining: counter.Decision.Remaining, Reset_: durationpb.New(counter.Decision.Reset), RetryAfter: durationpb.New(counter.Decision.RetryAfter),
		Server: s.options.Server, Shared: s.options.Shared, KeyDigest: digestOf(counter.Key),
	}
}

// descriptorOf checks and converts what a counter is named by.
func descriptorOf(rule string, entries []*limitsv1.Entry) (ratelimit.Descriptor, error) {
	switch {
	case rule == "" || len(rule) > ratelimit.MaxRuleIDBytes:
		return ratelimit.Descriptor{}, invalid("rule", "is required: NAMESPACE/POLICY/LIMIT, of at most "+strconv.Itoa(ratelimit.MaxRuleIDBytes)+" bytes")
	case len(entries) >= envoyrls.MaxEntries:
		return ratelimit.Descriptor{}, invalid("entries", "are more than "+strconv.Itoa(envoyrls.MaxEntries-1))
	}
	descriptor := ratelimit.Descriptor{Rule: rule}
	for _, entry := range entries {
		if entry.GetName() == "" || len(entry.GetName())+len(entry.GetValue()) > maxTextBytes {
			return ratelimit.Descriptor{}, invalid("entries", "each needs a name, and name and value have at most 8 KiB")
		}
		descriptor.Entries = append(descriptor.Entries, ratelimit.Entry{Name: entry.GetName(), Value: entry.GetValue()})
	}
	envoyrls.Order(descriptor.Entries)
	return descriptor, nil
}

func entriesOf(entries []ratelimit.Entry) []*limitsv1.Entry {
	out := make([]*limitsv1.Entry, 0, len(entries))
	for _, entry := range entries {
		out = append(out, &limitsv1.Entry{Name: entry.Name, Value: strings.ToValidUTF8(entry.Value, "\uFFFD")})
	}
	return out
}

// digestOf names a counter where its entries must not be.
func digestOf(key ratelimit.Key) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:8])
}

// peerOf is the verified peer, for the log.
func peerOf(ctx context.Context) string {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	if info, ok := from.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
		for _, uri := range info.State.PeerCertificates[0].URIs {
			return uri.String()
		}
	}
	return ""
}

func invalid(field, text string) error {
	return fault.New(codes.InvalidArgument, "REQUEST_INVALID", "%s: %s", field, text).WithField(field, text)
}

func toFault(err error) error {
	var unknown *ratelimit.UnknownRuleError
	switch {
	case errors.As(err, &unknown):
		return fault.New(codes.NotFound, "RATE_LIMIT_RULE_UNKNOWN", "%s", unknown.Error())
	case errors.Is(err, ratelimit.ErrCannotForget):
		return fault.New(codes.Unimplemented, "RATE_LIMIT_STORE_CANNOT_RESET", "%s", err.Error())
	default:
		return fault.New(codes.Unavailable, "RATE_LIMIT_STORE_UNAVAILABLE", "the counters cannot be reached at the moment").WithCause(err)
	}
}
