package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"weir.dev/controlplane/ads"
	"weir.dev/controlplane/envoy"
	"weir.dev/controlplane/folder"
	"weir.dev/policy"
)

// Status is what the control plane says of itself at /status.
type Status struct {
	// Plan is the digest of the Plan that every connected client acknowledged;
	// empty before the first.
	Plan string `json:"plan"`
	// Rolling is the digest of a Plan under way or rejected.
	Rolling string `json:"rolling,omitempty"`
	// Error is why Rolling is not in force.
	Error    string          `json:"error,omitempty"`
	Updated  time.Time       `json:"updated"`
	Problems policy.Problems `json:"problems"`
	Clients  []ads.Client    `json:"clients"`
}

// Loop turns updates of a source into rollouts.
type Loop struct {
	Server  *ads.Server
	Options envoy.Options
	Logger  *slog.Logger
	// RetryEvery is how often what was rejected is tried again; 0 means 15 s.
	RetryEvery time.Duration

	mu     sync.Mutex
	status Status
	told   []string
}

// retryEvery is how often a rollout that was rejected, as a whole or in part, is
// tried again: what a proxy rejected may work later, such as a port that was
// taken.
const retryEvery = 15 * time.Second

// watchEvery is how often rejections outside of a rollout are looked for.
const watchEvery = 500 * time.Millisecond

// Run rolls out the newest update until ctx ends; updates that come during a
// rollout replace each other.
func (l *Loop) Run(ctx context.Context, updates <-chan folder.Update) error {
	retry := time.NewTicker(cmp.Or(l.RetryEvery, retryEvery))
	defer retry.Stop()
	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	var last folder.Update
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case last = <-updates:
			l.apply(ctx, last, false)
		case <-watch.C:
			// A client that came after the rollout may reject what is in force.
			if status := l.Status(); status.Error == "" && slices.ContainsFunc(status.Clients, func(c ads.Client) bool { return c.Rejected != nil }) {
				l.apply(ctx, last, true)
			}
		case <-retry.C:
			if l.Status().Error != "" {
				l.Server.Retry()
				l.apply(ctx, last, true)
			}
		}
	}
}

// Status is a copy of the current status. Safe for concurrent use.
func (l *Loop) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	status := l.status
	status.Clients = l.Server.Clients()
	if status.Problems == nil {
		status.Problems = policy.Problems{} // "problems": [] in JSON
	}
	return status
}

// ServeStatus answers GET /status.
func (l *Loop) ServeStatus(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(l.Status()); err != nil {
		l.Logger.Debug("status not sent", "error", err)
	}
}

// apply resolves, compiles and rolls out an update; again says that this is to be
// done even if the plan is the one in force.
func (l *Loop) apply(ctx context.Context, update folder.Update, again bool) {
	plan, problems := policy.Resolve(update.Input)
	problems = append(slices.Clone(update.Problems), problems...)
	problems.Sort()
	l.tell(problems)
	set, err := envoy.Compile(plan, l.Options)
	// After a failure there is something to settle even when the plan is the one
	// in force: what was rejected may have been put back, or be served in part.
	if status := l.Status(); err == nil && !again && status.Plan == plan.Digest && status.Rolling == "" {
		l.record(func(s *Status) { s.Problems, s.Updated = problems, time.Now() })
		return
	}
	// Error stays until it is known whether it still holds.
	l.record(func(s *Status) { s.Problems, s.Rolling, s.Updated = problems, plan.Digest, time.Now() })
	started := time.Now()
	if err == nil {
		err = l.Server.Rollout(ctx, set)
	}
	if err != nil {
		// Also when most of it is in force (ads.PartialError), Plan stays the one
		// that was acknowledged whole.
		l.record(func(s *Status) { s.Error = strings.TrimSpace(err.Error()) })
		l.Logger.ErrorContext(ctx, "the new plan is not in force, or not all of it", "plan", plan.Digest, "error", err)
		return
	}
	l.record(func(s *Status) { s.Plan, s.Rolling, s.Error = plan.Digest, "", "" })
	l.Logger.InfoContext(ctx, "plan in force", "plan", plan.Digest, "routes", countRoutes(plan), "backends", len(plan.Backends),
		"consumers", len(plan.Consumers), "limits", len(plan.RateLimits), "problems", len(problems.Errors()), "duration", time.Since(started))
}

func (l *Loop) record(change func(*Status)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.status)
}

// tell logs problems that are new, so that a standing one is said once.
func (l *Loop) tell(problems policy.Problems) {
	var now []string
	for _, problem := range problems {
		text := problem.Error()
		now = append(now, text)
		if slices.Contains(l.told, text) {
			continue
		}
		level := slog.LevelError
		switch {
		case problem.Code == policy.CodeOpenRoute:
			level = slog.LevelWarn
		case problem.Severity == policy.SeverityNotice:
			level = slog.LevelInfo
		}
		l.Logger.Log(context.Background(), level, text, "code", string(problem.Code), "object", problem.Object.String(),
			"field", problem.Field, "file", problem.File, "line", problem.Line)
	}
	for _, text := range l.told {
		if !slices.Contains(now, text) {
			l.Logger.Info("mended", "problem", text)
		}
	}
	l.told = now
}

func countRoutes(plan *policy.Plan) int {
	count := 0
	for _, port := range plan.Ports {
		for _, chain := range port.Chains {
			for _, host := range chain.Hosts {
				count += len(host.Routes)
			}
		}
	}
	return count
}

// Access is who may subscribe to what.
func Access(ingress, extAuthz, rateLimit string) ads.Access {
	const rules = "type.googleapis.com/weir.rules.v1."
	return ads.Access{
		ingress:   {envoy.TypeListener, envoy.TypeRoute, envoy.TypeCluster, envoy.TypeEndpoint},
		extAuthz:  {rules + "AuthRoute", rules + "Consumer"},
		rateLimit: {rules + "RateLimitRule"},
	}
}

// Follow runs a source and hands its newest update to the returned channel.
func Follow(ctx context.Context, source *folder.Source) (<-chan folder.Update, <-chan error) {
	updates, failed := make(chan folder.Update, 1), make(chan error, 1)
	go func() {
		failed <- source.Run(ctx, func(update folder.Update) {
			for {
				select {
				case updates <- update:
					return
				default:
				}
				select {
				case <-updates:
				default:
				}
			}
		})
	}()
	return updates, failed
}

// errSource wraps why a source ended.
func errSource(err error) error { return fmt.Errorf("policy source: %w", err) }
