package admin

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/policy"
)

// What is served is said at each parent, with the reason when it is not.
func TestConditionsSayWhatIsInForce(t *testing.T) {
	parser, err := policy.NewParser()
	require.NoError(t, err)
	const auth = `apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: %s, creationTimestamp: "2026-01-0%dT00:00:00Z"}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: %s}], authentication: [{name: a, anonymous: {}}]}
---
`
	const base = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: %d}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s}
spec: {parentRefs: [{name: %s}], rules: [{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 302}}]}]}
---
`
	const own = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: own}
spec: {parentRefs: [{name: one}], rules: [{matches: [{path: {value: /own}}], filters: [{type: RequestRedirect, requestRedirect: {statusCode: 302}}]}]}
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: own}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: own}], authentication: [{name: a, anonymous: {}}]}
---
`
	text := own + fmt.Sprintf(base, "one", 80, "first", "one") + fmt.Sprintf(base, "two", 81, "second", "two") +
		fmt.Sprintf(auth, "winner", 1, "one") + fmt.Sprintf(auth, "loser", 2, "one") + fmt.Sprintf(auth, "lost", 3, "nowhere") + fmt.Sprintf(auth, "slow", 1, "two")
	state := &State{Fleets: []Fleet{{Name: "a", Programmed: true}, {Name: "b", Waiting: "not acknowledged by n"}}}
	for _, document := range parser.Parse("p.yaml", []byte(text)) {
		require.Empty(t, document.Problems)
		state.Input.Objects = append(state.Input.Objects, document.Object)
	}
	state.Input.FleetOf = func(gateway policy.ObjectRef) string { return map[string]string{"one": "a", "two": "b"}[gateway.Name] }
	state.Plan, _ = policy.Resolve(state.Input)
	say := func(kind, name string) string {
		var words []string
		for _, c := range conditionsOf(state, policy.ObjectRef{Kind: kind, Namespace: "default", Name: name}) {
			if c.GetType() == "Programmed" || c.GetType() == "Enforced" {
				words = append(words, strings.TrimSpace(fmt.Sprintf("%s %s=%s/%s %s", c.GetAbout(), c.GetType(), c.GetStatus(), c.GetReason(), c.GetMessage())))
			}
		}
		return strings.Join(words, "; ")
	}
	require.Equal(t, "Programmed=True/Programmed; listener http Programmed=True/Programmed", say("Gateway", "one"))
	require.Equal(t, "Programmed=False/Pending fleet b: not acknowledged by n; listener http Programmed=False/Pending fleet b: not acknowledged by n", say("Gateway", "two"))
	require.Equal(t, "one Programmed=True/Programmed", say("HTTPRoute", "first"))
	require.Equal(t, "two Programmed=False/Pending fleet b: not acknowledged by n", say("HTTPRoute", "second"))
	require.Contains(t, say("AuthPolicy", "winner"), "Gateway one Enforced=True/PartlyOverridden on some routes AuthPolicy default/own is in effect in its place for ")
	require.Contains(t, say("AuthPolicy", "loser"), "Gateway one Enforced=False/Overridden")
	require.Equal(t, "Gateway one Enforced=True/Enforced", say("AuthPolicy", "own"))
	require.Contains(t, say("AuthPolicy", "lost"), "Enforced=False/Invalid it is not accepted")
	require.Equal(t, "Gateway two Enforced=False/Pending fleet b: not acknowledged by n", say("AuthPolicy", "slow"))

	closed := Quarantine{Origin: policy.Origin{Object: policy.ObjectRef{Kind: "Gateway", Namespace: "default", Name: "one"}, Field: "spec.listeners[0].port"}, Node: "n", Message: "taken"}
	state.Fleets[0].Quarantined = []Quarantine{closed}
	require.Equal(t, "one Programmed=False/ListenerNotProgrammed Gateway default/one: spec.listeners[0].port is not served: n: taken", say("HTTPRoute", "first"))
	require.Equal(t, "Programmed=False/Rejected n: taken; listener http Programmed=False/Rejected n: taken", say("Gateway", "one"))
	first := slices.IndexFunc(state.Input.Objects, func(o *policy.Object) bool { return o.Ref.Name == "first" })
	require.Equal(t, "HTTPRoute default/first: Gateway default/one: spec.listeners[0].port is not served: n: taken", closedRoute(state, state.Input.Objects[first:]))
	require.Empty(t, closedRoute(state, state.Input.Objects[first+1:]), "those at the other Gateway")
	closed.Origin.Field = "spec.listeners[1].port"
	state.Fleets[0].Quarantined = []Quarantine{closed}
	require.Equal(t, "one Programmed=True/Programmed", say("HTTPRoute", "first"), "another listener's")
	closed.Origin.Field, closed.Kept = "spec.listeners[0].tls", true
	state.Fleets[0].Quarantined = []Quarantine{closed}
	require.Equal(t, "one Programmed=True/Programmed", say("HTTPRoute", "first"), "the last good version serves")

	state.Fleets[0].Quarantined = []Quarantine{{Origin: policy.Origin{Object: policy.ObjectRef{Kind: "HTTPRoute", Namespace: "default", Name: "first"}}, Node: "n", Message: "no"}}
	require.Equal(t, "one Programmed=False/Rejected n: no", say("HTTPRoute", "first"))
	require.Contains(t, say("AuthPolicy", "winner"), "Gateway one Enforced=True/PartlyOverridden on some routes AuthPolicy default/own is in effect in its place for ")
}
