package kube

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/policy"
)

// A route is programmed at a parent if all of the listeners that take it there are
// open, and where the last good version of one serves.
func TestRoutesOfClosedListeners(t *testing.T) {
	const text = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: weir
  listeners: [{name: a, protocol: HTTP, port: 80}, {name: b, protocol: HTTP, port: 81}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: both}
spec: {parentRefs: [{name: edge}], rules: [{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 302}}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: at-a}
spec: {parentRefs: [{name: edge, sectionName: a}], rules: [{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 302}}]}]}
`
	parser, err := policy.NewParser()
	require.NoError(t, err)
	var input policy.Input
	for _, document := range parser.Parse("p.yaml", []byte(text)) {
		require.Empty(t, document.Problems)
		input.Objects = append(input.Objects, document.Object)
	}
	plan, _ := policy.Resolve(input)
	gateway := policy.ObjectRef{Kind: kindGateway, Namespace: "default", Name: "edge"}
	for _, c := range []struct {
		name, field string
		kept        bool
		// closed listeners and routes.
		listeners [2]bool
		both, atA bool
	}{
		{name: "none"},
		{name: "the port of another", field: "spec.listeners[1].port", listeners: [2]bool{false, true}, both: true},
		{name: "its port", field: "spec.listeners[0].port", listeners: [2]bool{true, false}, both: true, atA: true},
		{name: "a place of two digits", field: "spec.listeners[10].port"},
		{name: "kept", field: "spec.listeners[0].tls", kept: true, listeners: [2]bool{true, false}},
		{name: "the Gateway", field: "spec.infrastructure", listeners: [2]bool{true, true}, both: true, atA: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			fleet := Fleet{Programmed: true}
			if c.field != "" {
				fleet.Quarantined = []Quarantine{{Origin: policy.Origin{Object: gateway, Field: c.field}, Kept: c.kept, Message: "rejected by n: no"}}
			}
			v := newVerdict(Outcome{Plan: plan, Fleets: map[string]Fleet{"": fleet}, Time: time.Now()}, nil)
			composer := &composer{verdict: v, now: time.Now()}
			for name, closed := range map[string]bool{"both": c.both, "at-a": c.atA} {
				parents := composer.parents(nil, v.statuses[policy.ObjectRef{Kind: "HTTPRoute", Namespace: "default", Name: name}])
				condition := parents[0].Conditions[len(parents[0].Conditions)-1]
				require.Equal(t, conditionRouteProgrammed, condition.Type)
				if !closed {
					require.Equal(t, "True", string(condition.Status), "%s: %s", name, condition.Message)
					continue
				}
				require.Equal(t, "False "+reasonListener, string(condition.Status)+" "+condition.Reason)
				require.Equal(t, fmt.Sprintf("Gateway default/edge: %s: rejected by n: no; it is left out", c.field), condition.Message)
			}
			var view statusView
			composer.object(&view, v.statuses[gateway])
			for i, closed := range c.listeners {
				for _, condition := range view.Listeners[i].Conditions {
					if condition.Type == conditionProgrammed {
						require.Equal(t, closed, condition.Reason == reasonRejected, "%d: %s", i, condition.Message)
					}
				}
			}
		})
	}
}
