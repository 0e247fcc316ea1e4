package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Backend is where requests go: addresses, the protocol spoken there and how
// the connection is secured.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=wbe,categories=weir
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Protocol",type=string,JSONPath=`.spec.protocol`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Backend struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              BackendSpec `json:"spec"`
	// Status is written by the control plane; in files it is not read.
	//
	// +optional
	Status ObjectStatus `json:"status,omitempty"`
}

// BackendSpec describes a Backend.
//
// +kubebuilder:validation:XValidation:rule="!has(self.transcoding) || (has(self.protocol) && self.protocol == 'GRPC')",message="transcoding needs protocol GRPC"
type BackendSpec struct {
	// Protocol spoken by the endpoints: HTTP (1.1), HTTP2 or GRPC. Default HTTP.
	Protocol BackendProtocol `json:"protocol,omitempty"`
	// Endpoints are load-balanced; at least 1, at most 256.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	Endpoints []Endpoint `json:"endpoints"`
	// TLS secures the connections; none means plain text.
	TLS *BackendTLS `json:"tls,omitempty"`
	// Transcoding lets HTTPRoutes reach a GRPC backend as REST, by the
	// google.api.http annotations of its services.
	Transcoding *Transcoding `json:"transcoding,omitempty"`
}

// BackendProtocol is what a Backend speaks.
//
// +kubebuilder:validation:Enum=HTTP;HTTP2;GRPC
type BackendProtocol string

// Protocols of a Backend.
const (
	ProtocolHTTP  BackendProtocol = "HTTP"
	ProtocolHTTP2 BackendProtocol = "HTTP2"
	ProtocolGRPC  BackendProtocol = "GRPC"
)

// Endpoint is one address of a Backend.
//
// +kubebuilder:validation:XValidation:rule="has(self.unixSocket) ? !has(self.address) && !has(self.port) : has(self.address) && has(self.port)",message="set address and port, or unixSocket"
type Endpoint struct {
	// Address is an IP address or a DNS name, which is resolved by Envoy.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="isIP(self) || !format.dns1123Subdomain().validate(self.lowerAscii()).hasValue()",message="is neither an IP address nor a DNS name"
	Address string `json:"address,omitempty"`
	// Port is 1 to 65535.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`
	// UnixSocket is the path of a Unix domain socket on the proxy's machine, in
	// place of address and port.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=107
	// +kubebuilder:validation:Pattern=`^/[^\x00-\x1f\x7f]+$`
	UnixSocket string `json:"unixSocket,omitempty"`
	// Zone is where the endpoint is, for TrafficPolicies that prefer the proxy's
	// own.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	Zone string `json:"zone,omitempty"`
}

// BackendTLS secures connections to a Backend. Exactly one of spiffeID and
// hostname is set.
//
// +kubebuilder:validation:XValidation:rule="has(self.hostname) || !has(self.caCertificateRef) && !has(self.subjectAltNames)",message="caCertificateRef and subjectAltNames need hostname"
// +kubebuilder:validation:XValidation:rule="has(self.spiffeID) != has(self.hostname)",message="set exactly one of spiffeID and hostname"
type BackendTLS struct {
	// SPIFFEID is the identity that the backend must present in a certificate
	// of the mesh's own authorities; the edge presents its own in turn (mutual
	// TLS).
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+$`
	SPIFFEID string `json:"spiffeID,omitempty"`
	// Hostname is sent as SNI and must be in the backend's certificate, which
	// must be of an authority that the edge's system trusts, unless the fields
	// below say otherwise.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="!isIP(self) && !format.dns1123Subdomain().validate(self).hasValue()",message="is not a lower-case DNS name"
	Hostname string `json:"hostname,omitempty"`
	// CACertificateRef is a bundle of authorities, in PEM, that are trusted in
	// place of the system's.
	//
	// +optional
	CACertificateRef *ConfigMapKeyRef `json:"caCertificateRef,omitempty"`
	// SubjectAltNames are names of which the certificate must have one, in place
	// of hostname; at most 5.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=5
	// +listType=atomic
	SubjectAltNames []gatewayv1.SubjectAltName `json:"subjectAltNames,omitempty"`
}

// Transcoding names the services that REST requests are turned into calls of.
type Transcoding struct {
	// DescriptorSetRef is a serialised google.protobuf.FileDescriptorSet with
	// all imports.
	DescriptorSetRef ConfigMapKeyRef `json:"descriptorSetRef"`
	// Services are full names, such as weir.user.v1.UserService; 1 to 64.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Services []string `json:"services"`
	// MaxRequestBytes bounds a REST request's body, which is held in memory.
	// Default 1 MiB, at most 64 MiB.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=67108864
	MaxRequestBytes int64 `json:"maxRequestBytes,omitempty"`
}

// ConfigMapKeyRef is one key of a ConfigMap in the same namespace.
type ConfigMapKeyRef struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key"`
}

// Consumer is a party that calls the API.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=wcon,categories=weir
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Tier",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="Tenant",type=string,JSONPath=`.spec.tenant`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Consumer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              ConsumerSpec `json:"spec"`
	// Status is written by the control plane; in files it is not read.
	//
	// +optional
	Status ObjectStatus `json:"status,omitempty"`
}

// ConsumerSpec describes a Consumer.
type ConsumerSpec struct {
	// Tenant whose data the consumer sees; passed to services.
	//
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	Tenant string `json:"tenant,omitempty"`
	// Tier picks limits.
	//
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	Tier string `json:"tier,omitempty"`
	// APIKeys of the consumer; at most 64.
	//
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=name
	APIKeys []APIKey `json:"apiKeys,omitempty"`
	// TokenSubjects are the token bearers that are this consumer; at most 64.
	//
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	TokenSubjects []TokenSubject `json:"tokenSubjects,omitempty"`
}

// APIKey is the hash of one key.
type APIKey struct {
	// Name is unique within the consumer.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// SHA256 of the key in lower-case hex. Keys need at least 128 bits of
	// randomness: a plain hash protects nothing weaker.
	//
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	SHA256 string `json:"sha256"`
	// ExpireTime ends the key; none means never.
	ExpireTime *metav1.Time `json:"expireTime,omitempty"`
	// Scopes granted to requests with this key; at most 64.
	//
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:Pattern=`^[\x21\x23-\x5b\x5d-\x7e]{1,128}$`
	// +listType=atomic
	Scopes []string `json:"scopes,omitempty"`
}

// TokenSubject identifies the bearer of a token.
type TokenSubject struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	Issuer string `json:"issuer"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	Subject string `json:"subject"`
}

// TargetRef attaches a policy to a Gateway, HTTPRoute or GRPCRoute of its own
// namespace, or to one listener or rule of it (GEP-713, GEP-2648).
type TargetRef = gatewayv1.LocalPolicyTargetReferenceWithSectionName

// AuthPolicy says who may call. Of several that reach a rule of a route, the one
// attached most specifically (rule, route, listener, gateway) is in effect; with
// defaults and overrides it is as MergeStrategy says.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=wauth,categories=weir
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Enforced",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Enforced")].status`
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRefs[*].name`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type AuthPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              AuthPolicySpec `json:"spec"`
	// Status is written by the control plane; in files it is not read.
	//
	// +optional
	Status PolicyStatus `json:"status,omitempty"`
}

// AuthPolicySpec describes an AuthPolicy.
//
// +kubebuilder:validation:XValidation:rule="[has(self.authentication) || has(self.authorization) || has(self.cors), has(self.defaults), has(self.overrides)].filter(set, set).size() == 1",message="say the settings in exactly one place: the spec itself, defaults or overrides"
// +kubebuilder:validation:XValidation:rule="has(self.defaults) || has(self.overrides) || has(self.authentication)",message="authentication is required"
type AuthPolicySpec struct {
	// TargetRefs are 1 to 16 attachments.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +kubebuilder:validation:XValidation:rule="self.all(t, t.group == 'gateway.networking.k8s.io' && t.kind in ['Gateway', 'HTTPRoute', 'GRPCRoute'])",message="targets are Gateways, HTTPRoutes and GRPCRoutes of group gateway.networking.k8s.io"
	TargetRefs []TargetRef `json:"targetRefs"`
	// What stands here beside targetRefs are defaults of strategy atomic.
	AuthSettings `json:",inline"`
	// Defaults hold where nothing more specific says otherwise.
	Defaults *AuthBlock `json:"defaults,omitempty"`
	// Overrides hold whatever more specific policies say.
	Overrides *AuthBlock `json:"overrides,omitempty"`
}

// AuthBlock is what an AuthPolicy says under defaults or overrides.
//
// +kubebuilder:validation:XValidation:rule="has(self.authentication) || (has(self.strategy) && self.strategy == 'merge' && (has(self.authorization) || has(self.cors)))",message="authentication is required; with strategy merge, one of authentication, authorization and cors is"
type AuthBlock struct {
	// Strategy is atomic (default) or merge, which joins authentication and
	// authorization rules by name.
	Strategy     MergeStrategy `json:"strategy,omitempty"`
	AuthSettings `json:",inline"`
}

// AuthSettings are what an AuthPolicy may say.
type AuthSettings struct {
	// Authentication lists accepted ways to identify the caller, tried in
	// order; 1 to 16. Required, but with strategy merge.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=name
	Authentication []Authentication `json:"authentication,omitempty"`
	// Authorization decides about identified callers; none lets all of them.
	Authorization *Authorization `json:"authorization,omitempty"`
	// CORS answers preflight requests, without authentication, and marks
	// responses for browsers. It is merged on its own, whatever the strategy:
	// where a policy says nothing about CORS, another one's applies. A CORS
	// filter of a route wins.
	//
	// +kubebuilder:validation:XValidation:rule="!has(self.allowOrigins) || !has(self.allowCredentials) || !self.allowCredentials || !('*' in self.allowOrigins)",message="allowCredentials cannot be combined with the origin *: any site could then act for the user"
	CORS *gatewayv1.HTTPCORSFilter `json:"cors,omitempty"`
}

// Authentication is one accepted way. Exactly one of the methods is set.
//
// +kubebuilder:validation:XValidation:rule="[has(self.apiKey), has(self.jwt), has(self.anonymous)].filter(set, set).size() == 1",message="set exactly one of apiKey, jwt and anonymous"
type Authentication struct {
	// Name is unique within the policy.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name      string     `json:"name"`
	APIKey    *APIKeyWay `json:"apiKey,omitempty"`
	JWT       *JWT       `json:"jwt,omitempty"`
	Anonymous *Anonymous `json:"anonymous,omitempty"`
}

// APIKeyWay accepts the keys of Consumers.
type APIKeyWay struct {
	// Header that carries the key. Default X-API-Key.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+.^_\x60|~-]+$`
	// +kubebuilder:validation:XValidation:rule="self.lowerAscii() != 'authorization' && !self.contains('_') && !self.lowerAscii().startsWith('x-weir-')",message="Authorization is for tokens, headers with _ are refused at the edge, and x-weir- is the edge's own"
	Header string `json:"header,omitempty"`
}

// Anonymous lets callers without credentials through.
type Anonymous struct{}

// JWT accepts Bearer tokens of one issuer.
type JWT struct {
	// Issuer is the exact "iss".
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	Issuer string `json:"issuer"`
	// Audiences: "aud" must hold one of them; 1 to 16.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	// +listType=atomic
	Audiences []string `json:"audiences"`
	// Algorithms accepted; asymmetric ones only: RS256, RS384, RS512, PS256,
	// PS384, PS512, ES256, ES384, ES512, EdDSA; at least 1.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=10
	// +kubebuilder:validation:items:Enum=RS256;RS384;RS512;PS256;PS384;PS512;ES256;ES384;ES512;EdDSA
	// +listType=atomic
	Algorithms []string `json:"algorithms"`
	JWKS       JWKS     `json:"jwks"`
	// Leeway on exp, nbf and iat. Default 0s, at most 5m.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('5m')",message="is at most 5m"
	Leeway *gatewayv1.Duration `json:"leeway,omitempty"`
	// Types accepted in the "typ" header. Default JWT, at+jwt and none.
	//
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=64
	// +listType=atomic
	Types []string `json:"types,omitempty"`
	// Claims names what becomes the identity.
	Claims ClaimMapping `json:"claims,omitempty"`
}

// JWKS says where the keys are. Exactly one of the fields is set.
//
// +kubebuilder:validation:XValidation:rule="has(self.configMapRef) != has(self.remote)",message="set exactly one of configMapRef and remote"
type JWKS struct {
	ConfigMapRef *ConfigMapKeyRef `json:"configMapRef,omitempty"`
	Remote       *RemoteJWKS      `json:"remote,omitempty"`
}

// RemoteJWKS is a key set fetched by extauthz.
type RemoteJWKS struct {
	// URI is https; http is accepted for loopback addresses only.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^https?://[^/?#@]+([/?][^#]*)?$`
	// +kubebuilder:validation:XValidation:rule="isURL(self) && (url(self).getScheme() == 'https' || url(self).getHostname() in ['localhost', '[::1]', '::1'] || url(self).getHostname().startsWith('127.'))",message="is https; http is for loopback addresses only"
	URI string `json:"uri"`
	// CacheDuration is how long a fetched set is fresh. Default 5m.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="is 1s to 24h"
	CacheDuration *gatewayv1.Duration `json:"cacheDuration,omitempty"`
	// MaxStale is how long after that it serves while the source fails.
	// Default 1h.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('168h')",message="is at most 168h"
	MaxStale *gatewayv1.Duration `json:"maxStale,omitempty"`
	// Timeout of a fetch. Default 5s.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('100ms') && duration(self) <= duration('30s')",message="is 100ms to 30s"
	Timeout *gatewayv1.Duration `json:"timeout,omitempty"`
}

// ClaimMapping names claims; dots reach into objects.
type ClaimMapping struct {
	// Subject defaults to "sub".
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	Subject string `json:"subject,omitempty"`
	// Tenant has no default: none is taken.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	Tenant string `json:"tenant,omitempty"`
	// Scopes defaults to "scope".
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	Scopes string `json:"scopes,omitempty"`
}

// Authorization is an ordered list of rules; the first one that holds decides.
// When none holds, the request passes if there is no Allow rule, and is refused
// otherwise.
type Authorization struct {
	// Rules are 1 to 64.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=name
	Rules []AuthorizationRule `json:"rules"`
}

// AuthorizationRule is one allow or deny rule.
type AuthorizationRule struct {
	// Name is unique within the policy.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Effect is Allow or Deny.
	Effect Effect `json:"effect"`
	// When is a CEL expression of type bool over request, identity, route and
	// source. An error while evaluating refuses the request.
	//
	// +kubebuilder:validation:MinLength=1
	When string `json:"when"`
}

// Effect is what a rule does.
//
// +kubebuilder:validation:Enum=Allow;Deny
type Effect string

// Effects of a rule.
const (
	EffectAllow Effect = "Allow"
	EffectDeny  Effect = "Deny"
)

// RateLimitPolicy says how often. Of several that reach a rule of a route, the one
// attached most specifically (rule, route, listener, gateway) is in effect; with
// defaults and overrides it is as MergeStrategy says.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=wrate,categories=weir
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Enforced",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Enforced")].status`
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRefs[*].name`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type RateLimitPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              RateLimitPolicySpec `json:"spec"`
	// Status is written by the control plane; in files it is not read.
	//
	// +optional
	Status PolicyStatus `json:"status,omitempty"`
}

// RateLimitPolicySpec describes a RateLimitPolicy.
//
// +kubebuilder:validation:XValidation:rule="[has(self.limits), has(self.defaults), has(self.overrides)].filter(set, set).size() == 1",message="say the limits in exactly one place: the spec itself, defaults or overrides"
type RateLimitPolicySpec struct {
	// TargetRefs are 1 to 16 attachments.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +kubebuilder:validation:XValidation:rule="self.all(t, t.group == 'gateway.networking.k8s.io' && t.kind in ['Gateway', 'HTTPRoute', 'GRPCRoute'])",message="targets are Gateways, HTTPRoutes and GRPCRoutes of group gateway.networking.k8s.io"
	TargetRefs []TargetRef `json:"targetRefs"`
	// What stands here beside targetRefs are defaults of strategy atomic.
	RateLimitSettings `json:",inline"`
	// Defaults hold where nothing more specific says otherwise.
	Defaults *RateLimitBlock `json:"defaults,omitempty"`
	// Overrides hold whatever more specific policies say.
	Overrides *RateLimitBlock `json:"overrides,omitempty"`
}

// RateLimitBlock is what a RateLimitPolicy says under defaults or overrides.
//
// +kubebuilder:validation:XValidation:rule="has(self.limits)",message="limits is required"
type RateLimitBlock struct {
	// Strategy is atomic (default) or merge, which joins limits by name.
	Strategy          MergeStrategy `json:"strategy,omitempty"`
	RateLimitSettings `json:",inline"`
}

// RateLimitSettings are what a RateLimitPolicy may say.
type RateLimitSettings struct {
	// Limits all apply; a request passes when every one admits it. 1 to 8.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +listType=map
	// +listMapKey=name
	Limits []Limit `json:"limits,omitempty"`
}

// Limit is one limit.
//
// +kubebuilder:validation:XValidation:rule="!has(self.burst) || self.burst == 0 || (has(self.algorithm) && self.algorithm == 'GCRA')",message="burst needs algorithm GCRA"
// +kubebuilder:validation:XValidation:rule="!has(self.tiers) || (has(self.algorithm) && self.algorithm == 'GCRA') || self.tiers.all(t, !has(self.tiers[t].burst) || self.tiers[t].burst == 0)",message="the burst of a tier needs algorithm GCRA"
type Limit struct {
	// Name is unique within the policy; clients see it in RateLimit headers.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Requests admitted per window. 0 refuses all.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	Requests uint32 `json:"requests"`
	// Window is 1s to 744h.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('744h')",message="is 1s to 744h"
	Window gatewayv1.Duration `json:"window"`
	// Algorithm is FixedWindow (default) or GCRA.
	Algorithm Algorithm `json:"algorithm,omitempty"`
	// Burst, of GCRA: requests admitted at once after idleness. Default
	// requests.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	Burst uint32 `json:"burst,omitempty"`
	// By lists what is counted separately; none counts all requests together.
	// At most 4.
	//
	// +kubebuilder:validation:MaxItems=4
	// +listType=atomic
	By []CountBy `json:"by,omitempty"`
	// Tiers replaces the numbers for consumers of a tier.
	//
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(t, size(t) > 0 && size(t) <= 64)",message="names of tiers have 1 to 64 bytes"
	Tiers map[string]TierLimit `json:"tiers,omitempty"`
	// FailureMode says what happens when the limiter cannot answer: Open
	// (default) lets requests through, Closed answers 503.
	FailureMode FailureMode `json:"failureMode,omitempty"`
	// Shadow counts and reports, and refuses nothing.
	Shadow bool `json:"shadow,omitempty"`
}

// Algorithm is how requests are counted.
//
// +kubebuilder:validation:Enum=FixedWindow;GCRA
type Algorithm string

// Algorithms of a limit.
const (
	AlgorithmFixedWindow Algorithm = "FixedWindow"
	AlgorithmGCRA        Algorithm = "GCRA"
)

// CountBy is one part of what is counted separately.
//
// +kubebuilder:validation:XValidation:rule="(self.type == 'Header') == has(self.header)",message="header is for type Header, which needs it"
type CountBy struct {
	// Type is Consumer (the verified caller; all anonymous ones are one),
	// Route, ClientIP or Header.
	Type CountByType `json:"type"`
	// Header is the request header, with type Header; requests without it are
	// not limited by this limit.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+.^_\x60|~-]+$`
	// +kubebuilder:validation:XValidation:rule="!self.lowerAscii().startsWith('x-weir-')",message="names that start with x-weir- are the edge's own"
	Header string `json:"header,omitempty"`
}

// CountByType is what kind of value is counted by.
//
// +kubebuilder:validation:Enum=Consumer;Route;ClientIP;Header
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
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	Requests uint32 `json:"requests"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	Burst uint32 `json:"burst,omitempty"`
}

// FailureMode is who wins when the limiter cannot answer.
//
// +kubebuilder:validation:Enum=Open;Closed
type FailureMode string

// Failure modes of a limit.
const (
	FailureModeOpen   FailureMode = "Open"
	FailureModeClosed FailureMode = "Closed"
)
