package ads

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"weir.dev/controlplane/envoy"
)

// Group is a set of clients that are served the same target: a fleet of proxies,
// or Weir's own servers. Groups do not wait for each other. Safe for concurrent
// use but for Rollout.
type Group struct {
	name    string
	logger  *slog.Logger
	metrics *metrics
	// stepTimeout is how long one step of a rollout waits for acknowledgement.
	stepTimeout time.Duration
	// linger is how long what is unused stays, see there.
	linger time.Duration
	// drain is how long the scopes stay that a proxy brought along.
	drain time.Duration
	// closed ends every stream; first is called with the first target.
	closed chan struct{}
	once   sync.Once
	first  func()
	// atOnce is set by tests: what they claim of the order of a rollout must fail
	// then.
	atOnce bool

	mu       sync.Mutex
	target   envoy.Set
	ready    bool
	changed  chan struct{}
	sessions map[*session]struct{}
	// unused is since when what lingers has been unused, by type and name; rolling
	// is set while a rollout is under way.
	unused  map[string]map[string]time.Time
	rolling bool
}

// Rejection is a NACK.
type Rejection struct {
	Node      string   `json:"node"`
	TypeURL   string   `json:"type"`
	Resources []string `json:"resources"`
	Message   string   `json:"message"`
	// Kept says of each resource that was quarantined whether its last good version
	// serves in its place.
	Kept map[string]bool `json:"kept,omitempty"`
}

func newGroup(name string, logger *slog.Logger, metrics *metrics, first func()) *Group {
	return &Group{
		name: name, logger: logger, metrics: metrics, stepTimeout: stepTimeout, linger: linger, drain: envoy.RetireAfter, closed: make(chan struct{}), first: first,
		target: envoy.Set{}, changed: make(chan struct{}), sessions: map[*session]struct{}{}, unused: map[string]map[string]time.Time{},
	}
}

// close ends every stream, of now and later.
func (g *Group) close() { g.once.Do(func() { close(g.closed) }) }

func (g *Group) join(session *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	session.poke = make(chan struct{}, 1)
	g.sessions[session] = struct{}{}
	g.metrics.clients.Inc()
}

func (g *Group) leave(session *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.sessions, session)
	g.metrics.clients.Dec()
	g.wake()
}

// set replaces the target and wakes everybody.
func (g *Group) set(target envoy.Set) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.setLocked(target)
}

// setLocked is set for a caller that holds mu.
func (g *Group) setLocked(target envoy.Set) {
	if !g.ready {
		g.ready = true
		g.first()
	}
	changed := map[string][]string{}
	for typeURL := range allTypes(g.target, target) {
		changed[typeURL] = changedNames(g.target[typeURL], target[typeURL])
	}
	g.target = target
	for session := range g.sessions {
		for typeURL, sub := range session.types {
			sub.touch(changed[typeURL]...)
		}
		session.wake()
	}
	g.wake()
}

func allTypes(sets ...envoy.Set) map[string]bool {
	types := map[string]bool{}
	for _, set := range sets {
		for typeURL := range set {
			types[typeURL] = true
		}
	}
	return types
}

// changedNames are those that differ, or are in one only.
func changedNames(a, b map[string]envoy.Resource) []string {
	if same(a, b) {
		return nil
	}
	var names []string
	for name, resource := range b {
		if before, ok := a[name]; !ok || before.Version != resource.Version {
			names = append(names, name)
		}
	}
	for name := range a {
		if _, ok := b[name]; !ok {
			names = append(names, name)
		}
	}
	return names
}

// wake has the session's goroutine look for something to send.
func (s *session) wake() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// wake tells waiters that something changed; the caller holds mu.
func (g *Group) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// Target is what is served now; it is not to be changed.
func (g *Group) Target() envoy.Set {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.target
}

// Changed returns a channel that closes when a client comes, goes, or says
// something.
func (g *Group) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

// Fresh reports whether no connected client came with anything from an earlier
// stream.
func (g *Group) Fresh() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for session := range g.sessions {
		if session.had {
			return false
		}
	}
	return true
}

// Client is a connected subscriber, for status.
type Client struct {
	Node string `json:"node"`
	Peer string `json:"peer"`
	// Group is the fleet that its certificate puts it in.
	Group string `json:"group,omitempty"`
	// InSync says that everything it subscribed to is acknowledged, and that
	// nothing is left that it has yet to subscribe to.
	InSync bool `json:"inSync"`
	// SyncedButListeners says that it would be in sync but for listeners that it
	// rejected.
	SyncedButListeners bool `json:"-"`
	// Rejected is what it refuses of what is served now.
	Rejected *Rejection `json:"rejected,omitempty"`
}

// Clients lists the connected subscribers by node id; whoever has subscribed to
// nothing yet is none.
func (g *Group) Clients() []Client {
	g.mu.Lock()
	defer g.mu.Unlock()
	var clients []Client
	for session := range g.sessions {
		if len(session.types) == 0 {
			continue
		}
		client := Client{Node: session.node, Peer: session.peer, Group: g.name, Rejected: session.rejected(nil, nil)}
		answered := g.ready && session.inSync(nil) && session.follows()
		client.InSync = answered && client.Rejected == nil
		client.SyncedButListeners = answered && session.rejected(nil, session.typesBut(envoy.TypeListener)) == nil
		clients = append(clients, client)
	}
	slices.SortFunc(clients, compareClients)
	return clients
}

// Accepted reports whether a client is connected that has acknowledged all of
// what is served now, but for listeners that it cannot open.
func (g *Group) Accepted() bool {
	return slices.ContainsFunc(g.Clients(), func(c Client) bool { return c.InSync || c.SyncedButListeners })
}

// outOfSync lists the clients that have not answered the target for types (nil
// for all); rejected is set when one of them refused a part of it that base does
// not have too. Clients that are late already are not waited for.
func (g *Group) outOfSync(base envoy.Set, types []string) (waiting []*session, rejected *Rejection) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for session := range g.sessions {
		if rejection := session.rejected(base, types); rejection != nil {
			rejected = rejection
		}
		session.late = session.late && !session.inSync(nil)
		if !session.late && !session.inSync(types) {
			waiting = append(waiting, session)
		}
	}
	return waiting, rejected
}

// leaveBehind marks clients that do not answer, and names them.
func (g *Group) leaveBehind(sessions []*session) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	names := make([]string, len(sessions))
	for i, session := range sessions {
		session.late, names[i] = true, session.node
	}
	slices.Sort(names)
	return names
}

// merge is base with the resources of the given types added from extra. A type
// to which nothing is added stays the map that it is.
func merge(base, extra envoy.Set, types ...string) envoy.Set {
	merged := maps.Clone(base)
	for _, typeURL := range types {
		merged[typeURL] = mergeType(base[typeURL], extra[typeURL])
	}
	return merged
}

func mergeType(base, extra map[string]envoy.Resource) map[string]envoy.Resource {
	if len(base) == 0 && extra != nil {
		return extra
	}
	added, all := false, true
	for name, resource := range extra {
		before, ok := base[name]
		added = added || !ok || before.Version != resource.Version
	}
	if !added {
		return base
	}
	for name := range base {
		if _, all = extra[name]; !all {
			break
		}
	}
	if all {
		return extra
	}
	resources := maps.Clone(base)
	maps.Copy(resources, extra)
	return resources
}

// replace is base with the given types taken whole from other.
func replace(base, other envoy.Set, types ...string) envoy.Set {
	merged := maps.Clone(base)
	for _, typeURL := range types {
		merged[typeURL] = other[typeURL]
	}
	return merged
}

func (r *Rejection) Error() string {
	return fmt.Sprintf("%s rejected %s %s: %s", r.Node, shortType(r.TypeURL), strings.Join(r.Resources, ", "), r.Message)
}
