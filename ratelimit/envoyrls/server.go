package envoyrls

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"go.opentelemetry.io/otel/attribute"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
	"weir.dev/ratelimit"
)

// LimitKey is the key of a descriptor's first entry.
const LimitKey = "weir.limit"

// MaxEntries bounds the entries of one descriptor. There is no bound of our own
// on a value's length: it comes from the client, and refusing a long one would
// be a way around limits that fail open.
const MaxEntries = 32

// Limiter decides requests; see ratelimit.Limiter.
type Limiter interface {
	Decide(ctx context.Context, descriptors []ratelimit.Descriptor) (ratelimit.Verdict, error)
}

// Watcher is told of each limit's decision, with what it counted by. It must not
// block, nor keep the entries.
type Watcher interface {
	Watched(entries []ratelimit.Entry, status *ratelimit.Status)
}

// Server is the gRPC service. It is safe for concurrent use.
type Server struct {
	rlsv3.UnimplementedRateLimitServiceServer
	limiter Limiter
	watcher Watcher
	domain  string
}

// New makes a service for one domain. watcher may be nil.
func New(limiter Limiter, domain string, watcher Watcher) *Server {
	return &Server{limiter: limiter, domain: domain, watcher: watcher}
}

// ShouldRateLimit implements the service.
func (s *Server) ShouldRateLimit(ctx context.Context, request *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	descriptors, err := s.Descriptors(request)
	if err != nil {
		return nil, err
	}
	verdict, err := s.limiter.Decide(ctx, descriptors)
	if err != nil {
		return nil, toFault(err)
	}
	if s.watcher != nil {
		for i := range verdict.Statuses {
			s.watcher.Watched(descriptors[i].Entries, &verdict.Statuses[i])
		}
	}
	trace(ctx, &verdict)
	return toResponse(verdict), nil
}

// trace says in the call's span which limits refused. Entries are left out: they
// can hold addresses.
func trace(ctx context.Context, verdict *ratelimit.Verdict) {
	span := oteltrace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	var rules, refused []string
	for i := range verdict.Statuses {
		status := &verdict.Statuses[i]
		rules = append(rules, status.Rule.ID)
		if status.Event == ratelimit.Refused || status.Event == ratelimit.ShadowRefused {
			refused = append(refused, status.Rule.ID)
		}
	}
	span.SetAttributes(attribute.Bool("weir.limit.allowed", verdict.Allowed), attribute.StringSlice("weir.limit.rules", rules))
	if len(refused) > 0 {
		span.SetAttributes(attribute.StringSlice("weir.limit.refused", refused))
	}
}

// Descriptors translates a request. The error says what is malformed.
func (s *Server) Descriptors(request *rlsv3.RateLimitRequest) ([]ratelimit.Descriptor, error) {
	if request.GetDomain() != s.domain {
		return nil, malformed("domain", "must be "+strconv.Quote(s.domain)+"; check the rate limit filter's domain")
	}
	count := len(request.GetDescriptors())
	if count == 0 || count > ratelimit.MaxDescriptors {
		return nil, malformed("descriptors", "must be 1 to "+strconv.Itoa(ratelimit.MaxDescriptors)+", not "+strconv.Itoa(count))
	}
	cost := uint64(request.GetHitsAddend())
	if cost == 0 {
		cost = 1 // in this field 0 is "not set"
	}
	descriptors := make([]ratelimit.Descriptor, count)
	for i, wire := range request.GetDescriptors() {
		descriptor, problem := toDescriptor(wire, cost)
		if problem != "" {
			return nil, malformed("descriptors["+strconv.Itoa(i)+"]", problem)
		}
		descriptors[i] = descriptor
	}
	return descriptors, nil
}

func toDescriptor(wire *ratelimitv3.RateLimitDescriptor, cost uint64) (_ ratelimit.Descriptor, problem string) {
	entries := wire.GetEntries()
	switch {
	case len(entries) == 0 || entries[0].GetKey() != LimitKey || entries[0].GetValue() == "":
		return ratelimit.Descriptor{}, "the first entry must have the key " + LimitKey + " and a rule's id"
	case len(entries) > MaxEntries:
		return ratelimit.Descriptor{}, "holds more than " + strconv.Itoa(MaxEntries) + " entries"
	case wire.GetIsNegativeHits():
		return ratelimit.Descriptor{}, "negative hits are not supported"
	}
	descriptor := ratelimit.Descriptor{Rule: entries[0].GetValue(), Cost: cost}
	if addend := wire.GetHitsAddend(); addend != nil {
		descriptor.Cost = addend.GetValue()
	}
	if len(entries) > 1 {
		descriptor.Entries = make([]ratelimit.Entry, 0, len(entries)-1)
		for _, entry := range entries[1:] {
			if read, ok := entryOf(entry.GetKey(), entry.GetValue()); ok {
				descriptor.Entries = append(descriptor.Entries, read)
			}
		}
		Order(descriptor.Entries)
	}
	return descriptor, ""
}

// Order sorts entries by name, so that whoever names a counter, in whatever
// order, names the same one. Entries of one name keep theirs.
func Order(entries []ratelimit.Entry) {
	slices.SortStableFunc(entries, func(a, b ratelimit.Entry) int { return strings.Compare(a.Name, b.Name) })
}

func malformed(field, description string) error {
	return fault.New(codes.InvalidArgument, "RATE_LIMIT_REQUEST_MALFORMED", "the rate limit request is malformed").
		WithField(field, description)
}

func toFault(err error) error {
	var unknown *ratelimit.UnknownRuleError
	if errors.As(err, &unknown) {
		return fault.New(codes.Unavailable, "RATE_LIMIT_RULE_UNKNOWN", "%s", unknown.Error()).WithMetadata("rule", unknown.Rule)
	}
	var store *ratelimit.StoreError
	if errors.As(err, &store) {
		return fault.New(codes.Unavailable, "RATE_LIMIT_STORE_UNAVAILABLE", "limits cannot be checked at the moment").
			WithMetadata("rule", store.Rule).WithCause(err)
	}
	return fault.From(err)
}
