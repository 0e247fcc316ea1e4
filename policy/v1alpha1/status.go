package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// PolicyStatus says, per Gateway or route that a policy is attached to, whether
// it is accepted, overridden and enforced there (GEP-713).
type PolicyStatus = gatewayv1.PolicyStatus

// ObjectStatus is the status of an object that is not attached to anything.
type ObjectStatus struct {
	// Conditions such as Accepted; at most 8.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
