package erservice

import (
	"math"
	"strconv"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/erconfig"
	"weir.dev/ratelimit/rlscodec"
)

// unitOf is a unit of a request's override; both protocols have their own
// order.
func unitOf(unit typev3.RateLimitUnit) (erconfig.Unit, bool) {
	switch unit {
	case typev3.RateLimitUnit_SECOND:
		return erconfig.Second, true
	case typev3.RateLimitUnit_MINUTE:
		return erconfig.Minute, true
	case typev3.RateLimitUnit_HOUR:
		return erconfig.Hour, true
	case typev3.RateLimitUnit_DAY:
		return erconfig.Day, true
	case typev3.RateLimitUnit(rlsv3.RateLimitResponse_RateLimit_WEEK): // the request's enumeration has none
		return erconfig.Week, true
	case typev3.RateLimitUnit_MONTH:
		return erconfig.Month, true
	case typev3.RateLimitUnit_YEAR:
		return erconfig.Year, true
	default:
		return 0, false
	}
}

func unitOnTheWire(unit erconfig.Unit) rlsv3.RateLimitResponse_RateLimit_Unit {
	return [...]rlsv3.RateLimitResponse_RateLimit_Unit{
		rlsv3.RateLimitResponse_RateLimit_UNKNOWN, rlsv3.RateLimitResponse_RateLimit_SECOND, rlsv3.RateLimitResponse_RateLimit_MINUTE,
		rlsv3.RateLimitResponse_RateLimit_HOUR, rlsv3.RateLimitResponse_RateLimit_DAY, rlsv3.RateLimitResponse_RateLimit_WEEK,
		rlsv3.RateLimitResponse_RateLimit_MONTH, rlsv3.RateLimitResponse_RateLimit_YEAR,
	}[unit]
}

// key names the counter of a descriptor: the domain and its entries, shared
// wildcards standing for the values that they match.
func (s *Service) key(domain string, a *asked, limit ratelimit.Limit) ratelimit.Key {
	entries := make([]ratelimit.Entry, len(a.entries))
	for i, entry := range a.entries {
		value := entry.GetValue()
		if a.shared != nil && a.shared[i] != "" {
			value = a.shared[i]
		}
		entries[i] = ratelimit.Entry{Name: entry.GetKey(), Value: value}
	}
	return ratelimit.NewKey("er/"+domain, limit, entries)
}

// settle fills in the status of the descriptor i. charges is nil when the store
// gave no answer and that lets requests through.
func (s *Service) settle(answer *rlscodec.Answer, i int, a *asked, outcome ratelimit.Outcome, charges []ratelimit.Charge) {
	a.status = answer.Response.Statuses[i]
	switch {
	case a.limit == nil:
		return
	case a.limit.Unlimited:
		a.status.LimitRemaining = math.MaxUint32
		return
	}
	limit := answer.Limit(i)
	limit.Name, limit.RequestsPerUnit, limit.Unit = a.limit.Name, a.limit.RequestsPerUnit, unitOnTheWire(a.limit.Unit)
	if charges == nil {
		return
	}
	charge, result := &charges[a.charge], &outcome.Results[a.charge]
	decision := ratelimit.Describe(outcome.Now, charge.Limit, result.State)
	a.over = !result.Allowed
	answer.ResetsIn(i, untilReset(outcome.Now, charge.Limit.Window))
	hits := Outcome{Over: a.over, Shadow: a.over && a.limit.Shadow, Remembered: a.over && outcome.Remembered}
	if a.over {
		if !a.limit.Shadow {
			a.status.Code = rlsv3.RateLimitResponse_OVER_LIMIT
		}
	} else {
		a.status.LimitRemaining = decision.Remaining
		if outcome.Admitted {
			hits.Near = near(a.limit.RequestsPerUnit, decision.Remaining, a.hits, s.options.NearLimit)
		}
	}
	s.observer.Limited(a.metric, a.hits, hits)
}

// untilReset is the time to the end of the window, in whole seconds, at least
// one.
func untilReset(now ratelimit.Time, window time.Duration) time.Duration {
	seconds, length := now/int64(time.Second/time.Microsecond), int64(window/time.Second)
	return time.Duration(length-seconds%length) * time.Second
}

// near is how many of the hits just admitted are above the near part of the
// limit.
func near(limit, remaining uint32, hits uint64, ratio float64) uint64 {
	if ratio <= 0 || ratio >= 1 {
		return 0
	}
	after := uint64(limit) - uint64(min(remaining, limit))
	threshold := uint64(float64(limit) * ratio)
	if after <= threshold {
		return 0
	}
	return min(hits, after-threshold)
}

// verdict is over the limit when one limit that is no quota is, or when there
// are quotas and all are.
func (s *Service) verdict(list []asked) rlsv3.RateLimitResponse_Code {
	limits, quotas, exhausted := 0, 0, 0
	for i := range list {
		a := &list[i]
		over := a.status.GetCode() == rlsv3.RateLimitResponse_OVER_LIMIT
		switch {
		case a.limit != nil && a.limit.Unlimited:
		case a.quota(&s.options):
			quotas++
			if over {
				exhausted++
			}
		case over:
			limits++
		}
	}
	if limits == 0 && (quotas == 0 || exhausted < quotas) {
		return rlsv3.RateLimitResponse_OK
	}
	if s.options.GlobalShadow {
		s.observer.ShadowedAll()
		return rlsv3.RateLimitResponse_OK
	}
	return rlsv3.RateLimitResponse_OVER_LIMIT
}

// setHeaders describes the descriptor that is nearest to its limit; a refused one
// is nearer than all, and of several the last.
func setHeaders(answer *rlscodec.Answer, names *Headers, list []asked, options *Options) {
	var nearest *rlsv3.RateLimitResponse_DescriptorStatus
	least := uint32(math.MaxUint32)
	for i := range list {
		status := list[i].status
		switch {
		case status.GetCurrentLimit() == nil:
		case status.GetCode() == rlsv3.RateLimitResponse_OVER_LIMIT && !list[i].quota(options):
			nearest, least = status, 0
		case status.GetLimitRemaining() < least:
			nearest, least = status, status.GetLimitRemaining()
		}
	}
	if nearest == nil {
		return
	}
	answer.Header(names.Limit, strconv.FormatUint(uint64(nearest.GetCurrentLimit().GetRequestsPerUnit()), 10))
	answer.Header(names.Remaining, strconv.FormatUint(uint64(nearest.GetLimitRemaining()), 10))
	answer.Header(names.Reset, strconv.FormatInt(nearest.GetDurationUntilReset().GetSeconds(), 10))
}

// metadata tells what was asked, and what the limits that passed carry.
func metadata(request *rlsv3.RateLimitRequest, list []asked) *structpb.Struct {
	descriptors := make([]any, 0, len(list))
	for _, wire := range request.GetDescriptors() {
		entries := make([]any, 0, len(wire.GetEntries()))
		for _, entry := range wire.GetEntries() {
			entries = append(entries, entry.GetKey()+"="+entry.GetValue())
		}
		descriptor := map[string]any{"entries": entries}
		if limit := wire.GetLimit(); limit != nil {
			descriptor["limit"] = limit.String()
		}
		if addend := wire.GetHitsAddend(); addend != nil {
			descriptor["hitsAddend"] = float64(addend.GetValue())
		}
		descriptors = append(descriptors, descriptor)
	}
	fields := map[string]any{"domain": request.GetDomain(), "descriptors": descriptors}
	if request.GetHitsAddend() != 0 {
		fields["hitsAddend"] = float64(request.GetHitsAddend())
	}
	passed := map[string]any{}
	for i := range list {
		if limit := list[i].limit; limit != nil && !limit.Unlimited && list[i].status.GetCode() == rlsv3.RateLimitResponse_OK {
			join(passed, limit.Metadata)
		}
	}
	if len(passed) > 0 {
		fields["metadata"] = passed
	}
	made, err := structpb.NewStruct(fields)
	if err != nil { // a value of the request that is not UTF-8
		return nil
	}
	return made
}

// join adds what is not there yet, into mappings too.
func join(into, from map[string]any) {
	for key, value := range from {
		known, set := into[key]
		if !set {
			into[key] = clone(value)
			continue
		}
		inner, isMap := known.(map[string]any)
		other, alsoMap := value.(map[string]any)
		if isMap && alsoMap {
			join(inner, other)
		}
	}
}

// clone copies mappings, so that what is shared is never written to.
func clone(value any) any {
	mapping, ok := value.(map[string]any)
	if !ok {
		return value
	}
	made := make(map[string]any, len(mapping))
	for key, inner := range mapping {
		made[key] = clone(inner)
	}
	return made
}
