// Package data is the data service's domain: collections of JSON records, each
// collection with a JSON Schema. It owns the rules (names, bounds, schemas,
// etags, idempotency, import) and the interfaces of the stores that it needs.
// It knows neither gRPC nor SQL: package datagrpc and package store do.
package data
