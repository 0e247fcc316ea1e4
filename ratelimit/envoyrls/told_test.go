package envoyrls_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	oteltrace "go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/envoyrls"
)

// decided is a limiter that has decided already.
type decided []ratelimit.Status

func (d decided) Decide(context.Context, []ratelimit.Descriptor) (ratelimit.Verdict, error) {
	refuses := func(status ratelimit.Status) bool { return status.Event == ratelimit.Refused }
	return ratelimit.Verdict{Allowed: !slices.ContainsFunc(d, refuses), Statuses: slices.Clone(d)}, nil
}

// told is a status of a limit of 10 requests in a minute that is told of in ways.
func told(id string, ways ratelimit.Headers, event ratelimit.Event, remaining uint32, retryAfter time.Duration) ratelimit.Status {
	limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 10, Window: time.Minute}
	return ratelimit.Status{
		Rule: &ratelimit.Rule{ID: id, Limit: limit, Headers: ways}, Limit: limit, Event: event,
		Decision: ratelimit.Decision{Remaining: remaining, RetryAfter: retryAfter, Reset: time.Duration(remaining+1) * time.Second},
	}
}

// The older headers have room for one limit: a client sees the one that it meets
// first, in whichever order they are.
func TestTheOlderHeadersTellOfTheNearestLimit(t *testing.T) {
	const older, prefixed = ratelimit.HeadersOlder, ratelimit.HeadersXRateLimit
	for name, one := range map[string]struct {
		statuses decided
		// remaining of the limit that is told of
		older, prefixed string
	}{
		"the less is left, the nearer":      {decided{told("a", older, ratelimit.Admitted, 5, 0), told("b", older, ratelimit.Admitted, 4, 0), told("c", older, ratelimit.Admitted, 6, 0)}, "4", ""},
		"one that refuses is before others": {decided{told("a", older, ratelimit.Refused, 3, time.Second), told("b", older, ratelimit.Spared, 2, 0)}, "3", ""},
		"of those the longer one":           {decided{told("a", older, ratelimit.Refused, 1, time.Second), told("b", older, ratelimit.Refused, 2, time.Minute), told("c", older, ratelimit.Refused, 0, time.Second)}, "2", ""},
		"each way by itself":                {decided{told("a", older, ratelimit.Admitted, 5, 0), told("b", prefixed, ratelimit.Admitted, 4, 0), told("c", older|prefixed, ratelimit.Admitted, 7, 0)}, "5", "4"},
		"both ways":                         {decided{told("a", older|prefixed, ratelimit.Admitted, 5, 0)}, "5", "5"},
		"neither":                           {decided{told("a", ratelimit.HeadersStandard, ratelimit.Admitted, 5, 0), told("b", ratelimit.HeadersNone, ratelimit.Admitted, 5, 0)}, "", ""},
	} {
		for range 2 {
			ask := request()
			for _, status := range one.statuses {
				ask.Descriptors = append(ask.Descriptors, descriptor(status.Rule.ID))
			}
			got := headers(call(t, envoyrls.New(one.statuses, "weir", nil), ask))
			require.Equal(t, one.older, got["ratelimit-remaining"], name)
			require.Equal(t, one.prefixed, got["x-ratelimit-remaining"], name)
			if one.older != "" {
				require.Equal(t, "10", got["ratelimit-limit"], name)
				require.Equal(t, string(rune(one.older[0]+1)), got["ratelimit-reset"], name)
			}
			slices.Reverse(one.statuses)
		}
	}
}

// The first that refuses is the one in the access log, and all are in the body.
func TestTheFirstLimitThatRefusesIsNamed(t *testing.T) {
	statuses := decided{
		told("n/p/passes", 0, ratelimit.Spared, 1, 0), told("n/p/first", 0, ratelimit.Refused, 0, time.Second),
		told("n/p/quiet", ratelimit.HeadersNone, ratelimit.Refused, 0, time.Second), told("n/p/last", 0, ratelimit.Refused, 0, time.Second),
	}
	ask := request(descriptor("n/p/passes"), descriptor("n/p/first"), descriptor("n/p/quiet"), descriptor("n/p/last"))
	answer := call(t, envoyrls.New(statuses, "weir", nil), ask)
	require.Equal(t, map[string]any{"limit": "n/p/first", "decision": "over_limit", "violated": []any{"first", "last"}}, answer.GetDynamicMetadata().AsMap())
}

// watched are what a watcher was told of.
type watched map[string][]ratelimit.Entry

func (w watched) Watched(entries []ratelimit.Entry, status *ratelimit.Status) {
	w[status.Rule.ID] = slices.Clone(entries)
}

func TestAWatcherIsToldOfEachLimit(t *testing.T) {
	statuses, seen := decided{told("a", 0, ratelimit.Refused, 0, 0), told("b", 0, ratelimit.Spared, 3, 0)}, watched{}
	call(t, envoyrls.New(statuses, "weir", seen), request(descriptor("a", "consumer", "x"), descriptor("b")))
	require.Equal(t, watched{"a": {{Name: "consumer", Value: "x"}}, "b": nil}, seen)
}

// span is one that records attributes, or none.
type span struct {
	noop.Span
	recording bool
	set       map[attribute.Key]any
}

func (s *span) IsRecording() bool { return s.recording }

func (s *span) SetAttributes(attributes ...attribute.KeyValue) {
	for _, one := range attributes {
		s.set[one.Key] = one.Value.AsInterface()
	}
}

func TestTheSpanSaysWhichLimitsRefused(t *testing.T) {
	statuses := decided{told("a", 0, ratelimit.Refused, 0, 0), told("b", 0, ratelimit.ShadowRefused, 0, 0), told("c", 0, ratelimit.Spared, 1, 0)}
	ask := request(descriptor("a", "client_ip", "192.0.2.1"), descriptor("b"), descriptor("c"))
	in := func(recording bool, statuses decided) map[attribute.Key]any {
		s := &span{recording: recording, set: map[attribute.Key]any{}}
		_, err := envoyrls.New(statuses, "weir", nil).ShouldRateLimit(oteltrace.ContextWithSpan(t.Context(), s), ask)
		require.NoError(t, err)
		return s.set
	}
	require.Equal(t, map[attribute.Key]any{
		"weir.limit.allowed": false, "weir.limit.rules": []string{"a", "b", "c"}, "weir.limit.refused": []string{"a", "b"},
	}, in(true, statuses), "without what they count by")
	require.Empty(t, in(false, statuses), "nobody looks at it")
	passes := decided{statuses[2], statuses[2], statuses[2]}
	require.Equal(t, map[attribute.Key]any{"weir.limit.allowed": true, "weir.limit.rules": []string{"c", "c", "c"}}, in(true, passes))
}
