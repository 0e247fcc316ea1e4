package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// TrafficPolicy says how requests are carried to the backends of routes:
// retries, timeouts, health, load balancing and what happens when a backend
// fails. It is attached to a Gateway, a listener, a route or a rule; a setting
// that concerns connections applies to the backends as reached from there.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=wtp,categories=weir
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Enforced",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Enforced")].status`
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRefs[*].name`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type TrafficPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              TrafficPolicySpec `json:"spec"`
	// Status is written by the control plane; in files it is not read.
	//
	// +optional
	Status PolicyStatus `json:"status,omitempty"`
}

// TrafficPolicySpec describes a TrafficPolicy.
//
// +kubebuilder:validation:XValidation:rule="[has(self.timeouts) || has(self.retry) || has(self.retryBudget) || has(self.connectionLimits) || has(self.outlierDetection) || has(self.healthCheck) || has(self.loadBalancing) || has(self.fallback) || has(self.fault) || has(self.adaptiveConcurrency) || has(self.admissionControl) || has(self.compression) || has(self.requestBody), has(self.defaults), has(self.overrides)].filter(set, set).size() <= 1",message="say the settings in one place: the spec itself, defaults or overrides"
type TrafficPolicySpec struct {
	// TargetRefs are 1 to 16 attachments.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +kubebuilder:validation:XValidation:rule="self.all(t, t.group == 'gateway.networking.k8s.io' && t.kind in ['Gateway', 'ListenerSet', 'HTTPRoute', 'GRPCRoute'])",message="targets are Gateways, ListenerSets, HTTPRoutes and GRPCRoutes of group gateway.networking.k8s.io"
	TargetRefs []TargetRef `json:"targetRefs"`
	// What stands here beside targetRefs are defaults of strategy merge.
	TrafficSettings `json:",inline"`
	// Defaults hold where nothing more specific says otherwise.
	Defaults *TrafficBlock `json:"defaults,omitempty"`
	// Overrides hold whatever more specific policies say.
	Overrides *TrafficBlock `json:"overrides,omitempty"`
}

// TrafficBlock is what a TrafficPolicy says under defaults or overrides.
type TrafficBlock struct {
	// Strategy is merge (default), setting by setting, or atomic.
	Strategy        MergeStrategy `json:"strategy,omitempty"`
	TrafficSettings `json:",inline"`
}

// TrafficSettings are what a TrafficPolicy may say. Each top-level field is
// merged as a whole; what is not set stays as less specific policies, or else
// the defaults, have it.
type TrafficSettings struct {
	Timeouts            *TrafficTimeouts     `json:"timeouts,omitempty"`
	Retry               *TrafficRetry        `json:"retry,omitempty"`
	RetryBudget         *RetryBudget         `json:"retryBudget,omitempty"`
	ConnectionLimits    *ConnectionLimits    `json:"connectionLimits,omitempty"`
	OutlierDetection    *OutlierDetection    `json:"outlierDetection,omitempty"`
	HealthCheck         *HealthCheck         `json:"healthCheck,omitempty"`
	LoadBalancing       *LoadBalancing       `json:"loadBalancing,omitempty"`
	Fallback            *Fallback            `json:"fallback,omitempty"`
	Fault               *Fault               `json:"fault,omitempty"`
	AdaptiveConcurrency *AdaptiveConcurrency `json:"adaptiveConcurrency,omitempty"`
	AdmissionControl    *AdmissionControl    `json:"admissionControl,omitempty"`
	Compression         *Compression         `json:"compression,omitempty"`
	RequestBody         *RequestBody         `json:"requestBody,omitempty"`
}

// TrafficTimeouts bound how long things take. A route's own timeouts win.
type TrafficTimeouts struct {
	// Request bounds the whole exchange. 0s switches it off; default 15s, none
	// for gRPC. At most 1h.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('1h')",message="is 0s to 1h"
	Request *gatewayv1.Duration `json:"request,omitempty"`
	// BackendRequest bounds one try. 0s, the default, means no bound but
	// request's. At most 1h.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('1h')",message="is 0s to 1h"
	BackendRequest *gatewayv1.Duration `json:"backendRequest,omitempty"`
	// StreamIdle ends an exchange in which nothing moves. 0s switches it off;
	// default 5m. At most 24h.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('24h')",message="is 0s to 24h"
	StreamIdle *gatewayv1.Duration `json:"streamIdle,omitempty"`
	// Connect bounds the opening of a connection to a backend. 10ms to 1m,
	// default 1s.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10ms') && duration(self) <= duration('1m')",message="is 10ms to 1m"
	Connect *gatewayv1.Duration `json:"connect,omitempty"`
}

// TrafficRetry repeats failed tries. A route's own retry wins.
type TrafficRetry struct {
	// Attempts are the retries after the first try: 0 to 10; 0 switches retries
	// off. Default 2.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10
	Attempts *int32 `json:"attempts,omitempty"`
	// On lists what is retried. Default ConnectFailure, RefusedStream and
	// ResetBeforeRequest: tries that the backend cannot have begun to serve.
	//
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	On []RetryOn `json:"on,omitempty"`
	// Codes are statuses that are retried, 400 to 599; at most 16.
	//
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +kubebuilder:validation:items:Minimum=400
	// +kubebuilder:validation:items:Maximum=599
	Codes []int32 `json:"codes,omitempty"`
	// Backoff is about how long to wait before the first retry; later ones wait
	// longer, up to ten times that. 1ms to 1m, default 25ms.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1ms') && duration(self) <= duration('1m')",message="is 1ms to 1m"
	Backoff *gatewayv1.Duration `json:"backoff,omitempty"`
}

// RetryOn is a kind of failed try.
//
// +kubebuilder:validation:Enum=ConnectFailure;RefusedStream;ResetBeforeRequest;Reset;GatewayError;ServerError;Unavailable;Cancelled;DeadlineExceeded;Internal;ResourceExhausted
type RetryOn string

// Kinds of failed tries.
const (
	// RetryConnectFailure: no connection could be opened.
	RetryConnectFailure RetryOn = "ConnectFailure"
	// RetryRefusedStream: the backend refused the stream unread.
	RetryRefusedStream RetryOn = "RefusedStream"
	// RetryResetBeforeRequest: the connection broke before the request was sent.
	RetryResetBeforeRequest RetryOn = "ResetBeforeRequest"
	// RetryReset: no answer came: broken, reset or timed out. The backend may
	// have acted on the request.
	RetryReset RetryOn = "Reset"
	// RetryGatewayError: 502, 503 and 504.
	RetryGatewayError RetryOn = "GatewayError"
	// RetryServerError: any 5xx, or no answer.
	RetryServerError RetryOn = "ServerError"
	// RetryGRPCUnavailable and the following are gRPC statuses.
	RetryGRPCUnavailable       RetryOn = "Unavailable"
	RetryGRPCCancelled         RetryOn = "Cancelled"
	RetryGRPCDeadlineExceeded  RetryOn = "DeadlineExceeded"
	RetryGRPCInternal          RetryOn = "Internal"
	RetryGRPCResourceExhausted RetryOn = "ResourceExhausted"
)

// RetryBudget bounds retries by what is in flight, so that they do not pile up
// on a backend that is down.
type RetryBudget struct {
	// Percent of the requests in flight that may be retries: 1 to 100. Default
	// 20.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Percent *int32 `json:"percent,omitempty"`
	// MinConcurrent retries are always let through. Default 3, at most 10000.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000
	MinConcurrent *int32 `json:"minConcurrent,omitempty"`
}

// Fallback is what happens when the backends cannot serve.
//
// +kubebuilder:validation:XValidation:rule="has(self.backendRef) || has(self.response)",message="needs a backendRef or a response"
type Fallback struct {
	// BackendRef takes over while no endpoint of a backend is well. It speaks the
	// same protocol.
	BackendRef *gatewayv1.BackendObjectReference `json:"backendRef,omitempty"`
	// Response replaces answers that have one of Statuses.
	Response *FallbackResponse `json:"response,omitempty"`
}

// FallbackResponse is a fixed answer.
type FallbackResponse struct {
	// Statuses that it replaces, 400 to 599. Default 502, 503 and 504; at most
	// 16.
	//
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +kubebuilder:validation:items:Minimum=400
	// +kubebuilder:validation:items:Maximum=599
	Statuses []int32 `json:"statuses,omitempty"`
	// Status of the answer, 200 to 599. Default: as it was.
	//
	// +kubebuilder:validation:Minimum=200
	// +kubebuilder:validation:Maximum=599
	Status *int32 `json:"status,omitempty"`
	// ContentType of body. Default text/plain.
	//
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	ContentType string `json:"contentType,omitempty"`
	// Body, at most 4096 bytes.
	//
	// +kubebuilder:validation:MaxLength=4096
	Body string `json:"body,omitempty"`
}

// Fault breaks requests on purpose.
//
// +kubebuilder:validation:XValidation:rule="has(self.delay) || has(self.abort)",message="needs a delay or an abort"
type Fault struct {
	Delay *FaultDelay `json:"delay,omitempty"`
	Abort *FaultAbort `json:"abort,omitempty"`
}

// FaultDelay holds requests up.
type FaultDelay struct {
	// Duration is 1ms to 1m.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1ms') && duration(self) <= duration('1m')",message="is 1ms to 1m"
	Duration gatewayv1.Duration `json:"duration"`
	// Percent of the requests: 1 to 100. Default 100.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Percent *int32 `json:"percent,omitempty"`
}

// FaultAbort answers instead of the backend. Exactly one of the statuses is
// set.
//
// +kubebuilder:validation:XValidation:rule="has(self.status) != has(self.grpcStatus)",message="set exactly one of status, grpcStatus"
type FaultAbort struct {
	// Status is an HTTP status, 400 to 599.
	//
	// +kubebuilder:validation:Minimum=400
	// +kubebuilder:validation:Maximum=599
	Status *int32 `json:"status,omitempty"`
	// GRPCStatus is a gRPC status code, 1 to 16.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16
	GRPCStatus *int32 `json:"grpcStatus,omitempty"`
	// Percent of the requests: 1 to 100. Default 100.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Percent *int32 `json:"percent,omitempty"`
}

// AdaptiveConcurrency measures latency and lets no more requests in than the
// backends serve well; the others are answered with 503. It counts all requests
// to routes with equal settings on a port together, per proxy.
type AdaptiveConcurrency struct {
	// Percentile of latency that is watched: 1 to 99. Default 90.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=99
	Percentile *int32 `json:"percentile,omitempty"`
	// MaxConcurrency is never exceeded. 1 to 100000, default 1000.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100000
	MaxConcurrency *int32 `json:"maxConcurrency,omitempty"`
	// UpdateInterval between two adjustments. 10ms to 1m, default 100ms.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10ms') && duration(self) <= duration('1m')",message="is 10ms to 1m"
	UpdateInterval *gatewayv1.Duration `json:"updateInterval,omitempty"`
	// MinRTTInterval between two measurements of the best latency, during which
	// few requests are let in. 1s to 1h, default 1m.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')",message="is 1s to 1h"
	MinRTTInterval *gatewayv1.Duration `json:"minRTTInterval,omitempty"`
}

// AdmissionControl refuses requests at random while too few succeed, the more
// the fewer do. It counts all requests to routes with equal settings on a port
// together, per proxy.
type AdmissionControl struct {
	// SuccessPercent below which requests are refused: 1 to 100. Default 95.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	SuccessPercent *int32 `json:"successPercent,omitempty"`
	// Window over which success is measured. 1s to 10m, default 30s.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('10m')",message="is 1s to 10m"
	Window *gatewayv1.Duration `json:"window,omitempty"`
	// MinRequestsPerSecond below which nothing is refused. Default 0.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000
	MinRequestsPerSecond *int32 `json:"minRequestsPerSecond,omitempty"`
	// MaxRejectionPercent is 1 to 99. Default 80.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=99
	MaxRejectionPercent *int32 `json:"maxRejectionPercent,omitempty"`
}

// Compression compresses answers for clients that accept it.
type Compression struct {
	// Algorithms offered, the preferred first: Gzip, Brotli, Zstd. Default all,
	// Brotli first.
	//
	// +kubebuilder:validation:MaxItems=3
	// +listType=set
	Algorithms []CompressionAlgorithm `json:"algorithms,omitempty"`
	// MinBytes below which nothing is compressed. 30 to 1048576, default 1024.
	//
	// +kubebuilder:validation:Minimum=30
	// +kubebuilder:validation:Maximum=1048576
	MinBytes *int32 `json:"minBytes,omitempty"`
	// ContentTypes that are compressed; at most 32. Default text, JavaScript,
	// JSON, XML, SVG and WebAssembly.
	//
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:items:Pattern=`^[^\x00-\x1f\x7f]*$`
	ContentTypes []string `json:"contentTypes,omitempty"`
}

// CompressionAlgorithm is a content coding.
//
// +kubebuilder:validation:Enum=Gzip;Brotli;Zstd
type CompressionAlgorithm string

// Content codings.
const (
	CompressGzip   CompressionAlgorithm = "Gzip"
	CompressBrotli CompressionAlgorithm = "Brotli"
	CompressZstd   CompressionAlgorithm = "Zstd"
)

// RequestBody bounds what clients send.
type RequestBody struct {
	// MaxBytes is 1 to 1073741824. A larger request is answered with 413.
	// The body is not held back for it: a backend may have seen the first part.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1073741824
	MaxBytes int64 `json:"maxBytes"`
}
