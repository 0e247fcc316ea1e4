// Package build compiles what a cluster for tests is made of, Kubernetes,
// containerd, Istio and Helm, from public Go modules into the user's cache. Each
// folder of components/ pins one of them; what is in the cache is found by the
// content of that folder, so that a second call is free and a new pin is built.
package build
