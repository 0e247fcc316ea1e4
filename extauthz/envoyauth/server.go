package envoyauth

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"weir.dev/extauthz"
	"weir.dev/extauthz/record"
)

// RuleSource gives the rules in effect, nil while there are none. Safe for
// concurrent use.
type RuleSource interface {
	Current() *extauthz.Rules
}

// Observer hears of each decision, for metrics. It must not block.
type Observer interface {
	Decided(allowed bool, reason string, took time.Duration)
}

// Server decides by rules. Safe for concurrent use.
type Server struct {
	rules    RuleSource
	observer Observer
	logger   *slog.Logger
	clock    func() time.Time
	keeper   Keeper
}

// Keeper records decisions. Safe for concurrent use.
type Keeper interface {
	// Record comes before the answer, and may turn the decision into a denial.
	Record(ctx context.Context, made *record.Made)
	// Answered comes once the answer is worked out, and takes the request over.
	Answered(made record.Made)
}

// Keep has decisions recorded. Call it before anything is served.
func (s *Server) Keep(keeper Keeper) { s.keeper = keeper }

// NewServer makes a server; clock is time.Now outside tests.
func NewServer(rules RuleSource, observer Observer, logger *slog.Logger, clock func() time.Time) *Server {
	return &Server{rules: rules, observer: observer, logger: logger, clock: clock}
}

// Answer implements Checker.
func (s *Server) Answer(ctx context.Context, request *extauthz.Request) *Answer {
	started := time.Now()
	rules, decision := s.decide(ctx, request)
	made := record.Made{At: s.clock(), Took: time.Since(started), Rules: rules, Request: request, Decision: decision}
	s.keep(ctx, &made)
	answer := newAnswer(request, decision)
	s.observer.Decided(decision.Allowed, string(decision.Reason), time.Since(started))
	s.record(ctx, request, decision)
	if s.keeper != nil {
		s.keeper.Answered(made)
	}
	return answer
}

// keep records a decision, and denies when that breaks.
func (s *Server) keep(ctx context.Context, made *record.Made) {
	if s.keeper == nil {
		return
	}
	defer func() {
		if cause := recover(); cause != nil {
			made.Decision.Unrecorded(fmt.Errorf("panic: %v\n%s", cause, debug.Stack()))
		}
	}()
	s.keeper.Record(ctx, made)
}

// decide denies when deciding breaks, since a gRPC error would leave the
// request to Envoy's failure mode.
func (s *Server) decide(ctx context.Context, request *extauthz.Request) (rules *extauthz.Rules, decision *extauthz.Decision) {
	decision = &extauthz.Decision{}
	defer func() {
		if cause := recover(); cause != nil {
			*decision = extauthz.Decision{
				Reason: extauthz.ReasonInternal, Route: request.Route,
				Cause: fmt.Errorf("panic: %v\n%s", cause, debug.Stack()),
			}
		}
	}()
	rules = s.rules.Current()
	*decision = extauthz.Decide(ctx, s.clock(), rules, request)
	return rules, decision
}

// record logs denials at info, failures of our own at error, and the rest at
// debug. It names no header, path or query: those may hold secrets.
func (s *Server) record(ctx context.Context, request *extauthz.Request, decision *extauthz.Decision) {
	level := slog.LevelInfo
	switch {
	case decision.Allowed:
		level = slog.LevelDebug
	case decision.Reason == extauthz.ReasonInternal:
		level = slog.LevelError
	case decision.Reason == extauthz.ReasonRuleError, decision.Reason == extauthz.ReasonProviderUnavailable:
		level = slog.LevelWarn
	}
	if !s.logger.Enabled(ctx, level) {
		return
	}
	cause := ""
	if decision.Cause != nil {
		cause = decision.Cause.Error()
	}
	s.logger.LogAttrs(ctx, level, "decision",
		slog.Bool("allowed", decision.Allowed), slog.String("reason", string(decision.Reason)),
		slog.String("route", decision.Route), slog.String("policy", decision.Policy), slog.String("digest", decision.Digest),
		slog.String("rule", decision.Rule), slog.String("authenticator", decision.Authenticator),
		slog.String("principal", decision.Identity.Principal()),
		slog.String("method", request.Method), slog.String("request_id", request.ID), slog.String("cause", cause))
}
