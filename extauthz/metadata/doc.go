// Package metadata asks servers, over HTTP or gRPC, what rules read as
// metadata.NAME, with bounds, a deadline and a cache. Which server, and at which
// path, is the policy's: what a request says becomes single escaped segments and
// parameters.
package metadata
