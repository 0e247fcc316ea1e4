package controlplane_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/controlplane"
	"weir.dev/kit/certs"
)

// The tests named TestBugNN are of bugs that users of other control planes
// suffer from, see docs/guides.

// TestBug01SilentRejection: never is anything Programmed that a proxy rejects, and
// it is said who rejects what.
func TestBug01SilentRejection(t *testing.T) {
	r := newRig(t)
	r.proxy("ingress", "envoy-1", "")
	r.apply(start("one-")...)
	r.outcome("good", programmed(""))
	// The second one rejects a cluster that the first accepts.
	r.proxy("ingress", "envoy-2", "cannot have %s", "backend/default/r1")
	outcome := r.outcome("seen", func(o controlplane.Outcome) bool { return !o.Fleets[""].Programmed })
	require.Contains(t, outcome.Fleets[""].Waiting, "envoy-2")
	r.outcome("said", func(o controlplane.Outcome) bool {
		return strings.Contains(r.loop.Status().Error, "cannot have backend/default/r1")
	})
}

// TestBug02ResendLoop: what was rejected is not sent again while it is the same,
// by whatever update.
func TestBug02ResendLoop(t *testing.T) {
	r := newRig(t)
	p := r.proxy("ingress", "envoy-1", "bad value %s", "poison")
	r.apply(start("one-")...)
	r.outcome("good", programmed(""))
	next := append(start("one-"), testRoute("new", "/new", "poison")+testBackend("new", "127.0.0.1"))
	r.apply(next...)
	r.outcome("quarantined", quarantined(1))
	p.mu.Lock()
	rejected := p.rejected
	p.mu.Unlock()
	for n := range 5 {
		next[1] = testRoute("r0", "/r0", fmt.Sprint("more-", n)) + testBackend("r0", "127.0.0.1")
		r.apply(next...)
		r.outcome("goes on", func(o controlplane.Outcome) bool { return p.serves(fmt.Sprint("more-", n)) && quarantined(1)(o) })
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Equal(t, rejected, p.rejected)
}

// moveAround has routes move from Backend to new Backend, again and again.
func moveAround(r *rig, p *proxy, rounds int) {
	for n := range rounds {
		texts := []string{onlyGateway}
		for i := range 5 {
			name := fmt.Sprintf("b%d-%d", n, i)
			route := strings.ReplaceAll(testRoute("r", fmt.Sprintf("/r%d", i), name), "name: r}", fmt.Sprintf("name: r%d}", i))
			texts = append(texts, strings.ReplaceAll(route, "kind: Backend, name: r"+fmt.Sprint(i)+"}", "kind: Backend, name: "+name+"}")+testBackend(name, "127.0.0.1"))
		}
		r.apply(texts...)
		r.outcome("moved", func(o controlplane.Outcome) bool { return p.serves(fmt.Sprintf("b%d-4", n)) && programmed("")(o) })
	}
}

// TestBug03MakeBeforeBreak: never does a route lead to a cluster that is not there.
func TestBug03MakeBeforeBreak(t *testing.T) {
	r := newRig(t)
	p := r.proxy("ingress", "envoy-1", "")
	moveAround(r, p, 10)
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Empty(t, p.missing)
	require.Greater(t, p.checked, 10)
}

// TestBug06OneBadObjectBlocksAll, and that the test sees it: without quarantine
// the good change does not go through.
func TestBug06OneBadObjectBlocksAll(t *testing.T) {
	for _, on := range []bool{true, false} {
		t.Run(fmt.Sprintf("quarantine %t", on), func(t *testing.T) {
			r := newRig(t)
			if !on {
				r.loop.TurnQuarantineOff()
			}
			p := r.proxy("ingress", "envoy-1", "no", "poison")
			r.apply(start("one-")...)
			r.outcome("good", programmed(""))
			next := start("two-")
			next[4] = testRoute("r3", "/r3", "poison") + testBackend("r3", "127.0.0.1")
			r.apply(next...)
			r.outcome("settled", func(controlplane.Outcome) bool { return r.loop.Status().Error != "" })
			require.Equal(t, on, p.serves("two-r0"))
			require.Equal(t, !on, p.serves("one-r0"))
			require.Equal(t, on, r.loop.Outcome().Fleets[""].Programmed)
		})
	}
}

func gatewayOf(name string, port int) string {
	return strings.NewReplacer("edge", name, "8080", fmt.Sprint(port)).Replace(onlyGateway)
}

func twoFleets(t *testing.T) *rig {
	t.Helper()
	return newRig(t,
		controlplane.FleetConfig{Name: "public", Gateways: []string{"default/edge"}, Peers: []string{certs.PeerID("ingress")}},
		controlplane.FleetConfig{Name: "inner", Peers: []string{certs.PeerID("data")}})
}

// innerRoute is a route of the other Gateway.
func innerRoute(name, path, value string) string {
	return strings.ReplaceAll(testRoute(name, path, value), "name: edge", "name: inner") + testBackend(name, "127.0.0.1")
}

// A fleet gets its own Gateways and what they lead to. Who is of which fleet the
// certificate says, whatever a proxy calls itself.
func TestFleets(t *testing.T) {
	r := twoFleets(t)
	public, inner := r.proxy("ingress", "inner", ""), r.proxy("data", "public", "")
	texts := []string{
		gatewayOf("edge", 8080), gatewayOf("inner", 8080),
		testRoute("a", "/a", "answer-a") + testBackend("a", "127.0.0.1"), innerRoute("b", "/b", "answer-b"),
	}
	r.apply(texts...)
	outcome := r.outcome("both", func(o controlplane.Outcome) bool {
		return o.Fleets["public"].Programmed && o.Fleets["inner"].Programmed
	})
	require.Empty(t, outcome.Problems.Errors(), "ports of fleets do not conflict")
	require.Equal(t, []string{"backend/default/a"}, public.clusters())
	require.Equal(t, []string{"backend/default/b"}, inner.clusters())
	require.True(t, public.serves("answer-a") && inner.serves("answer-b"))
	require.False(t, public.serves("answer-b") || inner.serves("answer-a"))
	require.Equal(t, "inner", outcome.Fleets["inner"].Clients[0].Group)
	require.Equal(t, "public", outcome.Fleets["inner"].Clients[0].Node)
}

// A fleet that hangs, rejects, or is away holds up no other.
func TestFleetsDoNotWaitForEachOther(t *testing.T) {
	for name, disturb := range map[string]func(p *proxy){
		"hangs":   func(p *proxy) { p.hang() },
		"rejects": func(p *proxy) { p.heal("vb-2") },
		"is away": func(p *proxy) { p.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			r := twoFleets(t)
			public, inner := r.proxy("ingress", "envoy-1", ""), r.proxy("data", "envoy-2", "no")
			texts := []string{
				gatewayOf("edge", 8080), gatewayOf("inner", 8081),
				testRoute("a", "/a", "va-1") + testBackend("a", "127.0.0.1"), innerRoute("b", "/b", "vb-1"),
			}
			r.apply(texts...)
			r.outcome("both", func(o controlplane.Outcome) bool {
				return o.Fleets["public"].Programmed && o.Fleets["inner"].Programmed
			})
			disturb(inner)
			began := time.Now()
			texts[2], texts[3] = testRoute("a", "/a", "va-2")+testBackend("a", "127.0.0.1"), innerRoute("b", "/b", "vb-2")
			r.apply(texts...)
			outcome := r.outcome("one", func(o controlplane.Outcome) bool { return public.serves("va-2") && o.Fleets["public"].Programmed })
			require.Less(t, time.Since(began), 2900*time.Millisecond, "less than a step's timeout")
			if name == "hangs" {
				require.False(t, outcome.Fleets["inner"].Programmed)
				inner.release()
			}
			require.Empty(t, outcome.Fleets["public"].Quarantined)
		})
	}
}

func TestAGatewayOfNoFleet(t *testing.T) {
	r := newRig(t, controlplane.FleetConfig{Name: "public", GatewayLabels: map[string]string{"tier": "public"}, Peers: []string{certs.PeerID("ingress")}})
	r.apply(gatewayOf("edge", 8080), strings.Replace(gatewayOf("good", 8081), "{name: good}", "{name: good, labels: {tier: public}}", 1))
	outcome := r.outcome("told", func(o controlplane.Outcome) bool { return true })
	require.Len(t, outcome.Problems.Errors(), 1)
	require.ErrorContains(t, outcome.Problems.Errors()[0], "Gateway default/edge: metadata: no fleet")
	require.Len(t, outcome.Plan.Ports, 2)
}

// Watchers are told of what is at hand, and of every change.
func TestWatch(t *testing.T) {
	r := newRig(t)
	early := make(chan controlplane.Outcome, 1000)
	r.loop.Watch(func(o controlplane.Outcome) { early <- o })
	r.proxy("ingress", "envoy-1", "")
	r.apply(start("one-")...)
	r.outcome("good", programmed(""))
	late := make(chan controlplane.Outcome, 1000)
	r.loop.Watch(func(o controlplane.Outcome) { late <- o })
	for _, told := range []chan controlplane.Outcome{early, late} {
		require.Eventually(t, func() bool {
			select {
			case o := <-told:
				return programmed("")(o)
			default:
				return false
			}
		}, patience, time.Millisecond)
	}
}
