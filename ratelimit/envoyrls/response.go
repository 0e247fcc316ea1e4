package envoyrls

import (
	"strconv"
	"strings"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/rlscodec"
)

// Response headers, lower case as in HTTP/2.
const (
	headerPolicy     = "ratelimit-policy"
	headerLimit      = "ratelimit"
	headerRetryAfter = "retry-after"
)

func toResponse(verdict ratelimit.Verdict) *rlsv3.RateLimitResponse {
	answer := rlscodec.NewAnswer(len(verdict.Statuses))
	response := &answer.Response
	if !verdict.Allowed {
		response.OverallCode = rlsv3.RateLimitResponse_OVER_LIMIT
		response.DynamicMetadata = refusalMetadata(verdict)
	} else {
		response.DynamicMetadata = tickets(verdict)
	}
	for i := range verdict.Statuses {
		setStatus(answer, i, &verdict.Statuses[i])
	}
	setHeaders(answer, verdict)
	return response
}

func setStatus(answer *rlscodec.Answer, i int, status *ratelimit.Status) {
	wire := answer.Response.Statuses[i]
	if status.Event == ratelimit.Refused {
		wire.Code = rlsv3.RateLimitResponse_OVER_LIMIT
	}
	if status.Event == ratelimit.FailedOpen {
		return // nothing is known about the numbers
	}
	wire.LimitRemaining = status.Decision.Remaining
	if status.Limit.Unlimited {
		return
	}
	limit := answer.Limit(i)
	limit.Name, limit.RequestsPerUnit, limit.Unit = status.Rule.ID, status.Limit.Requests, unitOf(status.Limit.Window)
	answer.ResetsIn(i, status.Decision.Reset)
}

// unitOf is the protocol's name of a window's length; other lengths have none.
// Its month is 30 days and its year 365, as in envoyproxy/ratelimit.
func unitOf(window time.Duration) rlsv3.RateLimitResponse_RateLimit_Unit {
	const day = 24 * time.Hour
	switch window {
	case time.Second:
		return rlsv3.RateLimitResponse_RateLimit_SECOND
	case time.Minute:
		return rlsv3.RateLimitResponse_RateLimit_MINUTE
	case time.Hour:
		return rlsv3.RateLimitResponse_RateLimit_HOUR
	case day:
		return rlsv3.RateLimitResponse_RateLimit_DAY
	case 7 * day:
		return rlsv3.RateLimitResponse_RateLimit_WEEK
	case 30 * day:
		return rlsv3.RateLimitResponse_RateLimit_MONTH
	case 365 * day:
		return rlsv3.RateLimitResponse_RateLimit_YEAR
	}
	return rlsv3.RateLimitResponse_RateLimit_UNKNOWN
}

// refusalMetadata names the first limit that refused, for the access log, and all
// that did as clients know them, for the answer's body.
func refusalMetadata(verdict ratelimit.Verdict) *structpb.Struct {
	var first *ratelimit.Status
	var names []*structpb.Value
	for i := range verdict.Statuses {
		status := &verdict.Statuses[i]
		if status.Event != ratelimit.Refused {
			continue
		}
		if first == nil {
			first = status
		}
		if public(status) {
			names = append(names, structpb.NewStringValue(nameOf(verdict.Statuses, i)))
		}
	}
	if first == nil {
		return nil
	}
	fields := map[string]*structpb.Value{
		"limit":    structpb.NewStringValue(first.Rule.ID),
		"decision": structpb.NewStringValue(first.Event.String()),
	}
	if len(names) > 0 {
		fields["violated"] = structpb.NewListValue(&structpb.ListValue{Values: names})
	}
	return &structpb.Struct{Fields: fields}
}

// metadataTickets is the field of the dynamic metadata that holds, by rule, what
// Envoy returns to us in the entry ratelimit.EntryTicket when a request is over.
const metadataTickets = "tickets"

// tickets are nil for requests of whose end nothing is to be told.
func tickets(verdict ratelimit.Verdict) *structpb.Struct {
	var byRule map[string]*structpb.Value
	for i := range verdict.Statuses {
		status := &verdict.Statuses[i]
		if status.Ticket == "" {
			continue
		}
		if byRule == nil {
			byRule = map[string]*structpb.Value{}
		}
		byRule[status.Rule.ID] = structpb.NewStringValue(status.Ticket)
	}
	if byRule == nil {
		return nil
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{
		metadataTickets: structpb.NewStructValue(&structpb.Struct{Fields: byRule}),
	}}
}

// setHeaders tells clients of the limits, each in the ways that its rule asks for.
func setHeaders(answer *rlscodec.Answer, verdict ratelimit.Verdict) {
	var policySpace, limitSpace [128]byte
	policy, limit := policySpace[:0], limitSpace[:0]
	var retryAfter time.Duration
	waiting := true // helps; not where a limit admits nothing, ever
	var older, prefixed *ratelimit.Status
	for i := range verdict.Statuses {
		status := &verdict.Statuses[i]
		if status.Event == ratelimit.Refused {
			retryAfter = max(retryAfter, status.Decision.RetryAfter)
			waiting = waiting && status.Limit.Requests > 0
		}
		if !public(status) {
			continue
		}
		if status.Rule.Headers.Has(ratelimit.HeadersStandard) {
			name := nameOf(verdict.Statuses, i)
			policy = appendMember(policy, name, 'q', uint64(status.Limit.Requests), 'w', wholeSeconds(status.Limit.Window))
			limit = appendMember(limit, name, 'r', uint64(status.Decision.Remaining), 't', wholeSeconds(status.Decision.Reset))
		}
		if status.Rule.Headers.Has(ratelimit.HeadersOlder) && nearer(status, older) {
			older = status
		}
		if status.Rule.Headers.Has(ratelimit.HeadersXRateLimit) && nearer(status, prefixed) {
			prefixed = status
		}
	}
	if len(policy) > 0 {
		both := string(append(policy, limit...))
		answer.Header(headerPolicy, both[:len(policy)])
		answer.Header(headerLimit, both[len(policy):])
	}
	addOlder(answer, older, "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
	addOlder(answer, prefixed, "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")
	if !verdict.Allowed && waiting {
		answer.Header(headerRetryAfter, strconv.FormatUint(max(1, wholeSeconds(retryAfter)), 10))
	}
}

// nearer says whether a limit is nearer to refusing than another, which may be
// nil: one that refuses is, the longer the nearer, then one with less left.
func nearer(status, other *ratelimit.Status) bool {
	switch {
	case other == nil:
		return true
	case (status.Event == ratelimit.Refused) != (other.Event == ratelimit.Refused):
		return status.Event == ratelimit.Refused
	case status.Event == ratelimit.Refused:
		return status.Decision.RetryAfter > other.Decision.RetryAfter
	default:
		return status.Decision.Remaining < other.Decision.Remaining
	}
}

// addOlder adds the three headers of draft-ietf-httpapi-ratelimit-headers-06
// and before, which have room for one limit. The reset is in seconds from now.
func addOlder(answer *rlscodec.Answer, status *ratelimit.Status, limit, remaining, reset string) {
	if status == nil {
		return
	}
	answer.Header(limit, strconv.FormatUint(uint64(status.Limit.Requests), 10))
	answer.Header(remaining, strconv.FormatUint(uint64(status.Decision.Remaining), 10))
	answer.Header(reset, strconv.FormatUint(wholeSeconds(status.Decision.Reset), 10))
}

// public says whether clients are told of a limit: shadow limits and those that
// show no headers are not theirs to know, an unanswered or absent one has no
// numbers, and when a request is over there is nobody to tell.
func public(status *ratelimit.Status) bool {
	return !status.Rule.Shadow && !status.Rule.Headers.Has(ratelimit.HeadersNone) && !status.Limit.Unlimited &&
		status.Event != ratelimit.FailedOpen && status.Event != ratelimit.Settled
}

// nameOf is the last segment of the rule's id, or the id where another limit of
// the request has the same last segment.
func nameOf(statuses []ratelimit.Status, i int) string {
	id := statuses[i].Rule.ID
	name := lastSegment(id)
	for j := range statuses {
		if j != i && public(&statuses[j]) && statuses[j].Rule.ID != id && lastSegment(statuses[j].Rule.ID) == name {
			return id
		}
	}
	return name
}

func lastSegment(id string) string { return id[strings.LastIndexByte(id, '/')+1:] }

// appendMember adds one list member (RFC 9651 sections 3.1 and 3.3.3): a string
// with two integer parameters. Rule ids are printable ASCII.
func appendMember(buffer []byte, name string, firstKey byte, first uint64, secondKey byte, second uint64) []byte {
	if len(buffer) > 0 {
		buffer = append(buffer, ", "...)
	}
	buffer = append(buffer, '"')
	for i := range len(name) {
		if name[i] == '"' || name[i] == '\\' {
			buffer = append(buffer, '\\')
		}
		buffer = append(buffer, name[i])
	}
	buffer = append(buffer, '"', ';', firstKey, '=')
	buffer = strconv.AppendUint(buffer, first, 10)
	buffer = append(buffer, ';', secondKey, '=')
	return strconv.AppendUint(buffer, second, 10)
}

// wholeSeconds rounds up, so that a client that waits as told is not early.
func wholeSeconds(d time.Duration) uint64 {
	return uint64((d + time.Second - 1) / time.Second)
}
