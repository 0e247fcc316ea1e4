package controlplane_test

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/anypb"

	"weir.dev/controlplane"
	"weir.dev/controlplane/envoy"
	"weir.dev/kit/adsclient"
	"weir.dev/kit/certs"
)

// BenchmarkThousandClients is a change of one route until each of 1,000 clients,
// in this process too, has acknowledged it. The heap is that of both sides.
func BenchmarkThousandClients(b *testing.B) {
	const clients = 1000
	r := newRig(b)
	files, err := r.authority.Issue("ingress", b.TempDir(), time.Now())
	require.NoError(b, err)
	tls, err := files.ClientConfig(certs.PeerID("controlplane"))
	require.NoError(b, err)
	var wait sync.WaitGroup
	for i := range clients {
		client := adsclient.New(adsclient.Config{Address: r.address, TLS: tls, NodeID: fmt.Sprint("envoy-", i)})
		for _, typeURL := range []string{envoy.TypeCluster, envoy.TypeEndpoint, envoy.TypeListener, envoy.TypeRoute} {
			client.Subscribe(typeURL, func(map[string]*anypb.Any) error { return nil })
		}
		wait.Go(func() { _ = client.Run(b.Context()) })
	}
	texts := start("0-")
	r.apply(texts...)
	all := func(o controlplane.Outcome) bool {
		return o.Fleets[""].Programmed && len(o.Fleets[""].Clients) == clients
	}
	reached := func(condition func(controlplane.Outcome) bool) {
		require.Eventually(b, func() bool {
			outcome := r.loop.Outcome()
			return outcome.Plan != nil && condition(outcome)
		}, 2*time.Minute, 10*time.Millisecond)
	}
	reached(all)
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	for n := 1; b.Loop(); n++ {
		texts[1] = testRoute("r0", "/r0", fmt.Sprint("v-", n)) + testBackend("r0", "127.0.0.1")
		before := r.loop.Outcome().Plan.Digest
		r.apply(texts...)
		reached(func(o controlplane.Outcome) bool { return o.Plan.Digest != before && all(o) })
	}
	b.ReportMetric(float64(memory.HeapAlloc)/(1<<20), "heap-MiB")
}
