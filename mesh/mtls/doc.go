// Package mtls takes a namespace or a workload from one mode of mutual TLS to the
// next, DISABLE, PERMISSIVE, STRICT, without locking callers out: STRICT is taken
// when nobody was seen to call in plaintext, is watched afterwards, and is put back
// when somebody is refused.
//
// It owns what is decided and in which order things are done; what it knows of the
// cluster comes through Cluster, which package live implements. Sidecars are what it
// knows; ambient meshes are refused.
package mtls
