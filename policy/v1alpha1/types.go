package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Backend is where requests go: addresses, the protocol spoken there and how
// the connection is secured.
type Backend struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              BackendSpec `json:"spec"`
}

// BackendSpec describes a Backend.
type BackendSpec struct {
	// Protocol spoken by the endpoints: HTTP (1.1), HTTP2 or GRPC. Default HTTP.
	Protocol BackendProtocol `json:"protocol,omitempty"`
	// Endpoints are load-balanced; at least 1, at most 256.
	Endpoints []Endpoint `json:"endpoints"`
	// TLS secures the connections; none means plain text.
	TLS *BackendTLS `json:"tls,omitempty"`
	// Transcoding lets HTTPRoutes reach a GRPC backend as REST, by the
	// google.api.http annotations of its services.
	Transcoding *Transcoding `json:"transcoding,omitempty"`
}

// BackendProtocol is what a Backend speaks.
type BackendProtocol string

// Protocols of a Backend.
const (
	ProtocolHTTP  BackendProtocol = "HTTP"
	ProtocolHTTP2 BackendProtocol = "HTTP2"
	ProtocolGRPC  BackendProtocol = "GRPC"
)

// Endpoint is one address of a Backend.
type Endpoint struct {
	// Address is an IP address or a DNS name, which is resolved by Envoy.
	Address string `json:"address"`
	// Port is 1 to 65535.
	Port int32 `json:"port"`
}

// BackendTLS secures connections to a Backend. Exactly one of the fields is
// set.
type BackendTLS struct {
	// SPIFFEID is the identity that the backend must present in a certificate
	// of the mesh's own authorities; the edge presents its own in turn (mutual
	// TLS).
	SPIFFEID string `json:"spiffeID,omitempty"`
	// Hostname is sent as SNI and must be in the backend's certificate, which
	// must be of an authority that the edge's system trusts.
	Hostname string `json:"hostname,omitempty"`
}

// Transcoding names the services that REST requests are turned into calls of.
type Transcoding struct {
	// DescriptorSetRef is a serialised google.protobuf.FileDescriptorSet with
	// all imports.
	DescriptorSetRef ConfigMapKeyRef `json:"descriptorSetRef"`
	// Services are full names, such as weir.user.v1.UserService; 1 to 64.
	Services []string `json:"services"`
	// MaxRequestBytes bounds a REST request's body, which is held in memory.
	// Default 1 MiB, at most 64 MiB.
	MaxRequestBytes int64 `json:"maxRequestBytes,omitempty"`
}

// ConfigMapKeyRef is one key of a ConfigMap in the same namespace.
type ConfigMapKeyRef struct {
	Name string `json:"name"`
	Key  string `json:"key"`
}

// Consumer is a party that calls the API.
type Consumer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              ConsumerSpec `json:"spec"`
}

// ConsumerSpec describes a Consumer.
type ConsumerSpec struct {
	// Tenant whose data the consumer sees; passed to services.
	Tenant string `json:"tenant,omitempty"`
	// Tier picks limits.
	Tier string `json:"tier,omitempty"`
	// APIKeys of the consumer; at most 64.
	APIKeys []APIKey `json:"apiKeys,omitempty"`
	// TokenSubjects are the token bearers that are this consumer; at most 64.
	TokenSubjects []TokenSubject `json:"tokenSubjects,omitempty"`
}

// APIKey is the hash of one key.
type APIKey struct {
	// Name is unique within the consumer.
	Name string `json:"name"`
	// SHA256 of the key in lower-case hex. Keys need at least 128 bits of
	// randomness: a plain hash protects nothing weaker.
	SHA256 string `json:"sha256"`
	// ExpireTime ends the key; none means never.
	ExpireTime *metav1.Time `json:"expireTime,omitempty"`
	// Scopes granted to requests with this key; at most 64.
	Scopes []string `json:"scopes,omitempty"`
}

// TokenSubject identifies the bearer of a token.
type TokenSubject struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
}

// TargetRef attaches a policy to a Gateway, HTTPRoute or GRPCRoute of its own
// namespace, or to one listener or rule of it (GEP-713, GEP-2648).
type TargetRef = gatewayv1.LocalPolicyTargetReferenceWithSectionName

// AuthPolicy says who may call. The policy attached most specifically (rule,
// route, listener, gateway) is the one in effect.
type AuthPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              AuthPolicySpec `json:"spec"`
}

// AuthPolicySpec describes an AuthPolicy.
type AuthPolicySpec struct {
	// TargetRefs are 1 to 16 attachments.
	TargetRefs []TargetRef `json:"targetRefs"`
	// Authentication lists accepted ways to identify the caller, tried in
	// order; 1 to 16.
	Authentication []Authentication `json:"authentication"`
	// Authorization decides about identified callers; none lets all of them.
	Authorization *Authorization `json:"authorization,omitempty"`
	// CORS answers preflight requests, without authentication, and marks
	// responses for browsers. Where a policy says nothing about CORS, that of
	// the next less specific one applies. A CORS filter of a route wins.
	CORS *gatewayv1.HTTPCORSFilter `json:"cors,omitempty"`
}

// Authentication is one accepted way. Exactly one of the methods is set.
type Authentication struct {
	// Name is unique within the policy.
	Name      string     `json:"name"`
	APIKey    *APIKeyWay `json:"apiKey,omitempty"`
	JWT       *JWT       `json:"jwt,omitempty"`
	Anonymous *Anonymous `json:"anonymous,omitempty"`
}

// APIKeyWay accepts the keys of Consumers.
type APIKeyWay struct {
	// Header that carries the key. Default X-API-Key.
	Header string `json:"header,omitempty"`
}

// Anonymous lets callers without credentials through.
type Anonymous struct{}

// JWT accepts Bearer tokens of one issuer.
type JWT struct {
	// Issuer is the exact "iss".
	Issuer string `json:"issuer"`
	// Audiences: "aud" must hold one of them; 1 to 16.
	Audiences []string `json:"audiences"`
	// Algorithms accepted; asymmetric ones only: RS256, RS384, RS512, PS256,
	// PS384, PS512, ES256, ES384, ES512, EdDSA; at least 1.
	Algorithms []string `json:"algorithms"`
	JWKS       JWKS     `json:"jwks"`
	// Leeway on exp, nbf and iat. Default 0s, at most 5m.
	Leeway *gatewayv1.Duration `json:"leeway,omitempty"`
	// Types accepted in the "typ" header. Default JWT, at+jwt and none.
	Types []string `json:"types,omitempty"`
	// Claims names what becomes the identity.
	Claims ClaimMapping `json:"claims,omitempty"`
}

// JWKS says where the keys are. Exactly one of the fields is set.
type JWKS struct {
	ConfigMapRef *ConfigMapKeyRef `json:"configMapRef,omitempty"`
	Remote       *RemoteJWKS      `json:"remote,omitempty"`
}

// RemoteJWKS is a key set fetched by extauthz.
type RemoteJWKS struct {
	// URI is https; http is accepted for loopback addresses only.
	URI string `json:"uri"`
	// CacheDuration is how long a fetched set is fresh. Default 5m.
	CacheDuration *gatewayv1.Duration `json:"cacheDuration,omitempty"`
	// MaxStale is how long after that it serves while the source fails.
	// Default 1h.
	MaxStale *gatewayv1.Duration `json:"maxStale,omitempty"`
	// Timeout of a fetch. Default 5s.
	Timeout *gatewayv1.Duration `json:"timeout,omitempty"`
}

// ClaimMapping names claims; dots reach into objects.
type ClaimMapping struct {
	// Subject defaults to "sub".
	Subject string `json:"subject,omitempty"`
	// Tenant has no default: none is taken.
	Tenant string `json:"tenant,omitempty"`
	// Scopes defaults to "scope".
	Scopes string `json:"scopes,omitempty"`
}

// Authorization is an ordered list of rules; the first one that holds decides.
// When none holds, the request passes if there is no Allow rule, and is refused
// otherwise.
type Authorization struct {
	// Rules are 1 to 64.
	Rules []AuthorizationRule `json:"rules"`
}

// AuthorizationRule is one allow or deny rule.
type AuthorizationRule struct {
	// Name is unique within the policy.
	Name string `json:"name"`
	// Effect is Allow or Deny.
	Effect Effect `json:"effect"`
	// When is a CEL expression of type bool over request, identity, route and
	// source. An error while evaluating refuses the request.
	When string `json:"when"`
}

// Effect is what a rule does.
type Effect string

// Effects of a rule.
const (
	EffectAllow Effect = "Allow"
	EffectDeny  Effect = "Deny"
)

// RateLimitPolicy says how often. The policy attached most specifically is the
// one in effect.
type RateLimitPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              RateLimitPolicySpec `json:"spec"`
}

// RateLimitPolicySpec describes a RateLimitPolicy.
type RateLimitPolicySpec struct {
	// TargetRefs are 1 to 16 attachments.
	TargetRefs []TargetRef `json:"targetRefs"`
	// Limits all apply; a request passes when every one admits it. 1 to 8.
	Limits []Limit `json:"limits"`
}

// Limit is one limit.
type Limit struct {
	// Name is unique within the policy; clients see it in RateLimit headers.
	Name string `json:"name"`
	// Requests admitted per window. 0 refuses all.
	Requests uint32 `json:"requests"`
	// Window is 1s to 744h.
	Window gatewayv1.Duration `json:"window"`
	// Algorithm is FixedWindow (default) or GCRA.
	Algorithm Algorithm `json:"algorithm,omitempty"`
	// Burst, of GCRA: requests admitted at once after idleness. Default
	// requests.
	Burst uint32 `json:"burst,omitempty"`
	// By lists what is counted separately; none counts all requests together.
	// At most 4.
	By []CountBy `json:"by,omitempty"`
	// Tiers replaces the numbers for consumers of a tier.
	Tiers map[string]TierLimit `json:"tiers,omitempty"`
	// FailureMode says what happens when the limiter cannot answer: Open
	// (default) lets requests through, Closed answers 503.
	FailureMode FailureMode `json:"failureMode,omitempty"`
	// Shadow counts and reports, and refuses nothing.
	Shadow bool `json:"shadow,omitempty"`
}

// Algorithm is how requests are counted.
type Algorithm string

// Algorithms of a limit.
const (
	AlgorithmFixedWindow Algorithm = "FixedWindow"
	AlgorithmGCRA        Algorithm = "GCRA"
)

// CountBy is one part of what is counted separately.
type CountBy struct {
	// Type is Consumer (the verified caller; all anonymous ones are one),
	// Route, ClientIP or Header.
	Type CountByType `json:"type"`
	// Header is the request header, with type Header; requests without it are
	// not limited by this limit.
	Header string `json:"header,omitempty"`
}

// CountByType is what kind of value is counted by.
type CountByType string

// Kinds of values to count by.
const (
	CountByConsumer CountByType = "Consumer"
	CountByRoute    CountByType = "Route"
	CountByClientIP CountByType = "ClientIP"
	CountByHeader   CountByType = "Header"
)

// TierLimit replaces a limit's numbers.
type TierLimit struct {
	Requests uint32 `json:"requests"`
	Burst    uint32 `json:"burst,omitempty"`
}

// FailureMode is who wins when the limiter cannot answer.
type FailureMode string

// Failure modes of a limit.
const (
	FailureModeOpen   FailureMode = "Open"
	FailureModeClosed FailureMode = "Closed"
)
