// Package fault is Weir's one error type for everything that reaches a client:
// a gRPC code, a stable reason, a message that is safe to show, and a cause
// that is logged and never sent. It renders to gRPC status details
// (google.rpc.ErrorInfo and friends, AIP-193) and to RFC 9457 problem details.
package fault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain is the google.rpc.ErrorInfo domain of every reason.
const Domain = "weir.dev"

// ReasonInternal is the reason of an error that nobody gave one.
const ReasonInternal = "INTERNAL"

// FieldViolation names one bad field of a request.
type FieldViolation struct {
	// Field is a dotted path from the request's root, e.g. "record.data.title".
	Field string `json:"field"`
	// Description says what is wrong and what to do.
	Description string `json:"detail"`
}

// Error is a coded error. Treat it as immutable: the With methods return
// copies. Safe for concurrent use.
type Error struct {
	Kind    codes.Code
	Reason  string
	Message string
	Fields  []FieldViolation
	// RetryAfter, when positive, tells the client when a retry makes sense.
	RetryAfter time.Duration
	// Metadata is sent to the client; keys are lowerCamelCase.
	Metadata map[string]string
	// Details are further ones of the gRPC status.
	Details []proto.Message
	cause   error
}

// New makes a coded error. reason is stable and UPPER_SNAKE_CASE; the message
// is shown to clients, so it holds nothing that they may not see.
func New(kind codes.Code, reason, format string, args ...any) *Error {
	return &Error{Kind: kind, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Error implements error; it includes the cause, so it is for logs.
func (e *Error) Error() string {
	text := e.Reason + ": " + e.Message
	for _, field := range e.Fields {
		text += "; " + field.Field + ": " + field.Description
	}
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

// Unwrap returns the cause, nil if there is none.
func (e *Error) Unwrap() error { return e.cause }

// WithCause returns a copy that also carries err, for logs only.
func (e *Error) WithCause(err error) *Error {
	c := e.clone()
	c.cause = err
	return c
}

// WithField returns a copy with one more field violation.
func (e *Error) WithField(field, description string) *Error {
	c := e.clone()
	c.Fields = append(c.Fields, FieldViolation{Field: field, Description: description})
	return c
}

// WithMetadata returns a copy with one more metadata entry.
func (e *Error) WithMetadata(key, value string) *Error {
	c := e.clone()
	if c.Metadata == nil {
		c.Metadata = map[string]string{}
	}
	c.Metadata[key] = value
	return c
}

// WithRetryAfter returns a copy that tells the client to wait for d.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	c := e.clone()
	c.RetryAfter = d
	return c
}

// WithDetail returns a copy with one more detail of the gRPC status, for clients
// that know its message; problem details (HTTP) don't have it.
func (e *Error) WithDetail(detail proto.Message) *Error {
	c := e.clone()
	c.Details = append(c.Details, detail)
	return c
}

func (e *Error) clone() *Error {
	c := *e
	c.Fields = append([]FieldViolation(nil), e.Fields...)
	c.Metadata = maps.Clone(e.Metadata)
	c.Details = slices.Clone(e.Details)
	return &c
}

// GRPCStatus implements the interface by which grpc-go finds an error's
// status. Details: ErrorInfo always, BadRequest and RetryInfo when they apply.
func (e *Error) GRPCStatus() *status.Status {
	return e.StatusFor("")
}

// StatusFor is GRPCStatus with a RequestInfo detail when requestID is not
// empty.
func (e *Error) StatusFor(requestID string) *status.Status {
	st := status.New(e.Kind, e.Message)
	details := []protoadapt.MessageV1{
		&errdetails.ErrorInfo{Reason: e.Reason, Domain: Domain, Metadata: e.Metadata},
	}
	if len(e.Fields) > 0 {
		bad := &errdetails.BadRequest{}
		for _, field := range e.Fields {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field: field.Field, Description: field.Description,
			})
		}
		details = append(details, bad)
	}
	if e.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	for _, detail := range e.Details {
		details = append(details, protoadapt.MessageV1Of(detail))
	}
	if requestID != "" {
		details = append(details, &errdetails.RequestInfo{RequestId: requestID})
	}
	detailed, err := st.WithDetails(details...)
	if err != nil { // only possible for codes.OK, which is no error
		return st
	}
	return detailed
}

// From turns any error into a coded one. Context errors and gRPC statuses keep
// their code; what is unknown becomes an internal error that hides its text
// from the client and keeps it as the cause. From(nil) is nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var coded *Error
	if errors.As(err, &coded) {
		return coded
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return New(codes.DeadlineExceeded, "DEADLINE_EXCEEDED", "the request took longer than its deadline").WithCause(err)
	case errors.Is(err, context.Canceled):
		return New(codes.Canceled, "CANCELLED", "the client ended the request").WithCause(err)
	}
	if st := statusOf(err); st != nil && st.Code() != codes.Unknown && st.Code() != codes.OK {
		return New(st.Code(), reasonOf(st), "%s", st.Message()).WithCause(err)
	}
	return New(codes.Internal, ReasonInternal, "an internal error occurred").WithCause(err)
}

// statusOf finds the status inside err, nil if there is none. status.FromError
// would put the text of everything wrapped around it into the message, which
// goes to the client.
func statusOf(err error) *status.Status {
	var carrier interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &carrier) {
		return nil
	}
	return carrier.GRPCStatus()
}

// reasonOf takes the reason out of a foreign status, or makes one of its code.
func reasonOf(st *status.Status) string {
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetReason() != "" {
			return info.GetReason()
		}
	}
	return ReasonOfCode(st.Code())
}
