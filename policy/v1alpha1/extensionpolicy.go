package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// ExtensionPolicy lets servers of your own look at requests and responses and
// change them (Envoy's ext_proc, service envoy.service.ext_proc.v3
// .ExternalProcessor). They come after authentication and limits and before the
// backend. Of several policies that reach a rule of a route, the one attached most
// specifically is in effect; with defaults and overrides it is as MergeStrategy
// says. To use an extension for some requests only, give those a rule.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=wext,categories=weir
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Enforced",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Enforced")].status`
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRefs[*].name`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ExtensionPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              ExtensionPolicySpec `json:"spec"`
	// Status is written by the control plane; in files it is not read.
	//
	// +optional
	Status PolicyStatus `json:"status,omitempty"`
}

// ExtensionPolicySpec describes an ExtensionPolicy.
//
// +kubebuilder:validation:XValidation:rule="[has(self.extensions), has(self.defaults), has(self.overrides)].filter(set, set).size() == 1",message="say the extensions in exactly one place: the spec itself, defaults or overrides"
type ExtensionPolicySpec struct {
	// TargetRefs are 1 to 16 attachments.
	//
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(t, t.group == 'gateway.networking.k8s.io' && t.kind in ['Gateway', 'ListenerSet', 'HTTPRoute', 'GRPCRoute'])",message="targets are Gateways, ListenerSets, HTTPRoutes and GRPCRoutes of group gateway.networking.k8s.io"
	TargetRefs []TargetRef `json:"targetRefs"`
	// What stands here beside targetRefs are defaults of strategy atomic.
	ExtensionSettings `json:",inline"`
	// Defaults hold where nothing more specific says otherwise.
	//
	// +optional
	Defaults *ExtensionBlock `json:"defaults,omitempty"`
	// Overrides hold whatever more specific policies say.
	//
	// +optional
	Overrides *ExtensionBlock `json:"overrides,omitempty"`
}

// ExtensionBlock is what an ExtensionPolicy says under defaults or overrides.
//
// +kubebuilder:validation:XValidation:rule="has(self.extensions)",message="extensions is required"
type ExtensionBlock struct {
	// Strategy is atomic (default) or merge, which joins extensions by name:
	// overrides come first, then the more specific defaults.
	//
	// +optional
	Strategy          MergeStrategy `json:"strategy,omitempty"`
	ExtensionSettings `json:",inline"`
}

// Said is the strategy, if any, and the settings; both empty for a nil block.
func (b *ExtensionBlock) Said() (MergeStrategy, *ExtensionSettings) {
	if b == nil {
		return "", nil
	}
	return b.Strategy, &b.ExtensionSettings
}

// ExtensionSettings are what an ExtensionPolicy may say.
type ExtensionSettings struct {
	// Extensions see a request in this order, and its response in the opposite one;
	// 1 to 8.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Extensions []Extension `json:"extensions,omitempty"`
}

// Extension is one server that processes requests and responses. It cannot set
// or remove x-weir- headers, what says where a request goes (the host, method,
// path and scheme), nor Envoy's own headers. It may answer by itself
// (ImmediateResponse): the body is then passed on as it is if the answer's details
// are empty or start with "extension"; with others the edge writes the body.
type Extension struct {
	// Name is unique within the policy.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// BackendRef is a Backend of protocol GRPC; one in another namespace needs a
	// ReferenceGrant there.
	BackendRef ExtensionBackendRef `json:"backendRef"`
	// When says which requests the extension sees, with their responses: those for
	// which one of the entries holds. Without entries it sees all. At most 8.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	When []ExtensionMatch `json:"when,omitempty"`
	// Process says what is sent. The default is the headers of both directions.
	//
	// +optional
	Process ExtensionProcess `json:"process,omitempty"`
	// MessageTimeout bounds each answer. 10ms to 30s, default 200ms.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10ms') && duration(self) <= duration('30s')",message="is 10ms to 30s"
	MessageTimeout *gatewayv1.Duration `json:"messageTimeout,omitempty"`
	// FailureMode says what happens when the server does not answer, or not
	// rightly: Closed (default) answers 503, Open goes on without it.
	//
	// +optional
	FailureMode FailureMode `json:"failureMode,omitempty"`
	// AllowModeOverride lets the server change, per request, what is sent to it.
	//
	// +optional
	AllowModeOverride bool `json:"allowModeOverride,omitempty"`
	// ForwardHeaders says which headers the server is shown. The default is all of
	// them but credentials: authorization, proxy-authorization, cookie and
	// set-cookie. What extauthz verified it has removed before.
	//
	// +optional
	ForwardHeaders *ForwardHeaders `json:"forwardHeaders,omitempty"`
	// RequestAttributes and ResponseAttributes are names of Envoy's attributes, such
	// as request.id, source.address or xds.route_name, that are sent along; at most
	// 16 each.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:Pattern=`^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+$`
	RequestAttributes []string `json:"requestAttributes,omitempty"`
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:Pattern=`^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+$`
	ResponseAttributes []string `json:"responseAttributes,omitempty"`
}

// ExtensionMatch compares a request, as the client sent it, as the matches of an
// HTTPRoute do; all that is set must hold.
//
// +kubebuilder:validation:XValidation:rule="has(self.path) || has(self.method) || has(self.headers) || has(self.queryParams)",message="set path, method, headers or queryParams"
type ExtensionMatch struct {
	// Path without the query.
	//
	// +optional
	Path *ExtensionPathMatch `json:"path,omitempty"`
	// Method, such as POST.
	//
	// +optional
	// +kubebuilder:validation:Enum=GET;HEAD;POST;PUT;DELETE;CONNECT;OPTIONS;TRACE;PATCH
	Method string `json:"method,omitempty"`
	// Headers of which all must be there; at most 16.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Headers []ExtensionValueMatch `json:"headers,omitempty"`
	// QueryParams of which all must be there, their first values compared as they are
	// sent; at most 16.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	QueryParams []ExtensionValueMatch `json:"queryParams,omitempty"`
}

// ExtensionPathMatch compares a path.
type ExtensionPathMatch struct {
	// Type is PathPrefix (default), which compares whole segments, Exact or
	// RegularExpression (RE2, of the whole path).
	//
	// +optional
	// +kubebuilder:validation:Enum=Exact;PathPrefix;RegularExpression
	Type gatewayv1.PathMatchType `json:"type,omitempty"`
	// Value to compare with.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Value string `json:"value"`
}

// ExtensionValueMatch compares a header or query parameter.
type ExtensionValueMatch struct {
	// Name, of headers in any case.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Name string `json:"name"`
	// Type is Exact (default) or RegularExpression (RE2, of the whole value).
	//
	// +optional
	// +kubebuilder:validation:Enum=Exact;RegularExpression
	Type string `json:"type,omitempty"`
	// Value to compare with.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Value string `json:"value"`
}

// ExtensionBackendRef names a Backend.
type ExtensionBackendRef struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Namespace defaults to the policy's.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$`
	Namespace string `json:"namespace,omitempty"`
}

// ExtensionProcess says which parts of an exchange are sent.
type ExtensionProcess struct {
	// Request and Response are the two directions.
	//
	// +optional
	Request ExtensionPhase `json:"request,omitempty"`
	// +optional
	Response ExtensionPhase `json:"response,omitempty"`
}

// ExtensionPhase says which parts of one direction are sent.
type ExtensionPhase struct {
	// Headers is Send (default) or Skip.
	//
	// +optional
	Headers ExtensionSend `json:"headers,omitempty"`
	// Body is None (default); Buffered, whole, where one larger than the edge
	// buffers is answered with 413; BufferedPartial, as much of it as is buffered;
	// or Streamed, piece by piece.
	//
	// +optional
	Body ExtensionBody `json:"body,omitempty"`
	// Trailers is Skip (default) or Send.
	//
	// +optional
	Trailers ExtensionSend `json:"trailers,omitempty"`
}

// ExtensionSend says whether something is sent.
//
// +kubebuilder:validation:Enum=Send;Skip
type ExtensionSend string

// What becomes of headers and trailers.
const (
	ExtensionSends ExtensionSend = "Send"
	ExtensionSkips ExtensionSend = "Skip"
)

// ExtensionBody is how a body is sent.
//
// +kubebuilder:validation:Enum=None;Buffered;BufferedPartial;Streamed
type ExtensionBody string

// Ways to send a body.
const (
	ExtensionBodyNone            ExtensionBody = "None"
	ExtensionBodyBuffered        ExtensionBody = "Buffered"
	ExtensionBodyBufferedPartial ExtensionBody = "BufferedPartial"
	ExtensionBodyStreamed        ExtensionBody = "Streamed"
)

// ForwardHeaders picks headers by their name.
//
// +kubebuilder:validation:XValidation:rule="has(self.allow) || has(self.deny)",message="set allow or deny"
type ForwardHeaders struct {
	// Allow lists what is sent, and nothing else; at most 64. Credentials may be
	// listed.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=256
	// +kubebuilder:validation:items:Pattern=`^[A-Za-z0-9!#$%&'*+.^_\x60|~-]+$`
	Allow []string `json:"allow,omitempty"`
	// Deny lists what is not sent, credentials besides; at most 64.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=256
	// +kubebuilder:validation:items:Pattern=`^[A-Za-z0-9!#$%&'*+.^_\x60|~-]+$`
	Deny []string `json:"deny,omitempty"`
}
