// Package cluster runs a real Kubernetes API (etcd and kube-apiserver) for a
// test, without Docker and without rights. There is no kubelet, scheduler or
// controller manager, so nothing runs in it; objects, validation, watches,
// authorization and leases are the real ones. Package node runs a whole node.
//
// It owns starting and stopping the two, and the certificates and kubeconfigs to
// reach them; package build compiles them from their public Go modules. It knows
// nothing of Weir.
package cluster
