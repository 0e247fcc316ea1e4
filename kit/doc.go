// Package kit is the root of Weir's small shared parts: coded errors,
// configuration, certificates, the gRPC server, the daemon skeleton and the
// ADS client. It holds no domain and imports nothing else of Weir but api.
package kit
