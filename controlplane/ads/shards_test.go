package ads_test

import (
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"

	"weir.dev/controlplane/envoy"
)

// sharded subscribes like an Envoy with scoped routes.
func (f *fixture) sharded(set envoy.Set) *client {
	f.t.Helper()
	c := f.dial("ingress")
	c.subscribe("envoy-1", cds, nil, nil)
	c.ack(c.next(cds))
	c.subscribe("envoy-1", lds, nil, nil)
	c.ack(c.next(lds))
	c.subscribe("envoy-1", srds, nil, nil)
	c.ack(c.next(srds))
	for name := range set[srds] {
		c.subscribe("envoy-1", rds, []string{name}, nil)
		c.ack(c.next(rds))
	}
	return c
}

// A listener that has a proxy look for routes elsewhere comes after those routes
// were acknowledged, not only after the scopes that lead to them, and where it
// looked before goes after the listener.
func TestShardsComeBeforeTheListener(t *testing.T) {
	f := newFixture(t)
	first := setOf(t, "cds a=1", "lds port=1", "srds port~1=1", "rds port~1=to-a")
	require.NoError(t, f.requireDone(f.rollout(first)))
	proxy := f.sharded(first)
	f.requireInSync()

	done := f.rollout(setOf(t, "cds a=1", "lds port=2", "srds port~2=1", "rds port~2=to-a"))
	scopes := proxy.next(srds)
	require.Equal(t, "+port~2=port~2", describe(scopes))
	proxy.ack(scopes)
	proxy.requireNothing(cds)
	f.requireGoesOn(done)
	proxy.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: rds, ResourceNamesSubscribe: []string{"port~2"}})
	routes := proxy.next(rds)
	require.Equal(t, "+port~2=to-a", describe(routes))
	proxy.requireNothing(cds)
	f.requireGoesOn(done)
	proxy.ack(routes)
	listener := proxy.next(lds)
	require.Equal(t, "+port=2", describe(listener))
	proxy.requireNothing(cds)
	proxy.ack(listener)
	gone := proxy.next(srds)
	require.Equal(t, "-port~1", describe(gone))
	proxy.ack(gone)
	proxy.accept(rds, "-port~1")
	proxy.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: rds, ResourceNamesUnsubscribe: []string{"port~1"}})
	require.NoError(t, f.requireDone(done))
	f.requireInSync()
}

// The negative control of that order.
func TestShardsAndListenerAtOnce(t *testing.T) {
	f := newFixture(t)
	f.ads.Group("").SetAtOnce()
	first := setOf(t, "cds a=1", "lds port=1", "srds port~1=1", "rds port~1=to-a")
	require.NoError(t, f.requireDone(f.rollout(first)))
	proxy := f.sharded(first)
	f.rollout(setOf(t, "cds a=1", "lds port=2", "srds port~2=1", "rds port~2=to-a"))
	require.Equal(t, "+port=2", describe(proxy.next(lds)), "before the proxy has the routes")
}

// A route that changes is its shard's business alone.
func TestAChangedShardIsSentAlone(t *testing.T) {
	f := newFixture(t)
	first := setOf(t, "cds a=1", "lds port=1", "srds port~1=1 port~2=1", "rds port~1=to-a port~2=to-a")
	require.NoError(t, f.requireDone(f.rollout(first)))
	proxy := f.sharded(first)
	f.requireInSync()
	done := f.rollout(setOf(t, "cds a=1", "lds port=1", "srds port~1=1 port~2=1", "rds port~1=to-a port~2=to-b"))
	proxy.accept(rds, "+port~2=to-b")
	require.NoError(t, f.requireDone(done))
}

// A control plane that divides routes as none did before it, as after a restart,
// has a proxy get its shards before the listener, and leaves the others alone
// while connections may be drained that need them.
func TestShardsOfAnEarlierLife(t *testing.T) {
	f := newFixture(t)
	f.ads.SetDrain(time.Hour)
	old := setOf(t, "cds a=1", "lds port=1", "srds port~1=1", "rds port~1=to-a")
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "cds a=1", "lds port=2", "srds port~2=1", "rds port~2=to-a"))))
	c := f.dial("ingress")
	c.subscribe("envoy-1", cds, nil, versions(old, cds))
	c.ack(c.next(cds))
	c.subscribe("envoy-1", srds, nil, versions(old, srds))
	scopes := c.next(srds)
	require.Equal(t, "+port~2=port~2", describe(scopes), "the other is not removed")
	c.subscribe("envoy-1", rds, []string{"port~1"}, versions(old, rds))
	c.accept(rds, "") // nor are its routes
	c.subscribe("envoy-1", lds, nil, versions(old, lds))
	c.requireNothing(cds)
	c.ack(scopes)
	c.requireNothing(cds)
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: rds, ResourceNamesSubscribe: []string{"port~2"}})
	routes := c.next(rds)
	require.Equal(t, "+port~2=to-a", describe(routes))
	c.requireNothing(cds)
	c.ack(routes)
	c.accept(lds, "+port=2")
	f.requireInSync()
}

// The scopes of an earlier life go when nothing can need them any more.
func TestShardsOfAnEarlierLifeGo(t *testing.T) {
	f := newFixture(t)
	f.ads.SetDrain(time.Nanosecond)
	old := setOf(t, "cds a=1", "srds port~1=1")
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "cds a=1"))))
	c := f.dial("ingress")
	c.subscribe("envoy-1", cds, nil, versions(old, cds))
	c.ack(c.next(cds))
	c.subscribe("envoy-1", lds, nil, nil)
	c.ack(c.next(lds))
	c.subscribe("envoy-1", rds, []string{"x"}, nil)
	c.ack(c.next(rds))
	c.subscribe("envoy-1", srds, nil, versions(old, srds))
	c.accept(srds, "-port~1")
}
