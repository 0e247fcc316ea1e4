package istio

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	security "istio.io/api/security/v1beta1"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy"
)

// What Envoy and istiod do about tokens that RequestAuthentication has no words for.
const (
	// nativeLeeway is Envoy's on exp and nbf (jwt_verify_lib's kClockSkewInSecond).
	nativeLeeway = time.Minute
	// nativeRefresh is how often istiod fetches keys (PILOT_JWT_PUB_KEY_REFRESH_INTERVAL),
	// and nativeStale as long as a policy can say that old ones are good: istiod keeps
	// them while they are in use.
	nativeRefresh = 20 * time.Minute
	nativeStale   = 168 * time.Hour
	// maxTerms bounds the alternatives of a route's refusals.
	maxTerms = 64
)

// envoyAlgorithms are the asymmetric ones that Envoy takes from a key that names none.
func envoyAlgorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// keySet is where an issuer's keys are: one of the two.
type keySet struct{ inline, uri string }

// nativeRules is what Istio is told of rules; nil where a reason was told.
func (c *compiler) nativeRules(route *policy.Route, rules *rulesv1.AuthRoute) *nativeRoute {
	at := route.Auth.Origin
	keep := func(field, format string, arguments ...any) {
		origin := at
		origin.Field = field
		c.keep(origin, format, arguments...)
	}
	switch {
	case rules.GetAudit() != rulesv1.Audit_AUDIT_UNSPECIFIED:
		keep("spec.audit", "audit: extauthz alone keeps the record of decisions")
	case len(rules.GetCandidates()) > 0:
		keep("spec.mode", "it is compared with rules in the shadow, which extauthz does")
	case len(rules.GetLimitClaims()) > 0:
		keep("spec", "limits read claims, which extauthz tells")
	case rules.GetBody() != nil || len(rules.GetMetadata()) > 0 || rules.GetSettings().GetRelationships() != nil:
		keep("spec.authorization", "authorization: Istio reads no bodies, and asks no one else")
	case len(rules.GetAuthenticators()) != 1 || len(route.Auth.LeftOut) > 0 || len(route.Auth.Authenticators) != 1:
		keep("spec.authentication", "authentication: there is more than one way, or one that is broken; Istio would take a token of any")
	}
	if len(rules.GetAuthenticators()) != 1 || len(route.Auth.Authenticators) != 1 {
		return nil
	}
	made := &nativeRoute{origin: at}
	way := rules.GetAuthenticators()[0]
	c.nativeToken(made, way, route.Auth.Authenticators[0].Origin)
	c.nativeUpstream(made, way.GetName(), rules.GetUpstream(), at)
	if issuer := way.GetJwt().GetIssuer(); issuer != "" {
		for _, consumer := range c.in.Plan.Consumers {
			if slices.ContainsFunc(consumer.GetTokenSubjects(), func(s *rulesv1.TokenSubject) bool { return s.GetIssuer() == issuer }) {
				keep("spec.authentication", "Consumer %s is known by tokens of this issuer, and extauthz alone looks for Consumers", consumer.GetName())
				break
			}
		}
	}
	c.nativeRefusals(made, way.GetJwt(), rules, route.Auth.Rules)
	return made
}

// nativeToken says how a token is verified.
func (c *compiler) nativeToken(made *nativeRoute, way *rulesv1.Authenticator, at policy.Origin) {
	field := at.Field
	keep := func(part, format string, arguments ...any) {
		at.Field = field + part
		c.keep(at, strings.TrimPrefix(part, ".")+": "+format, arguments...)
	}
	jwt := way.GetJwt()
	if jwt == nil {
		keep("", "the way %q is not jwt, the only one that Istio has", way.GetName())
		return
	}
	made.issuer, made.audiences = jwt.GetIssuer(), jwt.GetAudiences()
	if way.GetSenderConstraint() != nil {
		keep(".senderConstraint", "Istio asks for no proof of possession")
	}
	if way.GetTimeout() != nil || way.GetFailureMode() == rulesv1.Authenticator_FAILURE_MODE_NEXT {
		keep(".timeout", "keys are fetched by istiod, beside requests")
	}
	if len(jwt.GetTypes()) > 0 {
		keep(".jwt.types", "Istio does not look at a token's typ")
	}
	if leeway := jwt.GetLeeway().AsDuration(); leeway != nativeLeeway {
		keep(".jwt.leeway", "is %s, and Istio's is %s; write %s to have the same", leeway, nativeLeeway, nativeLeeway)
	}
	if claims := jwt.GetClaims(); claims.GetTenant() != "" || claims.GetSubject() != "" && claims.GetSubject() != "sub" || claims.GetClient() != "" {
		keep(".jwt.claims", "a subject that is not sub, a tenant or a client are read by extauthz alone")
	}
	for _, value := range append(slices.Clone(jwt.GetAudiences()), jwt.GetIssuer()) {
		if !literal(value) {
			keep(".jwt", "%q begins or ends with an asterisk, which AuthorizationPolicy takes for a pattern", value)
		}
	}
	switch {
	case jwt.GetInlineJwks() != "":
		inline, err := narrowed(jwt.GetInlineJwks(), jwt.GetAlgorithms())
		switch {
		case c.options.CheckKeys == nil:
			err = errors.New("nobody has looked at the keys")
		case err == nil:
			err = c.options.CheckKeys([]byte(jwt.GetInlineJwks()))
		}
		if err != nil {
			keep(".jwt.jwks.configMapRef", "%v", err)
		}
		made.keys.inline = inline
	case jwt.GetRemoteJwks() != nil:
		remote := jwt.GetRemoteJwks()
		made.keys.uri = remote.GetUri()
		if fresh := remote.GetCacheDuration().AsDuration(); fresh < nativeRefresh {
			keep(".jwt.jwks.remote.cacheDuration", "is %s, and istiod fetches keys every %s; write that or more", fresh, nativeRefresh)
		}
		if stale := remote.GetMaxStale().AsDuration(); stale < nativeStale {
			keep(".jwt.jwks.remote.maxStale", "is %s, and istiod keeps keys while their source fails; write %s", stale, nativeStale)
		}
		for _, algorithm := range envoyAlgorithms() {
			if !slices.Contains(jwt.GetAlgorithms(), algorithm) {
				keep(".jwt.algorithms", "%s is not among them, and Istio takes it of keys that it fetches; list all, or give the keys by configMapRef", algorithm)
				break
			}
		}
		if !strings.HasPrefix(remote.GetUri(), "https://") {
			keep(".jwt.jwks.remote.uri", "is on extauthz's own machine")
		}
	default:
		keep(".jwt.jwks.discovery", "the algorithms that an issuer's document lists are not looked at by Istio; name the keys by remote or configMapRef")
	}
}

// literal reports whether AuthorizationPolicy compares a value as it is.
func literal(value string) bool {
	return value != "" && !strings.HasPrefix(value, "*") && !strings.HasSuffix(value, "*")
}

// narrowed is a set of keys of which each names its algorithm, one of those given:
// Envoy takes every algorithm that fits a key which names none.
func narrowed(jwks string, algorithms []string) (string, error) {
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal([]byte(jwks), &set); err != nil {
		return "", fmt.Errorf("the keys cannot be read: %w", err)
	}
	var kept []map[string]any
	for _, key := range set.Keys {
		use, _ := key["use"].(string)
		if use != "" && use != "sig" {
			continue
		}
		if operations, said := key["key_ops"]; said {
			if list, _ := operations.([]any); !slices.Contains(list, any("verify")) {
				continue
			}
		}
		named, _ := key["alg"].(string)
		for _, algorithm := range algorithms {
			if named != "" && named != algorithm || !suits(key, algorithm) {
				continue
			}
			one := map[string]any{}
			for _, member := range []string{"kty", "kid", "crv", "n", "e", "x", "y"} { // no private part
				if value, ok := key[member]; ok {
					one[member] = value
				}
			}
			one["alg"] = algorithm
			kept = append(kept, one)
		}
	}
	if len(kept) == 0 {
		return "", errors.New("no key is of an algorithm that both the policy and Istio take")
	}
	raw, err := json.Marshal(map[string]any{"keys": kept})
	return string(raw), err
}

// suits reports whether Envoy verifies an algorithm by a key (RFC 7518 section 3.1,
// RFC 8037).
func suits(key map[string]any, algorithm string) bool {
	kty, _ := key["kty"].(string)
	crv, _ := key["crv"].(string)
	switch algorithm {
	case "ES256":
		return kty == "EC" && crv == "P-256"
	case "ES384":
		return kty == "EC" && crv == "P-384"
	case "ES512":
		return kty == "EC" && crv == "P-521"
	case "EdDSA":
		return kty == "OKP" && crv == "Ed25519"
	}
	return kty == "RSA" && slices.Contains(envoyAlgorithms(), algorithm)
}

// nativeUpstream says what the service is told.
func (c *compiler) nativeUpstream(made *nativeRoute, way string, upstream *rulesv1.Upstream, at policy.Origin) {
	told := []string{"consumer", "subject", "tenant", "tier", "scopes", "authenticator"}
	if upstream != nil {
		told = upstream.GetIdentityHeaders()
	}
	at.Field = "spec.upstream"
	if slices.Contains(told, "scopes") {
		c.keep(at, "upstream.identityHeaders: the service is told scopes, which Istio would send as the claim has them; list those that it needs, such as [Authenticator]")
	}
	if len(upstream.GetClaimHeaders()) > 0 {
		c.keep(at, "upstream.claimHeaders: Istio writes claims that are no text otherwise")
	}
	if upstream.GetAssertion() != nil || upstream.GetExchange() != nil {
		c.keep(at, "upstream: Istio signs no assertion, and exchanges no token")
	}
	if slices.Contains(told, "subject") {
		// Envoy would take the header away on every route, after extauthz has set it.
		c.keep(at, "upstream.identityHeaders: the service is told the subject, which extauthz tells")
	}
	if slices.Contains(told, "authenticator") {
		made.authenticator = way
	}
}

// formula is alternatives of conditions that all hold.
type formula [][]*security.Condition

func either(a, b formula) formula { return append(slices.Clone(a), b...) }

func both(a, b formula) formula {
	var made formula
	for _, left := range a {
		for _, right := range b {
			made = append(made, append(slices.Clone(left), right...))
			if len(made) > maxTerms { // refused by who asks
				return made
			}
		}
	}
	return made
}

// always holds, and never does not.
func always() formula { return formula{nil} }

// words is the claims in which a text or a list of texts is looked for.
type words []string

// has holds where one of the claims has one of the values.
func (w words) has(values ...string) formula {
	var made formula
	for _, claim := range w {
		made = append(made, []*security.Condition{{Key: claim, Values: values}})
	}
	return made
}

// lacks holds where none of them has any.
func (w words) lacks(values ...string) formula {
	var all []*security.Condition
	for _, claim := range w {
		all = append(all, &security.Condition{Key: claim, NotValues: values})
	}
	return formula{all}
}

// unmet holds where a requirement is not met.
func (w words) unmet(requirement *rulesv1.TextRequirement) formula {
	var made formula
	for _, value := range requirement.GetAllOf() {
		made = either(made, w.lacks(value))
	}
	if values := requirement.GetAnyOf(); len(values) > 0 {
		made = either(made, w.lacks(values...))
	}
	return made
}

// claimName is one that a condition can have: its brackets end at a bracket.
var claimName = regexp.MustCompile(`^[A-Za-z0-9_:/.~@-]+$`)

// claimKey is a claim in words of AuthorizationPolicy. Dots reach into objects, but
// in names that are URLs.
func claimKey(path string) string {
	parts := []string{path}
	if !strings.Contains(path, "/") {
		parts = strings.Split(path, ".")
	}
	return "request.auth.claims[" + strings.Join(parts, "][") + "]"
}

// spaced are the claims that Istio always splits at spaces.
func spaced() []string { return []string{"scope", "permission"} }

// nativeRefusals says whom the rules refuse.
func (c *compiler) nativeRefusals(made *nativeRoute, jwt *rulesv1.JwtAuthenticator, rules *rulesv1.AuthRoute, parts []policy.AuthPart) {
	at := made.origin
	at.Field = "spec.authorization"
	scope := jwt.GetClaims().GetScopes()
	if scope == "" {
		scope = "scope"
	}
	scopes := words{claimKey(scope)}
	roleClaims := rules.GetSettings().GetRoleClaims()
	if len(roleClaims) == 0 {
		roleClaims = []string{"roles"}
	}
	var roles words
	for _, claim := range roleClaims {
		roles = append(roles, claimKey(claim))
	}
	reader := &ruleReader{scopes: scopes, roles: roles}
	refused := formula{}
	if slices.ContainsFunc(rules.GetRules(), func(r *rulesv1.AuthorizationRule) bool {
		return r.GetEffect() == rulesv1.AuthorizationRule_EFFECT_ALLOW
	}) {
		refused = always()
	}
	for i, rule := range slices.Backward(rules.GetRules()) {
		if i < len(parts) {
			at = parts[i].Origin
		}
		next, err := reader.refused(rule, refused)
		if err != nil {
			c.keep(at, "rule %q: %v", rule.GetName(), err)
			return
		}
		if refused = next; len(refused) > maxTerms {
			c.keep(at, "the rules come to more than %d alternatives in Istio's words", maxTerms)
			return
		}
	}
	if reader.scoped {
		if !claimName.MatchString(scope) || strings.Contains(scope, ".") {
			c.keep(at, "jwt.claims.scopes: %q is within another claim, and Istio splits claims at the top only", scope)
		} else if !slices.Contains(spaced(), scope) {
			made.scopes = scope
		}
	}
	for _, claim := range roleClaims {
		if reader.roled && (!claimName.MatchString(claim) || slices.Contains(spaced(), claim) || claim == scope) {
			c.keep(at, "roleClaims: Istio cannot look for roles in the claim %q", claim)
		}
	}
	made.refused, made.byScope = refused, reader.scoped && !reader.roled
}

// ruleReader puts rules in words of AuthorizationPolicy.
type ruleReader struct {
	scopes, roles words
	// scoped and roled say what rules looked at.
	scoped, roled bool
}

// refused is whom a rule refuses, and those after it.
func (r *ruleReader) refused(rule *rulesv1.AuthorizationRule, after formula) (formula, error) {
	holds, not, err := r.condition(rule.GetExpression())
	if err != nil {
		return nil, err
	}
	asked := rule.GetRequirements()
	if asked.GetAuthentication() != nil || asked.GetRelationship() != nil {
		return nil, errors.New("Istio knows nothing of how somebody logged in, nor of relationships") //nolint:staticcheck // a name
	}
	values := slices.Concat(asked.GetScopes().GetAllOf(), asked.GetScopes().GetAnyOf(), asked.GetRoles().GetAllOf(), asked.GetRoles().GetAnyOf())
	if i := slices.IndexFunc(values, func(v string) bool { return !literal(v) }); i >= 0 {
		return nil, fmt.Errorf("%q begins or ends with an asterisk, which AuthorizationPolicy takes for a pattern", values[i])
	}
	r.scoped = r.scoped || asked.GetScopes() != nil
	r.roled = r.roled || asked.GetRoles() != nil
	unmet := either(r.scopes.unmet(asked.GetScopes()), r.roles.unmet(asked.GetRoles()))
	switch rule.GetEffect() {
	case rulesv1.AuthorizationRule_EFFECT_REQUIRE:
		return either(both(holds, unmet), after), nil
	case rulesv1.AuthorizationRule_EFFECT_DENY:
		return either(holds, after), nil
	case rulesv1.AuthorizationRule_EFFECT_ALLOW:
		return both(either(not, unmet), after), nil
	}
	return nil, fmt.Errorf("its effect %s is not known", rule.GetEffect())
}

// asksFor is the part of CEL that Istio has the same answer to: others are an error
// where a claim is missing, or tell a text from a list.
var asksFor = regexp.MustCompile(`^(!?)\s*identity\.has(Scope|Role)\(\s*(?:'([^'\\]+)'|"([^"\\]+)")\s*\)$`)

// condition is when an expression holds, and when it does not.
func (r *ruleReader) condition(expression string) (holds, not formula, err error) {
	holds = always()
	if strings.TrimSpace(expression) == "" {
		return holds, nil, nil
	}
	for part := range strings.SplitSeq(expression, "&&") {
		found := asksFor.FindStringSubmatch(strings.TrimSpace(part))
		if found == nil {
			return nil, nil, errors.New("its expression asks for more than identity.hasScope and identity.hasRole, joined by &&")
		}
		in, value := r.scopes, found[3]+found[4]
		if r.scoped = r.scoped || found[2] == "Scope"; found[2] == "Role" {
			in, r.roled = r.roles, true
		}
		if !literal(value) {
			return nil, nil, fmt.Errorf("%q begins or ends with an asterisk, which AuthorizationPolicy takes for a pattern", value)
		}
		one, other := in.has(value), in.lacks(value)
		if found[1] == "!" {
			one, other = other, one
		}
		holds, not = both(holds, one), either(not, other)
	}
	return holds, not, nil
}
