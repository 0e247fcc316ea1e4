package v1alpha1

import (
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Requirements are what a rule asks a caller to have, all that are set. They go
// with the effects Require and Allow.
type Requirements struct {
	// RequireScopes asks for scopes. A token without them is answered with what
	// it lacks (RFC 6750 section 3.1).
	RequireScopes *WordRequirement `json:"requireScopes,omitempty"`
	// RequireRoles asks for roles.
	RequireRoles *WordRequirement `json:"requireRoles,omitempty"`
	// RequireAuthentication asks for a login of a kind or an age (RFC 9470).
	RequireAuthentication *AuthenticationRequirement `json:"requireAuthentication,omitempty"`
	// RequireRelationship asks the relationship store.
	RequireRelationship *RelationshipRequirement `json:"requireRelationship,omitempty"`
}

// WordRequirement asks for all of allOf and one of anyOf.
//
// +kubebuilder:validation:XValidation:rule="has(self.allOf) || has(self.anyOf)",message="set allOf, anyOf or both"
type WordRequirement struct {
	// AllOf are 1 to 32.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	// +listType=atomic
	AllOf []string `json:"allOf,omitempty"`
	// AnyOf are 1 to 32.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	// +listType=atomic
	AnyOf []string `json:"anyOf,omitempty"`
}

// AuthenticationRequirement asks how, and how long ago, a person logged in. A
// token that does not say so does not meet it.
//
// +kubebuilder:validation:XValidation:rule="has(self.acrValues) || has(self.maxAge)",message="set acrValues, maxAge or both"
type AuthenticationRequirement struct {
	// ACRValues: the claim "acr" must be one of these.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	// +kubebuilder:validation:items:Pattern=`^[!#-\[\]-~]+$`
	// +listType=atomic
	ACRValues []string `json:"acrValues,omitempty"`
	// MaxAge of the login, by the claim "auth_time"; 1s to 8760h.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('8760h')",message="is 1s to 8760h"
	MaxAge *gatewayv1.Duration `json:"maxAge,omitempty"`
}

// RelationshipRequirement asks whether the user has the relation to the object.
// The three are templates: text with CEL expressions in braces, such as
// "user:{identity.subject}".
type RelationshipRequirement struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^[^:#@\s{}]+:.`
	User string `json:"user"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Relation string `json:"relation"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^[^:#@\s{}]+:.`
	Object string `json:"object"`
}

// AuthorizationInputs are what rules may read beside the request and its caller.
type AuthorizationInputs struct {
	// RoleClaims are the claims that hold roles, as a text or a list; dots reach
	// into objects. Default "roles"; at most 8.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	// +listType=atomic
	RoleClaims []string `json:"roleClaims,omitempty"`
	// Metadata are servers that are asked before rules that read metadata.NAME;
	// at most 16.
	//
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=name
	Metadata []MetadataSource `json:"metadata,omitempty"`
	// Relationships is the store that requireRelationship asks.
	Relationships *RelationshipStore `json:"relationships,omitempty"`
	// Body lets rules read request.body. Envoy then holds each request until its
	// body is there.
	Body *RuleBody `json:"body,omitempty"`
}

// MetadataSource is a server that knows more about a request: over HTTP it answers
// GET in JSON, over gRPC it is a weir.metadata.v1.MetadataService. What the server
// is, and the path that it is asked at, are the policy's: values of a request
// become single, escaped segments and parameters.
//
// +kubebuilder:validation:XValidation:rule="has(self.protocol) && self.protocol == 'GRPC' ? !has(self.path) && !has(self.query) : !has(self.parameters)",message="path and query go with HTTP, parameters with GRPC"
type MetadataSource struct {
	// Name is what rules call it: metadata.NAME.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z][a-zA-Z0-9_]*$`
	Name string `json:"name"`
	// Protocol is HTTP (default) or GRPC.
	Protocol MetadataProtocol `json:"protocol,omitempty"`
	// URL is https, without query; http is accepted for loopback addresses only.
	// With GRPC it has no path.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^https?://[^/?#@]+(/[^?#]*)?$`
	// +kubebuilder:validation:XValidation:rule="isURL(self) && (url(self).getScheme() == 'https' || url(self).getHostname() in ['localhost', '[::1]', '::1'] || url(self).getHostname().startsWith('127.'))",message="is https; http is for loopback addresses only"
	URL string `json:"url"`
	// Path is a template that is added to the URL's, such as
	// "/tenants/{identity.tenant}/plan".
	//
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^/`
	Path string `json:"path,omitempty"`
	// Query are templates by parameter; at most 16.
	//
	// +kubebuilder:validation:MaxProperties=16
	Query map[string]string `json:"query,omitempty"`
	// Parameters are templates of what a GRPC server is asked about, by name; at
	// most 16.
	//
	// +kubebuilder:validation:MaxProperties=16
	Parameters map[string]string `json:"parameters,omitempty"`
	// Headers are templates by header, such as X-Tenant: "{identity.tenant}"; at
	// most 16. With GRPC they are the call's metadata.
	//
	// +kubebuilder:validation:MaxProperties=16
	Headers map[string]string `json:"headers,omitempty"`
	// TokenRef is a Bearer token that is sent along.
	TokenRef *SecretKeyRef `json:"tokenRef,omitempty"`
	// Timeout of a call. Default 1s, 10ms to 10s.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10ms') && duration(self) <= duration('10s')",message="is 10ms to 10s"
	Timeout *gatewayv1.Duration `json:"timeout,omitempty"`
	// CacheDuration is how long an answer is kept for the same question. Default
	// 0s, at most 1h.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('1h')",message="is at most 1h"
	CacheDuration *gatewayv1.Duration `json:"cacheDuration,omitempty"`
	// MaxBytes of an answer. Default 65536, at most 1048576.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1048576
	MaxBytes *int32 `json:"maxBytes,omitempty"`
	// Default is a JSON text that stands for the answer when there is none. Unset,
	// the request is refused then.
	//
	// +kubebuilder:validation:MaxLength=4096
	Default string `json:"default,omitempty"`
}

// MetadataProtocol is how a source of metadata is asked.
//
// +kubebuilder:validation:Enum=HTTP;GRPC
type MetadataProtocol string

// Protocols of metadata sources.
const (
	MetadataHTTP MetadataProtocol = "HTTP"
	MetadataGRPC MetadataProtocol = "GRPC"
)

// RelationshipStore is a server of OpenFGA's HTTP API.
type RelationshipStore struct {
	// URL is https; http is accepted for loopback addresses only.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^https?://[^/?#@]+(/[^?#]*)?$`
	// +kubebuilder:validation:XValidation:rule="isURL(self) && (url(self).getScheme() == 'https' || url(self).getHostname() in ['localhost', '[::1]', '::1'] || url(self).getHostname().startsWith('127.'))",message="is https; http is for loopback addresses only"
	URL string `json:"url"`
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_-]{1,64}$`
	StoreID string `json:"storeId"`
	// ModelID defaults to the store's latest model.
	//
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_-]{1,64}$`
	ModelID string `json:"modelId,omitempty"`
	// TokenRef is a Bearer token.
	TokenRef *SecretKeyRef `json:"tokenRef,omitempty"`
	// Timeout of a check. Default 1s, 10ms to 10s.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10ms') && duration(self) <= duration('10s')",message="is 10ms to 10s"
	Timeout *gatewayv1.Duration `json:"timeout,omitempty"`
	// CacheDuration is how long an answer is kept. Default 0s, at most 1h.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('1h')",message="is at most 1h"
	CacheDuration *gatewayv1.Duration `json:"cacheDuration,omitempty"`
}

// RuleBody is the body of requests as rules read it: a JSON value, or the message
// of a unary gRPC call. Others, longer ones and JSON with a name twice are
// refused.
type RuleBody struct {
	// MaxBytes of a body; longer ones are refused with 413. Default 65536, at most
	// 1048576.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1048576
	MaxBytes *int32 `json:"maxBytes,omitempty"`
	// DescriptorSetRef is a FileDescriptorSet with the messages of gRPC methods.
	// Unset, only JSON is read.
	DescriptorSetRef *ConfigMapKeyRef `json:"descriptorSetRef,omitempty"`
}

// Upstream is what the service is told of the caller.
type Upstream struct {
	// IdentityHeaders are the headers that the service gets, of x-weir-consumer,
	// -subject, -tenant, -tier, -scopes and -authenticator; all of them unless
	// listed, none with None alone. A client's own never get through.
	//
	// +kubebuilder:validation:MaxItems=6
	// +kubebuilder:validation:XValidation:rule="!('None' in self) || size(self) == 1",message="None stands alone"
	// +listType=set
	IdentityHeaders []IdentityHeader `json:"identityHeaders,omitempty"`
	// ClaimHeaders are headers that hold claims; at most 16.
	//
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=header
	ClaimHeaders []ClaimHeader `json:"claimHeaders,omitempty"`
	// Assertion is a signed statement of who calls.
	Assertion *Assertion `json:"assertion,omitempty"`
	// TokenExchange gets a token for the service in the place of the caller's
	// (RFC 8693) and sends it as Authorization.
	TokenExchange *TokenExchange `json:"tokenExchange,omitempty"`
}

// IdentityHeader names an identity header.
//
// +kubebuilder:validation:Enum=Consumer;Subject;Tenant;Tier;Scopes;Authenticator;None
type IdentityHeader string

// Identity headers; None is none of them.
const (
	IdentityConsumer      IdentityHeader = "Consumer"
	IdentitySubject       IdentityHeader = "Subject"
	IdentityTenant        IdentityHeader = "Tenant"
	IdentityTier          IdentityHeader = "Tier"
	IdentityScopes        IdentityHeader = "Scopes"
	IdentityAuthenticator IdentityHeader = "Authenticator"
	IdentityNone          IdentityHeader = "None"
)

// ClaimHeader sets a header to a claim. The client's own is removed.
type ClaimHeader struct {
	// Claim is a path; dots reach into objects.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Claim string `json:"claim"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+.^\x60|~-]+$`
	// +kubebuilder:validation:XValidation:rule="!self.lowerAscii().startsWith('x-weir-')",message="x-weir- is the edge's own"
	Header string `json:"header"`
}

// Assertion is a short-lived JWT (ES256) that extauthz signs. Its key set is at
// /.well-known/jwks.json of extauthz's key listener.
type Assertion struct {
	// Header defaults to X-Weir-Assertion.
	//
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+.^\x60|~-]+$`
	Header string `json:"header,omitempty"`
	// Audiences are who may accept it; 1 to 8.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	// +listType=atomic
	Audiences []string `json:"audiences"`
	// Lifetime defaults to 1m; 10s to 5m.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10s') && duration(self) <= duration('5m')",message="is 10s to 5m"
	Lifetime *gatewayv1.Duration `json:"lifetime,omitempty"`
	// Claims of the caller's token that are repeated; at most 16.
	//
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	// +listType=atomic
	Claims []string `json:"claims,omitempty"`
}

// TokenExchange gets a token for the service.
//
// +kubebuilder:validation:XValidation:rule="!has(self.assertionAudience) || (has(self.clientAuthentication) && self.clientAuthentication == 'PrivateKeyJWT')",message="assertionAudience goes with clientAuthentication PrivateKeyJWT"
type TokenExchange struct {
	// TokenEndpoint is https; http is accepted for loopback addresses only.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^https?://[^/?#@]+([/?][^#]*)?$`
	// +kubebuilder:validation:XValidation:rule="isURL(self) && (url(self).getScheme() == 'https' || url(self).getHostname() in ['localhost', '[::1]', '::1'] || url(self).getHostname().startsWith('127.'))",message="is https; http is for loopback addresses only"
	TokenEndpoint string `json:"tokenEndpoint"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	ClientID string `json:"clientId"`
	// ClientSecretRef is what the client proves itself with: a secret, or for
	// PrivateKeyJWT a private key in PEM (RSA, ECDSA or Ed25519).
	ClientSecretRef SecretKeyRef `json:"clientSecretRef"`
	// ClientAuthentication is Basic (default), Post or PrivateKeyJWT.
	ClientAuthentication ClientAuthentication `json:"clientAuthentication,omitempty"`
	// AssertionAudience is "aud" of what PrivateKeyJWT signs. Default: the token
	// endpoint; servers that follow the update of RFC 7523 want their issuer.
	//
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	AssertionAudience string `json:"assertionAudience,omitempty"`
	// +kubebuilder:validation:MaxLength=512
	Audience string `json:"audience,omitempty"`
	// +kubebuilder:validation:MaxLength=512
	Resource string `json:"resource,omitempty"`
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	// +kubebuilder:validation:items:Pattern=`^[!#-\[\]-~]+$`
	// +listType=atomic
	Scopes []string `json:"scopes,omitempty"`
	// Timeout of an exchange. Default 2s, 10ms to 10s.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10ms') && duration(self) <= duration('10s')",message="is 10ms to 10s"
	Timeout *gatewayv1.Duration `json:"timeout,omitempty"`
}
