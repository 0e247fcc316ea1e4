package ads

import "time"

// SetStepTimeout replaces how long a step waits; call it before any rollout.
func (s *Server) SetStepTimeout(timeout time.Duration) {
	for _, group := range s.groups {
		group.stepTimeout = timeout
	}
}

// SetLinger replaces how long what is unused stays; call it before any rollout.
func (s *Server) SetLinger(linger time.Duration) {
	for _, group := range s.groups {
		group.linger = linger
	}
}

// SetAtOnce is the negative control of the order of rollouts; call it before any.
func (g *Group) SetAtOnce() { g.atOnce = true }

// SetDrain replaces how long the scopes stay that a proxy brought along.
func (s *Server) SetDrain(drain time.Duration) {
	for _, group := range s.groups {
		group.drain = drain
	}
}
