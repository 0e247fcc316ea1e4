package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// EdgePolicy loosens or tightens how the edge guards itself and the services
// behind it against odd, large, slow and many requests. Without one every guard
// is on, with the defaults named here. It is attached to Gateways and listeners;
// how several are put together is as MergeStrategy says, setting by setting (paths,
// headers, …), each as a whole.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=wedge,categories=weir
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Enforced",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Enforced")].status`
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRefs[*].name`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type EdgePolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              EdgePolicySpec `json:"spec"`
	// Status is written by the control plane; in files it is not read.
	//
	// +optional
	Status PolicyStatus `json:"status,omitempty"`
}

// EdgePolicySpec describes an EdgePolicy. Listeners of protocol HTTP that share a
// port share these settings: those of the first of them.
//
// +kubebuilder:validation:XValidation:rule="[has(self.paths) || has(self.headers) || has(self.requestID) || has(self.connections) || has(self.streams) || has(self.timeouts), has(self.defaults), has(self.overrides)].filter(set, set).size() == 1",message="say the settings in exactly one place: the spec itself, defaults or overrides"
type EdgePolicySpec struct {
	// TargetRefs are 1 to 16 Gateways, or listeners of them by sectionName.
	//
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(t, t.group == 'gateway.networking.k8s.io' && t.kind in ['Gateway', 'ListenerSet'])",message="targets are Gateways and ListenerSets of group gateway.networking.k8s.io"
	TargetRefs []TargetRef `json:"targetRefs"`
	// What stands here beside targetRefs are defaults of strategy merge.
	EdgeSettings `json:",inline"`
	// Defaults hold where nothing more specific says otherwise.
	//
	// +optional
	Defaults *EdgeBlock `json:"defaults,omitempty"`
	// Overrides hold whatever more specific policies say.
	//
	// +optional
	Overrides *EdgeBlock `json:"overrides,omitempty"`
}

// EdgeBlock is what the policy says under defaults or overrides.
//
// +kubebuilder:validation:XValidation:rule="has(self.paths) || has(self.headers) || has(self.requestID) || has(self.connections) || has(self.streams) || has(self.timeouts)",message="says nothing: set paths, headers, requestID, connections, streams or timeouts"
type EdgeBlock struct {
	// Strategy is merge (default), setting by setting, or atomic.
	//
	// +optional
	Strategy     MergeStrategy `json:"strategy,omitempty"`
	EdgeSettings `json:",inline"`
}

// EdgeSettings are what the policy may say. Each top-level field is merged as a
// whole.
type EdgeSettings struct {
	// Paths says how request paths are made canonical before anything looks at
	// them.
	//
	// +optional
	Paths *EdgePaths `json:"paths,omitempty"`
	// Headers bounds request headers.
	//
	// +optional
	Headers *EdgeHeaders `json:"headers,omitempty"`
	// RequestID is about X-Request-Id.
	//
	// +optional
	RequestID *EdgeRequestID `json:"requestID,omitempty"`
	// Connections bounds clients' connections.
	//
	// +optional
	Connections *EdgeConnections `json:"connections,omitempty"`
	// Streams bounds what one HTTP/2 or HTTP/3 connection carries.
	//
	// +optional
	Streams *EdgeStreams `json:"streams,omitempty"`
	// Timeouts bound how slow a client may be.
	//
	// +optional
	Timeouts *EdgeTimeouts `json:"timeouts,omitempty"`
}

// EdgePaths is how request paths are made canonical. Policy matches the result:
// what is loosened here, a service may read differently from the rules.
type EdgePaths struct {
	// Normalize resolves "." and ".." and decodes what needs no encoding (RFC 3986,
	// section 6). Default true.
	//
	// +optional
	Normalize *bool `json:"normalize,omitempty"`
	// MergeSlashes makes one of several slashes. Default true.
	//
	// +optional
	MergeSlashes *bool `json:"mergeSlashes,omitempty"`
	// EscapedSlashes is about %2F and %5C, which some services take for a slash:
	// Reject (default, 400), UnescapeAndRedirect (to the decoded path, 307),
	// UnescapeAndForward, or Keep.
	//
	// +optional
	EscapedSlashes EscapedSlashes `json:"escapedSlashes,omitempty"`
	// Parameters is about ";" in a path, such as /admin;a=b: Reject (default, 400)
	// or Keep. Routes and rules take what follows it for a part of the segment, and
	// services that cut it off (servlet containers do) would serve /admin to those
	// whom the rules for /admin never saw. Keep is for services that don't.
	//
	// +optional
	Parameters PathParameters `json:"parameters,omitempty"`
}

// PathParameters is what becomes of paths with parameters (RFC 3986 section 3.3).
//
// +kubebuilder:validation:Enum=Reject;Keep
type PathParameters string

// Ways with path parameters.
const (
	PathParametersReject PathParameters = "Reject"
	PathParametersKeep   PathParameters = "Keep"
)

// EscapedSlashes is what becomes of %2F and %5C.
//
// +kubebuilder:validation:Enum=Reject;UnescapeAndRedirect;UnescapeAndForward;Keep
type EscapedSlashes string

// Ways with escaped slashes.
const (
	EscapedSlashesReject   EscapedSlashes = "Reject"
	EscapedSlashesRedirect EscapedSlashes = "UnescapeAndRedirect"
	EscapedSlashesForward  EscapedSlashes = "UnescapeAndForward"
	EscapedSlashesKeep     EscapedSlashes = "Keep"
)

// EdgeHeaders bounds request headers.
type EdgeHeaders struct {
	// MaxKiB of all of them together; more is answered with 431. Default 60, 1 to
	// 96.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=96
	MaxKiB *uint32 `json:"maxKiB,omitempty"`
	// MaxCount of them; more is answered with 431. Default 100, 10 to 1000.
	//
	// +optional
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=1000
	MaxCount *uint32 `json:"maxCount,omitempty"`
	// Underscores is about names with an underscore, which some servers take for a
	// dash: Reject (default), Drop (the header alone) or Allow.
	//
	// +optional
	Underscores Underscores `json:"underscores,omitempty"`
}

// Underscores is what becomes of header names with an underscore.
//
// +kubebuilder:validation:Enum=Reject;Drop;Allow
type Underscores string

// Ways with underscores.
const (
	UnderscoresReject Underscores = "Reject"
	UnderscoresDrop   Underscores = "Drop"
	UnderscoresAllow  Underscores = "Allow"
)

// EdgeRequestID is about X-Request-Id, by which a request is found in every log.
type EdgeRequestID struct {
	// Accept keeps the id that a client sends; else the edge makes one, unless a
	// trusted hop has. Default false: a client could make its requests look like
	// another's.
	//
	// +optional
	Accept *bool `json:"accept,omitempty"`
	// Return tells the client, in the response. Default true.
	//
	// +optional
	Return *bool `json:"return,omitempty"`
}

// EdgeConnections bounds clients' connections.
type EdgeConnections struct {
	// Max open at once, on each listener and Envoy; more are closed. No default
	// besides Envoy's own bound over all listeners, which is in its bootstrap. At
	// most 1000000.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	Max *uint32 `json:"max,omitempty"`
	// BufferKiB that a connection may take on each side before the other side is
	// slowed down. It holds back no body. Default 1024, 32 to 65536. It is the same
	// on every listener of a port: the smallest.
	//
	// +optional
	// +kubebuilder:validation:Minimum=32
	// +kubebuilder:validation:Maximum=65536
	BufferKiB *uint32 `json:"bufferKiB,omitempty"`
	// MaxDuration of a connection, after which it is asked to go away; 0s is none.
	// Default none, at most 720h.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('720h')",message="is 0s to 720h"
	MaxDuration *gatewayv1.Duration `json:"maxDuration,omitempty"`
	// MaxRequests on a connection, after which it is asked to go away. Default none.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	MaxRequests *uint32 `json:"maxRequests,omitempty"`
}

// EdgeStreams bounds what one HTTP/2 or HTTP/3 connection carries.
type EdgeStreams struct {
	// MaxConcurrent requests at once. Default 100, 1 to 10000.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	MaxConcurrent *uint32 `json:"maxConcurrent,omitempty"`
	// WindowKiB that one request may send ahead. Default 64, 64 to 65536.
	//
	// +optional
	// +kubebuilder:validation:Minimum=64
	// +kubebuilder:validation:Maximum=65536
	WindowKiB *uint32 `json:"windowKiB,omitempty"`
	// ConnectionWindowKiB that all requests together may send ahead. Default 1024,
	// 64 to 65536.
	//
	// +optional
	// +kubebuilder:validation:Minimum=64
	// +kubebuilder:validation:Maximum=65536
	ConnectionWindowKiB *uint32 `json:"connectionWindowKiB,omitempty"`
	// ResetBurst is how many requests a client may cancel at once, and
	// ResetsPerSecond how many more per second, before its HTTP/2 connection is
	// closed: protection against rapid reset (CVE-2023-44487), beside that of
	// Envoy's bootstrap. Default 200 and 33; at most 100000.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100000
	ResetBurst *uint32 `json:"resetBurst,omitempty"`
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100000
	ResetsPerSecond *uint32 `json:"resetsPerSecond,omitempty"`
}

// EdgeTimeouts bound how slow a client may be.
type EdgeTimeouts struct {
	// Handshake of TLS. Default 10s, 1s to 1m.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('1m')",message="is 1s to 1m"
	Handshake *gatewayv1.Duration `json:"handshake,omitempty"`
	// RequestHeaders: from the first byte of a request to the last of its headers.
	// Default 10s, 100ms to 5m.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('100ms') && duration(self) <= duration('5m')",message="is 100ms to 5m"
	RequestHeaders *gatewayv1.Duration `json:"requestHeaders,omitempty"`
	// Request: to the last byte of its body; 0s is none. Default none, since it
	// would end streams; at most 24h.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('24h')",message="is 0s to 24h"
	Request *gatewayv1.Duration `json:"request,omitempty"`
	// StreamIdle: without a byte in either direction; 0s is none. Default 5m, at
	// most 24h.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('24h')",message="is 0s to 24h"
	StreamIdle *gatewayv1.Duration `json:"streamIdle,omitempty"`
	// ConnectionIdle: without a request; 0s is none. Default 10m, at most 24h.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('24h')",message="is 0s to 24h"
	ConnectionIdle *gatewayv1.Duration `json:"connectionIdle,omitempty"`
	// Drain: how long a connection that is asked to go away may still send
	// requests. Default 10s, 1s to 5m.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('5m')",message="is 1s to 5m"
	Drain *gatewayv1.Duration `json:"drain,omitempty"`
}
