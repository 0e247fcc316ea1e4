package controlplane

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"slices"
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

// tell logs problems that are new, so that a standing one is said once.
func (l *Loop) tell(problems policy.Problems) {
	now := make(map[string]bool, len(problems))
	for _, problem := range problems {
		text := problem.Error()
		now[text] = true
		if l.told[text] {
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
	for _, text := range slices.Sorted(maps.Keys(l.told)) {
		if !now[text] {
			l.Logger.Info("mended", "problem", text)
		}
	}
	l.told = now
}
