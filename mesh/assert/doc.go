// Package assert checks that EnvoyFilters do what they were made for.
//
// An EnvoyFilter that matches nothing is no error to istiod, and one that matched
// may not any more after an upgrade (istio#38214). Each that Weir makes says what
// its patches match and how often; this package looks for exactly that in the
// configuration that a proxy was given.
package assert
