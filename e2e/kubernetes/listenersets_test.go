//go:build slow

package kubernetes_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const listenerSetYAML = `apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: team}
spec:
  parentRef: {name: edge}
  listeners: [{name: http, port: 80, protocol: HTTP, hostname: team.example.com}]
`

// A ListenerSet's status in a real API server, that of its Gateway and of its
// routes, and what a policy leaves on what it is attached to.
func TestSlowKubernetesListenerSets(t *testing.T) {
	f := newStatusFixture(t)
	f.envoy.acknowledged.Store(true)
	apply(t, f.root, listenerSetYAML)
	f.until(listenerSetYAML, "Accepted=False/NotAllowed@1 Programmed=False/NotAllowed@1")
	apply(t, f.root, strings.Replace(gatewayYAML, "gatewayClassName: weir,", "gatewayClassName: weir, allowedListeners: {namespaces: {from: Same}},", 1))
	f.until(listenerSetYAML, "Accepted=True/Accepted@1 Programmed=True/Programmed@1; "+
		"http(0): Accepted=True/Accepted@1 Conflicted=False/NoConflicts@1 Programmed=True/Programmed@1 ResolvedRefs=True/ResolvedRefs@1")
	eventually(t, "1", func() string {
		_, value := statusOf(t, f.root, gatewayYAML)
		status, _ := value.Object["status"].(map[string]any)
		return fmt.Sprint(status["attachedListenerSets"])
	})
	own := strings.Replace(routeYAML("team", "/team"), "{name: edge}", "{kind: ListenerSet, name: team}", 1)
	apply(t, f.root, own)
	f.until(own, "team by weir.dev/gateway-controller: Accepted=True/Accepted@1 ResolvedRefs=True/ResolvedRefs@1 Programmed=True/Programmed@1")
	policy := strings.Replace(fmt.Sprintf(openAuth, ""), "kind: Gateway, name: edge", "kind: ListenerSet, name: team", 1)
	require.Contains(t, policy, "ListenerSet")
	apply(t, f.root, policy)
	f.until(listenerSetYAML, "Accepted=True/Accepted@1 Programmed=True/Programmed@1 AuthPolicyAffected=True/PolicyAffected@1; "+
		"http(1): Accepted=True/Accepted@1 Conflicted=False/NoConflicts@1 Programmed=True/Programmed@1 ResolvedRefs=True/ResolvedRefs@1")
	f.until(policy, "team by weir.dev/gateway-controller: Accepted=True/Accepted@1 Enforced=True/Enforced@1")
}
