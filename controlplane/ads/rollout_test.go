package ads_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"

	"weir.dev/controlplane/ads"
	"weir.dev/controlplane/envoy"
)

// proxy subscribes like Envoy does and takes what is there.
func (f *fixture) proxy(node string, set envoy.Set) *client {
	f.t.Helper()
	c := f.dial("ingress")
	c.subscribe(node, cds, nil, nil)
	c.ack(c.next(cds))
	for _, typeURL := range []string{eds, lds, rds} {
		var names []string
		for name := range set[typeURL] {
			names = append(names, name)
		}
		if typeURL != lds && len(names) == 0 {
			continue
		}
		if typeURL == lds {
			names = nil
		}
		c.subscribe(node, typeURL, names, nil)
		c.ack(c.next(typeURL))
	}
	return c
}

// checker subscribes like extauthz does and takes what is there.
func (f *fixture) checker(node string) *client {
	f.t.Helper()
	c := f.dial("extauthz")
	c.subscribe(node, rules, []string{"*"}, nil)
	c.ack(c.next(rules))
	return c
}

// before and after are a change of everything: the routes of a port move from
// one cluster to another, with another rule.
func before(t *testing.T) envoy.Set {
	return setOf(t, "rules r=1 old=1", "cds a=1", "eds a=1", "lds port=1", "rds port=to-a")
}

func after(t *testing.T) envoy.Set {
	return setOf(t, "rules r=2 new=1", "cds b=1", "eds b=1", "lds port=2", "rds port=to-b")
}

func TestMakeBeforeBreak(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.requireDone(f.rollout(before(t))))
	checker, proxy := f.checker("extauthz-1"), f.proxy("envoy-1", before(t))
	f.requireInSync()

	done := f.rollout(after(t))
	// Rules first; the proxy hears nothing until they are acknowledged.
	added := checker.next(rules)
	require.Equal(t, "+new=1 +r=2", describe(added))
	proxy.requireNothing(cds)
	checker.ack(added)
	// Then clusters, which must be there with their endpoints before routes.
	clusters := proxy.next(cds)
	require.Equal(t, "+b=1", describe(clusters))
	proxy.requireNothing(eds)
	proxy.ack(clusters)
	proxy.requireNothing(eds)
	proxy.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: eds, ResourceNamesSubscribe: []string{"b"}})
	endpoints := proxy.next(eds)
	require.Equal(t, "+b=1", describe(endpoints))
	proxy.requireNothing(cds)
	proxy.ack(endpoints)
	// Then routes; what they led to stays until the proxy has let go of it.
	proxy.accept(lds, "+port=2")
	routes := proxy.next(rds)
	require.Equal(t, "+port=to-b", describe(routes))
	proxy.requireNothing(cds)
	checker.requireNothing(rules)
	f.requireGoesOn(done)
	proxy.ack(routes)
	// At last the rest goes.
	proxy.accept(cds, "-a")
	proxy.accept(eds, "-a")
	checker.accept(rules, "-old")
	require.NoError(t, f.requireDone(done))
	f.requireInSync()
	require.Equal(t, 2.0, f.counter("weir_rollouts_total", "outcome", "acknowledged"))
}

// A proxy that was away while the policy changed gets the same order, within one
// stream.
func TestMakeBeforeBreakAfterReconnecting(t *testing.T) {
	f := newFixture(t)
	old := before(t)
	require.NoError(t, f.requireDone(f.rollout(after(t))))
	c := f.dial("ingress")
	// Envoy asks for all of its types at once.
	c.subscribe("envoy-1", lds, nil, versions(old, lds))
	c.subscribe("envoy-1", cds, nil, versions(old, cds))
	// Without clusters nothing is known of a proxy, so listeners may come first.
	if response := <-c.responses; response.GetTypeUrl() == lds {
		c.ack(response)
		c.accept(cds, "+b=1")
	} else {
		require.Equal(t, "+b=1", describe(response))
		c.ack(response)
	}
	c.subscribe("envoy-1", rds, []string{"port"}, versions(old, rds))
	c.subscribe("envoy-1", eds, []string{"a"}, versions(old, eds))
	c.accept(eds, "")
	c.requireNothing(eds)
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: eds, ResourceNamesSubscribe: []string{"b"}})
	c.accept(eds, "+b=1")
	for range 3 {
		select {
		case response := <-c.responses:
			require.NotEqual(t, cds, response.GetTypeUrl(), "clusters go last")
			c.ack(response)
			if response.GetTypeUrl() == rds {
				require.Equal(t, "+port=to-b", describe(response))
				c.accept(cds, "-a")
				return
			}
		case <-time.After(patience):
			require.FailNow(t, "routes did not come")
		}
	}
}

func TestChangedClustersGetTheirEndpointsAgain(t *testing.T) {
	f := newFixture(t)
	start := setOf(t, "cds a=1 b=1", "eds a=1 b=1", "lds p=1", "rds p=1")
	require.NoError(t, f.requireDone(f.rollout(start)))
	c := f.proxy("envoy-1", start)
	f.requireInSync()
	done := f.rollout(setOf(t, "cds a=2 b=1", "eds a=1 b=1", "lds p=1", "rds p=2"))
	c.accept(cds, "+a=2")
	c.accept(eds, "+a=1")
	c.accept(rds, "+p=2")
	require.NoError(t, f.requireDone(done))
}

// A backend of addresses becomes one of a name: Envoy has no more use for its
// endpoints, says so, and is not waited for.
func TestAClusterThatStopsUsingEndpoints(t *testing.T) {
	f := newFixture(t)
	start := setOf(t, "cds a=1 b=1", "eds a=1 b=1", "lds p=1", "rds p=1")
	require.NoError(t, f.requireDone(f.rollout(start)))
	c := f.proxy("envoy-1", start)
	f.requireInSync()
	done := f.rollout(setOf(t, "cds a=by-name b=1", "eds b=1", "lds p=1", "rds p=1"))
	c.accept(cds, "+a=by-name")
	c.ack(c.next(eds)) // gone or repeated; Envoy does not mind
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: eds, ResourceNamesUnsubscribe: []string{"a"}})
	require.NoError(t, f.requireDone(done))
	require.NotContains(t, f.log.String(), "in time")
	done = f.rollout(start)
	c.accept(cds, "+a=1")
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: eds, ResourceNamesSubscribe: []string{"a"}})
	c.accept(eds, "+a=1")
	require.NoError(t, f.requireDone(done))
}

func TestRejectionRestoresThePreviousTargetEverywhere(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.requireDone(f.rollout(before(t))))
	checker := f.checker("extauthz-1")
	one, two := f.proxy("envoy-1", before(t)), f.proxy("envoy-2", before(t))
	f.requireInSync()

	done := f.rollout(after(t))
	checker.accept(rules, "+new=1 +r=2")
	one.accept(cds, "+b=1")
	one.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: eds, ResourceNamesSubscribe: []string{"b"}})
	one.accept(eds, "+b=1")
	two.nack(two.next(cds), "unknown extension")
	// Who had taken a part of it goes back, and so does who rejected it. Rules do
	// not wait for clusters: a revoked key is revoked.
	one.accept(cds, "-b")
	one.accept(eds, "-b")
	two.accept(cds, "-b")
	err := f.requireDone(done)
	var rejection *ads.Rejection
	require.ErrorAs(t, err, &rejection)
	require.Equal(t, ads.Rejection{Node: "envoy-2", TypeURL: cds, Resources: []string{"b"}, Message: "unknown extension"}, *rejection)
	require.ErrorContains(t, err, "add clusters")
	one.requireNothing(cds)
	two.requireNothing(cds)
	one.requireNothing(rds)
	f.requireInSync()
	require.Equal(t, 1.0, f.counter("weir_ads_rejections_total", "type", "Cluster"))
	require.Equal(t, 1.0, f.counter("weir_rollouts_total", "outcome", "rejected"))

	// The same again is offered again, and a good one goes through.
	done = f.rollout(after(t))
	two.nack(two.next(cds), "still unknown")
	one.accept(cds, "+b=1")
	one.accept(eds, "+b=1")
	one.accept(cds, "-b")
	one.accept(eds, "-b")
	two.accept(cds, "-b")
	require.ErrorContains(t, f.requireDone(done), "still unknown")
	done = f.rollout(setOf(t, "rules r=1 old=1", "cds a=1", "eds a=1", "lds port=1", "rds port=better"))
	checker.accept(rules, "+r=1")
	one.accept(rds, "+port=better")
	two.accept(rds, "+port=better")
	checker.accept(rules, "-new")
	require.NoError(t, f.requireDone(done))
}

func TestRejectedRoutesAreTakenBack(t *testing.T) {
	f := newFixture(t)
	start := setOf(t, "lds p=1", "rds p=1")
	require.NoError(t, f.requireDone(f.rollout(start)))
	one, two := f.proxy("envoy-1", start), f.proxy("envoy-2", start)
	f.requireInSync()
	done := f.rollout(setOf(t, "lds p=1", "rds p=2"))
	one.accept(rds, "+p=2")
	two.nack(two.next(rds), "bad route")
	one.accept(rds, "+p=1")
	two.accept(rds, "+p=1") // it may have taken a part
	require.ErrorContains(t, f.requireDone(done), "envoy-2 rejected RouteConfiguration p: bad route")
}

// One listener that cannot be bound, among good changes: it alone is left out,
// and is offered again when asked to retry.
func TestRejectedListenerIsQuarantined(t *testing.T) {
	f := newFixture(t)
	start := setOf(t, "rules r=1", "lds p=1", "rds p=1")
	require.NoError(t, f.requireDone(f.rollout(start)))
	checker, proxy := f.checker("extauthz-1"), f.proxy("envoy-1", start)
	f.requireInSync()
	next := setOf(t, "rules r=2", "lds p=2 taken=1 q=1", "rds p=2")
	done := f.rollout(next)
	checker.accept(rules, "+r=2")
	proxy.nack(proxy.next(lds), "Error adding/updating listener(s) taken: cannot bind: Address already in use")
	proxy.accept(rds, "+p=2")
	proxy.accept(lds, "+p=2 +q=1 -taken") // the good ones again, since it may have taken none
	err := f.requireDone(done)
	var partial *ads.PartialError
	require.ErrorAs(t, err, &partial)
	require.ErrorContains(t, err, "taken: cannot bind")
	f.requireInSync()

	f.ads.Group("").Retry()
	done = f.rollout(next)
	proxy.accept(lds, "+taken=1")
	require.NoError(t, f.requireDone(done))
}

// A rule that is rejected stays as it was; the others of its response go on.
func TestRejectedRuleIsQuarantined(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "rules a=1 b=1"))))
	checker := f.checker("extauthz-1")
	f.requireInSync()
	done := f.rollout(setOf(t, "rules a=2 b=2"))
	checker.nack(checker.next(rules), `"b": no such algorithm`)
	checker.accept(rules, "+a=2 +b=1")
	require.ErrorContains(t, f.requireDone(done), "no such algorithm")
	f.requireInSync()
}

func TestRejectedRemovalIsARejection(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "rules a=1 b=1"))))
	c := f.checker("extauthz-1")
	f.requireInSync()
	done := f.rollout(setOf(t, "rules a=1"))
	c.nack(c.next(rules), "cannot be without b")
	c.accept(rules, "+b=1")
	require.ErrorContains(t, f.requireDone(done), "rejected AuthRoute b: cannot be without b")
	c.requireNothing(rules)
}

// The first target has nothing to go back to. It stays, and says so until it is
// mended; changes to other things are not held up by it.
func TestARejectedFirstTarget(t *testing.T) {
	f := newFixture(t)
	c := f.dial("extauthz")
	c.subscribe("extauthz-1", rules, []string{"*"}, nil)
	require.Eventually(t, func() bool { return len(f.ads.Clients()) == 1 && f.ads.Clients()[0].Node != "" }, patience, time.Millisecond)
	done := f.rollout(setOf(t, "rules good=1 bad=1"))
	c.nack(c.next(rules), "no")
	require.ErrorContains(t, f.requireDone(done), "in force, but not everywhere")
	require.ErrorContains(t, f.requireDone(f.rollout(setOf(t, "rules good=1 bad=1"))), "extauthz-1 rejected AuthRoute bad, good: no", "saying it again does not make it good")

	done = f.rollout(setOf(t, "rules good=2 bad=1"))
	c.accept(rules, "+good=2")
	c.accept(rules, "-bad") // it is known by now which one is to blame
	require.ErrorContains(t, f.requireDone(done), "extauthz-1 rejected AuthRoute bad: no")

	done = f.rollout(setOf(t, "rules good=2 bad=2"))
	c.accept(rules, "+bad=2")
	require.NoError(t, f.requireDone(done))
}

func TestARejectedTypeDoesNotBlockOthers(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "cds bad=1 good=1", "eds bad=1 good=1", "lds p=1", "rds p=1"))))
	c := f.dial("ingress")
	c.subscribe("envoy-1", cds, nil, nil)
	c.nack(c.next(cds), "no")
	c.subscribe("envoy-1", lds, nil, nil)
	c.accept(lds, "+p=1")
	c.subscribe("envoy-1", rds, []string{"p"}, nil)
	c.accept(rds, "+p=1")
	c.requireNothing(cds)
}

func TestASilentClientIsLeftBehindOnce(t *testing.T) {
	f := newFixture(t)
	f.ads.SetStepTimeout(200 * time.Millisecond)
	require.NoError(t, f.requireDone(f.rollout(before(t))))
	silent, lively := f.proxy("silent", before(t)), f.proxy("lively", before(t))
	f.requireInSync()
	started := time.Now()
	done := f.rollout(setOf(t, "cds a=1 b=1", "eds a=1 b=1", "lds port=1", "rds port=to-b"))
	stuck := silent.next(cds)
	lively.accept(cds, "+b=1")
	lively.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: eds, ResourceNamesSubscribe: []string{"b"}})
	lively.accept(eds, "+b=1")
	lively.accept(rds, "+port=to-b")
	require.NoError(t, f.requireDone(done))
	require.GreaterOrEqual(t, time.Since(started), 200*time.Millisecond, "it was waited for")
	require.Contains(t, f.log.String(), "nodes=[silent]")

	// The next rollout does not wait for it at all.
	f.ads.SetStepTimeout(time.Hour)
	done = f.rollout(setOf(t, "cds a=1 b=1", "eds a=1 b=1", "lds port=1", "rds port=third"))
	lively.accept(rds, "+port=third")
	require.NoError(t, f.requireDone(done))

	// It catches up in order when it comes back to life, and counts again.
	silent.ack(stuck)
	silent.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: eds, ResourceNamesSubscribe: []string{"b"}})
	silent.accept(eds, "+b=1")
	silent.accept(rds, "+port=third")
	f.requireInSync()
	done = f.rollout(setOf(t, "cds a=1 b=1", "eds a=1 b=1", "lds port=1", "rds port=fourth"))
	lively.accept(rds, "+port=fourth")
	last := silent.next(rds)
	f.requireGoesOn(done)
	silent.ack(last)
	require.NoError(t, f.requireDone(done))
}

func TestAClientThatLeavesDoesNotHoldARollout(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.requireDone(f.rollout(before(t))))
	c := f.proxy("envoy-1", before(t))
	f.requireInSync()
	done := f.rollout(after(t))
	c.next(cds)
	c.cancel()
	require.NoError(t, f.requireDone(done))
}

func TestAClientThatJoinsDuringARollout(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.requireDone(f.rollout(before(t))))
	first := f.checker("extauthz-1")
	f.requireInSync()
	done := f.rollout(setOf(t, "rules r=2"))
	held := first.next(rules)
	second := f.dial("extauthz")
	second.subscribe("extauthz-2", rules, []string{"*"}, nil)
	second.accept(rules, "+old=1 +r=2")
	first.ack(held)
	first.accept(rules, "-old")
	last := second.next(rules)
	require.Equal(t, "-old", describe(last))
	f.requireGoesOn(done)
	second.ack(last)
	require.NoError(t, f.requireDone(done))
}

func TestACancelledRolloutReturnsAtOnce(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.requireDone(f.rollout(before(t))))
	c := f.checker("extauthz-1")
	f.requireInSync()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.ads.Group("").Rollout(ctx, after(t)) }()
	require.Equal(t, "+new=1 +r=2", describe(c.next(rules)), "nothing was taken away yet")
	cancel()
	require.ErrorIs(t, f.requireDone(done), context.Canceled)
}

// Many clients come, take, refuse and go during many rollouts; run it with -race.
func TestManyClientsAndRollouts(t *testing.T) {
	f := newFixture(t)
	f.ads.SetStepTimeout(time.Second)
	var wait sync.WaitGroup
	stop := make(chan struct{})
	for i := range 8 {
		wait.Go(func() {
			for round := 0; ; round++ {
				c := f.dial("extauthz")
				c.subscribe(fmt.Sprint("n", i), rules, []string{"*"}, nil)
				for n := 0; n < 20; n++ {
					select {
					case <-stop:
						return
					case response := <-c.responses:
						if (n+i)%7 == 0 {
							c.nack(response, "sometimes no")
						} else {
							c.ack(response)
						}
					}
				}
				c.cancel()
			}
		})
	}
	for n := range 60 {
		err := f.ads.Group("").Rollout(t.Context(), setOf(t, fmt.Sprintf("rules a=%d b=1 x%d=1", n, n)))
		var rejection *ads.Rejection
		if err != nil {
			require.ErrorAs(t, err, &rejection)
		}
		f.ads.Clients()
	}
	close(stop)
	wait.Wait()
	require.NotContains(t, strings.ToLower(f.log.String()), "panic")
}

// BenchmarkOneRouteChange is from the start of a rollout until the only client,
// which acknowledges at once, has acknowledged a change of one route
// configuration of the size of 5,000 routes.
func BenchmarkOneRouteChange(b *testing.B) {
	f := newFixture(b)
	set := func(n int) envoy.Set {
		return setOf(b, "cds a=1", "eds a=1", "lds p=1", fmt.Sprintf("rds p=%d%s", n, strings.Repeat("x", 1_900_000)))
	}
	start := set(0)
	require.NoError(b, f.requireDone(f.rollout(start)))
	c := f.proxy("envoy-1", start)
	f.requireInSync()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case response := <-c.responses:
				c.ack(response)
			case <-stop:
				return
			}
		}
	}()
	b.ReportAllocs()
	for n := 1; b.Loop(); n++ {
		b.StopTimer()
		next := set(n)
		b.StartTimer()
		require.NoError(b, f.ads.Group("").Rollout(b.Context(), next))
	}
}
