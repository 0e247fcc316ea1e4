package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
	// Attributes are facts of the consumer's own that policies can refer to, such
	// as the number of requests that was agreed on; at most 16. They reach the
	// access log's metadata: write no secrets here.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(k) > 0 && size(k) <= 64)",message="names of attributes have 1 to 64 bytes"
	Attributes map[string]string `json:"attributes,omitempty"`
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
	// SignatureKeys are keys by which the consumer signs requests; at most 16.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=name
	SignatureKeys []SignatureKey `json:"signatureKeys,omitempty"`
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
