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
	keys, err := r.keys(from, "jwt.jwks", "tokens", &jwt.JWKS)
	switch {
	case err != nil:
		return nil, err
	case keys.remote != nil:
		message.Jwks = &rulesv1.JwtAuthenticator_RemoteJwks{RemoteJwks: keys.remote}
	case keys.discovered != nil:
		message.Jwks = &rulesv1.JwtAuthenticator_DiscoveredJwks{DiscoveredJwks: keys.discovered}
	default:
		message.Jwks = &rulesv1.JwtAuthenticator_InlineJwks{InlineJwks: keys.inline}
	}
	return message, nil
}

// keySource is one of the ways in which keys are had.
type keySource struct {
	remote     *rulesv1.RemoteJwks
	discovered *rulesv1.DiscoveredJwks
	inline     string
}

// keys compiles where an issuer's keys come from. What is signed by them is what
// is refused while they cannot be had.
func (r *resolver) keys(from wonPiece, field, what string, jwks *v1alpha1.JWKS) (keys keySource, err error) {
	switch remote, discovery := jwks.Remote, jwks.Discovery; {
	case remote != nil:
		keys.remote = &rulesv1.RemoteJwks{
			Uri:           remote.URI,
			CacheDuration: durationpb.New(durationOr(remote.CacheDuration, 5*time.Minute)),
			MaxStale:      durationpb.New(durationOr(remote.MaxStale, time.Hour)),
			Timeout:       durationpb.New(durationOr(remote.Timeout, 5*time.Second)),
		}
	case discovery != nil:
		keys.discovered = &rulesv1.DiscoveredJwks{
			Uri:           discovery.URI,
			CacheDuration: durationpb.New(durationOr(discovery.CacheDuration, 5*time.Minute)),
			MaxStale:      durationpb.New(durationOr(discovery.MaxStale, time.Hour)),
			Timeout:       durationpb.New(durationOr(discovery.Timeout, 5*time.Second)),
		}
	default:
		if keys.inline, err = r.inlineJWKS(from.from.object, *jwks.ConfigMapRef); err != nil {
			return keys, r.unusableWay(from, field+".configMapRef", what, err)
		}
	}
	return keys, nil
}

// unusableWay reports that what a way refers to cannot be had; what it accepts is
// refused meanwhile.
func (r *resolver) unusableWay(from wonPiece, field, what string, err error) error {
	r.reportOnce(from.from.object.problem(CodeRefNotFound, from.origin.Field+"."+field, err.Error()+"; "+what+" are refused until it is there"))
	from.from.broken(err.Error())
	return err
}

// clientAuthentication is how extauthz proves itself; what is not said is left to it.
func clientAuthentication(how v1alpha1.ClientAuthentication) rulesv1.ClientAuthentication {
	switch how {
	case v1alpha1.ClientBasic:
		return rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_BASIC
	case v1alpha1.ClientPost:
		return rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_POST
	case v1alpha1.ClientPrivateKeyJWT:
		return rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_PRIVATE_KEY_JWT
	}
	return rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_UNSPECIFIED
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
	message.ClientAuthentication = clientAuthentication(settings.ClientAuthentication)
	if settings.ClientAuthentication == v1alpha1.ClientPrivateKeyJWT {
		if err := clientKey(from.from.namespace(), settings.ClientSecretRef, secret); err != nil {
			r.reportOnce(from.from.object.problem(CodeClientKey, from.origin.Field+".introspection.clientSecretRef", err.Error()+"; opaque tokens are refused until it is mended"))
			from.from.broken(err.Error())
			return nil, err
		}
	}
	if settings.SignedResponse != nil {
		message.SignedResponse, err = r.signedResponse(from, settings.SignedResponse)
	}
	return message, err
}

func (r *resolver) signedResponse(from wonPiece, settings *v1alpha1.SignedResponse) (*rulesv1.SignedResponse, error) {
	message := &rulesv1.SignedResponse{Algorithms: settings.Algorithms, Audience: settings.Audience}
	keys, err := r.keys(from, "introspection.signedResponse.jwks", "opaque tokens", &settings.JWKS)
	switch {
	case err != nil:
		return nil, err
	case keys.remote != nil:
		message.Jwks = &rulesv1.SignedResponse_RemoteJwks{RemoteJwks: keys.remote}
	case keys.discovered != nil:
		message.Jwks = &rulesv1.SignedResponse_DiscoveredJwks{DiscoveredJwks: keys.discovered}
	default:
		message.Jwks = &rulesv1.SignedResponse_InlineJwks{InlineJwks: keys.inline}
	}
	return message, nil
}

// clientKeyError is a Secret that holds no key to prove a client with.
type clientKeyError struct{ error }

// clientKey checks the Secret that a client proves itself with by a signature.
func clientKey(namespace string, ref v1alpha1.SecretKeyRef, secret []byte) error {
	if err := checkClientKey(secret); err != nil {
		return clientKeyError{fmt.Errorf("Secret %s/%s, key %q, %w", namespace, ref.Name, ref.Key, err)} //nolint:staticcheck // a kind's name
	}
	return nil
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
