package ads_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func loadAssignment(name string, factor uint32) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{
		ClusterName: name, Policy: &endpointv3.ClusterLoadAssignment_Policy{OverprovisioningFactor: wrapperspb.UInt32(factor)},
	}
}

func TestWhoMaySubscribeToWhat(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "cds a=1", "rules r=1", "limit l=1"))))
	for _, tc := range []struct {
		peer, typeURL string
		want          codes.Code
	}{
		{"ingress", cds, codes.OK},
		{"ingress", lds, codes.OK},
		{"extauthz", rules, codes.OK},
		{"ratelimit", limit, codes.OK},
		{"ingress", rules, codes.PermissionDenied},
		{"ingress", "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", codes.PermissionDenied},
		{"ingress", "", codes.PermissionDenied},
		{"extauthz", limit, codes.PermissionDenied},
		{"extauthz", cds, codes.PermissionDenied},
		{"ratelimit", rules, codes.PermissionDenied},
		{"ratelimit", "type.googleapis.com/weir.rules.v1.Consumer", codes.PermissionDenied},
		{"data", rules, codes.PermissionDenied}, // connects, and is not in the table
		{"stranger", rules, codes.Unavailable},  // fails the handshake
	} {
		t.Run(tc.peer+" "+tc.typeURL, func(t *testing.T) {
			f := &fixture{t: t, authority: f.authority, address: f.address}
			c, err := f.tryDial(tc.peer)
			if err != nil {
				require.Equal(t, tc.want, status.Code(err), "%v", err)
				return
			}
			c.subscribe("n", tc.typeURL, []string{"*"}, nil)
			select {
			case response := <-c.responses:
				require.Equal(t, codes.OK, tc.want, "was served %s", describe(response))
				require.Equal(t, tc.typeURL, response.GetTypeUrl())
			case err := <-c.ended:
				require.Equal(t, tc.want, status.Code(err), "%v", err)
			case <-time.After(patience):
				require.Fail(t, "neither served nor refused")
			}
		})
	}
}

func TestNothingIsServedBeforeTheFirstRollout(t *testing.T) {
	f := newFixture(t)
	c := f.dial("extauthz")
	c.subscribe("n", rules, []string{"*"}, map[string]string{"old": "1"})
	require.Eventually(t, func() bool { return len(f.ads.Clients()) == 1 && f.ads.Clients()[0].Node == "n" }, patience, time.Millisecond)
	require.False(t, f.ads.Clients()[0].InSync)
	select {
	case <-f.ads.Serving():
		require.Fail(t, "serves nothing yet")
	case response := <-c.responses:
		require.Fail(t, "was served", describe(response))
	default:
	}
	done := f.rollout(setOf(t, "rules r=1"))
	c.accept(rules, "+r=1 -old")
	require.NoError(t, f.requireDone(done))
	<-f.ads.Serving()
	require.True(t, f.ads.Clients()[0].InSync)
}

// A proxy that has only just connected has nothing yet, so it must not make its fleet
// programmed.
func TestWhoAsksForNothingYetIsNoSubscriber(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "rules r=1"))))
	c := f.dial("extauthz")
	require.Eventually(t, func() bool {
		families, err := f.registry.Gather()
		require.NoError(t, err)
		for _, family := range families {
			if family.GetName() == "weir_ads_clients" {
				return family.GetMetric()[0].GetGauge().GetValue() == 1
			}
		}
		return false
	}, patience, time.Millisecond)
	require.Empty(t, f.ads.Clients())
	c.subscribe("n", rules, []string{"*"}, nil)
	c.accept(rules, "+r=1")
	require.Eventually(t, func() bool { return len(f.ads.Clients()) == 1 && f.ads.Clients()[0].InSync }, patience, time.Millisecond)
}

func TestFirstSyncAndChanges(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "rules a=1 b=1 c=1"))))
	c := f.dial("extauthz")
	c.subscribe("n", rules, []string{"*"}, nil)
	c.accept(rules, "+a=1 +b=1 +c=1")
	c.requireNothing(rules)

	done := f.rollout(setOf(t, "rules a=1 b=2 d=1"))
	c.accept(rules, "+b=2 +d=1")
	c.accept(rules, "-c")
	require.NoError(t, f.requireDone(done))
	c.requireNothing(rules)

	require.NoError(t, f.requireDone(f.rollout(setOf(t, "rules a=1 b=2 d=1"))), "the same again sends nothing")
	c.requireNothing(rules)
}

func TestReconnectingGetsTheDifference(t *testing.T) {
	f := newFixture(t)
	old := setOf(t, "rules same=1 changed=1 gone=1")
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "rules same=1 changed=2 new=1"))))
	c := f.dial("extauthz")
	c.subscribe("n", rules, []string{"*"}, versions(old, rules))
	c.accept(rules, "+changed=2 +new=1 -gone")
	c.requireNothing(rules)
}

func TestReconnectingWithNothingNewIsAnswered(t *testing.T) {
	f := newFixture(t)
	set := setOf(t, "rules a=1")
	require.NoError(t, f.requireDone(f.rollout(set)))
	c := f.dial("extauthz")
	c.subscribe("n", rules, []string{"*"}, versions(set, rules))
	c.accept(rules, "")
	c.requireNothing(rules)
	f.requireInSync()
}

func TestWildcardWithoutResourcesIsAnswered(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.requireDone(f.rollout(setOf(t))))
	c := f.dial("ingress")
	c.subscribe("n", cds, nil, nil)
	c.accept(cds, "")
	c.subscribe("n", lds, nil, nil)
	c.accept(lds, "")
	c.requireNothing(cds)
}

// Envoy names endpoints and routes; on a new stream on which it needs none, it
// names none, which does not mean all.
func TestOnlyListenersAndClustersHaveAnUnnamedWildcard(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "cds a=1", "eds a=1"))))
	c := f.dial("ingress")
	c.subscribe("n", eds, nil, nil)
	c.accept(eds, "")
	c.subscribe("n", cds, nil, nil)
	c.accept(cds, "+a=1")
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: eds, ResourceNamesSubscribe: []string{"a"}})
	c.accept(eds, "+a=1")
}

func TestNamedSubscriptions(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "rules a=1 b=1 c=1"))))
	c := f.dial("extauthz")
	c.subscribe("n", rules, []string{"a", "missing"}, nil)
	c.accept(rules, "+a=1 -missing")
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: rules, ResourceNamesSubscribe: []string{"b"}})
	c.accept(rules, "+b=1")
	// A name asked for again was forgotten by the client.
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: rules, ResourceNamesSubscribe: []string{"a"}})
	c.accept(rules, "+a=1")
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: rules, ResourceNamesUnsubscribe: []string{"b"}})
	c.requireNothing(rules)
	done := f.rollout(setOf(t, "rules a=2 b=2 c=2 missing=1"))
	c.accept(rules, "+a=2 +missing=1")
	require.NoError(t, f.requireDone(done))
	c.requireNothing(rules)
	// From names to everything, and back.
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: rules, ResourceNamesSubscribe: []string{"*"}})
	c.accept(rules, "+b=2 +c=2")
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: rules, ResourceNamesUnsubscribe: []string{"*"}})
	c.requireNothing(rules)
	done = f.rollout(setOf(t, "rules a=3 b=3 c=3 missing=1"))
	c.accept(rules, "+a=3")
	require.NoError(t, f.requireDone(done))
}

func TestNamesAreBounded(t *testing.T) {
	f := newFixture(t)
	c := f.dial("extauthz")
	names := make([]string, 50_001)
	for _, prefix := range []string{"a", "b"} {
		for i := range names {
			names[i] = prefix + strconv.Itoa(i)
		}
		c.subscribe("n", rules, names, nil)
	}
	select {
	case err := <-c.ended:
		require.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
	case <-time.After(patience):
		require.Fail(t, "was not refused")
	}
}

func TestAnswersToOldResponsesAreIgnored(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "rules a=1"))))
	c := f.dial("extauthz")
	c.subscribe("n", rules, []string{"*"}, nil)
	response := c.next(rules)
	stale := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: rules, Nonce: "999"}
	c.nack(stale, "not asked")
	c.ack(stale)
	done := f.rollout(setOf(t, "rules a=2"))
	c.ack(response)
	c.accept(rules, "+a=2")
	require.NoError(t, f.requireDone(done))
	c.nack(response, "late")
	c.requireNothing(rules)
	f.requireInSync()
}

// A rejection is not offered again, of whatever form: the first response, a
// change, a removal. A client that rejects everything must not spin.
func TestRejectionsDoNotLoop(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "rules a=1"))))
	c := f.dial("extauthz")
	c.subscribe("n", rules, []string{"*"}, map[string]string{"old": "1"})
	response := c.next(rules)
	require.Equal(t, "+a=1 -old", describe(response))
	c.nack(response, "no")
	c.requireNothing(rules)
	client := f.ads.Clients()[0]
	require.False(t, client.InSync)
	require.Equal(t, []string{"a", "old"}, client.Rejected.Resources)
	require.Equal(t, "no", client.Rejected.Message)

	// The next version is offered, and so is what comes back after its removal was
	// refused.
	done := f.rollout(setOf(t, "rules a=2 old=1"))
	c.accept(rules, "+a=2 +old=1")
	require.NoError(t, f.requireDone(done))
	f.requireInSync()
}

func TestRejectionMessagesAreBounded(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "rules a=1"))))
	c := f.dial("extauthz")
	c.subscribe("n", rules, []string{"*"}, nil)
	c.nack(c.next(rules), strings.Repeat("ü", 1<<20))
	c.requireNothing(rules)
	require.Less(t, len(f.ads.Clients()[0].Rejected.Message), 5<<10)
}

func TestCloseEndsStreams(t *testing.T) {
	f := newFixture(t)
	c := f.dial("extauthz")
	c.subscribe("n", rules, []string{"*"}, nil)
	f.ads.Close()
	f.ads.Close()
	select {
	case err := <-c.ended:
		require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
	case <-time.After(patience):
		require.Fail(t, "the stream goes on")
	}
	require.Eventually(t, func() bool { return len(f.ads.Clients()) == 0 }, patience, time.Millisecond)
}
