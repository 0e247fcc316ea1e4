package rlscodec

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/durationpb"
)

// fewDescriptors is how many descriptors most requests have at most, and fewHeaders
// how many headers their answers.
const (
	fewDescriptors = 2
	fewHeaders     = 3
)

// Answer is a response with room for its parts: one allocation where they are few,
// which would be three for each descriptor and one for each header. It is used by one
// goroutine at a time.
type Answer struct {
	// Response is the message. Its statuses are there, all OK and without a limit.
	Response rlsv3.RateLimitResponse

	parts []part
	few   struct {
		parts    [fewDescriptors]part
		statuses [fewDescriptors]*rlsv3.RateLimitResponse_DescriptorStatus
		headers  [fewHeaders]corev3.HeaderValue
		list     [fewHeaders]*corev3.HeaderValue
	}
}

type part struct {
	status rlsv3.RateLimitResponse_DescriptorStatus
	limit  rlsv3.RateLimitResponse_RateLimit
	reset  durationpb.Duration
}

// NewAnswer makes the answer to a request of that many descriptors.
func NewAnswer(descriptors int) *Answer {
	a := &Answer{}
	a.Response.OverallCode = rlsv3.RateLimitResponse_OK
	a.parts, a.Response.Statuses = a.few.parts[:], a.few.statuses[:]
	if descriptors > fewDescriptors {
		a.parts, a.Response.Statuses = make([]part, descriptors), make([]*rlsv3.RateLimitResponse_DescriptorStatus, descriptors)
	}
	a.parts, a.Response.Statuses = a.parts[:descriptors], a.Response.Statuses[:descriptors]
	for i := range a.parts {
		a.parts[i].status.Code = rlsv3.RateLimitResponse_OK
		a.Response.Statuses[i] = &a.parts[i].status
	}
	return a
}

// Limit gives the status of a descriptor a limit, which is empty, and returns it.
func (a *Answer) Limit(descriptor int) *rlsv3.RateLimitResponse_RateLimit {
	part := &a.parts[descriptor]
	part.status.CurrentLimit = &part.limit
	return &part.limit
}

// ResetsIn says when the limit of a descriptor starts afresh.
func (a *Answer) ResetsIn(descriptor int, in time.Duration) {
	part := &a.parts[descriptor]
	part.reset.Seconds, part.reset.Nanos = int64(in/time.Second), int32(in%time.Second) //nolint:gosec // below a second
	part.status.DurationUntilReset = &part.reset
}

// Header adds one to those of the response.
func (a *Answer) Header(key, value string) {
	count := len(a.Response.ResponseHeadersToAdd)
	if count == 0 {
		a.Response.ResponseHeadersToAdd = a.few.list[:0]
	}
	var header *corev3.HeaderValue
	if count < fewHeaders {
		header = &a.few.headers[count]
	} else {
		header = &corev3.HeaderValue{}
	}
	header.Key, header.Value = key, value
	a.Response.ResponseHeadersToAdd = append(a.Response.ResponseHeadersToAdd, header)
}
