// Package assertion tells services who calls: short-lived JWTs (ES256) that
// extauthz signs with keys of its own, which rotate and are published as a JWK
// Set; and the announcer that puts an assertion, or an exchanged token, on the
// service's request.
package assertion
