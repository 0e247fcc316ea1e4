package fault_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir.dev/kit/fault"
)

func TestErrorIsForLogsAndStatusForClients(t *testing.T) {
	cause := errors.New("password=hunter2 at db:5432")
	err := fault.New(codes.NotFound, "RECORD_NOT_FOUND", "record %q does not exist", "r1").WithCause(cause)
	require.ErrorIs(t, err, cause)
	require.Equal(t, `RECORD_NOT_FOUND: record "r1" does not exist: password=hunter2 at db:5432`, err.Error())
	require.Equal(t, `record "r1" does not exist`, err.GRPCStatus().Message())
	require.NotContains(t, err.GRPCStatus().String(), "hunter2")
	raw, jsonErr := json.Marshal(err.Problem("q"))
	require.NoError(t, jsonErr)
	require.NotContains(t, string(raw), "hunter2")
}

func TestWithReturnsCopies(t *testing.T) {
	base := fault.New(codes.InvalidArgument, "BAD", "bad")
	one := base.WithField("a", "is required")
	two := one.WithField("b", "is required")
	other := one.WithField("c", "is required").WithMetadata("k", "v").WithRetryAfter(time.Second)
	require.Empty(t, base.Fields)
	require.Len(t, one.Fields, 1)
	require.Equal(t, "b", two.Fields[1].Field)
	require.Equal(t, "c", other.Fields[1].Field)
	require.Nil(t, one.Metadata)
	require.Zero(t, one.RetryAfter)
}

func TestStatusDetails(t *testing.T) {
	st := fault.New(codes.ResourceExhausted, "RATE_LIMITED", "slow down").
		WithField("f", "d").WithMetadata("limit", "5").WithRetryAfter(1500 * time.Millisecond).StatusFor("req-1")
	require.Equal(t, codes.ResourceExhausted, st.Code())
	require.Len(t, st.Details(), 4)
	info := st.Details()[0].(*errdetails.ErrorInfo)
	require.Equal(t, "RATE_LIMITED", info.GetReason())
	require.Equal(t, fault.Domain, info.GetDomain())
	require.Equal(t, map[string]string{"limit": "5"}, info.GetMetadata())
	require.Equal(t, "f", st.Details()[1].(*errdetails.BadRequest).GetFieldViolations()[0].GetField())
	require.Equal(t, 1500*time.Millisecond, st.Details()[2].(*errdetails.RetryInfo).GetRetryDelay().AsDuration())
	require.Equal(t, "req-1", st.Details()[3].(*errdetails.RequestInfo).GetRequestId())
	require.Len(t, fault.New(codes.NotFound, "X", "x").GRPCStatus().Details(), 1)
}

func TestFrom(t *testing.T) {
	foreign, err := status.New(codes.NotFound, "no such row").WithDetails(&errdetails.ErrorInfo{Reason: "ROW_MISSING"})
	require.NoError(t, err)
	coded := fault.New(codes.Aborted, "ETAG_MISMATCH", "changed meanwhile")
	for name, test := range map[string]struct {
		err     error
		kind    codes.Code
		reason  string
		message string
	}{
		"coded":          {coded, codes.Aborted, "ETAG_MISMATCH", "changed meanwhile"},
		"coded, wrapped": {fmt.Errorf("saving: %w", coded), codes.Aborted, "ETAG_MISMATCH", "changed meanwhile"},
		"deadline":       {fmt.Errorf("query: %w", context.DeadlineExceeded), codes.DeadlineExceeded, "DEADLINE_EXCEEDED", "the request took longer than its deadline"},
		"cancelled":      {context.Canceled, codes.Canceled, "CANCELLED", "the client ended the request"},
		"status":         {status.Error(codes.Unavailable, "away"), codes.Unavailable, "UNAVAILABLE", "away"},
		"with reason":    {foreign.Err(), codes.NotFound, "ROW_MISSING", "no such row"},
		"status, wrapped: the wrapping stays private": {fmt.Errorf("dial secret-host: %w", foreign.Err()), codes.NotFound, "ROW_MISSING", "no such row"},
		"unknown status": {status.Error(codes.Unknown, "secret"), codes.Internal, "INTERNAL", "an internal error occurred"},
		"anything":       {errors.New("secret"), codes.Internal, "INTERNAL", "an internal error occurred"},
	} {
		t.Run(name, func(t *testing.T) {
			got := fault.From(test.err)
			require.Equal(t, test.kind, got.Kind)
			require.Equal(t, test.reason, got.Reason)
			require.Equal(t, test.message, got.Message)
			if errors.Unwrap(got) != nil {
				require.ErrorIs(t, got, test.err, "the cause is kept for logs")
			}
		})
	}
	require.Nil(t, fault.From(nil))
}

func TestProblem(t *testing.T) {
	problem := fault.New(codes.InvalidArgument, "RECORD_INVALID", "the record is not valid").WithField("record.data.title", "is required").Problem("req-1")
	raw, err := json.Marshal(problem)
	require.NoError(t, err)
	require.JSONEq(t, `{"type":"https://weir.dev/problems/record-invalid","title":"Bad Request","status":400,"detail":"the record is not valid",
		"code":"RECORD_INVALID","requestId":"req-1","errors":[{"field":"record.data.title","detail":"is required"}]}`, string(raw))
}

func TestASCII(t *testing.T) {
	for _, detail := range []string{"plain", "naïve", "日本", "😀", "tab\tline\r\n", "\x7f", "\u2028", "a\x00b", "<b>&"} {
		text := fault.Problem{Title: "t", Status: 400, Code: "C", Detail: detail}.ASCII()
		for _, c := range []byte(text) {
			require.True(t, c >= ' ' && c < 0x7f, "%q holds %q", text, c)
		}
		var back fault.Problem
		require.NoError(t, json.Unmarshal([]byte(text), &back))
		require.Equal(t, detail, back.Detail)
	}
}

func FuzzASCII(f *testing.F) {
	for _, seed := range []string{"", "é", "😀", "\xff", "\x00", "\ud7ff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, detail string) {
		text := fault.Problem{Detail: detail}.ASCII()
		var back fault.Problem
		require.NoError(t, json.Unmarshal([]byte(text), &back))
		if utf8.ValidString(detail) {
			require.Equal(t, detail, back.Detail)
		}
	})
}

// Every code has a status and a reason; those that clients retry on are exact.
func TestTablesAreTotal(t *testing.T) {
	want := map[codes.Code]int{
		codes.OK: 200, codes.Canceled: 499, codes.Unknown: 500, codes.InvalidArgument: 400, codes.DeadlineExceeded: 504,
		codes.NotFound: 404, codes.AlreadyExists: 409, codes.PermissionDenied: 403, codes.ResourceExhausted: 429,
		codes.FailedPrecondition: 400, codes.Aborted: 409, codes.OutOfRange: 400, codes.Unimplemented: 501,
		codes.Internal: 500, codes.Unavailable: 503, codes.DataLoss: 500, codes.Unauthenticated: 401,
	}
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		require.Equal(t, want[code], fault.HTTPStatus(code), code)
		require.NotEmpty(t, fault.StatusTitle(fault.HTTPStatus(code)))
		require.Regexp(t, `^[A-Z_]+$`, fault.ReasonOfCode(code))
	}
	require.Equal(t, http.StatusInternalServerError, fault.HTTPStatus(codes.Code(99)))
	require.Equal(t, fault.ReasonInternal, fault.ReasonOfCode(codes.Code(99)))
}
