package controlplane

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"time"

	"weir.dev/controlplane/ads"
	"weir.dev/policy"
)

// Status is what the control plane says of itself at /status.
type Status struct {
	// Plan is the digest of the Plan that every connected client acknowledged
	// whole; empty before the first.
	Plan string `json:"plan"`
	// Rolling is the digest of a Plan under way or rejected.
	Rolling string `json:"rolling,omitempty"`
	// Error is why Rolling is not in force.
	Error    string          `json:"error,omitempty"`
	Updated  time.Time       `json:"updated"`
	Problems policy.Problems `json:"problems"`
	Clients  []ads.Client    `json:"clients"`
}

// Status is a copy of the current status. Safe for concurrent use.
func (l *Loop) Status() Status {
	l.mu.Lock()
	status := l.status
	l.mu.Unlock()
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

// tell logs problems that are new, so that a standing one is said once. Both
// lists are sorted: what they begin and end with alike is passed over.
func (l *Loop) tell(problems policy.Problems) {
	before, now := l.told, problems
	for len(before) > 0 && len(now) > 0 && before[0] == now[0] {
		before, now = before[1:], now[1:]
	}
	for len(before) > 0 && len(now) > 0 && before[len(before)-1] == now[len(now)-1] {
		before, now = before[:len(before)-1], now[:len(now)-1]
	}
	l.told = problems
	known, stands := map[string]bool{}, map[string]bool{}
	for _, problem := range before {
		known[problem.Error()] = true
	}
	for _, problem := range now {
		text := problem.Error()
		stands[text] = true
		if known[text] {
			continue
		}
		known[text] = true
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
	for _, problem := range before {
		if text := problem.Error(); !stands[text] {
			stands[text] = true
			l.Logger.Info("mended", "problem", text)
		}
	}
}
