// Package v1alpha1 holds Weir's own resource types, group weir.dev, version
// v1alpha1. Routing is not here: it is written in the Gateway API's types.
//
// The +kubebuilder markers say what package policy checks, as far as a
// CustomResourceDefinition can: the files below charts/crds are generated from
// them by `make generate`.
//
// +groupName=weir.dev
// +kubebuilder:object:generate=true
package v1alpha1

// Group and version of every type in this package.
const (
	Group   = "weir.dev"
	Version = "v1alpha1"
	// APIVersion is what the types' apiVersion field must be.
	APIVersion = Group + "/" + Version
)

// Kinds of this package.
const (
	KindBackend         = "Backend"
	KindConsumer        = "Consumer"
	KindAuthPolicy      = "AuthPolicy"
	KindRateLimitPolicy = "RateLimitPolicy"
	KindTLSPolicy       = "TLSPolicy"
	KindHeaderPolicy    = "HeaderPolicy"
	KindEdgePolicy      = "EdgePolicy"
	KindTrafficPolicy   = "TrafficPolicy"
	KindExtensionPolicy = "ExtensionPolicy"
)
