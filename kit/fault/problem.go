package fault

import (
	"encoding/json"
	"net/http"
	"strings"

	"google.golang.org/grpc/codes"
)

// ProblemContentType is the media type of RFC 9457 section 3.
const ProblemContentType = "application/problem+json"

// ProblemTypePrefix precedes the reason, in kebab case, in a problem's type.
const ProblemTypePrefix = "https://weir.dev/problems/"

// Problem is the body of an error answer (RFC 9457 section 3.1) with Weir's
// extension members.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Code is the stable reason.
	Code      string           `json:"code"`
	RequestID string           `json:"requestId,omitempty"`
	Errors    []FieldViolation `json:"errors,omitempty"`
}

// Problem renders e for HTTP clients.
func (e *Error) Problem(requestID string) Problem {
	code := HTTPStatus(e.Kind)
	return Problem{
		Type:      ProblemType(e.Reason),
		Title:     StatusTitle(code),
		Status:    code,
		Detail:    e.Message,
		Code:      e.Reason,
		RequestID: requestID,
		Errors:    e.Fields,
	}
}

// ProblemType is the type URI of a reason.
func ProblemType(reason string) string {
	return ProblemTypePrefix + strings.ReplaceAll(strings.ToLower(reason), "_", "-")
}

// ASCII renders the problem as JSON in which every byte is printable ASCII, so
// that it can travel in a header.
func (p Problem) ASCII() string {
	raw, err := json.Marshal(p)
	if err != nil { // strings, an int and a list of strings always marshal
		return `{"type":"about:blank","title":"Internal Server Error","status":500,"code":"INTERNAL"}`
	}
	var b strings.Builder
	b.Grow(len(raw))
	for _, r := range string(raw) {
		switch {
		case r < 0x7f:
			b.WriteRune(r)
		case r > 0xffff:
			high, low := (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00
			writeEscape(&b, high)
			writeEscape(&b, low)
		default:
			writeEscape(&b, r)
		}
	}
	return b.String()
}

func writeEscape(b *strings.Builder, r rune) {
	const hex = "0123456789abcdef"
	b.WriteString(`\u`)
	for shift := 12; shift >= 0; shift -= 4 {
		b.WriteByte(hex[(r>>shift)&0xf])
	}
}

// StatusTitle is the standard phrase of an HTTP status, "Client Closed Request"
// for 499.
func StatusTitle(code int) string {
	if code == statusClientClosed {
		return "Client Closed Request"
	}
	return http.StatusText(code)
}

// statusClientClosed is nginx's non-standard 499, as google.rpc.Code documents
// for CANCELLED.
const statusClientClosed = 499

// HTTPStatus maps a gRPC code as google/rpc/code.proto documents it.
func HTTPStatus(code codes.Code) int {
	switch code {
	case codes.OK:
		return http.StatusOK
	case codes.Canceled:
		return statusClientClosed
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	case codes.NotFound:
		return http.StatusNotFound
	case codes.AlreadyExists, codes.Aborted:
		return http.StatusConflict
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// ReasonOfCode is the reason used where only a code is known: the code's name
// in google/rpc/code.proto.
func ReasonOfCode(code codes.Code) string {
	names := map[codes.Code]string{
		codes.Canceled: "CANCELLED", codes.InvalidArgument: "INVALID_ARGUMENT",
		codes.DeadlineExceeded: "DEADLINE_EXCEEDED", codes.NotFound: "NOT_FOUND",
		codes.AlreadyExists: "ALREADY_EXISTS", codes.PermissionDenied: "PERMISSION_DENIED",
		codes.ResourceExhausted: "RESOURCE_EXHAUSTED", codes.FailedPrecondition: "FAILED_PRECONDITION",
		codes.Aborted: "ABORTED", codes.OutOfRange: "OUT_OF_RANGE", codes.Unimplemented: "UNIMPLEMENTED",
		codes.Unavailable: "UNAVAILABLE", codes.DataLoss: "DATA_LOSS", codes.Unauthenticated: "UNAUTHENTICATED",
	}
	if name, ok := names[code]; ok {
		return name
	}
	return ReasonInternal
}
