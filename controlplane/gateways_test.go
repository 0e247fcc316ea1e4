package controlplane_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/controlplane"
	"weir.dev/kit/certs"
)

const edgeFleet, innerFleet = "gateway/default/edge", "gateway/default/inner"

// Each Gateway that no fleet names has one of its own, for as long as it is
// there; its proxies are those with its certificate.
func TestEachGatewayHasAFleet(t *testing.T) {
	r := newRig(t,
		controlplane.FleetConfig{Name: "public", Gateways: []string{"default/named"}, Peers: []string{certs.PeerID("ingress")}},
		controlplane.FleetConfig{PerGateway: true})
	named := r.proxy("ingress", "envoy-0", "")
	foreign := "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: foreign}\n" +
		"spec: {gatewayClassName: somebody-elses, listeners: [{name: http, protocol: HTTP, port: 8080}]}\n"
	texts := []string{
		gatewayOf("edge", 8080), gatewayOf("inner", 8080), gatewayOf("named", 8080) + foreign,
		testRoute("a", "/a", "answer-a") + testBackend("a", "127.0.0.1"), innerRoute("b", "/b", "answer-b"),
	}
	r.apply(texts...)
	outcome := r.outcome("all, of which one waits for a proxy", func(o controlplane.Outcome) bool {
		return o.Fleets["public"].Programmed && len(o.Fleets) == 3 && strings.Contains(o.Fleets[edgeFleet].Waiting, "no proxy")
	})
	require.Empty(t, outcome.Problems.Errors(), "the same port is no conflict")

	edge, inner := r.proxy(edgeFleet, "envoy-1", ""), r.proxy(innerFleet, "envoy-2", "")
	r.outcome("both", func(o controlplane.Outcome) bool {
		return o.Fleets[edgeFleet].Programmed && o.Fleets[innerFleet].Programmed
	})
	require.True(t, edge.serves("answer-a") && inner.serves("answer-b"))
	require.False(t, edge.serves("answer-b"))
	require.False(t, inner.serves("answer-a"))
	require.False(t, named.serves("answer-"))

	// One goes; the other stays, and who comes for the first is refused.
	r.apply(texts[0], texts[3])
	r.outcome("one", func(o controlplane.Outcome) bool { return len(o.Fleets) == 2 && o.Fleets[edgeFleet].Programmed })
	require.Equal(t, []string{"envoy-0", "envoy-1"}, nodes(r))
	late := r.proxy(innerFleet, "envoy-3", "")
	texts[0] = testRoute("a", "/a", "changed-a") + testBackend("a", "127.0.0.1")
	r.apply(gatewayOf("edge", 8080), texts[0])
	r.outcome("changed", func(o controlplane.Outcome) bool { return edge.serves("changed-a") && o.Fleets[edgeFleet].Programmed })
	require.Empty(t, late.clusters())
	require.NotContains(t, nodes(r), "envoy-3")

	// And comes again.
	r.apply(gatewayOf("edge", 8080), gatewayOf("inner", 8080), texts[0], innerRoute("b", "/b", "back-b"))
	r.outcome("again", func(o controlplane.Outcome) bool { return o.Fleets[innerFleet].Programmed && late.serves("back-b") })
}

// They may be all that there is.
func TestNothingButFleetsOfOneGatewayEach(t *testing.T) {
	r := newRig(t, controlplane.FleetConfig{PerGateway: true})
	edge := r.proxy(edgeFleet, "envoy-1", "")
	r.apply(gatewayOf("edge", 8080), testRoute("a", "/a", "answer-a")+testBackend("a", "127.0.0.1"))
	r.outcome("served", func(o controlplane.Outcome) bool { return o.Fleets[edgeFleet].Programmed && edge.serves("answer-a") })
}

func nodes(r *rig) []string {
	var names []string
	for _, client := range r.loop.Status().Clients {
		names = append(names, client.Node)
	}
	return names
}

func TestFleetsOfOneGatewayEachAreSaidAlone(t *testing.T) {
	for name, fleet := range map[string]controlplane.FleetConfig{
		"name":     {PerGateway: true, Name: "x"},
		"gateways": {PerGateway: true, Gateways: []string{"a/b"}},
		"peers":    {PerGateway: true, Peers: []string{certs.PeerID("ingress")}},
	} {
		t.Run(name, func(t *testing.T) {
			config := new(controlplane.Config)
			config.SetDefaults()
			config.Fleets = []controlplane.FleetConfig{fleet}
			require.ErrorContains(t, config.Validate(), "fleets[0].perGateway: the fleets of one Gateway each have names and SPIFFE ids of their own")
			config.Fleets = []controlplane.FleetConfig{{PerGateway: true}, {PerGateway: true}}
			require.ErrorContains(t, config.Validate(), "fleets[1]: takes the Gateways that no other names")
		})
	}
}
