package policy

import (
	"time"

	"weir.dev/policy/v1alpha1"
)

// Retry says which failed tries are repeated.
type Retry struct {
	// Attempts after the first; 0 means none.
	Attempts uint32
	On       []v1alpha1.RetryOn
	Codes    []int32
	// Backoff before the first retry; 0 means the target's default.
	Backoff time.Duration
}

// Session keeps a client with the endpoint that served it first.
type Session struct {
	// Name of the cookie or header.
	Name   string
	Header bool
	// Path that a cookie is for.
	Path string
	// Lifetime of a cookie; 0 means until the client ends its session.
	Lifetime time.Duration
}

// Traffic is what a TrafficPolicy says of requests. Nil and 0 mean that it says
// nothing.
type Traffic struct {
	HashBy      []v1alpha1.HashBy
	Fault       *v1alpha1.Fault
	Response    *v1alpha1.FallbackResponse
	Adaptive    *v1alpha1.AdaptiveConcurrency
	Admission   *v1alpha1.AdmissionControl
	Compression *v1alpha1.Compression
	// MaxRequestBytes bounds the body.
	MaxRequestBytes int64
}
