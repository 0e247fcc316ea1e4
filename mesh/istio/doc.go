// Package istio compiles a Plan into Istio's resources.
//
// Routes become a Gateway and VirtualServices in the Plan's own order; Backends
// ServiceEntries and DestinationRules; who may call is decided by extauthz, which
// an AuthorizationPolicy of action CUSTOM asks and which chooses the rules by host
// and path itself (ADR 0041). Where a policy asks for it and the answers are the same,
// RequestAuthentication and AuthorizationPolicies of action DENY decide in the place
// of extauthz (ADR 0050). What Istio's APIs have no words for is taken out of
// the configuration that Weir's own target makes and put in by EnvoyFilters, each
// with an assertion of what it matches (ADR 0042). What neither can do is a
// problem, and leaves the route out: nothing is dropped in silence.
//
// The package owns no I/O and knows no cluster.
package istio
