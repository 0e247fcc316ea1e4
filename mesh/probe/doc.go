// Package probe asks what runs of a mesh: istiods which objects they have, gateways
// what they serve, extauthz which rules it decides by. It reaches pods through the
// Kubernetes API by port forwarding, as `kubectl port-forward` does, so that nothing
// has to be exposed; what it needs is to list pods and `create pods/portforward`.
//
// It changes nothing, but for an annotation of extauthz's pods that has the kubelet
// renew the rules that it mounted there (see Mesh.Unruled).
package probe
