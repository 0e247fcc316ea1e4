package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// TargetRef attaches a policy to a Gateway, ListenerSet, HTTPRoute or GRPCRoute of its own
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
// +kubebuilder:validation:XValidation:rule="[has(self.authentication) || has(self.authorization) || has(self.cors) || has(self.upstream) || has(self.audit), has(self.defaults), has(self.overrides)].filter(set, set).size() == 1",message="say the settings in exactly one place: the spec itself, defaults or overrides"
// +kubebuilder:validation:XValidation:rule="has(self.defaults) || has(self.overrides) || has(self.authentication)",message="authentication is required"
type AuthPolicySpec struct {
	// TargetRefs are 1 to 16 attachments.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +kubebuilder:validation:XValidation:rule="self.all(t, t.group == 'gateway.networking.k8s.io' && t.kind in ['Gateway', 'ListenerSet', 'HTTPRoute', 'GRPCRoute'])",message="targets are Gateways, ListenerSets, HTTPRoutes and GRPCRoutes of group gateway.networking.k8s.io"
	TargetRefs []TargetRef `json:"targetRefs"`
	// Mode is Enforce (default) or Shadow. A policy in the shadow refuses and
	// admits nobody: what it would decide in the place of those enforced on its
	// targets is compared with what is decided, and counted.
	Mode PolicyMode `json:"mode,omitempty"`
	// What stands here beside targetRefs are defaults of strategy atomic.
	AuthSettings `json:",inline"`
	// Defaults hold where nothing more specific says otherwise.
	Defaults *AuthBlock `json:"defaults,omitempty"`
	// Overrides hold whatever more specific policies say.
	Overrides *AuthBlock `json:"overrides,omitempty"`
}

// AuthBlock is what an AuthPolicy says under defaults or overrides.
//
// +kubebuilder:validation:XValidation:rule="has(self.authentication) || (has(self.strategy) && self.strategy == 'merge' && (has(self.authorization) || has(self.cors) || has(self.upstream) || has(self.audit)))",message="authentication is required; with strategy merge, one of authentication, authorization, cors, upstream and audit is"
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
	CORS *CORS `json:"cors,omitempty"`
	// Upstream is what the service is told of the caller. It goes with
	// authentication or authorization.
	Upstream *Upstream `json:"upstream,omitempty"`
	// Audit is required, bestEffort or none (default). Like CORS it is merged on
	// its own, whatever the strategy. With required, a decision is on disk before
	// it is answered, and a request whose decision cannot be written is refused
	// with 503.
	Audit AuditMode `json:"audit,omitempty"`
}

// Authentication is one accepted way. Exactly one of the methods is set.
//
// +kubebuilder:validation:XValidation:rule="[has(self.apiKey), has(self.jwt), has(self.login), has(self.introspection), has(self.kubernetes), has(self.clientCertificate), has(self.httpSignature), has(self.anonymous)].filter(set, set).size() == 1",message="set exactly one of apiKey, jwt, login, introspection, kubernetes, clientCertificate, httpSignature and anonymous"
// +kubebuilder:validation:XValidation:rule="!has(self.senderConstraint) || has(self.jwt) || has(self.introspection)",message="senderConstraint goes with jwt and introspection"
// +kubebuilder:validation:XValidation:rule="!has(self.anonymous) || !has(self.timeout) && !has(self.failureMode)",message="timeout and failureMode are for ways that have to ask someone"
type Authentication struct {
	// Name is unique within the policy.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name      string     `json:"name"`
	APIKey    *APIKeyWay `json:"apiKey,omitempty"`
	JWT       *JWT       `json:"jwt,omitempty"`
	Login     *Login     `json:"login,omitempty"`
	Anonymous *Anonymous `json:"anonymous,omitempty"`

	ClientCertificate *ClientCertificateWay `json:"clientCertificate,omitempty"`
	HTTPSignature     *HTTPSignatureWay     `json:"httpSignature,omitempty"`
	// SenderConstraint says what the bearer of a token has to prove beside it; for
	// methods that take tokens.
	//
	// +optional
	SenderConstraint *SenderConstraint `json:"senderConstraint,omitempty"`
	Introspection    *Introspection    `json:"introspection,omitempty"`
	Kubernetes       *KubernetesTokens `json:"kubernetes,omitempty"`
	// Timeout bounds how long a request waits for whom the way has to ask: a key
	// set's source, an introspection endpoint. Default 2s for introspection and
	// kubernetes, which take at most 10s. The check as a whole may take as long as
	// all that the policy asks, and a second; a minute at most.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10ms') && duration(self) <= duration('30s')",message="is 10ms to 30s"
	Timeout *gatewayv1.Duration `json:"timeout,omitempty"`
	// FailureMode is what follows when it cannot be asked: Deny (default), or
	// Next, the next way whose credential is present. Nobody is let through.
	FailureMode AuthFailureMode `json:"failureMode,omitempty"`
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
	// PS384, PS512, ES256, ES384, ES512, EdDSA, Ed25519 (RFC 9864); at least 1.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=11
	// +kubebuilder:validation:items:Enum=RS256;RS384;RS512;PS256;PS384;PS512;ES256;ES384;ES512;EdDSA;Ed25519
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
	Cache  *TokenCache  `json:"cache,omitempty"`
}

// JWKS says where the keys are. Exactly one of the fields is set.
//
// +kubebuilder:validation:XValidation:rule="[has(self.configMapRef), has(self.remote), has(self.discovery)].filter(set, set).size() == 1",message="set exactly one of configMapRef, remote and discovery"
type JWKS struct {
	ConfigMapRef *ConfigMapKeyRef `json:"configMapRef,omitempty"`
	Remote       *RemoteJWKS      `json:"remote,omitempty"`
	Discovery    *JWKSDiscovery   `json:"discovery,omitempty"`
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
	// Client holds whom the token was issued to, such as azp or client_id. Where
	// it is there, a Consumer is looked for by it instead of the subject. No
	// default.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	Client string `json:"client,omitempty"`
}

// Authorization is an ordered list of rules; the first one that holds decides.
// When none holds, the request passes if there is no Allow rule, and is refused
// otherwise.
//
// +kubebuilder:validation:XValidation:rule="has(self.relationships) || !has(self.rules) || self.rules.all(r, !has(r.requireRelationship))",message="requireRelationship needs relationships: the store that is asked"
type Authorization struct {
	// Rules are 1 to 64.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=name
	Rules []AuthorizationRule `json:"rules"`

	AuthorizationInputs `json:",inline"`
}

// AuthorizationRule is one rule.
//
// +kubebuilder:validation:XValidation:rule="self.effect != 'Deny' || !(has(self.requireScopes) || has(self.requireRoles) || has(self.requireAuthentication) || has(self.requireRelationship))",message="requirements go with Require and Allow"
// +kubebuilder:validation:XValidation:rule="self.effect != 'Require' || has(self.requireScopes) || has(self.requireRoles) || has(self.requireAuthentication) || has(self.requireRelationship)",message="Require needs requireScopes, requireRoles, requireAuthentication or requireRelationship"
// +kubebuilder:validation:XValidation:rule="has(self.when) || self.effect != 'Deny'",message="Deny needs when"
type AuthorizationRule struct {
	// Name is unique within the policy.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Effect is Allow, Deny or Require.
	Effect Effect `json:"effect"`
	// When is a CEL expression of type bool over request, identity, consumer,
	// route, source, time and metadata. An error while evaluating refuses the
	// request. Optional where the rule requires something; it then always holds.
	//
	// +kubebuilder:validation:MinLength=1
	When string `json:"when,omitempty"`
	// Shadow evaluates the rule beside those in force and counts what it would
	// change. It decides nothing.
	Shadow bool `json:"shadow,omitempty"`

	Requirements `json:",inline"`
}

// Effect is what a rule does where it holds: Allow and Deny decide, Require
// refuses a caller who lacks what it requires and leaves others to the rules
// after it.
//
// +kubebuilder:validation:Enum=Allow;Deny;Require
type Effect string

// Effects of a rule.
const (
	EffectAllow   Effect = "Allow"
	EffectDeny    Effect = "Deny"
	EffectRequire Effect = "Require"
)
