package authtest

import (
	"crypto/sha256"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

// The keys of Consumers.
const (
	GoodKey    = "wk_good_0123456789abcdef"
	ExpiredKey = "wk_expired_0123456789abc"
)

// APIKey is an authenticator named "key" by x-api-key.
func APIKey() *rulesv1.Authenticator {
	return &rulesv1.Authenticator{Name: "key", Method: &rulesv1.Authenticator_ApiKey{ApiKey: &rulesv1.ApiKeyAuthenticator{Header: "x-api-key"}}}
}

// JWT is an authenticator by a provider.
func JWT(name string, provider *rulesv1.JwtAuthenticator) *rulesv1.Authenticator {
	return &rulesv1.Authenticator{Name: name, Method: &rulesv1.Authenticator_Jwt{Jwt: provider}}
}

// Anonymous is an authenticator named "anyone".
func Anonymous() *rulesv1.Authenticator {
	return &rulesv1.Authenticator{Name: "anyone", Method: &rulesv1.Authenticator_Anonymous{Anonymous: &rulesv1.AnonymousAuthenticator{}}}
}

// Route is a route with authenticators.
func Route(id string, authenticators ...*rulesv1.Authenticator) *rulesv1.AuthRoute {
	return &rulesv1.AuthRoute{RouteId: id, Policy: "default/policy", Digest: "d1", Realm: "edge", Authenticators: authenticators}
}

// Allow is an allow rule.
func Allow(name, expression string) *rulesv1.AuthorizationRule {
	return &rulesv1.AuthorizationRule{Name: name, Effect: rulesv1.AuthorizationRule_EFFECT_ALLOW, Expression: expression}
}

// Deny is a deny rule.
func Deny(name, expression string) *rulesv1.AuthorizationRule {
	return &rulesv1.AuthorizationRule{Name: name, Effect: rulesv1.AuthorizationRule_EFFECT_DENY, Expression: expression}
}

// WithRules adds rules to a route.
func WithRules(route *rulesv1.AuthRoute, rules ...*rulesv1.AuthorizationRule) *rulesv1.AuthRoute {
	route.Rules = rules
	return route
}

// Consumers is one consumer, "default/shop", with a good and an expired key and
// the token subject "shop-bot".
func Consumers() map[string]*rulesv1.Consumer {
	digest := func(key string) []byte { sum := sha256.Sum256([]byte(key)); return sum[:] }
	return map[string]*rulesv1.Consumer{"default/shop": {
		Name: "default/shop", Tenant: "acme", Tier: "gold",
		ApiKeys: []*rulesv1.ApiKey{
			{Name: "main", Sha256: digest(GoodKey), Scopes: []string{"read"}, ExpireTime: timestamppb.New(Now().Add(time.Hour))},
			{Name: "old", Sha256: digest(ExpiredKey), ExpireTime: timestamppb.New(Now())},
		},
		TokenSubjects: []*rulesv1.TokenSubject{{Issuer: Issuer, Subject: "shop-bot"}},
	}}
}
