package controlplane_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/controlplane"
	"weir.dev/policy"
)

func testRoute(name, path, header string) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s}
spec:
  parentRefs: [{name: edge}]
  rules:
  - name: all
    matches: [{path: {type: PathPrefix, value: %s}}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-v, value: %s}]}}]
    backendRefs: [{group: weir.dev, kind: Backend, name: %s}]
---
`, name, path, header, name)
}

func testBackend(name, address string) string {
	return fmt.Sprintf(`apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: %s}
spec: {endpoints: [{address: %s, port: 9000}]}
---
`, name, address)
}

func testPolicy(name, route, way string) string {
	return fmt.Sprintf(`apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: %s}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: %s}]
  authentication: [{name: %s, apiKey: {}}]
---
`, name, route, way)
}

const onlyGateway = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 8080}]}
---
`

// start is a Gateway with six routes, all of version v.
func start(v string) (texts []string) {
	texts = append(texts, onlyGateway)
	for i := range 6 {
		name := fmt.Sprintf("r%d", i)
		texts = append(texts, testRoute(name, "/"+name, v+name)+testBackend(name, "127.0.0.1"))
	}
	return texts
}

func quarantined(count int) func(controlplane.Outcome) bool {
	return func(o controlplane.Outcome) bool {
		return o.Fleets[""].Programmed && len(o.Fleets[""].Quarantined) == count
	}
}

// Whatever the proxy says, the object at fault is found, keeps its last version,
// and the rest goes on.
func TestQuarantineOfTheFragmentAlone(t *testing.T) {
	for name, say := range map[string]string{
		"by a place":           "RouteConfigurationValidationError.VirtualHosts[0]: embedded message failed validation | caused by VirtualHostValidationError.Routes[3]: bad",
		"by a value":           "unparsable: %s",
		"by name":              "route httproute/default/r3/all@default/edge/http is bad",
		"by bisecting":         "no",
		"by a wrong suspicion": "route httproute/default/r1/all@default/edge/http is bad",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			p := r.proxy("ingress", "envoy-1", say, "poison")
			r.apply(start("one-")...)
			r.outcome("sent", func(controlplane.Outcome) bool { return p.serves("one-r5") })
			r.outcome("good", programmed("")) // What is sent and not answered is not.

			next := start("two-")
			next[4] = testRoute("r3", "/r3", "poison") + testBackend("r3", "127.0.0.1")
			r.apply(next...)
			outcome := r.outcome("quarantined", quarantined(1))
			q := outcome.Fleets[""].Quarantined[0]
			require.Equal(t, policy.ObjectRef{Kind: "HTTPRoute", Namespace: "default", Name: "r3"}, q.Origin.Object)
			require.True(t, q.Kept)
			require.Equal(t, "envoy-1", q.Node)
			require.Equal(t, "port-8080", q.Resource)
			if name != "by bisecting" && name != "by a wrong suspicion" {
				require.Equal(t, "spec.rules[0].matches[0]", q.Origin.Field)
				require.Equal(t, 8, q.Origin.Line)
			}
			for i := range 6 {
				require.Equal(t, i != 3, p.serves(fmt.Sprintf("two-r%d", i)), i)
			}
			require.True(t, p.serves("one-r3"), "its last good version serves")
			require.Empty(t, p.missing)
			require.Contains(t, r.loop.Status().Error, "HTTPRoute default/r3")
			codes := []policy.Code{}
			for _, problem := range outcome.Problems.Errors() {
				codes = append(codes, problem.Code)
			}
			require.Equal(t, []policy.Code{policy.CodeRejected}, codes)

			// Another change goes through, and the object is not offered again.
			next[1] = testRoute("r0", "/r0", "three-r0") + testBackend("r0", "127.0.0.1")
			r.apply(next...)
			r.outcome("goes on", func(o controlplane.Outcome) bool { return p.serves("three-r0") && quarantined(1)(o) })

			// Mended, it is released at once.
			next[4] = testRoute("r3", "/r3", "three-r3") + testBackend("r3", "127.0.0.1")
			r.apply(next...)
			r.outcome("released", func(o controlplane.Outcome) bool { return p.serves("three-r3") && quarantined(0)(o) })
			require.Empty(t, r.loop.Status().Error)
		})
	}
}

// Several at once, of several kinds; what is new is left out.
func TestQuarantineOfSeveral(t *testing.T) {
	r := newRig(t)
	p := r.proxy("ingress", "envoy-1", "no", "poison")
	r.apply(start("one-")...)
	r.outcome("good", programmed(""))
	next := start("two-")
	next[2] = testRoute("r1", "/poison", "two-r1") + testBackend("r1", "127.0.0.1")
	next[5] = testRoute("r4", "/r4", "two-r4") + testBackend("r4", "poison.example")
	next = append(next, testRoute("new", "/new", "poison")+testBackend("new", "127.0.0.1"))
	r.apply(next...)
	outcome := r.outcome("quarantined", quarantined(3))
	var names []string
	kept := map[string]bool{}
	for _, q := range outcome.Fleets[""].Quarantined {
		names = append(names, q.Origin.Object.String())
		kept[q.Origin.Object.Name] = q.Kept
	}
	require.ElementsMatch(t, []string{"HTTPRoute default/r1", "Backend default/r4", "HTTPRoute default/new"}, names)
	require.Equal(t, map[string]bool{"r1": true, "r4": true, "new": false}, kept)
	require.True(t, p.serves("two-r4"), "the route goes on, the Backend alone is held")
	require.False(t, p.serves("/new"))
	require.Empty(t, p.missing)
}

// What a quarantined policy protects stays protected, and a route whose new
// policy is rejected is closed rather than open.
func TestQuarantineFailsClosed(t *testing.T) {
	r := newRig(t)
	p := r.proxy("ingress", "envoy-1", "no", "/secret-poison")
	r.apply(start("one-")...)
	r.outcome("good", programmed(""))
	next := append(start("one-"), testRoute("secret", "/secret-poison", "x")+testBackend("secret", "127.0.0.1")+testPolicy("p", "secret", "key"))
	r.apply(next...)
	outcome := r.outcome("quarantined", quarantined(1))
	require.Equal(t, "HTTPRoute default/secret", outcome.Fleets[""].Quarantined[0].Origin.Object.String())
	for _, problem := range outcome.Problems {
		require.NotEqual(t, policy.CodeFailClosed, problem.Code, "the policy of what is left out closes nothing else: %s", problem.Error())
	}
	require.True(t, p.serves("one-r0"))
}

// A port that Envoy cannot open serves none of the Gateways that share it: none of
// them may say that it is programmed.
func TestAPortThatCannotBeOpenedIsEachGateways(t *testing.T) {
	r := newRig(t)
	p := r.proxy("ingress", "envoy-1", "cannot bind '%s:8090': Address already in use\n", "127.0.0.9")
	r.apply(start("one-")...)
	r.outcome("good", programmed(""))
	next := start("one-")
	for _, name := range []string{"blue", "green"} {
		next = append(next, fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s}
spec:
  gatewayClassName: weir
  addresses: [{value: 127.0.0.9}]
  listeners: [{name: http, protocol: HTTP, port: 8090, hostname: %s.example.com}]
---
`, name, name))
	}
	r.apply(next...)
	outcome := r.outcome("left out", quarantined(2))
	for i, name := range []string{"blue", "green"} {
		q := outcome.Fleets[""].Quarantined[i]
		require.Equal(t, policy.ObjectRef{Kind: "Gateway", Namespace: "default", Name: name}, q.Origin.Object)
		require.Equal(t, "spec.listeners[0].port", q.Origin.Field)
		require.False(t, q.Kept)
		require.Equal(t, "cannot bind '127.0.0.9:8090': Address already in use", q.Message)
	}
	require.True(t, p.serves("one-r3"))
}

// The first target is rejected by a proxy that has nothing: all of it but what is
// to blame serves.
func TestQuarantineInTheFirstTarget(t *testing.T) {
	for _, say := range []string{"no", "bad value %s"} {
		t.Run(say, func(t *testing.T) {
			r := newRig(t)
			p := r.proxy("ingress", "envoy-1", say, "poison")
			require.Eventually(t, func() bool { return len(r.loop.Server.Clients()) == 1 }, patience, 1e6)
			first := start("one-")
			first[3] = testRoute("r2", "/r2", "poison") + testBackend("r2", "127.0.0.1")
			r.apply(first...)
			outcome := r.outcome("quarantined", quarantined(1))
			require.Equal(t, "r2", outcome.Fleets[""].Quarantined[0].Origin.Object.Name)
			require.False(t, outcome.Fleets[""].Quarantined[0].Kept)
			require.True(t, p.serves("one-r0"))
			require.False(t, p.serves("httproute/default/r2"))
		})
	}
}

// A proxy that connects later and rejects what is in force, alone, whether or
// not it says what. Nobody had accepted it before.
func TestQuarantineForALateProxy(t *testing.T) {
	for _, say := range []string{"no", "bad value %s"} {
		t.Run(say, func(t *testing.T) {
			r := newRig(t)
			first := start("one-")
			first[3] = testRoute("r2", "/r2", "poison") + testBackend("r2", "127.0.0.1")
			r.apply(first...)
			r.outcome("nobody is there", func(o controlplane.Outcome) bool { return strings.Contains(o.Fleets[""].Waiting, "connected") })
			p := r.proxy("ingress", "envoy-1", say, "poison")
			outcome := r.outcome("quarantined", quarantined(1))
			require.Equal(t, "r2", outcome.Fleets[""].Quarantined[0].Origin.Object.Name)
			require.True(t, p.serves("one-r0"))
		})
	}
}

// One odd proxy among others takes nothing from them.
func TestAnOddProxyTakesNothingFromOthers(t *testing.T) {
	r := newRig(t)
	good := r.proxy("ingress", "envoy-1", "")
	first := start("one-")
	first[3] = testRoute("r2", "/r2", "poison") + testBackend("r2", "127.0.0.1")
	r.apply(first...)
	r.outcome("good", programmed(""))
	r.proxy("ingress", "envoy-2", "bad value %s", "poison")
	outcome := r.outcome("seen", func(o controlplane.Outcome) bool {
		return strings.Contains(o.Fleets[""].Waiting, "envoy-2") && r.loop.Status().Error != ""
	})
	require.Empty(t, outcome.Fleets[""].Quarantined)
	require.True(t, good.serves("/r2"))
}

// Where the search is over before what is to blame is found, or not begun, that
// is said of what was put back.
func TestRolledBackIsSaid(t *testing.T) {
	codes := func(outcome controlplane.Outcome) map[policy.Code]int {
		count := map[policy.Code]int{}
		for _, problem := range outcome.Problems.Errors() {
			count[problem.Code]++
		}
		return count
	}
	t.Run("as a whole", func(t *testing.T) {
		r := newRig(t)
		r.loop.TurnQuarantineOff()
		p := r.proxy("ingress", "envoy-1", "no", "poison")
		r.apply(start("one-")...)
		r.outcome("good", programmed(""))
		next := start("two-")
		next[4] = testRoute("r3", "/r3", "poison") + testBackend("r3", "127.0.0.1")
		r.apply(next...)
		outcome := r.outcome("said", func(o controlplane.Outcome) bool { return codes(o)[policy.CodeRolledBack] > 0 })
		require.Equal(t, map[policy.Code]int{policy.CodeRolledBack: 1}, codes(outcome))
		require.Contains(t, outcome.Problems.Errors()[0].Message, "what was accepted last serves: step \"switch routes\": envoy-1 rejected")
		require.True(t, p.serves("one-r0"))
		r.apply(start("three-")...)
		outcome = r.outcome("mended", programmed(""))
		require.Empty(t, outcome.Problems.Errors())
	})
	t.Run("more than can be tried", func(t *testing.T) {
		r := newRig(t)
		p := r.proxy("ingress", "envoy-1", "no", "poison")
		const routes = 150
		many := func(header func(i int) string) (texts []string) {
			texts = append(texts, onlyGateway+testBackend("b", "127.0.0.1"))
			for i := range routes {
				texts = append(texts, strings.Replace(testRoute(fmt.Sprintf("r%03d", i), fmt.Sprintf("/r%d", i), header(i)), fmt.Sprintf("kind: Backend, name: r%03d", i), "kind: Backend, name: b", 1))
			}
			return texts
		}
		r.apply(many(func(int) string { return "one" })...)
		r.outcome("good", programmed(""))
		// Every second one is bad: each has to be tried by itself.
		r.apply(many(func(i int) string {
			if i%2 == 0 {
				return "poison"
			}
			return "two"
		})...)
		outcome := r.outcome("said", func(o controlplane.Outcome) bool {
			return o.Fleets[""].Programmed && codes(o)[policy.CodeRolledBack] > 0
		})
		require.Positive(t, codes(outcome)[policy.CodeRejected], "those that were found")
		require.Equal(t, len(outcome.Fleets[""].Quarantined), codes(outcome)[policy.CodeRejected]+codes(outcome)[policy.CodeRolledBack])
		for _, problem := range outcome.Problems.Errors() {
			require.Equal(t, "HTTPRoute", problem.Object.Kind, "each names its object")
			require.Positive(t, problem.Line)
		}
		require.True(t, p.serves("two"), "what was found to be good in time is in force")
	})
}
