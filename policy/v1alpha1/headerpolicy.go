package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// HeaderPolicy says what the edge believes of, tells in and adds to headers. How
// several are put together is as MergeStrategy says, setting by setting.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=whdr,categories=weir
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Enforced",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Enforced")].status`
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRefs[*].name`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type HeaderPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              HeaderPolicySpec `json:"spec"`
	// Status is written by the control plane; in files it is not read.
	//
	// +optional
	Status PolicyStatus `json:"status,omitempty"`
}

// HeaderPolicySpec describes a HeaderPolicy. What is about the connection
// (clientAddress, forwardedClientCert, server) is set on Gateways and listeners
// only, and listeners of protocol HTTP that share a port share it.
//
// +kubebuilder:validation:XValidation:rule="self.targetRefs.all(t, t.kind == 'Gateway') || !(has(self.clientAddress) || has(self.forwardedClientCert) || has(self.server) || has(self.defaults) && (has(self.defaults.clientAddress) || has(self.defaults.forwardedClientCert) || has(self.defaults.server)) || has(self.overrides) && (has(self.overrides.clientAddress) || has(self.overrides.forwardedClientCert) || has(self.overrides.server)))",message="clientAddress, forwardedClientCert and server are set on Gateways and their listeners only"
//
// +kubebuilder:validation:XValidation:rule="[has(self.clientAddress) || has(self.forwardedClientCert) || has(self.server) || has(self.security), has(self.defaults), has(self.overrides)].filter(set, set).size() == 1",message="say the settings in exactly one place: the spec itself, defaults or overrides"
type HeaderPolicySpec struct {
	// TargetRefs are 1 to 16 attachments.
	//
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(t, t.group == 'gateway.networking.k8s.io' && t.kind in ['Gateway', 'ListenerSet', 'HTTPRoute', 'GRPCRoute'])",message="targets are Gateways, ListenerSets, HTTPRoutes and GRPCRoutes of group gateway.networking.k8s.io"
	TargetRefs []TargetRef `json:"targetRefs"`
	// What stands here beside targetRefs are defaults of strategy merge.
	HeaderSettings `json:",inline"`
	// Defaults hold where nothing more specific says otherwise.
	//
	// +optional
	Defaults *HeaderBlock `json:"defaults,omitempty"`
	// Overrides hold whatever more specific policies say.
	//
	// +optional
	Overrides *HeaderBlock `json:"overrides,omitempty"`
}

// HeaderBlock is what the policy says under defaults or overrides.
//
// +kubebuilder:validation:XValidation:rule="has(self.clientAddress) || has(self.forwardedClientCert) || has(self.server) || has(self.security)",message="says nothing: set clientAddress, forwardedClientCert, server or security"
type HeaderBlock struct {
	// Strategy is merge (default), setting by setting, or atomic.
	//
	// +optional
	Strategy       MergeStrategy `json:"strategy,omitempty"`
	HeaderSettings `json:",inline"`
}

// HeaderSettings are what the policy may say. Each top-level field is merged as a
// whole.
type HeaderSettings struct {
	// ClientAddress says whose word counts about where a request came from. Without
	// it the client is whoever opened the connection.
	//
	// +optional
	ClientAddress *ClientAddress `json:"clientAddress,omitempty"`
	// ForwardedClientCert says what becomes of X-Forwarded-Client-Cert. Without it
	// what clients send is removed and nothing is added.
	//
	// +optional
	ForwardedClientCert *ForwardedClientCert `json:"forwardedClientCert,omitempty"`
	// Server says what becomes of the Server header. Default: replaced by "weir".
	//
	// +optional
	Server *ServerHeader `json:"server,omitempty"`
	// Security headers that responses carry, the edge's own answers included.
	// Without it none is added.
	//
	// +optional
	Security *SecurityHeaders `json:"security,omitempty"`
}

// ClientAddress is how the client's address is found behind other proxies. It is
// what limits count by, rules read as source.address and X-Forwarded-For says.
// Exactly one of the fields is set.
//
// +kubebuilder:validation:XValidation:rule="has(self.trustedHops) != has(self.trustedCIDRs)",message="set exactly one of trustedHops and trustedCIDRs"
type ClientAddress struct {
	// TrustedHops is how many proxies stand before this one, 1 to 16; the address
	// is that many entries from the right of X-Forwarded-For. Who can reach this one
	// past them can claim any address: use trustedCIDRs there.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16
	TrustedHops *uint32 `json:"trustedHops,omitempty"`
	// TrustedCIDRs hold the addresses of the proxies before this one; 1 to 64. From
	// any other address X-Forwarded-For is not believed. X-Forwarded-Proto is passed
	// on as sent, by whomever.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.all(c, isCIDR(c) && cidr(c) == cidr(c).masked())",message="is a range of addresses such as 10.0.0.0/8, without bits beyond its length"
	TrustedCIDRs []string `json:"trustedCIDRs,omitempty"`
}

// ForwardedClientCert is what services are told of the client's certificate.
type ForwardedClientCert struct {
	// Mode is Sanitize (removes what the client sent), SanitizeSet (replaces it by
	// what this connection's certificate says), AppendForward (adds to it),
	// ForwardOnly (passes it on, if the connection is mutually authenticated) or
	// AlwaysForwardOnly (passes it on, from anybody).
	Mode ForwardedClientCertMode `json:"mode"`
	// Details that are told, of modes SanitizeSet and AppendForward, besides the
	// certificate's hash. Default Subject and URI.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=5
	Details []ForwardedClientCertDetail `json:"details,omitempty"`
}

// ForwardedClientCertMode is what becomes of X-Forwarded-Client-Cert.
//
// +kubebuilder:validation:Enum=Sanitize;SanitizeSet;AppendForward;ForwardOnly;AlwaysForwardOnly
type ForwardedClientCertMode string

// Modes of X-Forwarded-Client-Cert.
const (
	XFCCSanitize          ForwardedClientCertMode = "Sanitize"
	XFCCSanitizeSet       ForwardedClientCertMode = "SanitizeSet"
	XFCCAppendForward     ForwardedClientCertMode = "AppendForward"
	XFCCForwardOnly       ForwardedClientCertMode = "ForwardOnly"
	XFCCAlwaysForwardOnly ForwardedClientCertMode = "AlwaysForwardOnly"
)

// ForwardedClientCertDetail is a part of a certificate.
//
// +kubebuilder:validation:Enum=Subject;URI;DNS;Cert;Chain
type ForwardedClientCertDetail string

// Parts of a certificate.
const (
	XFCCSubject ForwardedClientCertDetail = "Subject"
	XFCCURI     ForwardedClientCertDetail = "URI"
	XFCCDNS     ForwardedClientCertDetail = "DNS"
	XFCCCert    ForwardedClientCertDetail = "Cert"
	XFCCChain   ForwardedClientCertDetail = "Chain"
)

// ServerHeader is what responses say of the server.
type ServerHeader struct {
	// Mode is Replace (default), IfAbsent (a service's own is kept) or PassThrough
	// (nothing is added).
	//
	// +optional
	Mode ServerHeaderMode `json:"mode,omitempty"`
	// Name is the value. Default weir.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[\x20-\x7e]*$`
	Name string `json:"name,omitempty"`
}

// ServerHeaderMode is what becomes of the Server header.
//
// +kubebuilder:validation:Enum=Replace;IfAbsent;PassThrough
type ServerHeaderMode string

// Modes of the Server header.
const (
	ServerReplace     ServerHeaderMode = "Replace"
	ServerIfAbsent    ServerHeaderMode = "IfAbsent"
	ServerPassThrough ServerHeaderMode = "PassThrough"
)

// SecurityHeaders tell browsers to be careful. Each is added when it is set.
type SecurityHeaders struct {
	// WhenPresent says what becomes of a header that the service sends by itself:
	// Replace (default) or Keep.
	//
	// +optional
	// +kubebuilder:validation:Enum=Replace;Keep
	WhenPresent WhenPresent `json:"whenPresent,omitempty"`
	// StrictTransportSecurity (RFC 6797) is sent over TLS only.
	//
	// +optional
	StrictTransportSecurity *StrictTransportSecurity `json:"strictTransportSecurity,omitempty"`
	// ContentTypeOptions sends X-Content-Type-Options; NoSniff is its one value.
	//
	// +optional
	// +kubebuilder:validation:Enum=NoSniff
	ContentTypeOptions string `json:"contentTypeOptions,omitempty"`
	// FrameOptions sends X-Frame-Options: Deny or SameOrigin (RFC 7034).
	//
	// +optional
	// +kubebuilder:validation:Enum=Deny;SameOrigin
	FrameOptions string `json:"frameOptions,omitempty"`
	// ReferrerPolicy sends Referrer-Policy.
	//
	// +optional
	// +kubebuilder:validation:Enum=no-referrer;no-referrer-when-downgrade;origin;origin-when-cross-origin;same-origin;strict-origin;strict-origin-when-cross-origin;unsafe-url
	ReferrerPolicy string `json:"referrerPolicy,omitempty"`
	// ContentSecurityPolicy sends Content-Security-Policy; at most 4096 bytes.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:Pattern=`^[\x20-\x7e]*$`
	ContentSecurityPolicy string `json:"contentSecurityPolicy,omitempty"`
	// PermissionsPolicy sends Permissions-Policy; at most 4096 bytes.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:Pattern=`^[\x20-\x7e]*$`
	PermissionsPolicy string `json:"permissionsPolicy,omitempty"`
	// CrossOriginOpenerPolicy sends Cross-Origin-Opener-Policy.
	//
	// +optional
	// +kubebuilder:validation:Enum=unsafe-none;same-origin-allow-popups;same-origin;noopener-allow-popups
	CrossOriginOpenerPolicy string `json:"crossOriginOpenerPolicy,omitempty"`
	// CrossOriginEmbedderPolicy sends Cross-Origin-Embedder-Policy.
	//
	// +optional
	// +kubebuilder:validation:Enum=unsafe-none;require-corp;credentialless
	CrossOriginEmbedderPolicy string `json:"crossOriginEmbedderPolicy,omitempty"`
	// CrossOriginResourcePolicy sends Cross-Origin-Resource-Policy.
	//
	// +optional
	// +kubebuilder:validation:Enum=same-site;same-origin;cross-origin
	CrossOriginResourcePolicy string `json:"crossOriginResourcePolicy,omitempty"`
}

// WhenPresent is what becomes of a header that is there already.
type WhenPresent string

// Ways with a header that is there already.
const (
	WhenPresentReplace WhenPresent = "Replace"
	WhenPresentKeep    WhenPresent = "Keep"
)

// StrictTransportSecurity keeps browsers from plain HTTP.
//
// +kubebuilder:validation:XValidation:rule="!has(self.preload) || !self.preload || (has(self.includeSubDomains) && self.includeSubDomains && (!has(self.maxAge) || duration(self.maxAge) >= duration('8760h')))",message="preload needs includeSubDomains and a maxAge of 8760h or more"
type StrictTransportSecurity struct {
	// MaxAge is how long a browser remembers, 0s (forget) to 17520h. Default 8760h,
	// a year.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('17520h')",message="is at most 17520h"
	MaxAge *gatewayv1.Duration `json:"maxAge,omitempty"`
	// IncludeSubDomains binds every name below the host's, too.
	//
	// +optional
	IncludeSubDomains bool `json:"includeSubDomains,omitempty"`
	// Preload agrees to be built into browsers. It is hard to take back.
	//
	// +optional
	Preload bool `json:"preload,omitempty"`
}
