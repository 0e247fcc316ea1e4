// Package apply brings what package istio makes into a cluster by server-side
// apply: everything is tried first (server-side dry run), guards come before the
// routes that need them and are waited for, what the gateways serve afterwards is
// checked, and when it is not what was meant, everything is put back. While routes
// change, guards are those of before and those to be, together. Only objects
// of the same set, which Weir applied, are ever deleted.
//
// It owns the order of things and what may be touched. What the objects say is
// package istio's; how istiod, gateways and extauthz are asked is behind Mesh.
package apply
