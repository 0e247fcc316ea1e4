package steer

import (
	"context"
	"encoding/json"
	"io"
	"net/http"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/envoyrls"
)

// maxExplainBytes bounds the request of /explain.
const maxExplainBytes = 1 << 20

// Explained is what one descriptor of a request finds.
type Explained struct {
	Rule string `json:"rule"`
	// Found says that there is such a rule; all else is empty where not.
	Found bool `json:"found"`
	// CountedBy are the entries that have a counter of their own.
	CountedBy []ratelimit.Entry `json:"countedBy,omitempty"`
	Algorithm string            `json:"algorithm,omitempty"`
	Requests  uint32            `json:"requests"`
	Burst     uint32            `json:"burst,omitempty"`
	Window    string            `json:"window,omitempty"`
	// Tier is the one whose numbers these are; empty for the rule's own.
	Tier   string `json:"tier,omitempty"`
	Shadow bool   `json:"shadow,omitempty"`
	// Answer is what one more request would be told by this rule alone: "pass",
	// "refuse", "pass, in the shadow of a refusal", or "unknown" with Why.
	Answer     string `json:"answer"`
	Why        string `json:"why"`
	Remaining  uint32 `json:"remaining"`
	RetryAfter string `json:"retryAfter,omitempty"`
	Digest     string `json:"digest,omitempty"`
	KeyDigest  string `json:"keyDigest,omitempty"`
}

// Explain says what each descriptor of a request finds, charging nothing. The
// error says what is malformed.
func (s *Service) Explain(ctx context.Context, translate func(*rlsv3.RateLimitRequest) ([]ratelimit.Descriptor, error), request *rlsv3.RateLimitRequest) ([]Explained, error) {
	descriptors, err := translate(request)
	if err != nil {
		return nil, err
	}
	answers := make([]Explained, len(descriptors))
	for i, descriptor := range descriptors {
		answers[i] = s.explain(ctx, descriptor)
	}
	return answers, nil
}

func (s *Service) explain(ctx context.Context, descriptor ratelimit.Descriptor) Explained {
	answer := Explained{Rule: descriptor.Rule, CountedBy: descriptor.Entries}
	rule := s.options.Limiter.Table().Rule(descriptor.Rule)
	if rule == nil {
		answer.Answer, answer.Why = "unknown", "no rule with this id is in effect here; Envoy's failure mode for the filter decides"
		return answer
	}
	answer.Found, answer.Algorithm, answer.Shadow, answer.Digest = true, rule.Algorithm.String(), rule.Shadow, rule.Digest
	for _, entry := range descriptor.Entries {
		if _, own := rule.Tiers[entry.Value]; own && entry.Name == "tier" {
			answer.Tier = entry.Value
		}
	}
	counter, err := s.options.Limiter.Look(ctx, descriptor)
	if err != nil {
		answer.Answer, answer.Why = "refuse", "the counters cannot be reached, and the rule fails closed"
		if rule.FailureMode == ratelimit.FailOpen || rule.Shadow {
			answer.Answer, answer.Why = "pass", "the counters cannot be reached, and the rule fails open"
		}
		return answer
	}
	answer.Requests, answer.Burst, answer.Window = counter.Limit.Requests, counter.Limit.Burst, counter.Limit.Window.String()
	answer.Remaining, answer.KeyDigest = counter.Decision.Remaining, digestOf(counter.Key)
	switch {
	case counter.Decision.Remaining > 0:
		answer.Answer, answer.Why = "pass", "some of the allowance is left"
	case rule.Shadow:
		answer.Answer, answer.Why = "pass, in the shadow of a refusal", "the allowance is used up, and the rule is in the shadow"
	default:
		answer.Answer, answer.Why = "refuse", "the allowance is used up"
	}
	if counter.Decision.RetryAfter > 0 && counter.Limit.Requests > 0 { // else waiting never helps
		answer.RetryAfter = counter.Decision.RetryAfter.String()
	}
	return answer
}

// Handler answers POST with a RateLimitRequest in JSON.
func (s *Service) Handler(server *envoyrls.Server) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxExplainBytes))
		request := &rlsv3.RateLimitRequest{}
		if err == nil {
			err = protojson.Unmarshal(body, request)
		}
		var answers []Explained
		if err == nil {
			answers, err = s.Explain(r.Context(), server.Descriptors, request)
		}
		if err != nil {
			http.Error(w, "the body is not a RateLimitRequest in JSON that could be answered: "+err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(map[string]any{"descriptors": answers}) // The client is gone when this fails.
	})
}
