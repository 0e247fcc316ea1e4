// Package mesh runs Weir's policy on a service mesh.
//
// Package istio makes Istio's resources of a Plan. Nothing here speaks to a
// cluster; who applies what is made is the caller's.
package mesh
