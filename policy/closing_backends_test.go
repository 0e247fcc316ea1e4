package policy_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/policy"
)

// A policy that is left out, because a proxy rejected it, closes what it
// protected as a broken one does: nothing is opened by a quarantine.
func TestLeftOutPoliciesClose(t *testing.T) {
	const common = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec: {parentRefs: [{name: g}], rules: [{backendRefs: [{name: s, port: 80}]}]}
---
`
	for kind, text := range map[string]string{
		"BackendTLSPolicy": `apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: p}
spec: {targetRefs: [{group: "", kind: Service, name: s}], validation: {hostname: s.example.com, wellKnownCACertificates: System}}
`,
		"AuthPolicy": `apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: p}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}], authentication: [{name: a, anonymous: {}}]}
`,
		"TLSPolicy": `apiVersion: weir.dev/v1alpha1
kind: TLSPolicy
metadata: {name: p}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}], clientCertificates: {caCertificateRefs: [{name: ca, key: ca.crt}]}}
`,
	} {
		t.Run(kind, func(t *testing.T) {
			parser, err := policy.NewParser()
			require.NoError(t, err)
			var input policy.Input
			for _, document := range parser.Parse("p.yaml", []byte(common+text)) {
				require.Empty(t, document.Problems.Errors())
				input.Objects = append(input.Objects, document.Object)
			}
			without := input.Substitute(map[policy.ObjectRef]*policy.Object{{Kind: kind, Namespace: "default", Name: "p"}: nil})
			require.Len(t, without.Objects, len(input.Objects)-1)
			require.Len(t, without.Closings, 1)
			require.Equal(t, kind == "AuthPolicy", without.Closings[0].Policy == "")
			if kind != "BackendTLSPolicy" {
				return
			}
			plan, _ := policy.Resolve(without)
			require.Empty(t, plan.Backends)
			without.Closings = nil // This is what it keeps from happening.
			plan, _ = policy.Resolve(without)
			require.Len(t, plan.Backends, 1)
			require.Nil(t, plan.Backends[0].TLS)
		})
	}
}
