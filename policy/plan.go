package policy

import (
	"time"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/limitexpr"
	"weir.dev/policy/v1alpha1"
)

// Plan is the resolved, immutable outcome of all resources: what every target
// is compiled from.
type Plan struct {
	// Digest identifies the content (hex).
	Digest string
	// Ports are sorted by fleet, number and addresses.
	Ports []Port
	// Backends, those in use only, are sorted by id.
	Backends []Backend
	// Secrets, those in use only, are sorted by id.
	Secrets []Secret
	// Infrastructure is what Gateways want of what is made for them, sorted by
	// Gateway.
	Infrastructure []Infrastructure
	// AuthRoutes are sorted by route id; Consumers and RateLimits by name.
	AuthRoutes []*rulesv1.AuthRoute
	Consumers  []*rulesv1.Consumer
	RateLimits []*rulesv1.RateLimitRule
	// Statuses, sorted by object, say what became of each object. They are no
	// part of Digest.
	Statuses []ObjectStatus
}

// Port is one port of one fleet of proxies.
type Port struct {
	// Fleet names the proxies that serve the port, see Input.FleetOf.
	Fleet  string
	Number int32
	// Addresses are IP addresses to bind to, sorted; "" is the target's own, and so
	// is none. Ports of one number have no address in common.
	Addresses []string `json:",omitempty"`
	// Gateway is the namespace and name of the first that asks for Addresses; empty
	// where none does. It tells ports of one number apart, and stays when its
	// addresses change.
	Gateway string `json:",omitempty"`
	// Chains are told apart by the server name that the client asks for (SNI),
	// sorted by name. A plain HTTP port has exactly one.
	Chains []Chain
}

// PlainChain is the name of a plain HTTP port's only chain.
const PlainChain = "http"

// Host is one virtual host: a DNS name, a wildcard such as "*.example.com", or
// "*".
type Host struct {
	Name string
	// Misdirected is set for a host that another chain of the port serves: requests
	// are answered with 421, so that the client opens a connection for it (RFC 9110,
	// section 15.5.20).
	Misdirected bool
	// Routes are in order of precedence: the first match answers.
	Routes []Route
}

// Route is one match of one rule.
type Route struct {
	// ID is stable over edits of other rules where the rule has a name, e.g.
	// "httproute/default/users/api@default/edge/http"; the rule at index 0 without
	// a name is "#0". It names exactly one rule on one listener.
	ID     string
	Match  Match
	Origin Origin
	// GRPC is set for matches of a GRPCRoute.
	GRPC bool

	RequestHeaders  HeaderChange
	ResponseHeaders HeaderChange
	Redirect        *Redirect
	Rewrite         *Rewrite
	CORS            *CORS

	// Backends share the requests by weight. Empty without a Redirect means
	// that every request is answered with 500, as the Gateway API asks for
	// references that cannot be resolved.
	Backends []WeightedBackend
	// Mirrors are sent copies of requests; their answers are dropped.
	Mirrors []Mirror
	// Timeout of the whole exchange; 0 means the target's default.
	Timeout time.Duration
	// BackendTimeout of one try; 0 means none but Timeout.
	BackendTimeout time.Duration
	// StreamIdle ends an exchange in which nothing moves; 0 means the target's
	// default.
	StreamIdle time.Duration
	// WebSocket lets clients turn their connection into one (RFC 6455, RFC 8441),
	// because every backend says that it speaks that.
	WebSocket bool
	// Retry is nil for the target's default.
	Retry   *Retry
	Session *Session
	// Traffic is nil when no TrafficPolicy says anything about requests.
	Traffic *Traffic

	// Auth is nil for an open route.
	Auth *Auth
	// Limits are the rate limits, in the policy's order.
	Limits []Limit
	// Extensions process the exchange, in the order in which a request meets them.
	Extensions []Extension
	// Security replaces the chain's where it is set.
	Security *Security
	// Policies are all that reach the route, those in effect and those that lost,
	// by kind and then in order of precedence. They are no part of Plan.Digest.
	Policies []PolicyUse

	digest [16]byte
}

// Digest identifies what the route says, apart from its Origins and Policies. It
// is that of the zero value before Resolve has returned.
func (r *Route) Digest() [16]byte { return r.digest }

// PolicyUse says what became of a policy on one route.
type PolicyUse struct {
	// Policy is the object, or the part of it, that reaches the route.
	Policy Origin
	// Level is where it is attached: "rule", "route", "listener",
	// "listenerset" or "gateway".
	Level string
	// Overrides is set for what the policy says under spec.overrides (GEP-713).
	Overrides bool
	Effect    PolicyEffect
	// By are those that it lost to, in part or whole.
	By []Origin
	// Reason is one clause for people.
	Reason string
}

// PolicyEffect is how much of a policy is in effect.
type PolicyEffect string

// Effects of a policy.
const (
	PolicyApplied    PolicyEffect = "Applied"
	PolicyPartly     PolicyEffect = "Partly"
	PolicyOverridden PolicyEffect = "Overridden"
	// PolicyCompared is of a policy in the shadow.
	PolicyCompared PolicyEffect = "Compared"
)

// NoTimeout is a timeout that the operator switched off.
const NoTimeout time.Duration = -1

// Match says which requests a route takes. All parts must hold.
type Match struct {
	Path    PathMatch
	Method  string
	Headers []ValueMatch
	Query   []ValueMatch
	// RPC is the method of a GRPCRoute's match that names no service; Path says
	// the same as an expression.
	RPC string
}

// PathKind is how a path is compared.
type PathKind string

// Kinds of path matches, in order of precedence.
const (
	PathExact  PathKind = "Exact"
	PathRegex  PathKind = "RegularExpression"
	PathPrefix PathKind = "PathPrefix"
)

// PathMatch compares the canonical path without query.
type PathMatch struct {
	Kind  PathKind
	Value string
}

// ValueMatch compares one header (lower-case name) or query parameter.
type ValueMatch struct {
	Name  string
	Value string
	Regex bool
}

// HeaderChange is applied in the order remove, set, add.
type HeaderChange struct {
	Set, Add []Header
	Remove   []string
}

// Empty reports whether nothing changes.
func (h HeaderChange) Empty() bool { return len(h.Set)+len(h.Add)+len(h.Remove) == 0 }

// Header is a name and a value.
type Header struct{ Name, Value string }

// Redirect answers instead of a backend. Empty parts stay as requested.
type Redirect struct {
	Scheme, Host string
	Port         int32
	Status       int
	Path         *PathChange
}

// Rewrite changes what the backend is sent.
type Rewrite struct {
	Host string
	Path *PathChange
}

// PathChange replaces the whole path, or the matched prefix.
type PathChange struct {
	Full   string
	Prefix string
	// IsPrefix says which of the two it is.
	IsPrefix bool
}

// CORS is what browsers are told.
type CORS struct {
	AllowOrigins     []string
	AllowMethods     []string
	AllowHeaders     []string
	ExposeHeaders    []string
	AllowCredentials bool
	MaxAge           time.Duration
}

// Auth refers to the AuthRoute of the route.
type Auth struct {
	// RouteID is the AuthRoute's resource name: the route's id, "~" and a digest of
	// what the route takes and does.
	RouteID string
	// Refuse is set where a broken policy must not leave the route open: every
	// request is refused.
	Refuse bool
	// Origin is the policy in effect, the first in precedence of several.
	Origin Origin
	// Authenticators and Rules say where those of the AuthRoute come from, in its
	// order. They are shared between routes.
	Authenticators, Rules []AuthPart
	// LeftOut are ways that are broken: nobody comes in by them.
	LeftOut []LeftOut `json:",omitempty"`
	// BodyBytes is how much of the body is sent with the check, which then waits
	// for it; longer ones are refused. 0 sends none.
	BodyBytes uint32 `json:",omitempty"`
	// CheckTimeout is how long the check may take, at most a minute: a second, and
	// the timeouts of whoever the policy asks. 0 means a second, where it asks nobody.
	CheckTimeout time.Duration `json:",omitempty"`
	// Login is set where a way in is a login, and on that login's own paths.
	Login bool `json:",omitempty"`
	// Audit is what the audit log gets: "required", "bestEffort" or nothing.
	Audit v1alpha1.AuditMode
	// Candidates are compared with this and not in force.
	Candidates []AuthCandidate
}

// AuthCandidate is rules that are compared with those in force.
type AuthCandidate struct {
	// Policy names the AuthPolicies as the AuthRoute does.
	Policy string `json:"policy"`
	// Origin is the first policy or rule in the shadow.
	Origin Origin `json:"origin"`
}

// LeftOut is a way to authenticate that is broken.
type LeftOut struct {
	Name   string `json:"name"`
	Origin Origin `json:"origin"`
	// Reason says what is wrong with it.
	Reason string `json:"reason"`
}

// AuthPart is an authenticator or an authorization rule of an AuthRoute.
type AuthPart struct {
	Name   string
	Origin Origin
}

// Limit is one rate limit on a route.
type Limit struct {
	// Rule is the RateLimitRule's id.
	Rule        string
	By          []v1alpha1.CountBy
	ByTier      bool
	FailureMode v1alpha1.FailureMode
	// ByClass sends the caller's tier along, by which parts of the limit are kept.
	ByClass bool
	// Override is the fact of the caller that says the number of requests, and
	// TierFrom the one that says its tier: "attribute.NAME" of the Consumer or
	// "claim.PATH" of the token; empty for none.
	Override string
	TierFrom string
	// CostHeader of the request and SettleHeader of the response say costs; in
	// lower case, empty for none.
	CostHeader   string
	SettleHeader string
	// CostInputs are what the cost's expression reads, and SettleField is where the
	// response's body says it; empty for none.
	CostInputs  []limitexpr.Input
	SettleField string
	// Quota says that Envoy decides from what it is assigned.
	Quota bool
	// Ends tells the limiter when the response is over, as a SettleHeader does.
	Ends bool
	// Group is what requests are counted together by type Route: the id of the
	// route object; empty where By has no such part.
	Group  string
	Origin Origin
}
