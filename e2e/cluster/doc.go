// Package cluster runs a real Kubernetes API (etcd and kube-apiserver) for a
// test, without Docker: both are built once from their public Go modules, below
// components/, into the user's cache. There is no kubelet, scheduler or
// controller manager, so nothing runs in it; objects, validation, watches,
// authorization and leases are the real ones.
//
// It owns building, starting and stopping the two, and the certificates and
// kubeconfigs to reach them. It knows nothing of Weir.
package cluster
