package bootstrap

import (
	"cmp"
	"os"
	"strconv"
	"strings"
	"time"

	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	downstreamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	fixedheapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// maxDownstreamConnections bounds the clients of one Envoy by default; without a
// bound it runs out of file descriptors first.
const maxDownstreamConnections = 20_000

// defaultHeapBytes is Config.MaxHeapBytes where nothing is known of the machine.
const defaultHeapBytes = 2 << 30

// monitorHeap is Envoy's name of what measures its heap.
const monitorHeap = "envoy.resource_monitors.fixed_heap"

// Shares of Config.MaxHeapBytes at which Envoy does something about it, the
// gentlest first, so that what it has promised to those it serves is broken last.
const (
	// Idle connections and streams are given less and less time between the two.
	reduceFrom, reduceTo = 0.80, 0.95
	// Freed memory is given back to the system, and connections end with their next
	// response.
	shrinkAt, noKeepAliveAt = 0.90, 0.92
	// Requests are answered with 503, and then nobody new is let in.
	noRequestsAt, noConnectionsAt = 0.95, 0.98
)

// overload is what keeps Envoy from being killed for its memory, or from running
// out of file descriptors.
func overload(config *Config, pack func(proto.Message) *anypb.Any) *overloadv3.OverloadManager {
	timer := func(kind overloadv3.ScaleTimersOverloadActionConfig_TimerType) *overloadv3.ScaleTimersOverloadActionConfig_ScaleTimer {
		return &overloadv3.ScaleTimersOverloadActionConfig_ScaleTimer{
			Timer:          kind,
			OverloadAdjust: &overloadv3.ScaleTimersOverloadActionConfig_ScaleTimer_MinScale{MinScale: &typev3.Percent{Value: 10}},
		}
	}
	at := func(name string, share float64) *overloadv3.OverloadAction {
		return &overloadv3.OverloadAction{Name: "envoy.overload_actions." + name, Triggers: []*overloadv3.Trigger{{
			Name: monitorHeap, TriggerOneof: &overloadv3.Trigger_Threshold{Threshold: &overloadv3.ThresholdTrigger{Value: share}},
		}}}
	}
	reduce := at("reduce_timeouts", 0)
	reduce.Triggers[0].TriggerOneof = &overloadv3.Trigger_Scaled{Scaled: &overloadv3.ScaledTrigger{ScalingThreshold: reduceFrom, SaturationThreshold: reduceTo}}
	reduce.TypedConfig = pack(&overloadv3.ScaleTimersOverloadActionConfig{TimerScaleFactors: []*overloadv3.ScaleTimersOverloadActionConfig_ScaleTimer{
		timer(overloadv3.ScaleTimersOverloadActionConfig_HTTP_DOWNSTREAM_CONNECTION_IDLE),
		timer(overloadv3.ScaleTimersOverloadActionConfig_HTTP_DOWNSTREAM_STREAM_IDLE),
	}})
	return &overloadv3.OverloadManager{
		RefreshInterval: durationpb.New(250 * time.Millisecond),
		ResourceMonitors: []*overloadv3.ResourceMonitor{
			{
				Name: "envoy.resource_monitors.global_downstream_max_connections",
				ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: pack(&downstreamv3.DownstreamConnectionsConfig{
					MaxActiveDownstreamConnections: cmp.Or(config.MaxConnections, maxDownstreamConnections),
				})},
			},
			{
				Name: monitorHeap,
				ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: pack(&fixedheapv3.FixedHeapConfig{
					MaxHeapSizeBytes: cmp.Or(config.MaxHeapBytes, availableMemory(os.ReadFile)/4*3, defaultHeapBytes),
				})},
			},
		},
		Actions: []*overloadv3.OverloadAction{
			reduce, at("shrink_heap", shrinkAt), at("disable_http_keepalive", noKeepAliveAt),
			at("stop_accepting_requests", noRequestsAt), at("stop_accepting_connections", noConnectionsAt),
		},
	}
}

// availableMemory is the smallest of the machine's memory and the bounds of the
// control group, in bytes; 0 where none is known.
func availableMemory(read func(string) ([]byte, error)) uint64 {
	least := uint64(0)
	consider := func(bytes uint64) {
		if bytes > 0 && (least == 0 || bytes < least) {
			least = bytes
		}
	}
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		raw, err := read(path)
		if bytes, parseErr := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 63); err == nil && parseErr == nil { // "max" is none
			consider(bytes)
		}
	}
	raw, err := read("/proc/meminfo")
	if err != nil {
		return least
	}
	for line := range strings.Lines(string(raw)) {
		if text, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "kB")), 10, 53)
			if err == nil {
				consider(kib << 10)
			}
		}
	}
	return least
}
