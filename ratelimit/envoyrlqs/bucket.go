package envoyrlqs

import (
	"context"
	"errors"
	"math"
	"time"

	rlqsv3 "github.com/envoyproxy/go-control-plane/envoy/service/rate_limit_quota/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/ratelimit"
)

const (
	// reportsAhead is for how many reports' demand an assignment is made.
	reportsAhead = 10
	// gain is how many times what is left a new assignment must be: what is left
	// of the old one is lost.
	gain = 4
	// spare is how much of the demand until the next report must be left for an
	// assignment to stay.
	spare = 1.5
	// firstPart of the limit is what a bucket of unknown demand is given.
	firstPart = 20
	// withoutStore is how long an assignment lives that is made without asking.
	withoutStore = 2 * time.Second
	year         = 365 * 24 * time.Hour
)

// kind is what a bucket was told last.
type kind uint8

const (
	nothing kind = iota
	tokens
	refuse
	admit
)

// bucket is one counter as one Envoy has it.
type bucket struct {
	key        string
	id         *rlqsv3.BucketId
	descriptor ratelimit.Descriptor

	kind kind
	// left is how many tokens the Envoy has at least, by its reports.
	left    uint64
	expires time.Time
	// ends is when the tokens' window does; zero for none.
	ends time.Time
	// next is when to look at the bucket without a report; zero for never.
	next      time.Time
	bucket    *typev3.TokenBucket
	abandoned bool

	// reported is when it last was, and every how often that is.
	reported time.Time
	every    time.Duration
	// rate is requests per second, refused ones included.
	rate float64
	// idle says that there was no request since the assignment.
	idle bool
	// owed was let through without an assignment and is to be charged.
	owed uint64
}

// report takes in what an Envoy did.
func (b *bucket) report(now time.Time, allowed, denied uint64, observer Observer) {
	var unassigned uint64
	if allowed > b.left && b.kind != admit {
		unassigned = allowed - b.left
	}
	b.left -= min(b.left, allowed)
	b.owed = min(b.owed+unassigned, maxSpent)
	observer.Reported(b.descriptor.Rule, allowed, denied, unassigned)
	demand := float64(allowed + denied)
	if demand > 0 {
		b.idle = false
	}
	if took := now.Sub(b.reported); took >= 10*time.Millisecond {
		b.every = smooth(b.every, took)
		b.rate = max(demand/took.Seconds(), b.rate/2) // Up at once, down by halves.
	}
	b.reported = now
}

// smooth follows a changing interval.
func smooth(before, now time.Duration) time.Duration {
	if before == 0 {
		return now
	}
	return (3*before + now) / 4
}

// renew decides what to tell an Envoy of a bucket, nil for nothing new.
func (s *Server) renew(ctx context.Context, b *bucket) []*rlqsv3.RateLimitQuotaResponse_BucketAction {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	now := s.options.Clock()
	s.settle(ctx, b)
	alive := b.kind != nothing && now.Before(b.expires.Add(-s.options.Margin))
	rule := s.limiter.Table().Rule(b.descriptor.Rule)
	switch {
	case rule == nil || rule.Algorithm == ratelimit.FixedWindow && rule.Window < MinWindow:
		b.next = time.Time{}
		return nil
	case b.kind == tokens && alive && float64(b.left) >= spare*b.rate*b.every.Seconds():
		return nil // Enough until the next report.
	case b.kind == tokens && !alive && !b.idle && now.Before(b.expires) && b.left > 0 && s.life(b.ends.Sub(now)) > 0:
		return b.assigned(now, s.life(b.ends.Sub(now)), s.options.Margin) // The same one again: nothing is filled.
	case b.kind == refuse && now.Before(b.next), b.kind == admit && alive:
		return nil
	case b.kind != nothing && !alive && b.idle:
		b.abandoned = true
		return []*rlqsv3.RateLimitQuotaResponse_BucketAction{{
			BucketId:     b.id,
			BucketAction: &rlqsv3.RateLimitQuotaResponse_BucketAction_AbandonAction_{AbandonAction: &rlqsv3.RateLimitQuotaResponse_BucketAction_AbandonAction{}},
		}}
	case rule.Shadow:
		return b.admit(now, s.options.TTL, s.options.Margin)
	}
	request := ratelimit.GrantRequest{Want: s.want(b, rule), Least: 1, Lasting: time.Second + s.options.Margin}
	if alive && b.kind == tokens {
		request.Least = max(1, gain*b.left)
		request.Want = max(request.Want, request.Least)
	}
	granted, err := s.limiter.Grant(ctx, b.descriptor, request)
	if err != nil {
		return s.without(b, now, granted.Rule, err)
	}
	return s.tell(b, now, granted, alive)
}

// settle charges what was let through without an assignment. It has passed, so
// what is not left is not charged.
func (s *Server) settle(ctx context.Context, b *bucket) {
	if b.owed == 0 {
		return
	}
	if _, err := s.limiter.Grant(ctx, b.descriptor, ratelimit.GrantRequest{Want: b.owed}); err == nil {
		b.owed = 0
	}
}

// want is how much to ask for: the demand of some reports, and no more than a
// fair part of the limit.
func (s *Server) want(b *bucket, rule *ratelimit.Rule) uint64 {
	capacity := float64(rule.Capacity())
	if b.rate == 0 || b.every == 0 {
		return uint64(max(1, capacity/firstPart))
	}
	demand := min(b.rate*b.every.Seconds()*reportsAhead, b.rate*(s.options.TTL-time.Second).Seconds())
	return uint64(max(1, min(math.Ceil(demand), capacity/float64(s.share(b.key)))))
}

// tell makes the assignment of what was granted.
func (s *Server) tell(b *bucket, now time.Time, granted ratelimit.Granted, alive bool) []*rlqsv3.RateLimitQuotaResponse_BucketAction {
	ttl, wait := s.options.TTL.Truncate(time.Second), granted.RetryAfter
	if granted.Until > 0 {
		ttl = s.life(granted.Until)
	}
	if granted.Cost > 0 && ttl > 0 {
		b.ends = time.Time{}
		if granted.Until > 0 {
			b.ends = now.Add(granted.Until)
		}
		s.options.Observer.Assigned(b.descriptor.Rule, granted.Cost)
		// Envoy 1.40 fills a token bucket only where there was none: another
		// assignment comes in between, so that the tokens are there at once, and
		// those that were left are not.
		var clear []*rlqsv3.RateLimitQuotaResponse_BucketAction
		if b.kind == tokens {
			clear = b.blanket(ttl, typev3.RateLimitStrategy_DENY_ALL)
		}
		b.kind, b.left = tokens, granted.Cost
		b.bucket = &typev3.TokenBucket{
			MaxTokens: uint32(min(granted.Cost, math.MaxUint32)), //nolint:gosec // bounded
			// It does not fill again in its life.
			TokensPerFill: wrapperspb.UInt32(1), FillInterval: durationpb.New(year),
		}
		return append(clear, b.assigned(now, ttl, s.options.Margin)...)
	}
	if b.kind == tokens && alive && b.left > 0 {
		b.next = earlier(now.Add(wait), b.expires.Add(-s.options.Margin))
		return nil // It spends what it has.
	}
	ttl = min(wait+s.options.Margin, s.options.TTL).Truncate(time.Second) + time.Second
	b.kind, b.left, b.expires, b.idle = refuse, 0, now.Add(ttl), true
	b.next = earlier(now.Add(wait), b.expires.Add(-s.options.Margin))
	return b.blanket(ttl, typev3.RateLimitStrategy_DENY_ALL)
}

// life is how long tokens may live that are good until a window's end, in whole
// seconds.
func (s *Server) life(until time.Duration) time.Duration {
	return min(s.options.TTL, until-s.options.Margin).Truncate(time.Second)
}

// assigned tells of the bucket's tokens.
func (b *bucket) assigned(now time.Time, ttl, margin time.Duration) []*rlqsv3.RateLimitQuotaResponse_BucketAction {
	b.expires, b.idle = now.Add(ttl), true
	b.next = b.expires.Add(-margin)
	return b.action(ttl, &typev3.RateLimitStrategy{Strategy: &typev3.RateLimitStrategy_TokenBucket{TokenBucket: b.bucket}})
}

// without is what a bucket is told when the counter cannot be asked.
func (s *Server) without(b *bucket, now time.Time, rule *ratelimit.Rule, err error) []*rlqsv3.RateLimitQuotaResponse_BucketAction {
	var unknown *ratelimit.UnknownRuleError
	if rule == nil || errors.As(err, &unknown) || errors.Is(err, ratelimit.ErrNotGranted) {
		b.next = time.Time{}
		return nil
	}
	if rule.FailureMode == ratelimit.FailOpen {
		return b.admit(now, withoutStore, s.options.Margin)
	}
	b.kind, b.left, b.idle = refuse, 0, true
	b.expires, b.next = now.Add(withoutStore), now.Add(withoutStore-s.options.Margin)
	return b.blanket(withoutStore, typev3.RateLimitStrategy_DENY_ALL)
}

// admit lets everything through for a while.
func (b *bucket) admit(now time.Time, ttl, margin time.Duration) []*rlqsv3.RateLimitQuotaResponse_BucketAction {
	b.kind, b.left, b.idle = admit, 0, true
	b.expires, b.next = now.Add(ttl), now.Add(ttl-margin)
	return b.blanket(ttl, typev3.RateLimitStrategy_ALLOW_ALL)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (b *bucket) blanket(ttl time.Duration, rule typev3.RateLimitStrategy_BlanketRule) []*rlqsv3.RateLimitQuotaResponse_BucketAction {
	return b.action(ttl, &typev3.RateLimitStrategy{Strategy: &typev3.RateLimitStrategy_BlanketRule_{BlanketRule: rule}})
}

func (b *bucket) action(ttl time.Duration, strategy *typev3.RateLimitStrategy) []*rlqsv3.RateLimitQuotaResponse_BucketAction {
	return []*rlqsv3.RateLimitQuotaResponse_BucketAction{{
		BucketId: b.id,
		BucketAction: &rlqsv3.RateLimitQuotaResponse_BucketAction_QuotaAssignmentAction_{
			QuotaAssignmentAction: &rlqsv3.RateLimitQuotaResponse_BucketAction_QuotaAssignmentAction{
				AssignmentTimeToLive: durationpb.New(ttl), RateLimitStrategy: strategy,
			},
		},
	}}
}
