package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy/v1alpha1"
)

type authRoute = rulesv1.AuthRoute

// Bounds of what extauthz takes for one route.
const (
	maxAuthenticators = 16
	maxAuthRules      = 256
)

// compiledAuth is what the AuthPolicies of a stack come to, but for the route.
type compiledAuth struct {
	// open is set when everybody is let through without a look, so that the route
	// needs no check and survives an outage of extauthz.
	open bool
	// closing is the broken policy that is in effect, if any.
	closing        *Closing
	auth           Auth
	policy         string
	authenticators []*rulesv1.Authenticator
	rules          []*rulesv1.AuthorizationRule
	logins         []*loginWay
	surroundings
	audit rulesv1.Audit
	// wouldBe are compared with this.
	wouldBe []*compiledAuth
	// shadowRule is where the first rule in the shadow stands, nil for none.
	shadowRule *Origin
}

// authFor decides what protects a rule. open is set when no policy says anything
// about it.
func (r *resolver) authFor(rule *ruleSource, set *policySet, routeID string) (auth *Auth, open bool) {
	for i := range r.closings {
		if r.closings[i].Overrides && r.closings[i].covers(rule.object.Ref) {
			return r.refuse(rule, r.closings[i].Origin, routeID), false
		}
	}
	if set.auth == nil {
		set.auth = r.compileAuth(&set.kinds[kindAuth], set.listener, false)
		set.auth.reachedOn(set.listener)
		r.addCandidates(set)
	}
	switch compiled := set.auth; {
	case compiled.closing != nil:
		return r.refuse(rule, compiled.closing.Origin, routeID), false
	case compiled.open && !compiled.watched():
		return nil, false
	case compiled.policy != "":
		r.addAuthRoute(compiled.around(rule, &authRoute{
			RouteId: routeID, Policy: compiled.policy, Realm: "weir", Authenticators: compiled.authenticators, Rules: compiled.rules,
			Audit: compiled.audit, Candidates: compiled.candidates(rule), KeepCredentials: compiled.open, LimitClaims: limitClaims(set.limits),
		}))
		auth := compiled.auth
		auth.RouteID, auth.CheckTimeout = routeID, compiled.checkTimeout()
		if len(compiled.logins) > 0 {
			r.logins[routeID], auth.Login = compiled.logins, true
		}
		return &auth, false
	}
	for i := range r.closings {
		if r.closings[i].covers(rule.object.Ref) {
			return r.refuse(rule, r.closings[i].Origin, routeID), false
		}
	}
	return r.watchOpen(rule, set.auth, routeID), true
}

// compileAuth turns the pieces in effect into rules. An authenticator that cannot
// be used is left out, so that it does not work and the others still do; with none
// left every request is refused. shadow takes rules in the shadow for ones in
// force.
func (r *resolver) compileAuth(e *effective, l *listener, shadow bool) *compiledAuth {
	compiled := &compiledAuth{}
	var policies []string
	ways, anonymous := 0, 0
	for _, won := range e.pieces {
		switch value := won.value.(type) {
		case *v1alpha1.Authentication:
			ways++
			if value.Anonymous != nil {
				anonymous++
			}
			authenticator, err := r.authenticator(won, value, l)
			if err == nil {
				if value.Login != nil {
					compiled.logins = append(compiled.logins, &loginWay{
						authenticator: authenticator, origin: won.origin, paths: pathsOf(value.Login),
						policy: won.from.namespace() + "/" + won.from.object.Ref.Name,
					})
				}
				compiled.authenticators = append(compiled.authenticators, authenticator)
				compiled.auth.Authenticators = append(compiled.auth.Authenticators, AuthPart{Name: value.Name, Origin: won.origin})
			} else {
				compiled.auth.LeftOut = append(compiled.auth.LeftOut, LeftOut{Name: value.Name, Origin: won.origin, Reason: err.Error()})
			}
		case *v1alpha1.AuthorizationRule:
			if value.Shadow && !shadow {
				compiled.shadowRule = cmp.Or(compiled.shadowRule, &won.origin)
				continue
			}
			compiled.rules = append(compiled.rules, authorizationRule(value))
			compiled.auth.Rules = append(compiled.auth.Rules, AuthPart{Name: value.Name, Origin: won.origin})
		case nil:
			compiled.closing = cmp.Or(compiled.closing, won.from.closing)
			continue
		case v1alpha1.AuditMode:
			compiled.setAudit(value)
			continue
		default:
			r.surrounding(compiled, won)
			continue
		}
		if name := won.from.namespace() + "/" + won.from.object.Ref.Name; !slices.Contains(policies, name) {
			policies = append(policies, name)
			compiled.auth.Origin = cmp.Or(compiled.auth.Origin, won.from.origin)
		}
	}
	compiled.policy = strings.Join(policies, ",")
	compiled.behindProxies(r.edgeOf(l))
	compiled.open = ways == 1 && anonymous == 1 && len(compiled.rules) == 0 && compiled.upstream == nil
	if len(policies) > 0 && compiled.closing == nil {
		r.checkReads(compiled)
		if !shadow {
			r.boundAuth(compiled, e, ways)
		}
	}
	return compiled
}

// boundAuth refuses what cannot work, and says so of the policies that it comes
// from.
func (r *resolver) boundAuth(compiled *compiledAuth, e *effective, ways int) {
	compiled.auth.Refuse = len(compiled.authenticators) == 0
	var code Code
	var message string
	switch {
	case ways == 0:
		code, message = CodeNoAuthentication, "no AuthPolicy that reaches the route says how callers are identified, so every request is refused: name a way here, or in a policy that this one is merged with"
	case ways > maxAuthenticators || len(compiled.rules) > maxAuthRules:
		code = CodeTooManyMerged
		message = fmt.Sprintf("merged with the others that reach the route, there are %d ways to authenticate and %d rules; the most are %d and %d: every request is refused",
			ways, len(compiled.rules), maxAuthenticators, maxAuthRules)
		compiled.auth.Refuse = true
		compiled.authenticators, compiled.rules = nil, nil
	case compiled.unusable != "":
		code, message = CodeNotProvided, compiled.unusable+"; every request is refused"
		compiled.auth.Refuse = true
		compiled.authenticators, compiled.rules = nil, nil
	default:
		return
	}
	for _, won := range e.pieces {
		if won.from.object != nil {
			r.reportOnce(won.from.object.problem(code, "spec", message))
		}
	}
}

func (r *resolver) corsOf(set *policySet) *CORS {
	for _, won := range set.kinds[kindAuth].pieces {
		if spec, ok := won.value.(*gatewayv1.HTTPCORSFilter); ok && set.cors == nil {
			set.cors = corsOf(spec)
		}
	}
	return set.cors
}

// refuse closes a route. Its AuthRoute has no authenticators, so that extauthz
// refuses too, whatever the proxy does.
func (r *resolver) refuse(rule *ruleSource, origin Origin, routeID string) *Auth {
	problem := rule.object.problem(CodeFailClosed, rule.field(), "refused with 503: the AuthPolicy at "+origin.String()+" is broken, and it protects this route or may do so")
	r.reportOnce(problem)
	r.addAuthRoute(&authRoute{RouteId: routeID, Policy: origin.Object.Namespace + "/" + origin.Object.Name})
	return &Auth{RouteID: routeID, Refuse: true, Origin: origin}
}

func (r *resolver) addAuthRoute(route *authRoute) {
	if r.authIDs[route.GetRouteId()] {
		return
	}
	r.authIDs[route.GetRouteId()] = true
	route.Digest = digestMessage(route)
	r.authRoutes = append(r.authRoutes, route)
}

func (r *resolver) authenticator(from wonPiece, way *v1alpha1.Authentication, l *listener) (*rulesv1.Authenticator, error) {
	authenticator := &rulesv1.Authenticator{Name: way.Name, SenderConstraint: senderConstraint(way.SenderConstraint)}
	settleWay(authenticator, way)
	switch {
	case way.APIKey != nil:
		authenticator.Method = &rulesv1.Authenticator_ApiKey{ApiKey: &rulesv1.ApiKeyAuthenticator{
			Header: strings.ToLower(cmp.Or(way.APIKey.Header, "X-API-Key")),
		}}
	case way.JWT != nil:
		message, err := r.jwt(from, way.JWT)
		if err != nil {
			return nil, err
		}
		authenticator.Method = &rulesv1.Authenticator_Jwt{Jwt: message}
	case way.Login != nil:
		login, err := r.login(from, way.Login)
		if err != nil {
			return nil, err
		}
		authenticator.Method = &rulesv1.Authenticator_Login{Login: login}
	case way.ClientCertificate != nil:
		message, err := r.clientCertificate(from, way.ClientCertificate, l)
		if err != nil {
			return nil, err
		}
		authenticator.Method = &rulesv1.Authenticator_ClientCertificate{ClientCertificate: message}
	case way.HTTPSignature != nil:
		authenticator.Method = &rulesv1.Authenticator_HttpSignature{HttpSignature: httpSignature(way.HTTPSignature)}
	case way.Introspection != nil:
		message, err := r.introspection(from, way)
		if err != nil {
			return nil, err
		}
		authenticator.Method = &rulesv1.Authenticator_Introspection{Introspection: message}
	case way.Kubernetes != nil:
		authenticator.Method = &rulesv1.Authenticator_Kubernetes{Kubernetes: kubernetesTokens(way)}
	default:
		authenticator.Method = &rulesv1.Authenticator_Anonymous{Anonymous: &rulesv1.AnonymousAuthenticator{}}
	}
	return authenticator, nil
}

func (r *resolver) inlineJWKS(object *Object, ref v1alpha1.ConfigMapKeyRef) (string, error) {
	raw, err := r.configMapValue(object.Ref.Namespace, ref)
	if err != nil {
		return "", err
	}
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(raw, &set); err != nil || len(set.Keys) == 0 {
		return "", fmt.Errorf("ConfigMap %s/%s, key %q, is not a JWK Set with at least one key (RFC 7517)", object.Ref.Namespace, ref.Name, ref.Key)
	}
	return string(raw), nil
}

func (s *statement) broken(message string) {
	if !slices.Contains(s.brokenRefs, message) {
		s.brokenRefs = append(s.brokenRefs, message)
	}
}

func digestMessage(message proto.Message) string {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil { // a message of our own always marshals
		return ""
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8])
}
