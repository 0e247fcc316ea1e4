package policy_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/gateway-api/pkg/features"

	"weir.dev/policy"
)

// GatewayClassStatus.supportedFeatures is sorted, unique and of at most 64.
func TestSupportedFeatures(t *testing.T) {
	names := policy.SupportedFeatures()
	require.True(t, slices.IsSorted(names))
	require.Equal(t, names, slices.Compact(slices.Clone(names)))
	require.LessOrEqual(t, len(names), 64)
	known := map[string]bool{}
	for feature := range features.AllFeatures {
		known[string(feature.Name)] = true
	}
	for _, name := range names {
		require.True(t, known[name], name)
	}
}

// A CORS filter may let every origin send credentials, as the standard says; an
// AuthPolicy may not.
func TestCredentialsOfAnyOrigin(t *testing.T) {
	parser, err := policy.NewParser()
	require.NoError(t, err)
	documents := parser.Parse("a.yaml", []byte(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: open}
spec:
  parentRefs: [{name: edge}]
  rules: [{filters: [{type: CORS, cors: {allowOrigins: ["*"], allowCredentials: true}}]}]
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: open}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: open}]
  authentication: [{name: anyone, anonymous: {}}]
  cors: {allowOrigins: ["*"], allowCredentials: true}
`))
	require.Len(t, documents, 2)
	require.Empty(t, documents[0].Problems)
	require.Len(t, documents[1].Problems, 1)
	require.Equal(t, "spec.cors.allowCredentials", documents[1].Problems[0].Field)
}
