package extauthz

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz/apikey"
	"weir.dev/kit/authzexpr"
)

// Bounds of one route; the control plane's own limits are tighter.
const (
	maxAuthenticators = 16
	maxRules          = 256
	// maxMethodTimeout bounds what one authenticator may wait.
	maxMethodTimeout = 30 * time.Second
	// maxReported bounds how many mistakes one error lists.
	maxReported = 20
)

const headerAuthorization = "authorization"

// Compiler turns rules as sent into rules to decide by. Safe for concurrent
// use.
type Compiler struct {
	environment *authzexpr.Environment
	builders    []Builder
	extensions  Extensions
	issued      IssuedKeys
}

// UseIssuedKeys lets API key methods accept keys that are not part of the rules.
// Call it before the first compilation only.
func (c *Compiler) UseIssuedKeys(keys IssuedKeys) { c.issued = keys }

// NewCompiler makes a compiler that knows API keys, anonymous callers and the
// methods of builders.
func NewCompiler(builders ...Builder) (*Compiler, error) {
	environment, err := authzexpr.NewEnvironment()
	if err != nil {
		return nil, err
	}
	return &Compiler{environment: environment, builders: builders}, nil
}

// Routes compiles a whole set, by route id. Routes that are the same pointer as
// in previous (nil if there is none) are taken over as they are. One bad route
// fails the set; the error names each bad route and field.
func (c *Compiler) Routes(previous *RouteSet, sources map[string]*rulesv1.AuthRoute) (*RouteSet, error) {
	set := &RouteSet{
		routes:   make(map[string]*route, len(sources)),
		programs: map[string]*authzexpr.Program{},
	}
	if previous == nil {
		previous = &RouteSet{}
	}
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(sources)) {
		source := sources[id]
		if old := previous.routes[id]; old != nil && old.source == source {
			set.take(old)
			continue
		}
		compiled, err := c.route(previous, set, id, source)
		if err != nil {
			if errs = append(errs, fmt.Errorf("route %q: %w", id, err)); len(errs) == maxReported {
				break
			}
			continue
		}
		set.routes[id] = compiled
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return set, nil
}

// take carries a compiled route and its expressions over.
func (s *RouteSet) take(old *route) {
	s.routes[old.id] = old
	for i, source := range old.source.GetRules() {
		if program := old.rules[i].program; program != nil {
			s.programs[source.GetExpression()] = program
		}
	}
	for _, candidate := range old.candidates {
		for i, source := range candidate.source.GetRules() {
			if program := candidate.rules[i].program; program != nil {
				s.programs[source.GetExpression()] = program
			}
		}
	}
}

func (c *Compiler) route(previous, set *RouteSet, id string, source *rulesv1.AuthRoute) (*route, error) {
	r := &route{
		source: source, id: id,
		policy: source.GetPolicy(), digest: source.GetDigest(), realm: realm(source.GetRealm()), audit: source.GetAudit(),
	}
	var errs []error
	if _, known := rulesv1.Audit_name[int32(r.audit)]; !known {
		errs = append(errs, fmt.Errorf("audit: %s is not known", r.audit))
	}
	if source.GetRouteId() != id {
		errs = append(errs, fmt.Errorf("route_id: is %q, the resource's name is %q; they must be equal", source.GetRouteId(), id))
	}
	if id == "" {
		errs = append(errs, errors.New("route_id: is required"))
	}
	errs = append(errs, printable("route_id", id), printable("policy", r.policy), printable("digest", r.digest))
	if n := len(source.GetAuthenticators()); n > maxAuthenticators {
		return nil, fmt.Errorf("authenticators: %d are too many; the most is %d", n, maxAuthenticators)
	}
	if n := len(source.GetRules()); n > maxRules {
		return nil, fmt.Errorf("rules: %d are too many; the most is %d", n, maxRules)
	}
	names := map[string]bool{}
	for i, authenticator := range source.GetAuthenticators() {
		field := fmt.Sprintf("authenticators[%d]", i)
		errs = append(errs, unique(names, field+".name", authenticator.GetName()))
		compiled, err := c.authenticator(field, authenticator, Place{Route: id, Siblings: source.GetAuthenticators()})
		errs = append(errs, err)
		r.authenticators = append(r.authenticators, compiled)
	}
	errs = append(errs, c.surroundings(r, source))
	clear(names)
	for i, rule := range source.GetRules() {
		field := fmt.Sprintf("rules[%d]", i)
		errs = append(errs, unique(names, field+".name", rule.GetName()))
		compiled, err := c.rule(previous, set, r, field, rule)
		errs = append(errs, err)
		r.rules = append(r.rules, compiled)
	}
	errs = append(errs, c.candidates(previous, set, r))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	r.derive()
	return r, nil
}

// derive fills in what follows from the parts.
func (r *route) derive() {
	if !r.source.GetKeepCredentials() {
		r.credentialHeaders = append(r.credentialHeaders, headerAuthorization)
	}
	for i := range r.authenticators {
		if method := r.authenticators[i].method; method != nil {
			for _, header := range method.CredentialHeaders() {
				if !slices.Contains(r.credentialHeaders, header) {
					r.credentialHeaders = append(r.credentialHeaders, header)
				}
			}
		}
	}
	r.credentialCookie = holdsCookie(r.authenticators)
	r.invites = slices.ContainsFunc(r.authenticators, func(a authenticator) bool { _, ok := a.method.(Inviter); return ok })
	r.challenge = offers(r)
	r.tells = tells(r)
	r.allowsByScope = true
	for i := range r.rules {
		rule := &r.rules[i]
		if rule.effect == effectAllow {
			r.hasAllow = true
			r.allowsByScope = r.allowsByScope && rule.aboutScope
		}
	}
	r.allowsByScope = r.allowsByScope && r.hasAllow
}

func (c *Compiler) authenticator(field string, source *rulesv1.Authenticator, place Place) (authenticator, error) {
	compiled := authenticator{name: source.GetName()}
	switch source.GetFailureMode() {
	case rulesv1.Authenticator_FAILURE_MODE_UNSPECIFIED, rulesv1.Authenticator_FAILURE_MODE_DENY:
	case rulesv1.Authenticator_FAILURE_MODE_NEXT:
		compiled.failsOver = true
	default:
		return compiled, fmt.Errorf("%s.failure_mode: %s is neither deny nor next", field, source.GetFailureMode())
	}
	if timeout := source.GetTimeout(); timeout != nil {
		compiled.timeout = timeout.AsDuration()
		if timeout.CheckValid() != nil || compiled.timeout <= 0 || compiled.timeout > maxMethodTimeout {
			return compiled, fmt.Errorf("%s.timeout: %s is outside 0s to %s", field, compiled.timeout, maxMethodTimeout)
		}
	}
	var err error
	compiled.method, err = c.method(source, place)
	if err != nil {
		return compiled, fmt.Errorf("%s.%w", field, err)
	}
	if compiled.method == nil && source.GetAnonymous() == nil {
		return compiled, fmt.Errorf("%s: names no method that this server knows", field)
	}
	_, compiled.bound = compiled.method.(Bound)
	if source.GetSenderConstraint() != nil && !compiled.bound {
		return compiled, fmt.Errorf("%s.sender_constraint: is for methods that take tokens", field)
	}
	return compiled, nil
}

// method is nil for the anonymous authenticator and for what no builder knows.
func (c *Compiler) method(source *rulesv1.Authenticator, place Place) (Method, error) {
	if key := source.GetApiKey(); key != nil {
		method, err := newAPIKeyMethod(key, c.issued)
		if err != nil {
			return nil, err
		}
		return method, nil
	}
	for _, builder := range c.builders {
		if method, err := builder.Build(source, place); method != nil || err != nil {
			return method, err
		}
	}
	return nil, nil //nolint:nilnil // documented
}

// Consumers compiles a whole set, by name. One bad consumer fails the set; the
// error names each and its field.
func (c *Compiler) Consumers(sources map[string]*rulesv1.Consumer) (*ConsumerSet, error) {
	set := &ConsumerSet{subjects: map[tokenSubject]*Consumer{}, names: make(map[string]*Consumer, len(sources))}
	var keys []apikey.Key[Proof]
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		var err error
		if keys, err = set.add(keys, name, sources[name]); err != nil {
			if errs = append(errs, fmt.Errorf("consumer %q: %w", name, err)); len(errs) == maxReported {
				break
			}
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	index, first, second := apikey.NewIndex(keys)
	if index == nil {
		a, b := keys[first].Owner, keys[second].Owner
		return nil, fmt.Errorf("consumer %q: api_keys %q: sha256 is the same as that of key %q of consumer %q; a key has one owner",
			b.Consumer.Name, b.Subject, a.Subject, a.Consumer.Name)
	}
	set.keys = index
	return set, nil
}

func (s *ConsumerSet) add(keys []apikey.Key[Proof], name string, source *rulesv1.Consumer) ([]apikey.Key[Proof], error) {
	owner := &Consumer{Name: name, Tenant: source.GetTenant(), Tier: source.GetTier(), Attributes: source.GetAttributes()}
	s.names[name] = owner
	var errs []error
	if source.GetName() != name || name == "" {
		errs = append(errs, fmt.Errorf("name: is %q, the resource's name is %q; they must be equal and not empty", source.GetName(), name))
	}
	errs = append(errs, printable("name", name), printable("tenant", owner.Tenant), printable("tier", owner.Tier))
	for key, value := range owner.Attributes {
		errs = append(errs, printable("attributes", key), printable("attributes", value))
	}
	names := map[string]bool{}
	for i, key := range source.GetApiKeys() {
		field := fmt.Sprintf("api_keys[%d]", i)
		errs = append(errs, unique(names, field+".name", key.GetName()))
		if n := len(key.GetSha256()); n != len(apikey.Digest{}) {
			errs = append(errs, fmt.Errorf("%s.sha256: is %d bytes long; a SHA-256 is 32", field, n))
			continue
		}
		entry := apikey.Key[Proof]{Digest: apikey.Digest(key.GetSha256()), Owner: Proof{Consumer: owner, Subject: key.GetName(), Tenant: owner.Tenant, Scopes: key.GetScopes()}}
		if expires := key.GetExpireTime(); expires != nil {
			if err := expires.CheckValid(); err != nil {
				errs = append(errs, fmt.Errorf("%s.expire_time: %w", field, err))
			}
			entry.Expires = expires.AsTime()
		}
		if !ValidScopes(key.GetScopes()) {
			errs = append(errs, fmt.Errorf("%s.scopes: holds a value that is not a scope (RFC 6749 section 3.3)", field))
		}
		keys = append(keys, entry)
	}
	for i, subject := range source.GetTokenSubjects() {
		field := fmt.Sprintf("token_subjects[%d]", i)
		id := tokenSubject{subject.GetIssuer(), subject.GetSubject()}
		if id.issuer == "" || id.subject == "" {
			errs = append(errs, fmt.Errorf("%s: issuer and subject are required", field))
		}
		if other := s.subjects[id]; other != nil {
			errs = append(errs, fmt.Errorf("%s: issuer and subject already belong to consumer %q", field, other.Name))
		}
		s.subjects[id] = owner
	}
	errs = append(errs, s.addSigners(owner, source.GetSignatureKeys()))
	return keys, errors.Join(errs...)
}

func unique(names map[string]bool, field, name string) error {
	if name == "" {
		return fmt.Errorf("%s: is required", field)
	}
	if names[name] {
		return fmt.Errorf("%s: %q is used twice", field, name)
	}
	names[name] = true
	return printable(field, name)
}

func printable(field, value string) error {
	if value == "" || ValidHeaderValue(value) {
		return nil
	}
	return fmt.Errorf("%s: %q is not printable ASCII without outer spaces, at most %d bytes", field, value, MaxIdentityBytes)
}
