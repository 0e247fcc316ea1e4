package ads_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"

	"weir.dev/controlplane/ads"
)

// TestBug04WarmingStarvesEndpoints: endpoints get through while clusters change
// without pause, and each changed cluster hears of its own at once.
func TestBug04WarmingStarvesEndpoints(t *testing.T) {
	f := newFixture(t)
	start := setOf(t, "cds a=0 b=0", "eds a=1 b=1", "lds p=1", "rds p=1")
	require.NoError(t, f.requireDone(f.rollout(start)))
	c := f.proxy("envoy-1", start)
	f.requireInSync()
	for n := 1; n < 20; n++ {
		done := f.rollout(setOf(t, fmt.Sprintf("cds a=%d b=0", n), fmt.Sprintf("eds a=1 b=%d", n+1), "lds p=1", "rds p=1"))
		got := ""
		for range 3 { // the cluster, and the endpoints of both, in one response or two
			response := c.next2()
			got += describe(response) + ";"
			c.ack(response)
			if response.GetTypeUrl() == eds && len(response.GetResources()) == 2 {
				break
			}
		}
		require.NoError(t, f.requireDone(done))
		require.Contains(t, got, fmt.Sprintf("b=%d", n+1))
	}
	require.NotContains(t, f.log.String(), "in time")
}

// next2 is the next response, of whatever type.
func (c *client) next2() *discoveryv3.DeltaDiscoveryResponse {
	c.t.Helper()
	select {
	case response := <-c.responses:
		return response
	case err := <-c.ended:
		require.FailNow(c.t, "the stream ended", "%v", err)
	case <-time.After(patience):
		require.FailNow(c.t, "nothing came")
	}
	return nil
}

// TestBug05DeadlockWithCustomTypes: clients that subscribe to many things and take
// nothing hold up no other.
func TestBug05DeadlockWithCustomTypes(t *testing.T) {
	f := newFixture(t)
	f.ads.SetStepTimeout(200 * time.Millisecond)
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "rules a=1", "limit l=1", "cds x=1"))))
	for i := range 4 {
		stuck := f.dial("extauthz")
		for n := range 100 {
			stuck.subscribe(fmt.Sprint("stuck-", i), rules, []string{fmt.Sprint("name-", n), "*"}, nil)
			stuck.subscribe(fmt.Sprint("stuck-", i), "type.googleapis.com/weir.rules.v1.Consumer", []string{fmt.Sprint("name-", n)}, nil)
		}
	}
	c := f.dial("ratelimit")
	c.subscribe("lively", limit, []string{"*"}, nil)
	c.accept(limit, "+l=1")
	for n := 2; n < 5; n++ {
		done := f.rollout(setOf(t, fmt.Sprintf("rules a=%d", n), fmt.Sprintf("limit l=%d", n)))
		c.accept(limit, fmt.Sprintf("+l=%d", n))
		require.NoError(t, f.requireDone(done))
	}
}

// TestBug15ReadyBeforeConfigured: nobody is ready before every group of clients
// has something to be served.
func TestBug15ReadyBeforeConfigured(t *testing.T) {
	server := ads.NewServer(ads.Access{"a": {Group: "one"}, "b": {Group: "two"}}, slog.New(slog.DiscardHandler), nil)
	ready := func() bool {
		select {
		case <-server.Serving():
			return true
		case <-time.After(20 * time.Millisecond):
			return false
		}
	}
	require.False(t, ready())
	require.NoError(t, server.Group("one").Rollout(t.Context(), setOf(t, "cds a=1")))
	require.False(t, ready(), "the other group has nothing yet")
	require.NoError(t, server.Group("two").Rollout(t.Context(), setOf(t, "cds a=1")))
	require.Eventually(t, ready, patience, time.Millisecond)
}

// The negative control of TestMakeBeforeBreak: without the order, the same change
// takes a cluster away that a route still leads to.
func TestWithoutOrderThereIsABreak(t *testing.T) {
	for _, atOnce := range []bool{false, true} {
		f := newFixture(t)
		if atOnce {
			f.ads.Group("").SetAtOnce()
		}
		require.NoError(t, f.requireDone(f.rollout(before(t))))
		proxy := f.proxy("envoy-1", before(t))
		f.requireInSync()
		done := f.rollout(after(t))
		first := proxy.next2()
		require.Equal(t, cds, first.GetTypeUrl())
		require.Equal(t, atOnce, len(first.GetRemovedResources()) > 0, "the removal is in the first response: %s", describe(first))
		proxy.cancel()
		require.NoError(t, f.requireDone(done))
	}
}
