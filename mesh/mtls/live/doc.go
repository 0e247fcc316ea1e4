// Package live is the cluster that package mtls changes: its API server, its sidecars
// by port forwarding, and their logs. It needs to list pods of all namespaces, nodes
// if it may, to get, list, create, patch and delete PeerAuthentications and
// EnvoyFilters, to get pods/log and to create pods/portforward.
package live
