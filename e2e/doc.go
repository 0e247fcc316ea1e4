// Package e2e holds the suites that run against the running whole: bin/weir
// starts everything, the real Envoy included, and the tests use it as its users
// do. Nothing imports this module.
package e2e
