// Package node runs a whole Kubernetes on this machine without Docker: one node
// in a network namespace of its own that has no way out, with containerd, the
// kubelet and all the rest compiled by package build, and Istio on demand.
//
// It needs Linux, root, and Debian's packages runc, iptables, nftables and
// conntrack. Up finds what an earlier node of the same slot left behind, whole or
// in pieces, and Down removes all of it. What it starts outlives the process that
// started it. Up to four nodes run side by side, each in a slot of its own.
//
// Addresses are of the range that RFC 2544 reserves for benchmarks
// (198.18.0.0/15), which nothing routes: pods in 198.18.0.0/18, services in
// 198.19.0.0/19, the node at 198.19.255.1; the next slots have the next ranges. The machine itself reaches all of them
// over a pair of veth devices.
package node
