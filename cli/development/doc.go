// Package development makes what a Weir on one machine needs and nobody should
// have to write: a consumer with an API key, a token issuer, and the backends of
// the services that run here. The objects are made by a pure function; secrets
// lie in one folder, mode 0600, and only hashes and public keys leave it.
package development
