// Package mesh runs Weir's policy on a service mesh.
//
// Package istio makes Istio's resources of a Plan, apply brings them into a cluster,
// assert looks for them in a proxy's configuration, and probe asks what runs.
package mesh
