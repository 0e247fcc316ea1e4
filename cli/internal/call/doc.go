// Package call makes one gRPC call from JSON to JSON, of any method whose
// descriptor is linked in.
package call
