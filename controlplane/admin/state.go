package admin

import (
	"context"
	"time"

	"weir.dev/controlplane/ads"
	"weir.dev/controlplane/envoy"
	"weir.dev/policy"
)

// Running is the control plane at work. Safe for concurrent use.
type Running interface {
	// State is what is known now; its Plan is nil before the first.
	State() State
	// Await returns when a state is such that until holds, or with the error of
	// ctx.
	Await(ctx context.Context, until func(State) bool) error
	// Options are the compiler's, for a fleet.
	Options(fleet string) envoy.Options
}

// State is the newest policy and how far it is. It is not to be changed.
type State struct {
	Input policy.Input
	Plan  *policy.Plan
	// Problems of sources, resolving and rollout.
	Problems policy.Problems
	// Acknowledged is the digest of the last Plan that every client has.
	Acknowledged string
	// Fleets, sorted by name.
	Fleets []Fleet
	// Clients are all that are connected, Weir's own servers too.
	Clients []ads.Client
	Time    time.Time
}

// Fleet is how far one fleet is.
type Fleet struct {
	Name        string       `json:"name,omitempty"`
	Programmed  bool         `json:"programmed,omitempty"`
	Waiting     string       `json:"waiting,omitempty"`
	Clients     []Client     `json:"clients,omitempty"`
	Quarantined []Quarantine `json:"quarantined,omitempty"`
}

// Client is a connected subscriber.
type Client struct {
	Node     string         `json:"node,omitempty"`
	Peer     string         `json:"peer,omitempty"`
	InSync   bool           `json:"inSync,omitempty"`
	Rejected *ads.Rejection `json:"rejected,omitempty"`
}

// Quarantine is what a proxy rejected.
type Quarantine struct {
	Origin   policy.Origin `json:"origin"`
	Kept     bool          `json:"kept,omitempty"`
	Node     string        `json:"node,omitempty"`
	Resource string        `json:"resource,omitempty"`
	Message  string        `json:"message,omitempty"`
}

// ClientsOf converts what package ads has.
func ClientsOf(clients []ads.Client) []Client {
	out := make([]Client, len(clients))
	for i, client := range clients {
		out[i] = Client{Node: client.Node, Peer: client.Peer, InSync: client.InSync, Rejected: client.Rejected}
	}
	return out
}

// programmed reports whether every fleet is, and else why not.
func (s *State) programmed() (bool, string) {
	for _, fleet := range s.Fleets {
		if !fleet.Programmed {
			return false, fleet.waitingText()
		}
	}
	return s.Plan != nil, ""
}

func (f *Fleet) waitingText() string {
	if f.Name == "" {
		return f.Waiting
	}
	return "fleet " + f.Name + ": " + f.Waiting
}
