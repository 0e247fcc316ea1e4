// Package envoy compiles a Plan to Envoy's xDS resources. It is a pure function
// of the Plan and the addresses of Weir's own servers: equal inputs give equal
// resources, with versions that are hashes of their content.
package envoy
