package envoyrlqs

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	rlqsv3 "github.com/envoyproxy/go-control-plane/envoy/service/rate_limit_quota/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
	"weir.dev/ratelimit"
	"weir.dev/ratelimit/envoyrls"
)

// Bounds.
const (
	// MinWindow is the shortest fixed window that is assigned: Envoy counts the
	// life of an assignment in whole seconds.
	MinWindow = 5 * time.Second
	// MaxBuckets bounds the buckets of one Envoy; those beyond get no assignment.
	MaxBuckets   = 10_000
	maxTextBytes = 8 << 10
	// parallel bounds the calls to the store for one Envoy.
	parallel = 16
	maxSpent = 1 << 32
)

// Limiter pays for assignments; see ratelimit.Limiter.
type Limiter interface {
	Table() *ratelimit.Table
	Grant(ctx context.Context, descriptor ratelimit.Descriptor, request ratelimit.GrantRequest) (ratelimit.Granted, error)
}

// Observer counts. It must not block.
type Observer interface {
	// Assigned is called for what was paid and assigned.
	Assigned(rule string, tokens uint64)
	// Reported is called for what an Envoy reports; unassigned is the part of
	// allowed that it had no assignment for.
	Reported(rule string, allowed, denied, unassigned uint64)
	// Streams is called with 1 when an Envoy comes and -1 when it goes.
	Streams(change int)
}

// Options of a Server; zero values take the defaults.
type Options struct {
	// Domain is the one that filters must name. Required.
	Domain string
	// TTL bounds the life of an assignment, 2 s to 1 min. Default 30 s.
	TTL time.Duration
	// Margin is what a message may take on its way to Envoy: assignments of a
	// window end so much before it. Default 300 ms.
	Margin time.Duration
	// Timeout bounds paying for one assignment. Default 1 s.
	Timeout time.Duration
	// Observer may be nil.
	Observer Observer
	// Clock is time.Now if nil.
	Clock func() time.Time
}

// Server is the gRPC service. Safe for concurrent use.
type Server struct {
	rlqsv3.UnimplementedRateLimitQuotaServiceServer
	limiter Limiter
	options Options

	mu sync.Mutex
	// holders counts the Envoys that have a bucket, by its key.
	holders map[string]int
}

// New makes a service.
func New(limiter Limiter, options Options) *Server {
	for value, fallback := range map[*time.Duration]time.Duration{
		&options.TTL: 30 * time.Second, &options.Margin: 300 * time.Millisecond, &options.Timeout: time.Second,
	} {
		if *value <= 0 {
			*value = fallback
		}
	}
	options.TTL = min(max(options.TTL, 2*time.Second), time.Minute)
	if options.Clock == nil {
		options.Clock = time.Now
	}
	if options.Observer == nil {
		options.Observer = nobody{}
	}
	return &Server{limiter: limiter, options: options, holders: map[string]int{}}
}

type nobody struct{}

func (nobody) Assigned(string, uint64)                 {}
func (nobody) Reported(string, uint64, uint64, uint64) {}
func (nobody) Streams(int)                             {}

// StreamRateLimitQuotas implements the service.
func (s *Server) StreamRateLimitQuotas(wire grpc.BidiStreamingServer[rlqsv3.RateLimitQuotaUsageReports, rlqsv3.RateLimitQuotaResponse]) error {
	s.options.Observer.Streams(1)
	defer s.options.Observer.Streams(-1)
	st := &stream{server: s, buckets: map[string]*bucket{}}
	defer st.leave()
	ctx, cancel := context.WithCancel(wire.Context())
	defer cancel()
	reports, ended := make(chan *rlqsv3.RateLimitQuotaUsageReports), make(chan error, 1)
	go func() {
		for {
			report, err := wire.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case reports <- report:
			case <-ctx.Done():
				return
			}
		}
	}()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var due []*bucket
		select {
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case report := <-reports:
			var err error
			if due, err = st.read(report); err != nil {
				return err
			}
		case <-timer.C:
			due = st.due(s.options.Clock())
		}
		if answer := st.assign(ctx, due); len(answer.GetBucketAction()) > 0 {
			if err := wire.Send(answer); err != nil {
				return err
			}
		}
		timer.Reset(st.wait(s.options.Clock()))
	}
}

// stream is one Envoy. It is used by one goroutine, but for the buckets of one
// call of assign.
type stream struct {
	server *Server
	// named says that the first report has come, which names the domain.
	named   bool
	buckets map[string]*bucket
}

// leave gives up the stream's share of what others may have.
func (st *stream) leave() {
	for key := range st.buckets {
		st.server.hold(key, -1)
	}
}

func (s *Server) hold(key string, change int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holders[key] += change; s.holders[key] <= 0 {
		delete(s.holders, key)
	}
}

// share is how many Envoys have a bucket, at least 1.
func (s *Server) share(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(1, s.holders[key])
}

// read takes a report in and returns the buckets that it tells of.
func (st *stream) read(report *rlqsv3.RateLimitQuotaUsageReports) ([]*bucket, error) {
	s := st.server
	// Only the first report must name the domain.
	if domain := report.GetDomain(); domain != s.options.Domain && (domain != "" || !st.named) {
		return nil, malformed("domain", "must be "+strconv.Quote(s.options.Domain)+"; check the rate limit quota filter's domain")
	}
	st.named = true
	now := s.options.Clock()
	told := make([]*bucket, 0, len(report.GetBucketQuotaUsages()))
	for i, usage := range report.GetBucketQuotaUsages() {
		descriptor, problem := descriptorOf(usage.GetBucketId())
		if problem != "" {
			return nil, malformed("bucket_quota_usages["+strconv.Itoa(i)+"].bucket_id", problem)
		}
		key := keyOf(descriptor)
		b := st.buckets[key]
		if b == nil {
			if len(st.buckets) >= MaxBuckets {
				continue
			}
			b = &bucket{key: key, id: usage.GetBucketId(), descriptor: descriptor, reported: now}
			st.buckets[key] = b
			s.hold(key, 1)
		}
		b.report(now, min(usage.GetNumRequestsAllowed(), maxSpent), min(usage.GetNumRequestsDenied(), maxSpent), s.options.Observer)
		told = append(told, b)
	}
	return told, nil
}

// due are the buckets whose assignment has to be renewed.
func (st *stream) due(now time.Time) (due []*bucket) {
	for _, b := range st.buckets {
		if !b.next.IsZero() && !b.next.After(now) {
			due = append(due, b)
		}
	}
	return due
}

// wait is the time until one is due.
func (st *stream) wait(now time.Time) time.Duration {
	wait := time.Hour
	for _, b := range st.buckets {
		if !b.next.IsZero() {
			wait = min(wait, b.next.Sub(now))
		}
	}
	return max(wait, 5*time.Millisecond)
}

// assign renews what has to be of some buckets.
func (st *stream) assign(ctx context.Context, due []*bucket) *rlqsv3.RateLimitQuotaResponse {
	answer := &rlqsv3.RateLimitQuotaResponse{}
	var mu sync.Mutex
	var group sync.WaitGroup
	slots := make(chan struct{}, parallel)
	seen := make(map[*bucket]bool, len(due))
	for _, b := range due {
		if seen[b] {
			continue
		}
		seen[b] = true
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if actions := st.server.renew(ctx, b); len(actions) > 0 {
				mu.Lock()
				defer mu.Unlock()
				answer.BucketAction = append(answer.BucketAction, actions...)
			}
		})
	}
	group.Wait()
	for _, b := range due {
		if b.abandoned && st.buckets[b.key] == b {
			delete(st.buckets, b.key)
			st.server.hold(b.key, -1)
		}
	}
	return answer
}

// descriptorOf reads what a bucket counts.
func descriptorOf(id *rlqsv3.BucketId) (ratelimit.Descriptor, string) {
	if len(id.GetBucket()) > envoyrls.MaxEntries {
		return ratelimit.Descriptor{}, "holds more than " + strconv.Itoa(envoyrls.MaxEntries) + " entries"
	}
	descriptor := ratelimit.Descriptor{Rule: id.GetBucket()[envoyrls.LimitKey]}
	if descriptor.Rule == "" {
		return descriptor, "must have the key " + envoyrls.LimitKey + " and a rule's id"
	}
	for name, value := range id.GetBucket() {
		if len(name)+len(value) > maxTextBytes {
			return descriptor, "holds an entry longer than 8 KiB"
		}
		if name != envoyrls.LimitKey {
			descriptor.Entries = append(descriptor.Entries, ratelimit.Entry{Name: name, Value: value})
		}
	}
	envoyrls.Order(descriptor.Entries)
	return descriptor, ""
}

func keyOf(descriptor ratelimit.Descriptor) string {
	var text strings.Builder
	part := func(value string) { text.WriteString(strconv.Itoa(len(value)) + ":" + value) }
	part(descriptor.Rule)
	for _, entry := range descriptor.Entries {
		part(entry.Name)
		part(entry.Value)
	}
	return text.String()
}

func malformed(field, description string) error {
	return fault.New(codes.InvalidArgument, "RATE_LIMIT_REQUEST_MALFORMED", "the quota usage report is malformed").WithField(field, description)
}
