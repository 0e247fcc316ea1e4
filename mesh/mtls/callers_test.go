package mtls

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTally(t *testing.T) {
	counted := newTally("run")
	say := func(text string) { counted.line("shop/orders-1", []byte(text)) }
	for _, text := range []string{
		`[2026-11-22T10:08:11.019Z] "GET / HTTP/1.1" 200 - via_upstream`,
		`{"weir_mtls":"another","what":"request","type":"DownstreamStart","connection":1,"from":"10.0.0.1:1","to":"10.0.0.2:8080"}`,
		`{"connection":14,"from":"10.0.0.1:47160","to":"10.0.0.2:8080","type":"DownstreamStart","weir_mtls":"run","what":"request"}`,
		`{"connection":14,"from":"10.0.0.1:47160","to":"10.0.0.2:8080","type":"DownstreamEnd","weir_mtls":"run","what":"request"}`,
		`{"connection":14,"from":"10.0.0.1:47160","to":"10.0.0.2:8080","type":"DownstreamStart","weir_mtls":"run","what":"request"}`,
		`{"connection":15,"from":"10.0.0.1:47161","to":"10.0.0.2:9000","type":"TcpUpstreamConnected","weir_mtls":"run","what":"connection"}`,
		`{"connection":15,"from":"10.0.0.1:47161","to":"10.0.0.2:9000","type":"TcpConnectionEnd","weir_mtls":"run","what":"connection"}`,
		`{"connection":16,"from":"[::ffff:10.0.0.1]:47162","to":"10.0.0.2:9000","type":"TcpConnectionEnd","weir_mtls":"run","what":"connection"}`,
		`{"connection":20,"from":"10.0.0.1:47169","to":"10.0.0.2:9000","type":"TcpConnectionEnd","weir_mtls":"run","what":"tls","received":0}`,
		`{"connection":21,"from":"10.0.0.1:47170","to":"10.0.0.2:9443","type":"TcpPeriodic","weir_mtls":"run","what":"tls","received":517}`,
		`{"connection":21,"from":"10.0.0.1:47170","to":"10.0.0.2:9443","type":"TcpConnectionEnd","weir_mtls":"run","what":"tls","received":517}`,
		`{"connection":17,"from":"[2001:db8::1]:47162","to":"10.0.0.2:9000","type":"TcpConnectionEnd","weir_mtls":"run","what":"refused"}`,
	} {
		say(text)
	}
	require.Empty(t, counted.strange)
	directory := Directory{
		Pods:    map[string]Pod{"10.0.0.1": {Namespace: "shop", Name: "front-1", Workload: "Deployment front", Sidecar: "istio-proxy"}},
		Targets: map[string]string{"shop/orders-1": "Deployment orders"},
	}
	callers := counted.callers(directory)
	lines := func(callers []Caller) (lines []string) {
		for i := range callers {
			lines = append(lines, callers[i].String())
		}
		return lines
	}
	require.Equal(t, []string{
		"pod shop/front-1 (Deployment front) with a sidecar, 10.0.0.1: 2 requests to Deployment orders port 8080",
		"pod shop/front-1 (Deployment front) with a sidecar, 10.0.0.1: 2 TCP connections to Deployment orders port 9000",
		"pod shop/front-1 (Deployment front) with a sidecar, 10.0.0.1: 1 TCP connection to Deployment orders port 9443",
		"unknown, 2001:db8::1: 1 refused connection to Deployment orders port 9000",
	}, lines(callers))
	require.Len(t, Plaintext(callers), 3)
	require.Empty(t, harmed(callers, callers))
	say(`{"connection":18,"from":"10.0.0.1:47163","to":"10.0.0.2:8080","type":"TcpConnectionEnd","weir_mtls":"run","what":"refused"}`)
	say(`{"connection":19,"from":"[2001:db8::1]:47163","to":"10.0.0.2:9000","type":"TcpConnectionEnd","weir_mtls":"run","what":"refused"}`)
	require.Equal(t, []string{"pod shop/front-1 (Deployment front) with a sidecar, 10.0.0.1: 1 refused connection to Deployment orders port 8080"}, lines(harmed(callers, counted.callers(directory))))

	say(`{"weir_mtls":"run","what":"request","from":"nobody"}`)
	require.Contains(t, counted.strange, "shop/orders-1")
}

// However many callers there are, what is remembered has a bound, and none is lost.
func TestTallyIsBounded(t *testing.T) {
	counted := newTally("run")
	for i := range 2 * maxCallers {
		counted.line("shop/orders-1", fmt.Appendf(nil, `{"weir_mtls":"run","what":"connection","type":"TcpConnectionEnd","connection":%d,"from":"10.0.%d.%d:1","to":"10.0.0.2:8080"}`, i, i/250, i%250))
	}
	callers := counted.callers(Directory{})
	require.Len(t, callers, maxCallers+1)
	total := 0
	for _, caller := range callers {
		total += caller.Connections
	}
	require.Equal(t, 2*maxCallers, total)
}
