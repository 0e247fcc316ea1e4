package extauthz

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz/apikey"
	"weir.dev/kit/authzexpr"
)

// Token is what a verified token says. Shared by all requests that present it:
// never changed.
type Token struct {
	Issuer, Subject string
	// Tenant is the mapped claim; empty when there is none.
	Tenant string
	Scopes []string
	Claims *structpb.Struct
}

// TokenVerifier proves a token. Implementations are safe for concurrent use.
type TokenVerifier interface {
	// Verify returns what the token says if its signature, issuer, audience
	// and times hold at now. Every error is a refusal; one that wraps a
	// *Refusal carries its reason, and none holds any part of the token's
	// signature. Only fetching keys may wait, never past ctx.
	Verify(ctx context.Context, now time.Time, token string) (*Token, error)
}

// TokenVerifiers makes verifiers and reads the one thing of a token that
// chooses between them.
type TokenVerifiers interface {
	// Verifier returns the verifier of a provider. Equal providers share what
	// they have fetched. The error names the field of provider at fault.
	Verifier(provider *rulesv1.JwtAuthenticator) (TokenVerifier, error)
	// Issuer is the unverified issuer of a token: good for choosing who has to
	// verify it, for nothing else.
	Issuer(token string) (string, error)
}

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
	issuers  func(token string) (string, error)
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
	needsHeaders  bool
	// credentialHeaders are removed from what the service sees.
	credentialHeaders []string
	// challenge offers every scheme; sent when no credential was.
	challenge string
	tokens    int // how many authenticators verify tokens
}

type authenticator struct {
	name string
	kind authenticatorKind
	// header carries the API key.
	header   string
	issuer   string
	verifier TokenVerifier
}

type authenticatorKind uint8

const (
	kindAPIKey authenticatorKind = iota + 1
	kindToken
	kindAnonymous
)

type rule struct {
	name    string
	allow   bool
	program *authzexpr.Program
	// aboutScope says that the expression reads nothing but the scopes.
	aboutScope bool
}

// ConsumerSet is the compiled form of all consumers. Immutable.
type ConsumerSet struct {
	keys     *apikey.Index[keyOwner]
	subjects map[tokenSubject]*consumer
	count    int
}

// Len is the number of consumers.
func (s *ConsumerSet) Len() int { return s.count }

// Keys is the number of API keys.
func (s *ConsumerSet) Keys() int { return s.keys.Len() }

type consumer struct{ name, tenant, tier string }

type keyOwner struct {
	consumer *consumer
	name     string
	scopes   []string
}

type tokenSubject struct{ issuer, subject string }
