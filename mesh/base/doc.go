// Package base makes the mesh that a policy is applied to: values for the charts of
// Istio's control plane and gateways, and the objects that every namespace begins
// with. What it makes is plain YAML with comments, for Helm and kubectl or for GitOps.
package base
