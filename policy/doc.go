// Package policy is the heart of Weir: it parses resources, validates them,
// resolves attachment and precedence, and produces one immutable Plan that the
// control plane compiles for Envoy and the mesh compiles for Istio. It is pure:
// no I/O, no Envoy, no Kubernetes client.
//
// The steps are Parse (bytes to Objects, one document at a time), Validate (an
// Object by itself) and Resolve (all Objects to a Plan). Each reports Problems
// with a stable code and the file, line and field they are about.
package policy
