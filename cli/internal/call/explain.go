package call

import (
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Explain is a failed call in words: the status, and each of its details on a
// line.
func Explain(err error) string {
	st := status.Convert(err)
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", code.Code(st.Code()), st.Message()) //nolint:gosec // gRPC has 17 codes.
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			fmt.Fprintf(&b, "\n  reason: %s (%s)", d.GetReason(), d.GetDomain())
			for key, value := range d.GetMetadata() {
				fmt.Fprintf(&b, "\n  %s: %s", key, value)
			}
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				if text := v.GetField() + ": " + v.GetDescription(); !strings.Contains(st.Message(), text) { // which says it already
					fmt.Fprintf(&b, "\n  %s", text)
				}
			}
		case *errdetails.RetryInfo:
			fmt.Fprintf(&b, "\n  try again after: %s", d.GetRetryDelay().AsDuration())
		case *errdetails.RequestInfo:
			fmt.Fprintf(&b, "\n  request: %s", d.GetRequestId())
		case proto.Message:
			if d.ProtoReflect().Descriptor().FullName() == "weir.admin.v1.ListProblemsResponse" {
				continue // for programs; BadRequest says the same
			}
			fmt.Fprintf(&b, "\n  %s: %s", d.ProtoReflect().Descriptor().FullName(), protojson.MarshalOptions{}.Format(d))
		case error:
			fmt.Fprintf(&b, "\n  a detail that cannot be read: %v", d)
		}
	}
	return b.String()
}
