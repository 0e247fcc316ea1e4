package extauthz

import (
	"time"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz/apikey"
	"weir.dev/kit/authzexpr"
)

// Rules is the whole of what is decided by. It is immutable; a change makes a
// new one.
type Rules struct {
	routes    *RouteSet
	consumers *ConsumerSet
}

// NewRules joins both parts; neither may be nil.
func NewRules(routes *RouteSet, consumers *ConsumerSet) *Rules {
	return &Rules{routes: routes, consumers: consumers}
}

// RouteSet is the compiled form of all routes. Immutable.
type RouteSet struct {
	routes map[string]*route
	// programs are the expressions in use by text, for the next compilation.
	programs map[string]*authzexpr.Program
}

// Len is the number of routes.
func (s *RouteSet) Len() int { return len(s.routes) }

type route struct {
	source         *rulesv1.AuthRoute
	id             string
	policy, digest string
	realm          string
	authenticators []authenticator
	rules          []rule
	hasAllow       bool
	// allowsByScope says that every ALLOW rule is about scopes alone.
	allowsByScope bool
	// attributes are what expressions read of the route.
	attributes authzexpr.Route
	roleClaims []string
	// behindProxies says that the client's address comes in a header of the edge.
	behindProxies bool
	readsRoles    bool
	sources       []*metadataSource
	// relationships, body and upstream are nil when the policy has none.
	relationships Relationships
	body          *bodyReader
	upstream      *upstream
	// credentialHeaders are removed from what the service sees.
	credentialHeaders []string
	// credentialCookie tells the cookies that are removed; nil for none.
	credentialCookie func(name string) bool
	// invites says that a method is an Inviter.
	invites bool
	// challenge offers every scheme; sent when no credential was.
	challenge string
	// tells goes with challenge.
	tells []Header
	audit rulesv1.Audit
	// candidates decide nothing.
	candidates []*candidate
}

type authenticator struct {
	name string
	// method is nil for the anonymous one.
	method Method
	// timeout bounds one proof; zero leaves it to the caller's deadline.
	timeout time.Duration
	// failsOver leaves a request whose provider cannot be asked to the next one.
	failsOver bool
	// bound says that the method looks at what a token is bound to.
	bound bool
}

type rule struct {
	name   string
	effect effect
	// program is nil where the rule always holds.
	program *authzexpr.Program
	// sources are what the expression reads as metadata.
	sources []*metadataSource
	// requirements is nil when there are none.
	requirements *requirements
	// aboutScope says that the expression reads nothing but the scopes.
	aboutScope bool
}

// ConsumerSet is the compiled form of all consumers. Immutable.
type ConsumerSet struct {
	keys     *apikey.Index[Proof]
	subjects map[tokenSubject]*Consumer
	// signers are the keys of signed requests by id.
	signers map[string]*Signer
	names   map[string]*Consumer
}

// Len is the number of consumers.
func (s *ConsumerSet) Len() int { return len(s.names) }

// Keys is the number of API keys.
func (s *ConsumerSet) Keys() int { return s.keys.Len() }

// Consumer is one party that calls the API. Shared: never changed.
type Consumer struct {
	// Name is "namespace/name".
	Name string
	// Tenant and Tier are empty when it has none.
	Tenant, Tier string
	// Attributes are the consumer's own facts, by name.
	Attributes map[string]string
}

// ByName returns the consumer of a name, nil if there is none.
func (s *ConsumerSet) ByName(name string) *Consumer { return s.names[name] }

// BySubject returns the consumer that an issuer's subject stands for, nil if
// there is none.
func (s *ConsumerSet) BySubject(issuer, subject string) *Consumer {
	return s.subjects[tokenSubject{issuer, subject}]
}

type tokenSubject struct{ issuer, subject string }
