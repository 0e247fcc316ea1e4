// Package node has the suites that need a whole cluster: Weir is installed by its
// charts on the Kubernetes node of e2e/cluster, and used as its users do.
package node
