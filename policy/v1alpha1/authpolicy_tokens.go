package v1alpha1

import (
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// AuthFailureMode is what follows when whom a way has to ask cannot be asked.
//
// +kubebuilder:validation:Enum=Deny;Next
type AuthFailureMode string

// Failure modes. There is none that lets a request through.
const (
	// AuthFailureDeny refuses the request.
	AuthFailureDeny AuthFailureMode = "Deny"
	// AuthFailureNext leaves it to the next way whose credential is present.
	AuthFailureNext AuthFailureMode = "Next"
)

// TokenCache says how long what was found out about a token is remembered.
type TokenCache struct {
	// TTL is the most that a good token is remembered; it never is past its
	// expiry. Default 5m for jwt, 1m for introspection and kubernetes; at most 1h
	// and what extauthz's own configuration allows.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')",message="is 1s to 1h"
	TTL *gatewayv1.Duration `json:"ttl,omitempty"`
	// RefusalTTL is the most that a wrong token is remembered. Default 10s.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('5m')",message="is 1s to 5m"
	RefusalTTL *gatewayv1.Duration `json:"refusalTTL,omitempty"`
}

// JWKSDiscovery is a key set that the issuer's discovery document names. The
// document's issuer has to be the policy's, letter by letter, and algorithms that
// it does not list are not accepted.
type JWKSDiscovery struct {
	// URI of the document. Default: the issuer with
	// /.well-known/openid-configuration behind it. It is https; http is accepted
	// for loopback addresses only.
	//
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^https?://[^/?#@]+([/?][^#]*)?$`
	URI string `json:"uri,omitempty"`
	// CacheDuration is how long the document and its keys are fresh. Default 5m.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="is 1s to 24h"
	CacheDuration *gatewayv1.Duration `json:"cacheDuration,omitempty"`
	// MaxStale is how long after that they serve while the source fails. Default
	// 1h.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('168h')",message="is at most 168h"
	MaxStale *gatewayv1.Duration `json:"maxStale,omitempty"`
	// Timeout of both fetches together. Default 5s.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('100ms') && duration(self) <= duration('30s')",message="is 100ms to 30s"
	Timeout *gatewayv1.Duration `json:"timeout,omitempty"`
}

// Introspection accepts Bearer tokens that their issuer says are active (RFC
// 7662). Beside other ways that take tokens, it gets those that are not JWTs, and
// JWTs of its own issuer: no token is sent to an endpoint that it is not for.
type Introspection struct {
	// URI of the endpoint; https, or http on a loopback address.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^https?://[^/?#@]+([/?][^#]*)?$`
	// +kubebuilder:validation:XValidation:rule="isURL(self) && (url(self).getScheme() == 'https' || url(self).getHostname() in ['localhost', '[::1]', '::1'] || url(self).getHostname().startsWith('127.'))",message="is https; http is for loopback addresses only"
	URI string `json:"uri"`
	// Issuer of the tokens. An answer that names another one is refused.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	Issuer string `json:"issuer"`
	// Audiences: "aud" of the answer must hold one of them; at most 16. None
	// leaves it to the endpoint, which knows who asks.
	//
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	// +listType=atomic
	Audiences []string `json:"audiences,omitempty"`
	// ClientID is how extauthz is known to the endpoint.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	ClientID string `json:"clientID"`
	// ClientSecretRef is what it proves itself with: a secret, or for
	// PrivateKeyJWT a private key in PEM (RSA, ECDSA or Ed25519).
	ClientSecretRef SecretKeyRef `json:"clientSecretRef"`
	// ClientAuthentication is Basic (default), Post or PrivateKeyJWT.
	ClientAuthentication ClientAuthentication `json:"clientAuthentication,omitempty"`
	// AssertionAudience is "aud" of what PrivateKeyJWT signs. Default: the issuer;
	// some servers want an endpoint.
	//
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	AssertionAudience string `json:"assertionAudience,omitempty"`
	// SignedResponse has the endpoint sign its answers (RFC 9701). Answers that are
	// not signed are refused then, and signed ones where it is not set.
	SignedResponse *SignedResponse `json:"signedResponse,omitempty"`
	// Claims names what of the answer becomes the identity.
	Claims ClaimMapping `json:"claims,omitempty"`
	Cache  *TokenCache  `json:"cache,omitempty"`
}

// SignedResponse says whose signature an answer must have (RFC 9701). It is a JWT
// of type token-introspection+jwt of the introspection's issuer, made within the
// last minute. Encrypted answers are not supported.
type SignedResponse struct {
	// Algorithms accepted, asymmetric only.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=10
	// +kubebuilder:validation:items:Enum=RS256;RS384;RS512;PS256;PS384;PS512;ES256;ES384;ES512;EdDSA;Ed25519
	// +listType=set
	Algorithms []string `json:"algorithms"`
	// JWKS are the issuer's keys.
	JWKS JWKS `json:"jwks"`
	// Audience is what "aud" of the answer must hold. Default: the clientID.
	//
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	Audience string `json:"audience,omitempty"`
}

// ClientAuthentication is how a client proves itself to an OAuth 2.0 server.
//
// +kubebuilder:validation:Enum=Basic;Post;PrivateKeyJWT
type ClientAuthentication string

// Ways of clients.
const (
	// ClientBasic is client_secret_basic (RFC 6749 section 2.3.1).
	ClientBasic ClientAuthentication = "Basic"
	// ClientPost is client_secret_post.
	ClientPost ClientAuthentication = "Post"
	// ClientPrivateKeyJWT is private_key_jwt (RFC 7523 section 2.2).
	ClientPrivateKeyJWT ClientAuthentication = "PrivateKeyJWT"
)

// KubernetesTokens accepts the tokens of Kubernetes ServiceAccounts. The API
// server is asked (TokenReview); extauthz's own configuration says which one.
type KubernetesTokens struct {
	// Audiences: the token must be bound to one of them; 1 to 16. A token for the
	// API server itself is not to be shown to anyone else.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	// +listType=atomic
	Audiences []string `json:"audiences"`
	// Issuer in the identity. Default kubernetes.
	//
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	Issuer string `json:"issuer,omitempty"`
	// Claims names what becomes the identity, of sub
	// (system:serviceaccount:NAMESPACE:NAME), namespace, serviceaccount, uid,
	// groups, pod and node.
	Claims ClaimMapping `json:"claims,omitempty"`
	Cache  *TokenCache  `json:"cache,omitempty"`
}
