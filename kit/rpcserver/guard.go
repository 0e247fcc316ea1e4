package rpcserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"weir.dev/kit/fault"
	"weir.dev/kit/identity"
	"weir.dev/kit/identity/assertion"
)

// ProblemTrailer carries the RFC 9457 body of an error, as ASCII JSON, to the
// edge, which sends it to REST clients.
const ProblemTrailer = "weir-problem"

// maxProblemBytes keeps the trailer well inside default header limits; longer
// lists of violations are left to the gRPC details.
const maxProblemBytes = 6 << 10

var errDraining = errors.New("the server drains")

// guard turns panics and errors into coded ones, puts the identity into the
// context and logs each call once.
type guard struct {
	logger    *slog.Logger
	quiet     bool
	anonymous bool
	admission *admission
	// assertions is nil where only identity headers are read.
	assertions *assertion.Verifier
	// asserted refuses calls without an assertion.
	asserted bool
	// endless are full method names; draining is closed when such calls are to end.
	endless  []string
	draining chan struct{}

	mu     sync.Mutex
	sample map[string]*sample
}

// sample thins out one kind of failure of a quiet server, where an outage fails
// every request of the edge.
type sample struct {
	last       time.Time
	suppressed int
}

// sampleEvery is how often one kind of failure is logged by a quiet server.
const sampleEvery = time.Second

// suppress reports whether to leave this failure out of the log, and else how
// many like it were left out since the last one.
func (g *guard) suppress(reason string, now time.Time) (skip bool, left int) {
	if !g.quiet {
		return false, 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sample == nil {
		g.sample = map[string]*sample{}
	}
	s := g.sample[reason]
	if s == nil {
		s = &sample{}
		g.sample[reason] = s
	}
	if now.Sub(s.last) < sampleEvery {
		s.suppressed++
		return true, 0
	}
	left, s.suppressed, s.last = s.suppressed, 0, now
	return false, left
}

func (g *guard) unary(ctx context.Context, started time.Time, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (response any, err error) {
	ctx, requestID, err := g.withCaller(ctx, info.FullMethod)
	if err == nil {
		err = g.admission.check(ctx, info.FullMethod)
	}
	if err == nil {
		response, err = g.callUnary(ctx, request, handler)
	}
	if err = g.finish(ctx, info.FullMethod, requestID, started, err, func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) }); err != nil {
		return nil, err
	}
	return response, nil
}

func (g *guard) callUnary(ctx context.Context, request any, handler grpc.UnaryHandler) (response any, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = panicked(cause)
		}
	}()
	return handler(ctx, request)
}

func (g *guard) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	started := time.Now()
	ctx, requestID, err := g.withCaller(stream.Context(), info.FullMethod)
	if err == nil {
		err = g.admission.check(ctx, info.FullMethod)
	}
	if err == nil && slices.Contains(g.endless, info.FullMethod) {
		err = g.callEndless(ctx, server, stream, handler)
	} else if err == nil {
		err = g.callStream(server, &streamWithContext{ServerStream: stream, ctx: ctx}, handler)
	}
	return g.finish(ctx, info.FullMethod, requestID, started, err, stream.SetTrailer)
}

// callEndless ends the call, without an error, when the server drains.
func (g *guard) callEndless(ctx context.Context, server any, stream grpc.ServerStream, handler grpc.StreamHandler) error {
	until, end := context.WithCancelCause(ctx)
	defer end(nil)
	go func() {
		select {
		case <-g.draining:
			end(errDraining)
		case <-until.Done():
		}
	}()
	err := g.callStream(server, &streamWithContext{ServerStream: stream, ctx: until}, handler)
	if errors.Is(context.Cause(until), errDraining) {
		return nil
	}
	return err
}

func (g *guard) callStream(server any, stream grpc.ServerStream, handler grpc.StreamHandler) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = panicked(cause)
		}
	}()
	return handler(server, stream)
}

func panicked(cause any) error {
	return fault.New(codes.Internal, fault.ReasonInternal, "an internal error occurred").
		WithCause(fmt.Errorf("panic: %v\n%s", cause, debug.Stack()))
}

func (g *guard) withCaller(ctx context.Context, method string) (_ context.Context, requestID string, err error) {
	if g.anonymous && g.assertions == nil {
		return ctx, "", nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if values := md.Get(identity.HeaderRequestID); len(values) > 0 {
		requestID = values[0]
	}
	caller, ok := identity.FromMetadata(md)
	if !ok {
		return ctx, requestID, fault.New(codes.Unauthenticated, "IDENTITY_AMBIGUOUS", "an identity header is present more than once")
	}
	if g.assertions != nil {
		if caller, err = g.assertion(ctx, md, caller, method); err != nil {
			return ctx, requestID, err
		}
	}
	return identity.NewContext(ctx, caller), requestID, nil
}

// assertion is the caller that an assertion names. Without one it is the headers',
// unless assertions are required.
func (g *guard) assertion(ctx context.Context, md metadata.MD, caller identity.Identity, method string) (identity.Identity, error) {
	switch values := md.Get(assertion.Header); {
	case len(values) == 0 && (!g.asserted || strings.HasPrefix(method, "/grpc.health.")):
		return caller, nil
	case len(values) == 0:
		return caller, fault.New(codes.Unauthenticated, "ASSERTION_REQUIRED", "the call has no assertion of who calls")
	case len(values) > 1:
		return caller, fault.New(codes.Unauthenticated, "IDENTITY_AMBIGUOUS", "an identity header is present more than once")
	default:
		asserted, err := g.assertions.Verify(ctx, time.Now(), values[0])
		if err != nil {
			return caller, fault.New(codes.Unauthenticated, "ASSERTION_INVALID", "the assertion of who calls is not valid").WithCause(err)
		}
		return asserted, nil
	}
}

func (g *guard) finish(ctx context.Context, method, requestID string, started time.Time, err error, setTrailer func(metadata.MD)) error {
	if err == nil {
		if !g.quiet && !strings.HasPrefix(method, "/grpc.health.") {
			g.logger.InfoContext(ctx, "call", "method", method, "request_id", requestID, "code", codes.OK.String(), "duration", time.Since(started))
		}
		return nil
	}
	if values := metadata.ValueFromIncomingContext(ctx, identity.HeaderRequestID); requestID == "" && len(values) > 0 {
		requestID = values[0]
	}
	coded := fault.From(err)
	level := slog.LevelInfo
	switch coded.Kind {
	case codes.Internal, codes.Unknown, codes.DataLoss, codes.Unavailable:
		level = slog.LevelError
	}
	if skip, left := g.suppress(coded.Reason, time.Now()); !skip {
		g.logger.LogAttrs(ctx, level, "call failed",
			slog.String("method", method), slog.String("request_id", requestID), slog.String("code", coded.Kind.String()),
			slog.String("reason", coded.Reason), slog.String("error", coded.Error()), slog.Duration("duration", time.Since(started)),
			slog.Int("like_it_not_logged", left))
	}
	problem := coded.Problem(requestID)
	body := problem.ASCII()
	if len(body) > maxProblemBytes {
		problem.Errors = nil
		body = problem.ASCII()
	}
	if len(body) <= maxProblemBytes {
		setTrailer(metadata.Pairs(ProblemTrailer, body))
	}
	return coded.StatusFor(requestID).Err()
}

type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // grpc.ServerStream hands its context out by method
}

func (s *streamWithContext) Context() context.Context { return s.ctx }
