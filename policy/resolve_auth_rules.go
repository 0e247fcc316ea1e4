package policy

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/authzexpr"
	"weir.dev/policy/v1alpha1"
)

// defaultBodyBytes bounds bodies that rules read.
const defaultBodyBytes = 64 << 10

// surroundings are what the rules of a route have in common, and what its service
// is told.
type surroundings struct {
	settings *rulesv1.AuthorizationSettings
	metadata []*rulesv1.MetadataSource
	body     *rulesv1.BodyInput
	upstream *rulesv1.Upstream
	// readsHostnames says that a rule reads the route's hostnames.
	readsHostnames bool
	// unusable says why the rules cannot decide; empty when they can.
	unusable string
}

// inputPieces are what another policy may say otherwise.
func inputPieces(object *Object, field string, inputs *v1alpha1.AuthorizationInputs) []piece {
	var pieces []piece
	add := func(name string, value any) {
		pieces = append(pieces, piece{key: "authorization." + name, value: value, origin: object.Origin(field + "." + name)})
	}
	if len(inputs.RoleClaims) > 0 {
		add("roleClaims", roleClaims(inputs.RoleClaims))
	}
	for i := range inputs.Metadata {
		pieces = append(pieces, piece{
			key: "metadata/" + inputs.Metadata[i].Name, value: &inputs.Metadata[i], origin: object.Origin(fmt.Sprintf("%s.metadata[%d]", field, i)),
		})
	}
	if inputs.Relationships != nil {
		add("relationships", inputs.Relationships)
	}
	if inputs.Body != nil {
		add("body", inputs.Body)
	}
	return pieces
}

type roleClaims []string

func authorizationRule(value *v1alpha1.AuthorizationRule) *rulesv1.AuthorizationRule {
	rule := &rulesv1.AuthorizationRule{Name: value.Name, Effect: rulesv1.AuthorizationRule_EFFECT_DENY, Expression: value.When}
	switch value.Effect {
	case v1alpha1.EffectAllow:
		rule.Effect = rulesv1.AuthorizationRule_EFFECT_ALLOW
	case v1alpha1.EffectRequire:
		rule.Effect = rulesv1.AuthorizationRule_EFFECT_REQUIRE
	}
	if !hasRequirements(&value.Requirements) {
		return rule
	}
	words := func(words *v1alpha1.WordRequirement) *rulesv1.TextRequirement {
		if words == nil {
			return nil
		}
		return &rulesv1.TextRequirement{AllOf: words.AllOf, AnyOf: words.AnyOf}
	}
	rule.Requirements = &rulesv1.Requirements{Scopes: words(value.RequireScopes), Roles: words(value.RequireRoles)}
	if login := value.RequireAuthentication; login != nil {
		rule.Requirements.Authentication = &rulesv1.AuthenticationRequirement{AcrValues: login.ACRValues}
		if login.MaxAge != nil {
			rule.Requirements.Authentication.MaxAge = durationpb.New(durationOr(login.MaxAge, 0))
		}
	}
	if relationship := value.RequireRelationship; relationship != nil {
		rule.Requirements.Relationship = &rulesv1.RelationshipRequirement{
			User: relationship.User, Relation: relationship.Relation, Object: relationship.Object,
		}
	}
	return rule
}

// surrounding adds what a piece says; pieces about other things are left alone.
// What cannot be had keeps the rules from deciding: no rule is evaluated without
// what it reads.
func (r *resolver) surrounding(compiled *compiledAuth, won wonPiece) {
	if compiled.settings == nil {
		compiled.settings = &rulesv1.AuthorizationSettings{}
	}
	var err error
	switch value := won.value.(type) {
	case roleClaims:
		compiled.settings.RoleClaims = value
	case *v1alpha1.MetadataSource:
		var source *rulesv1.MetadataSource
		source, err = r.metadataSource(won.from.object, value)
		compiled.metadata = append(compiled.metadata, source)
	case *v1alpha1.RelationshipStore:
		store := &rulesv1.RelationshipStore{
			Url: strings.TrimSuffix(value.URL, "/"), StoreId: value.StoreID, ModelId: value.ModelID,
			Timeout: durationpb.New(durationOr(value.Timeout, time.Second)), CacheDuration: durationpb.New(durationOr(value.CacheDuration, 0)),
		}
		store.Token, err = r.optionalSecret(won.from.object, value.TokenRef)
		compiled.settings.Relationships = store
	case *v1alpha1.RuleBody:
		compiled.auth.BodyBytes = max(compiled.auth.BodyBytes, uint32(deref(value.MaxBytes, defaultBodyBytes))) //nolint:gosec // validated
		compiled.body = &rulesv1.BodyInput{MaxBytes: uint32(deref(value.MaxBytes, defaultBodyBytes))}           //nolint:gosec // validated
		if ref := value.DescriptorSetRef; ref != nil {
			compiled.body.DescriptorSet, err = r.descriptorSet(won.from.object, *ref)
		}
	case *v1alpha1.Upstream:
		compiled.upstream, err = r.upstream(won.from.object, value)
	}
	if err != nil {
		code, mended := CodeRefNotFound, "is there"
		if errors.As(err, new(clientKeyError)) {
			code, mended = CodeClientKey, "is mended"
		}
		r.reportOnce(won.from.object.problem(code, won.origin.Field, err.Error()+"; requests are refused until it "+mended))
		won.from.broken(err.Error())
		compiled.unusable = cmp.Or(compiled.unusable, err.Error())
	}
}

func deref[T any](value *T, otherwise T) T {
	if value == nil {
		return otherwise
	}
	return *value
}

func (r *resolver) metadataSource(object *Object, value *v1alpha1.MetadataSource) (*rulesv1.MetadataSource, error) {
	source := &rulesv1.MetadataSource{
		Name: value.Name, Url: strings.TrimSuffix(value.URL, "/"), Path: value.Path, Query: value.Query,
		Timeout:       durationpb.New(durationOr(value.Timeout, time.Second)),
		CacheDuration: durationpb.New(durationOr(value.CacheDuration, 0)),
		MaxBytes:      uint32(deref(value.MaxBytes, 64<<10)), //nolint:gosec // validated
	}
	if value.Protocol == v1alpha1.MetadataGRPC {
		source.Protocol, source.Parameters = rulesv1.MetadataSource_PROTOCOL_GRPC, value.Parameters
	}
	if len(value.Headers) > 0 || value.TokenRef != nil {
		source.Headers = map[string]string{}
	}
	for name, text := range value.Headers {
		source.Headers[strings.ToLower(name)] = text
	}
	if value.Default != "" {
		source.DefaultValue = &structpb.Value{}
		if err := protojson.Unmarshal([]byte(value.Default), source.DefaultValue); err != nil {
			return source, fmt.Errorf("the default is not JSON") //nolint:err113 // shown to the author
		}
	}
	token, err := r.optionalSecret(object, value.TokenRef)
	if token != "" {
		source.Headers["authorization"] = "Bearer " + strings.NewReplacer("{", "{{", "}", "}}").Replace(token)
	}
	return source, err
}

// optionalSecret is the text of a Secret's key without outer white space, empty
// without a reference.
func (r *resolver) optionalSecret(object *Object, ref *v1alpha1.SecretKeyRef) (string, error) {
	if ref == nil {
		return "", nil
	}
	value, err := r.secretValue(object.Ref.Namespace, *ref)
	return strings.TrimSpace(string(value)), err
}

func (r *resolver) descriptorSet(object *Object, ref v1alpha1.ConfigMapKeyRef) ([]byte, error) {
	raw, err := r.configMapValue(object.Ref.Namespace, ref)
	if err != nil {
		return nil, err
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(raw, &set); err != nil || len(set.GetFile()) == 0 {
		return nil, fmt.Errorf("ConfigMap %s/%s, key %q, is not a FileDescriptorSet", object.Ref.Namespace, ref.Name, ref.Key)
	}
	return raw, nil
}

func (r *resolver) upstream(object *Object, value *v1alpha1.Upstream) (*rulesv1.Upstream, error) {
	upstream := &rulesv1.Upstream{}
	listed := value.IdentityHeaders
	if len(listed) == 0 {
		listed = []v1alpha1.IdentityHeader{
			v1alpha1.IdentityConsumer, v1alpha1.IdentitySubject, v1alpha1.IdentityTenant, v1alpha1.IdentityTier, v1alpha1.IdentityScopes, v1alpha1.IdentityAuthenticator,
		}
	}
	for _, header := range listed {
		if header != v1alpha1.IdentityNone {
			upstream.IdentityHeaders = append(upstream.IdentityHeaders, strings.ToLower(string(header)))
		}
	}
	for _, header := range value.ClaimHeaders {
		upstream.ClaimHeaders = append(upstream.ClaimHeaders, &rulesv1.ClaimHeader{Claim: header.Claim, Header: strings.ToLower(header.Header)})
	}
	if assertion := value.Assertion; assertion != nil {
		upstream.Assertion = &rulesv1.Assertion{
			Header: strings.ToLower(cmp.Or(assertion.Header, defaultAssertionHeader)), Audiences: assertion.Audiences,
			Lifetime: durationpb.New(durationOr(assertion.Lifetime, time.Minute)), Claims: assertion.Claims,
		}
	}
	exchange := value.TokenExchange
	if exchange == nil {
		return upstream, nil
	}
	secret, err := r.optionalSecret(object, &exchange.ClientSecretRef)
	upstream.Exchange = &rulesv1.TokenExchange{
		TokenEndpoint: exchange.TokenEndpoint, ClientId: exchange.ClientID, ClientSecret: secret,
		Audience: exchange.Audience, Resource: exchange.Resource, Scopes: exchange.Scopes,
		Timeout: durationpb.New(durationOr(exchange.Timeout, 2*time.Second)),
	}
	upstream.Exchange.ClientAuthentication = clientAuthentication(exchange.ClientAuthentication)
	if exchange.ClientAuthentication == v1alpha1.ClientPrivateKeyJWT {
		upstream.Exchange.AssertionAudience = exchange.AssertionAudience
		if err == nil {
			err = clientKey(object.Ref.Namespace, exchange.ClientSecretRef, []byte(secret))
		}
	}
	return upstream, err
}

// checkReads finds what a rule reads and no policy of the merge provides: a rule
// and its source can be of different policies, of which one lost.
func (r *resolver) checkReads(compiled *compiledAuth) {
	provides := map[string]bool{"request.body": compiled.body != nil, relationshipsRead: compiled.settings.GetRelationships() != nil}
	for _, source := range compiled.metadata {
		provides["metadata."+source.GetName()] = true
	}
	var environment *authzexpr.Environment
	for _, rule := range compiled.rules {
		compiled.readsHostnames = compiled.readsHostnames || strings.Contains(rule.GetExpression(), "hostnames")
		var read []string
		relationship := rule.GetRequirements().GetRelationship()
		if relationship != nil {
			read = append(read, relationshipsRead)
		}
		texts := strings.Join([]string{rule.GetExpression(), relationship.GetUser(), relationship.GetRelation(), relationship.GetObject()}, " ")
		if strings.Contains(texts, "metadata") || strings.Contains(texts, "body") {
			if environment == nil {
				made, err := authzexpr.NewEnvironment()
				if err != nil {
					compiled.unusable = err.Error()
					return
				}
				environment = made
			}
			read = append(read, readBy(environment, rule)...)
		}
		if lacking := lacks(read, provides); lacking != "" {
			compiled.unusable = cmp.Or(compiled.unusable, fmt.Sprintf("the rule %q %s", rule.GetName(), lacking))
		}
	}
}

// readBy is what a rule's expression and templates read; they compiled before.
func readBy(environment *authzexpr.Environment, rule *rulesv1.AuthorizationRule) (read []string) {
	if program, err := environment.Compile(rule.GetExpression()); err == nil {
		read = append(read, program.References()...)
	}
	relationship := rule.GetRequirements().GetRelationship()
	for _, text := range []string{relationship.GetUser(), relationship.GetRelation(), relationship.GetObject()} {
		if template, err := environment.CompileTemplate(text); err == nil {
			read = append(read, template.References()...)
		}
	}
	return read
}

// behindProxies has rules read the client's address as the proxy in front of us
// finds it, where others stand before that one.
func (c *compiledAuth) behindProxies(edge Edge) {
	if !edge.BehindProxies() || len(c.rules) == 0 {
		return
	}
	settings := &rulesv1.AuthorizationSettings{ClientAddress: true}
	if c.settings != nil {
		proto.Merge(settings, c.settings)
	}
	c.settings = settings
}

// around adds the surroundings to a route's rules.
func (s *surroundings) around(rule *ruleSource, route *authRoute) *authRoute {
	route.Metadata, route.Body, route.Upstream = s.metadata, s.body, s.upstream
	route.Settings = s.settings
	if s.readsHostnames && len(rule.hostnames) > 0 {
		settings := &rulesv1.AuthorizationSettings{}
		proto.Merge(settings, s.settings)
		for _, name := range rule.hostnames {
			settings.Hostnames = append(settings.Hostnames, string(name))
		}
		route.Settings = settings
	}
	if proto.Size(route.GetSettings()) == 0 {
		route.Settings = nil
	}
	return route
}
