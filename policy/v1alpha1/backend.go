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
// +kubebuilder:validation:XValidation:rule="has(self.hostname) || !has(self.caCertificateRef) && !has(self.subjectAltNames) && !has(self.clientCertificateRef)",message="caCertificateRef, subjectAltNames and clientCertificateRef need hostname"
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
	// ClientCertificateRef is a Secret of type kubernetes.io/tls whose certificate
	// the edge presents, in place of that of the Gateway (spec.tls.backend there).
	//
	// +optional
	ClientCertificateRef *SecretNameRef `json:"clientCertificateRef,omitempty"`
}

// SecretNameRef is a Secret in the same namespace.
type SecretNameRef struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
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
	// Default 1 MiB, at most 64 MiB. Messages of a stream are passed on one by one;
	// where a method takes one, the bound is at least twice the gateway's bufferKiB,
	// as much of a body as can come while the request is checked.
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
