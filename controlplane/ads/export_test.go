package ads

import "time"

// SetStepTimeout replaces how long a step waits; call it before any rollout.
func (s *Server) SetStepTimeout(timeout time.Duration) { s.stepTimeout = timeout }
