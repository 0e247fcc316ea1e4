package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TLSPolicy says how connections to a Gateway are secured: versions, ciphers,
// HTTP versions, and which client certificates are taken. It is attached to
// Gateways and listeners; how several are put together is as MergeStrategy says,
// setting by setting.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=wtls,categories=weir
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Enforced",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Enforced")].status`
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRefs[*].name`
// +kubebuilder:printcolumn:name="Clients",type=string,JSONPath=`.spec.clientCertificates.mode`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type TLSPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              TLSPolicySpec `json:"spec"`
	// Status is written by the control plane; in files it is not read.
	//
	// +optional
	Status PolicyStatus `json:"status,omitempty"`
}

// TLSPolicySpec describes a TLSPolicy.
//
// +kubebuilder:validation:XValidation:rule="!has(self.minVersion) || !has(self.maxVersion) || self.minVersion <= self.maxVersion",message="minVersion is above maxVersion"
// +kubebuilder:validation:XValidation:rule="!has(self.protocols) || !('HTTP/3' in self.protocols) || !has(self.maxVersion) || self.maxVersion == '1.3'",message="HTTP/3 needs TLS 1.3"
// +kubebuilder:validation:XValidation:rule="!has(self.protocols) || !('HTTP/3' in self.protocols) || !has(self.clientCertificates)",message="Envoy verifies no client certificates over HTTP/3"
// +kubebuilder:validation:XValidation:rule="[has(self.minVersion) || has(self.maxVersion) || has(self.cipherSuites) || has(self.protocols) || has(self.clientCertificates), has(self.defaults), has(self.overrides)].filter(set, set).size() <= 1",message="say the settings in one place: the spec itself, defaults or overrides"
type TLSPolicySpec struct {
	// TargetRefs are 1 to 16 Gateways, or listeners of them by sectionName.
	//
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(t, t.group == 'gateway.networking.k8s.io' && t.kind in ['Gateway', 'ListenerSet'])",message="targets are Gateways and ListenerSets of group gateway.networking.k8s.io"
	TargetRefs []TargetRef `json:"targetRefs"`
	// What stands here beside targetRefs are defaults of strategy merge.
	TLSSettings `json:",inline"`
	// Defaults hold where nothing more specific says otherwise.
	//
	// +optional
	Defaults *TLSBlock `json:"defaults,omitempty"`
	// Overrides hold whatever more specific policies say.
	//
	// +optional
	Overrides *TLSBlock `json:"overrides,omitempty"`
}

// TLSBlock is what the policy says under defaults or overrides.
//
// +kubebuilder:validation:XValidation:rule="!has(self.minVersion) || !has(self.maxVersion) || self.minVersion <= self.maxVersion",message="minVersion is above maxVersion"
// +kubebuilder:validation:XValidation:rule="!has(self.protocols) || !('HTTP/3' in self.protocols) || !has(self.maxVersion) || self.maxVersion == '1.3'",message="HTTP/3 needs TLS 1.3"
// +kubebuilder:validation:XValidation:rule="!has(self.protocols) || !('HTTP/3' in self.protocols) || !has(self.clientCertificates)",message="Envoy verifies no client certificates over HTTP/3"
type TLSBlock struct {
	// Strategy is merge (default), setting by setting, or atomic.
	//
	// +optional
	Strategy    MergeStrategy `json:"strategy,omitempty"`
	TLSSettings `json:",inline"`
}

// TLSSettings are what the policy may say. Each top-level field is merged as a
// whole.
type TLSSettings struct {
	// MinVersion of TLS. Default 1.2; older ones are not offered (RFC 8996).
	//
	// +optional
	MinVersion TLSVersion `json:"minVersion,omitempty"`
	// MaxVersion of TLS. Default 1.3.
	//
	// +optional
	MaxVersion TLSVersion `json:"maxVersion,omitempty"`
	// CipherSuites for TLS 1.2, in order of preference, by their OpenSSL names. The
	// default is every suite of the list. Those of TLS 1.3 are not configurable. At
	// most 6.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=6
	CipherSuites []CipherSuite `json:"cipherSuites,omitempty"`
	// Protocols offered by ALPN, the first preferred. Default HTTP/2 and HTTP/1.1.
	// With HTTP/3 the listener's port is bound for UDP too, and answers over TCP
	// carry alt-svc. Listeners of protocol TLS offer none.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=3
	// +kubebuilder:validation:XValidation:rule="self.size() == 0 || 'HTTP/1.1' in self || 'HTTP/2' in self",message="HTTP/3 is found by way of HTTP/1.1 or HTTP/2: offer one of them"
	Protocols []HTTPProtocol `json:"protocols,omitempty"`
	// ClientCertificates are asked for and verified; none means that clients need
	// no certificate.
	//
	// +optional
	ClientCertificates *ClientCertificates `json:"clientCertificates,omitempty"`
}

// TLSVersion is a version of TLS.
//
// +kubebuilder:validation:Enum="1.2";"1.3"
type TLSVersion string

// Versions of TLS.
const (
	TLS12 TLSVersion = "1.2"
	TLS13 TLSVersion = "1.3"
)

// CipherSuite is one of TLS 1.2 with forward secrecy and authenticated
// encryption; others are not offered.
//
// +kubebuilder:validation:Enum=ECDHE-ECDSA-AES128-GCM-SHA256;ECDHE-RSA-AES128-GCM-SHA256;ECDHE-ECDSA-AES256-GCM-SHA384;ECDHE-RSA-AES256-GCM-SHA384;ECDHE-ECDSA-CHACHA20-POLY1305;ECDHE-RSA-CHACHA20-POLY1305
type CipherSuite string

// CipherSuites lists them, in the default order.
func CipherSuites() []CipherSuite {
	return []CipherSuite{
		"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256",
		"ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
		"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
	}
}

// HTTPProtocol is a version of HTTP.
//
// +kubebuilder:validation:Enum=HTTP/1.1;HTTP/2;HTTP/3
type HTTPProtocol string

// Versions of HTTP.
const (
	HTTP11 HTTPProtocol = "HTTP/1.1"
	HTTP2  HTTPProtocol = "HTTP/2"
	HTTP3  HTTPProtocol = "HTTP/3"
)

// ClientCertificates says which certificates of clients are taken. When the
// authorities or revocation lists cannot be had, the listener takes no
// connection.
//
// +kubebuilder:validation:XValidation:rule="!has(self.mode) || self.mode != 'Optional' || !has(self.subjectAltNames) || self.subjectAltNames.size() == 0",message="subjectAltNames go with mode Required: Envoy demands a certificate where it matches names"
type ClientCertificates struct {
	// Mode is Required (default), or Optional: a client without a certificate is
	// let in, one with a bad one is not.
	//
	// +optional
	Mode ClientCertificateMode `json:"mode,omitempty"`
	// CACertificateRefs are bundles of authorities in PEM; 1 to 8.
	//
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	CACertificateRefs []PEMRef `json:"caCertificateRefs"`
	// CRLRefs are revocation lists in PEM; at most 8. With any, each authority of
	// a client's chain needs a current one: a client whose authority has none, or
	// one past its next update, is refused.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	CRLRefs []PEMRef `json:"crlRefs,omitempty"`
	// SubjectAltNames: a certificate must hold a name that one of them matches;
	// none takes every certificate of the authorities. At most 32, with mode
	// Required only, since Envoy demands a certificate where it matches names.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	SubjectAltNames []SubjectAltName `json:"subjectAltNames,omitempty"`
}

// ClientCertificateMode says whether a client needs a certificate.
//
// +kubebuilder:validation:Enum=Required;Optional
type ClientCertificateMode string

// Modes of client certificates.
const (
	ClientCertificateRequired ClientCertificateMode = "Required"
	ClientCertificateOptional ClientCertificateMode = "Optional"
)

// PEMRef is one key of a ConfigMap or Secret in the same namespace.
type PEMRef struct {
	// Kind is ConfigMap (default) or Secret.
	//
	// +optional
	// +kubebuilder:validation:Enum=ConfigMap;Secret
	Kind string `json:"kind,omitempty"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Key defaults to ca.crt for authorities and ca.crl for revocation lists.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// SubjectAltName matches one name of a certificate. Exactly one of exact, prefix
// and suffix is set.
//
// +kubebuilder:validation:XValidation:rule="[has(self.exact), has(self.prefix), has(self.suffix)].filter(set, set).size() == 1",message="set exactly one of exact, prefix and suffix"
// +kubebuilder:validation:XValidation:rule="self.type != 'IP' || !has(self.exact) || isIP(self.exact)",message="exact is not an IP address"
type SubjectAltName struct {
	// Type is DNS, URI (as SPIFFE ids are), Email or IP.
	//
	// +kubebuilder:validation:Enum=DNS;URI;Email;IP
	Type SubjectAltNameType `json:"type"`
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Exact string `json:"exact,omitempty"`
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Prefix string `json:"prefix,omitempty"`
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Suffix string `json:"suffix,omitempty"`
}

// SubjectAltNameType is a kind of name in a certificate (RFC 5280, GeneralName).
type SubjectAltNameType string

// Kinds of names.
const (
	SubjectAltNameDNS   SubjectAltNameType = "DNS"
	SubjectAltNameURI   SubjectAltNameType = "URI"
	SubjectAltNameEmail SubjectAltNameType = "Email"
	SubjectAltNameIP    SubjectAltNameType = "IP"
)
