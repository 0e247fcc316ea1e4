package policy

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy/v1alpha1"
)

// defaultQuestion bounds one question about a token.
const defaultQuestion = 2 * time.Second

// settleWay fills in what every way has that asks someone.
func settleWay(authenticator *rulesv1.Authenticator, way *v1alpha1.Authentication) {
	if way.Timeout != nil {
		authenticator.Timeout = durationpb.New(durationOr(way.Timeout, 0))
	}
	if way.FailureMode == v1alpha1.AuthFailureNext {
		authenticator.FailureMode = rulesv1.Authenticator_FAILURE_MODE_NEXT
	}
}

func claimMapping(claims *v1alpha1.ClaimMapping) *rulesv1.ClaimMapping {
	return &rulesv1.ClaimMapping{Subject: claims.Subject, Tenant: claims.Tenant, Scopes: claims.Scopes, Client: claims.Client}
}

// tokenCache is nil where the policy says nothing.
func tokenCache(cache *v1alpha1.TokenCache) *rulesv1.TokenCache {
	if cache == nil {
		return nil
	}
	return &rulesv1.TokenCache{Ttl: optionalDuration(cache.TTL), RefusalTtl: optionalDuration(cache.RefusalTTL)}
}

func optionalDuration(value *gatewayv1.Duration) *durationpb.Duration {
	if value == nil {
		return nil
	}
	return durationpb.New(durationOr(value, 0))
}

// jwt compiles a way by signed tokens. Keys that are not there make it unusable,
// and it is left out.
func (r *resolver) jwt(from wonPiece, jwt *v1alpha1.JWT) (*rulesv1.JwtAuthenticator, error) {
	message := &rulesv1.JwtAuthenticator{
		Issuer: jwt.Issuer, Audiences: jwt.Audiences, Algorithms: jwt.Algorithms, Types: jwt.Types,
		Leeway: durationpb.New(durationOr(jwt.Leeway, 0)),
		Claims: claimMapping(&jwt.Claims), Cache: tokenCache(jwt.Cache),
	}
	switch remote, discovery := jwt.JWKS.Remote, jwt.JWKS.Discovery; {
	case remote != nil:
		message.Jwks = &rulesv1.JwtAuthenticator_RemoteJwks{RemoteJwks: &rulesv1.RemoteJwks{
			Uri:           remote.URI,
			CacheDuration: durationpb.New(durationOr(remote.CacheDuration, 5*time.Minute)),
			MaxStale:      durationpb.New(durationOr(remote.MaxStale, time.Hour)),
			Timeout:       durationpb.New(durationOr(remote.Timeout, 5*time.Second)),
		}}
	case discovery != nil:
		message.Jwks = &rulesv1.JwtAuthenticator_DiscoveredJwks{DiscoveredJwks: &rulesv1.DiscoveredJwks{
			Uri:           discovery.URI,
			CacheDuration: durationpb.New(durationOr(discovery.CacheDuration, 5*time.Minute)),
			MaxStale:      durationpb.New(durationOr(discovery.MaxStale, time.Hour)),
			Timeout:       durationpb.New(durationOr(discovery.Timeout, 5*time.Second)),
		}}
	default:
		keys, err := r.inlineJWKS(from.from.object, *jwt.JWKS.ConfigMapRef)
		if err != nil {
			return nil, r.unusableWay(from, "jwt.jwks.configMapRef", "tokens", err)
		}
		message.Jwks = &rulesv1.JwtAuthenticator_InlineJwks{InlineJwks: keys}
	}
	return message, nil
}

// unusableWay reports that what a way refers to cannot be had; what it accepts is
// refused meanwhile.
func (r *resolver) unusableWay(from wonPiece, field, what string, err error) error {
	r.reportOnce(from.from.object.problem(CodeRefNotFound, from.origin.Field+"."+field, err.Error()+"; "+what+" are refused until it is there"))
	from.from.broken(err.Error())
	return err
}

func (r *resolver) introspection(from wonPiece, way *v1alpha1.Authentication) (*rulesv1.IntrospectionAuthenticator, error) {
	settings := way.Introspection
	secret, err := r.secretValue(from.from.namespace(), settings.ClientSecretRef)
	if err != nil {
		return nil, r.unusableWay(from, "introspection.clientSecretRef", "opaque tokens", err)
	}
	message := &rulesv1.IntrospectionAuthenticator{
		Uri: settings.URI, Issuer: settings.Issuer, Audiences: settings.Audiences, ClientId: settings.ClientID,
		ClientSecret: strings.TrimRight(string(secret), "\r\n"), AssertionAudience: settings.AssertionAudience,
		Claims: claimMapping(&settings.Claims), Cache: tokenCache(settings.Cache),
		Timeout: durationpb.New(durationOr(way.Timeout, defaultQuestion)),
	}
	switch settings.ClientAuthentication {
	case v1alpha1.ClientPost:
		message.ClientAuthentication = rulesv1.IntrospectionAuthenticator_CLIENT_AUTHENTICATION_POST
	case v1alpha1.ClientPrivateKeyJWT:
		message.ClientAuthentication = rulesv1.IntrospectionAuthenticator_CLIENT_AUTHENTICATION_PRIVATE_KEY_JWT
		if err := checkClientKey(secret); err != nil {
			err = fmt.Errorf("Secret %s/%s, key %q, %w", from.from.namespace(), settings.ClientSecretRef.Name, settings.ClientSecretRef.Key, err) //nolint:staticcheck // a kind's name
			r.reportOnce(from.from.object.problem(CodeClientKey, from.origin.Field+".introspection.clientSecretRef", err.Error()+"; opaque tokens are refused until it is mended"))
			from.from.broken(err.Error())
			return nil, err
		}
	default:
		message.ClientAuthentication = rulesv1.IntrospectionAuthenticator_CLIENT_AUTHENTICATION_BASIC
	}
	return message, nil
}

// checkClientKey is what extauthz accepts, so that a bad key hurts this way alone
// and not the whole set of rules.
func checkClientKey(text []byte) error {
	block, _ := pem.Decode(text)
	if block == nil {
		return errors.New("holds no private key in PEM, which PrivateKeyJWT signs with")
	}
	if parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		return checkSigner(parsed)
	}
	if parsed, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return checkSigner(parsed)
	}
	if parsed, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return checkSigner(parsed)
	}
	return errors.New("holds a private key that cannot be read: PKCS #8, PKCS #1 and SEC 1 are, without a password")
}

func kubernetesTokens(way *v1alpha1.Authentication) *rulesv1.KubernetesAuthenticator {
	settings := way.Kubernetes
	return &rulesv1.KubernetesAuthenticator{
		Audiences: settings.Audiences, Issuer: settings.Issuer,
		Claims: claimMapping(&settings.Claims), Cache: tokenCache(settings.Cache),
		Timeout: durationpb.New(durationOr(way.Timeout, defaultQuestion)),
	}
}
