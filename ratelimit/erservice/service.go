package erservice

import (
	"context"
	"slices"
	"strconv"
	"sync/atomic"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
	"weir.dev/ratelimit"
	"weir.dev/ratelimit/erconfig"
	"weir.dev/ratelimit/rlscodec"
)

// MaxEntries bounds the entries of one descriptor.
const MaxEntries = 32

// Options are the settings of envoyproxy/ratelimit that change answers. The
// zero value is its default.
type Options struct {
	// GlobalShadow lets every request through (SHADOW_MODE).
	GlobalShadow bool
	// GlobalQuota takes every limit for a quota (QUOTA_MODE).
	GlobalQuota bool
	// Headers are added to answers; nil for none
	// (LIMIT_RESPONSE_HEADERS_ENABLED).
	Headers *Headers
	// Metadata says that answers tell what was asked and what passed
	// (RESPONSE_DYNAMIC_METADATA).
	Metadata bool
	// NearLimit is the part of a limit from which requests count as near it, 0
	// to 1 (NEAR_LIMIT_RATIO).
	NearLimit float64
	// FailOpen lets requests through that the store gives no answer for. The
	// default answers with an error, and Envoy's failure mode decides.
	FailOpen bool
}

// Headers are the names of response headers.
type Headers struct{ Limit, Remaining, Reset string }

// Observer hears of decisions, for metrics. It must not block.
type Observer interface {
	// Limited is called for each descriptor that has a limit. name is
	// erconfig.Match.Metric.
	Limited(name string, hits uint64, outcome Outcome)
	// UnknownDomain is called for each descriptor of a domain that is not
	// configured.
	UnknownDomain(domain string)
	// Failed is called for each request that ends in an error; store says that
	// the store gave no answer.
	Failed(store bool)
	// ShadowedAll is called for each request that only the global shadow mode
	// let through.
	ShadowedAll()
}

// Outcome is what became of one descriptor.
type Outcome struct {
	// Over says that the limit is exceeded, whatever mode lets it pass; Shadow
	// that the limit's own shadow mode did.
	Over, Shadow bool
	// Near is how many of the hits were admitted above the near limit.
	Near uint64
	// Remembered says that the refusal was known without asking the store.
	Remembered bool
}

// Service is the gRPC service. Safe for concurrent use.
type Service struct {
	rlsv3.UnimplementedRateLimitServiceServer
	store    ratelimit.Store
	observer Observer
	options  Options
	config   atomic.Pointer[erconfig.Config]
}

// New makes a service that has no configuration yet and refuses until then.
func New(store ratelimit.Store, observer Observer, options Options) *Service {
	return &Service{store: store, observer: observer, options: options}
}

// SetConfig swaps in a configuration; requests under way end with the old one.
func (s *Service) SetConfig(config *erconfig.Config) { s.config.Store(config) }

// asked is one descriptor of a request, with what it found.
type asked struct {
	limit   *erconfig.Limit // nil: nothing limits it
	metric  string
	shared  []string
	entries []*ratelimitv3.RateLimitDescriptor_Entry
	hits    uint64
	// charge is the place among the charges, -1 for none.
	charge int
	status *rlsv3.RateLimitResponse_DescriptorStatus
	over   bool
}

// quota says that the limit refuses only together with all others of its kind.
func (a *asked) quota(options *Options) bool {
	return options.GlobalQuota || (a.limit != nil && a.limit.Quota)
}

// ShouldRateLimit implements the service.
func (s *Service) ShouldRateLimit(ctx context.Context, request *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	list, err := s.find(request)
	if err != nil {
		s.observer.Failed(false)
		return nil, err
	}
	answer := rlscodec.NewAnswer(len(list))
	if err := s.charge(ctx, request.GetDomain(), list, answer); err != nil {
		s.observer.Failed(true)
		return nil, fault.New(codes.Unavailable, "RATE_LIMIT_STORE_UNAVAILABLE", "limits cannot be checked at the moment").WithCause(err)
	}
	response := &answer.Response
	response.OverallCode = s.verdict(list)
	if s.options.Headers != nil {
		setHeaders(answer, s.options.Headers, list, &s.options)
	}
	if s.options.Metadata {
		response.DynamicMetadata = metadata(request, list)
	}
	return response, nil
}

// find looks every descriptor up.
func (s *Service) find(request *rlsv3.RateLimitRequest) ([]asked, error) {
	config := s.config.Load()
	count := len(request.GetDescriptors())
	switch {
	case config == nil:
		return nil, fault.New(codes.Unavailable, "RATE_LIMIT_NOT_CONFIGURED", "no rate limit configuration is loaded")
	case request.GetDomain() == "":
		return nil, malformed("domain", "must not be empty")
	case count == 0 || count > ratelimit.MaxDescriptors:
		return nil, malformed("descriptors", "must be 1 to "+strconv.Itoa(ratelimit.MaxDescriptors)+", not "+strconv.Itoa(count))
	}
	list := make([]asked, count)
	for i, wire := range request.GetDescriptors() {
		if problem := list[i].read(config, request, wire); problem != "" {
			return nil, malformed("descriptors["+strconv.Itoa(i)+"]", problem)
		}
		if !config.Known(request.GetDomain()) {
			s.observer.UnknownDomain(request.GetDomain())
		}
	}
	replace(list)
	return list, nil
}

func malformed(field, description string) error {
	return fault.New(codes.InvalidArgument, "RATE_LIMIT_REQUEST_MALFORMED", "the rate limit request is malformed").
		WithField(field, description)
}

// read fills in one descriptor.
func (a *asked) read(config *erconfig.Config, request *rlsv3.RateLimitRequest, wire *ratelimitv3.RateLimitDescriptor) (problem string) {
	if len(wire.GetEntries()) > MaxEntries {
		return "holds more than " + strconv.Itoa(MaxEntries) + " entries"
	}
	if wire.GetIsNegativeHits() {
		return "negative hits are not supported"
	}
	a.entries = wire.GetEntries()
	a.hits, a.charge = max(1, uint64(request.GetHitsAddend())), -1
	if addend := wire.GetHitsAddend(); addend != nil {
		a.hits = addend.GetValue()
	}
	if override := wire.GetLimit(); override != nil && config.Known(request.GetDomain()) {
		unit, known := unitOf(override.GetUnit())
		if !known {
			return "limit.unit must be one of SECOND to YEAR"
		}
		a.metric = overrideName(request.GetDomain(), wire)
		a.limit = &erconfig.Limit{RequestsPerUnit: override.GetRequestsPerUnit(), Unit: unit, Path: a.metric}
		return ""
	}
	var space [8]erconfig.Entry
	entries := space[:0]
	for _, entry := range wire.GetEntries() {
		entries = append(entries, erconfig.Entry{Key: entry.GetKey(), Value: entry.GetValue()})
	}
	match := config.Match(request.GetDomain(), entries)
	a.limit, a.metric, a.shared = match.Limit, match.Metric, match.Shared
	return ""
}

// overrideName is what metrics call a limit that came with a request: its keys
// only, for the values are the client's and have no bound.
func overrideName(domain string, wire *ratelimitv3.RateLimitDescriptor) string {
	name := domain
	for _, entry := range wire.GetEntries() {
		name += "." + entry.GetKey()
	}
	return name
}

// replace takes the limits away that others of the request replace by name.
func replace(list []asked) {
	var names []string
	for i := range list {
		if list[i].limit != nil {
			names = append(names, list[i].limit.Replaces...)
		}
	}
	if names == nil {
		return
	}
	for i := range list {
		if limit := list[i].limit; limit != nil && !limit.Unlimited && limit.Name != "" && slices.Contains(names, limit.Name) {
			list[i].limit = nil
		}
	}
}

// charge asks the store about all limits at once and fills in the statuses.
func (s *Service) charge(ctx context.Context, domain string, list []asked, answer *rlscodec.Answer) error {
	charges := make([]ratelimit.Charge, 0, len(list))
	for i := range list {
		a := &list[i]
		if a.limit == nil || a.limit.Unlimited {
			continue
		}
		limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: a.limit.RequestsPerUnit, Window: a.limit.Unit.Duration()}
		charges, a.charge = ratelimit.AddCharge(charges, ratelimit.Charge{
			Key: s.key(domain, a, limit), Limit: limit, Cost: max(1, min(a.hits, ratelimit.MaxCost)), Look: a.hits == 0,
			Shadow: a.limit.Shadow || s.options.GlobalShadow || a.quota(&s.options),
		})
	}
	var outcome ratelimit.Outcome
	if len(charges) > 0 {
		var err error
		if outcome, err = s.store.Take(ctx, charges); err != nil {
			if !s.options.FailOpen {
				return err
			}
			charges = nil
		}
	}
	for i := range list {
		s.settle(answer, i, &list[i], outcome, charges)
	}
	return nil
}
