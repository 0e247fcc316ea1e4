package kube

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPlural(t *testing.T) {
	for kind, want := range map[string]string{
		"Gateway": "gateways", "GatewayClass": "gatewayclasses", "HTTPRoute": "httproutes", "AuthPolicy": "authpolicies",
		"Backend": "backends", "ReferenceGrant": "referencegrants", "BackendTLSPolicy": "backendtlspolicies",
	} {
		require.Equal(t, want, plural(kind))
	}
}
