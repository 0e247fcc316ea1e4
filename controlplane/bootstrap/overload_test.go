package bootstrap

import (
	"os"
	"testing"

	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	fixedheapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestAvailableMemory(t *testing.T) {
	const machine = "MemTotal:       16384 kB\nMemFree:        1 kB\n"
	for name, tc := range map[string]struct {
		files map[string]string
		want  uint64
	}{
		"nothing known":         {nil, 0},
		"the machine's":         {map[string]string{"/proc/meminfo": machine}, 16 << 20},
		"the group's":           {map[string]string{"/proc/meminfo": machine, "/sys/fs/cgroup/memory.max": "1048576\n"}, 1 << 20},
		"a group without bound": {map[string]string{"/proc/meminfo": machine, "/sys/fs/cgroup/memory.max": "max\n"}, 16 << 20},
		"the older groups' bound, above the machine's": {
			map[string]string{"/proc/meminfo": machine, "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 16 << 20,
		},
		"nonsense": {map[string]string{"/proc/meminfo": "MemTotal: lots\n", "/sys/fs/cgroup/memory.max": "-1"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.want, availableMemory(func(path string) ([]byte, error) {
				if text, ok := tc.files[path]; ok {
					return []byte(text), nil
				}
				return nil, os.ErrNotExist
			}))
		})
	}
}

// What is gentler comes at less, and nothing is done to requests before memory
// was asked back.
func TestOverloadActions(t *testing.T) {
	pack := func(message proto.Message) *anypb.Any {
		body, err := anypb.New(message)
		require.NoError(t, err)
		return body
	}
	manager := overload(&Config{MaxHeapBytes: 1 << 30}, pack)
	require.NoError(t, manager.ValidateAll(), "Envoy's own rules")
	var heap fixedheapv3.FixedHeapConfig
	require.NoError(t, manager.GetResourceMonitors()[1].GetTypedConfig().UnmarshalTo(&heap))
	require.Equal(t, uint64(1<<30), heap.GetMaxHeapSizeBytes())
	last, names := 0.0, []string{}
	for _, action := range manager.GetActions() {
		require.Equal(t, monitorHeap, action.GetTriggers()[0].GetName())
		at := action.GetTriggers()[0].GetThreshold().GetValue()
		if scaled := action.GetTriggers()[0].GetScaled(); scaled != nil {
			at = scaled.GetScalingThreshold()
		}
		require.Greater(t, at, last, action.GetName())
		last = at
		names = append(names, action.GetName())
	}
	require.Equal(t, []string{
		"envoy.overload_actions.reduce_timeouts", "envoy.overload_actions.shrink_heap", "envoy.overload_actions.disable_http_keepalive",
		"envoy.overload_actions.stop_accepting_requests", "envoy.overload_actions.stop_accepting_connections",
	}, names)
	var scaled overloadv3.ScaleTimersOverloadActionConfig
	require.NoError(t, manager.GetActions()[0].GetTypedConfig().UnmarshalTo(&scaled))
	require.Len(t, scaled.GetTimerScaleFactors(), 2)
}
