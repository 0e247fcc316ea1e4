// Package relation asks a relationship store of OpenFGA's HTTP API whether a user
// has a relation to an object, with a deadline and a cache.
package relation
