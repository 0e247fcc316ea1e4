package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy/v1alpha1"
)

type (
	authRoute = rulesv1.AuthRoute
	limitRule = rulesv1.RateLimitRule
)

// targetKey is what a policy is attached to.
type targetKey struct {
	kind, namespace, name, section string
}

// policyIndex holds the policy in effect per target, by kind of policy.
type policyIndex struct {
	auth   map[targetKey]typed[*v1alpha1.AuthPolicy]
	limits map[targetKey]typed[*v1alpha1.RateLimitPolicy]
}

func (r *resolver) indexPolicies() {
	r.limitRules = map[string]*limitRule{}
	r.policies = policyIndex{
		auth: indexTargets(r, ofType[*v1alpha1.AuthPolicy](r),
			func(p *v1alpha1.AuthPolicy) []v1alpha1.TargetRef { return p.Spec.TargetRefs }, r.closeMissing),
		limits: indexTargets(r, ofType[*v1alpha1.RateLimitPolicy](r),
			func(p *v1alpha1.RateLimitPolicy) []v1alpha1.TargetRef { return p.Spec.TargetRefs }, func(*Object, v1alpha1.TargetRef) {}),
	}
}

// indexTargets gives each target to the policy of highest precedence and tells
// the others who won (GEP-713, conflict resolution).
func indexTargets[T any](r *resolver, policies []typed[T], targets func(T) []v1alpha1.TargetRef,
	missing func(*Object, v1alpha1.TargetRef),
) map[targetKey]typed[T] {
	index := map[targetKey]typed[T]{}
	for _, policy := range policies {
		for i, target := range targets(policy.value) {
			field := fmt.Sprintf("spec.targetRefs[%d]", i)
			key := keyOf(policy.object.Ref.Namespace, target)
			if !r.targetExists(key) {
				r.report(policy.object.problem(CodeRefNotFound, field, fmt.Sprintf("there is no %s", describeTarget(key))))
				missing(policy.object, target)
				continue
			}
			if winner, ok := index[key]; ok {
				r.report(policy.object.problem(CodeOverridden, field, fmt.Sprintf("%s is already governed by %s, which comes first (the older, then the first by namespace and name): this policy does not apply there",
					describeTarget(key), winner.object.Ref)))
				continue
			}
			index[key] = policy
		}
	}
	return index
}

// closeMissing closes what an AuthPolicy with a target that is not there may have
// been meant to protect: the object, when only the section is missing, or else
// every route of the kind that nothing else protects.
func (r *resolver) closeMissing(policy *Object, target v1alpha1.TargetRef) {
	closing := Closing{Origin: policy.Origin(""), Kind: string(target.Kind), Namespace: policy.Ref.Namespace}
	whole := target
	whole.SectionName = nil
	if target.SectionName != nil && r.targetExists(keyOf(policy.Ref.Namespace, whole)) {
		closing.Targets = []v1alpha1.TargetRef{whole}
	}
	r.closings = append(r.closings, closing)
}

func keyOf(namespace string, target v1alpha1.TargetRef) targetKey {
	key := targetKey{kind: string(target.Kind), namespace: namespace, name: string(target.Name)}
	if target.SectionName != nil {
		key.section = string(*target.SectionName)
	}
	return key
}

func describeTarget(key targetKey) string {
	text := fmt.Sprintf("%s %s/%s", key.kind, key.namespace, key.name)
	if key.section != "" {
		text += fmt.Sprintf(" with a section named %q", key.section)
	}
	return text
}

func (r *resolver) targetExists(key targetKey) bool {
	object, ok := r.byRef[ObjectRef{Kind: key.kind, Namespace: key.namespace, Name: key.name}]
	if !ok || key.section == "" {
		return ok
	}
	named := func(name *gatewayv1.SectionName) bool { return name != nil && string(*name) == key.section }
	switch value := object.Value.(type) {
	case *gatewayv1.Gateway:
		return slices.ContainsFunc(value.Spec.Listeners, func(l gatewayv1.Listener) bool { return string(l.Name) == key.section })
	case *gatewayv1.HTTPRoute:
		return slices.ContainsFunc(value.Spec.Rules, func(rule gatewayv1.HTTPRouteRule) bool { return named(rule.Name) })
	case *gatewayv1.GRPCRoute:
		return slices.ContainsFunc(value.Spec.Rules, func(rule gatewayv1.GRPCRouteRule) bool { return named(rule.Name) })
	default:
		return false
	}
}

// targetsOf lists what governs a rule on a listener, the most specific first.
func targetsOf(rule *ruleSource, l *listener) []targetKey {
	route := targetKey{kind: rule.object.Ref.Kind, namespace: rule.object.Ref.Namespace, name: rule.object.Ref.Name}
	gateway := targetKey{kind: "Gateway", namespace: l.gateway.Ref.Namespace, name: l.gateway.Ref.Name}
	listenerKey := gateway
	listenerKey.section = l.name
	keys := []targetKey{route, listenerKey, gateway}
	if rule.name != "" {
		ruleKey := route
		ruleKey.section = rule.name
		keys = append([]targetKey{ruleKey}, keys...)
	}
	return keys
}

// authFor decides what protects a rule: the most specific good policy, unless
// only a broken one is attached more specifically. open is set when no policy
// says anything about the rule.
func (r *resolver) authFor(rule *ruleSource, l *listener, routeID string) (auth *Auth, open bool) {
	for _, key := range targetsOf(rule, l) {
		policy, ok := r.policies.auth[key]
		if !ok {
			if closing := r.closingFor(key); closing != nil {
				return r.refuse(rule, closing.Origin, routeID), false
			}
			continue
		}
		r.attached[policy.object.Ref] = true
		if isOpen(&policy.value.Spec) {
			return nil, false
		}
		return r.protect(policy, routeID), false
	}
	for i := range r.closings {
		if r.closings[i].covers(rule.object.Ref) {
			return r.refuse(rule, r.closings[i].Origin, routeID), false
		}
	}
	return nil, true
}

func (r *resolver) closingFor(key targetKey) *Closing {
	for i := range r.closings {
		closing := &r.closings[i]
		for _, target := range closing.Targets {
			if keyOf(closing.Origin.Object.Namespace, target) == key {
				return closing
			}
		}
	}
	return nil
}

// refuse closes a route. Its AuthRoute has no authenticators, so that extauthz
// refuses too, whatever the proxy does.
func (r *resolver) refuse(rule *ruleSource, origin Origin, routeID string) *Auth {
	problem := rule.object.problem(CodeFailClosed, rule.field(), "refused with 503: the AuthPolicy at "+origin.String()+" is broken, and it protects this route or may do so")
	if !slices.Contains(r.problems, problem) {
		r.report(problem)
	}
	r.addAuthRoute(&authRoute{RouteId: routeID, Policy: origin.Object.Namespace + "/" + origin.Object.Name})
	return &Auth{RouteID: routeID, Refuse: true, Origin: origin}
}

// isOpen reports whether a policy lets everybody through without a look, so
// that the route needs no check and survives an outage of extauthz.
func isOpen(spec *v1alpha1.AuthPolicySpec) bool {
	return spec.Authorization == nil && len(spec.Authentication) == 1 && spec.Authentication[0].Anonymous != nil
}

func (r *resolver) protect(policy typed[*v1alpha1.AuthPolicy], routeID string) *Auth {
	auth := &Auth{RouteID: routeID, Origin: policy.object.Origin("")}
	route := &authRoute{RouteId: routeID, Policy: policy.object.Ref.Namespace + "/" + policy.object.Ref.Name, Realm: "weir"}
	for i := range policy.value.Spec.Authentication {
		authenticator, err := r.authenticator(policy.object, i, &policy.value.Spec.Authentication[i])
		if err != nil {
			// Left out, so that the way does not work; the others still do. With
			// none left every request is refused.
			auth.Refuse = auth.Refuse || len(policy.value.Spec.Authentication) == 1
			continue
		}
		route.Authenticators = append(route.Authenticators, authenticator)
	}
	if authorization := policy.value.Spec.Authorization; authorization != nil {
		for _, rule := range authorization.Rules {
			effect := rulesv1.AuthorizationRule_EFFECT_DENY
			if rule.Effect == v1alpha1.EffectAllow {
				effect = rulesv1.AuthorizationRule_EFFECT_ALLOW
			}
			route.Rules = append(route.Rules, &rulesv1.AuthorizationRule{Name: rule.Name, Effect: effect, Expression: rule.When})
		}
	}
	r.addAuthRoute(route)
	return auth
}

func (r *resolver) addAuthRoute(route *authRoute) {
	if r.authIDs[route.GetRouteId()] {
		return
	}
	r.authIDs[route.GetRouteId()] = true
	route.Digest = digestMessage(route)
	r.authRoutes = append(r.authRoutes, route)
}

func (r *resolver) authenticator(object *Object, index int, way *v1alpha1.Authentication) (*rulesv1.Authenticator, error) {
	authenticator := &rulesv1.Authenticator{Name: way.Name}
	switch {
	case way.APIKey != nil:
		authenticator.Method = &rulesv1.Authenticator_ApiKey{ApiKey: &rulesv1.ApiKeyAuthenticator{
			Header: strings.ToLower(cmp.Or(way.APIKey.Header, "X-API-Key")),
		}}
	case way.JWT != nil:
		jwt := way.JWT
		message := &rulesv1.JwtAuthenticator{
			Issuer: jwt.Issuer, Audiences: jwt.Audiences, Algorithms: jwt.Algorithms, Types: jwt.Types,
			Leeway: durationpb.New(durationOr(jwt.Leeway, 0)),
			Claims: &rulesv1.ClaimMapping{Subject: jwt.Claims.Subject, Tenant: jwt.Claims.Tenant, Scopes: jwt.Claims.Scopes},
		}
		if remote := jwt.JWKS.Remote; remote != nil {
			message.Jwks = &rulesv1.JwtAuthenticator_RemoteJwks{RemoteJwks: &rulesv1.RemoteJwks{
				Uri:           remote.URI,
				CacheDuration: durationpb.New(durationOr(remote.CacheDuration, 5*time.Minute)),
				MaxStale:      durationpb.New(durationOr(remote.MaxStale, time.Hour)),
				Timeout:       durationpb.New(durationOr(remote.Timeout, 5*time.Second)),
			}}
		} else {
			keys, err := r.inlineJWKS(object, *jwt.JWKS.ConfigMapRef)
			if err != nil {
				r.report(object.problem(CodeRefNotFound, fmt.Sprintf("spec.authentication[%d].jwt.jwks.configMapRef", index),
					err.Error()+"; tokens are refused until it is there"))
				return nil, err
			}
			message.Jwks = &rulesv1.JwtAuthenticator_InlineJwks{InlineJwks: keys}
		}
		authenticator.Method = &rulesv1.Authenticator_Jwt{Jwt: message}
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

func (r *resolver) corsFor(rule *ruleSource, l *listener) *CORS {
	for _, key := range targetsOf(rule, l) {
		if policy, ok := r.policies.auth[key]; ok && policy.value.Spec.CORS != nil {
			return corsOf(policy.value.Spec.CORS)
		}
	}
	return nil
}

func (r *resolver) limitsFor(rule *ruleSource, l *listener) []Limit {
	for _, key := range targetsOf(rule, l) {
		policy, ok := r.policies.limits[key]
		if !ok {
			continue
		}
		r.attached[policy.object.Ref] = true
		limits := make([]Limit, len(policy.value.Spec.Limits))
		for i := range policy.value.Spec.Limits {
			spec := &policy.value.Spec.Limits[i]
			limits[i] = Limit{
				Rule: r.limitRule(policy.object, spec), By: spec.By, ByTier: len(spec.Tiers) > 0,
				FailureMode: cmp.Or(spec.FailureMode, v1alpha1.FailureModeOpen), Group: rule.group(),
				Origin: policy.object.Origin(fmt.Sprintf("spec.limits[%d]", i)),
			}
		}
		return limits
	}
	return nil
}

func (r *resolver) limitRule(object *Object, spec *v1alpha1.Limit) string {
	id := object.Ref.Namespace + "/" + object.Ref.Name + "/" + spec.Name
	if _, ok := r.limitRules[id]; ok {
		return id
	}
	window := spec.Window
	rule := &limitRule{
		Id: id, Algorithm: rulesv1.RateLimitRule_ALGORITHM_FIXED_WINDOW, Requests: spec.Requests,
		Window: durationpb.New(durationOr(&window, time.Minute)), Burst: spec.Burst,
		FailureMode: rulesv1.FailureMode_FAILURE_MODE_OPEN, Shadow: spec.Shadow,
	}
	if spec.Algorithm == v1alpha1.AlgorithmGCRA {
		rule.Algorithm = rulesv1.RateLimitRule_ALGORITHM_GCRA
	}
	if spec.FailureMode == v1alpha1.FailureModeClosed {
		rule.FailureMode = rulesv1.FailureMode_FAILURE_MODE_CLOSED
	}
	for tier, limit := range spec.Tiers {
		if rule.Tiers == nil {
			rule.Tiers = map[string]*rulesv1.TierLimit{}
		}
		rule.Tiers[tier] = &rulesv1.TierLimit{Requests: limit.Requests, Burst: limit.Burst}
	}
	rule.Digest = digestMessage(rule)
	r.limitRules[id] = rule
	return id
}

func (r *resolver) rateLimitRules() []*limitRule {
	rules := make([]*limitRule, 0, len(r.limitRules))
	for _, id := range slices.Sorted(maps.Keys(r.limitRules)) {
		rules = append(rules, r.limitRules[id])
	}
	return rules
}

// consumers compiles the Consumers. A key that two of them hold is taken from
// the later one.
func (r *resolver) consumers() []*rulesv1.Consumer {
	var consumers []*rulesv1.Consumer
	owner := map[string]*Object{}
	for _, consumer := range ofType[*v1alpha1.Consumer](r) {
		spec := &consumer.value.Spec
		message := &rulesv1.Consumer{Name: consumer.object.Ref.Namespace + "/" + consumer.object.Ref.Name, Tenant: spec.Tenant, Tier: spec.Tier}
		for i, key := range spec.APIKeys {
			if first, ok := owner[key.SHA256]; ok {
				r.report(consumer.object.problem(CodeDuplicateKey, fmt.Sprintf("spec.apiKeys[%d].sha256", i),
					fmt.Sprintf("is also a key of %s, which keeps it", first.Ref)))
				continue
			}
			owner[key.SHA256] = consumer.object
			sum, err := hex.DecodeString(key.SHA256)
			if err != nil { // validated before
				continue
			}
			compiled := &rulesv1.ApiKey{Name: key.Name, Sha256: sum, Scopes: key.Scopes}
			if key.ExpireTime != nil {
				compiled.ExpireTime = timestamppb.New(key.ExpireTime.Time)
			}
			message.ApiKeys = append(message.ApiKeys, compiled)
		}
		for _, subject := range spec.TokenSubjects {
			message.TokenSubjects = append(message.TokenSubjects, &rulesv1.TokenSubject{Issuer: subject.Issuer, Subject: subject.Subject})
		}
		consumers = append(consumers, message)
	}
	slices.SortFunc(consumers, func(a, b *rulesv1.Consumer) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return consumers
}

// unattachedPolicies reports policies whose targets exist and yet govern no
// route: something more specific is attached everywhere below.
func (r *resolver) unattachedPolicies() {
	for _, object := range r.objects {
		if !slices.Contains([]string{v1alpha1.KindAuthPolicy, v1alpha1.KindRateLimitPolicy, v1alpha1.KindTrafficPolicy}, object.Ref.Kind) {
			continue
		}
		if !r.attached[object.Ref] {
			r.report(object.notice(CodeNotAttached, "spec.targetRefs", "governs no route"))
		}
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
