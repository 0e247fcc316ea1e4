package ads

import "time"

// SetStepTimeout replaces how long a step waits; call it before any rollout.
func (s *Server) SetStepTimeout(timeout time.Duration) {
	for _, group := range s.groups {
		group.stepTimeout = timeout
	}
}
