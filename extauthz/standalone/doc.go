// Package standalone serves rules from a file, in front of an Envoy that Weir's
// control plane does not configure. It owns the file's form, its reloading, and
// the choice of a route by host and path as Envoy would choose it.
//
// Such an Envoy says nothing about which of its routes it has chosen, so the
// choice is made again here, and must come out the same. Where a request can be
// read in more than one way (escapes that need not be, empty and dot segments,
// path parameters that change the choice) it is refused.
package standalone
