// Package conformance pins the Gateway API's own suite, and the server that its
// tests send requests to.
package conformance

import _ "sigs.k8s.io/gateway-api/conformance"
