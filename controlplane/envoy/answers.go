package envoy

import "google.golang.org/grpc/codes"

// Answer is one that Envoy itself gives, for documentation.
type Answer struct {
	// When is a CEL expression over Envoy's attributes; the first answer whose
	// expression holds is given.
	When string
	// Status is the HTTP status, Code what a gRPC client sees instead.
	Status int
	Code   codes.Code
	// Reason and Detail are the problem's code and detail.
	Reason, Detail string
	// Headers are added to the answer.
	Headers map[string]string
}

// Answers lists them in order.
func Answers() []Answer {
	var answers []Answer
	for _, r := range replies() {
		answers = append(answers, Answer{
			When: r.when, Status: int(r.status), Code: r.kind, Reason: r.reason, Detail: r.detail, Headers: r.headers,
		})
	}
	return answers
}
